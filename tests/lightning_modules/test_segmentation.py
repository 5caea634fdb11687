"""The segmenter as a victim: losses and outcomes by hand, ignored pixels, checkpoints, training, and other data."""

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from callbacks import AveragedWeights
from lightning_modules import Segmenter
from lightning_modules.segmentation import dice_losses, pixel_cross_entropy
from medrobust.attacks import DAG, PGD
from medrobust.defences import AdversarialTraining, Defence, Mart, Trades
from medrobust.networks import Victim, is_stored_victim
from tests.in_lightning import InMemoryModule, trainer_of

TINY = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}


def victim_of(num_classes: int = 2, **options: Any) -> Segmenter:
    return Segmenter(num_classes, **{"options": TINY, **options}).eval()


def image_of(masks: Tensor) -> Tensor:
    """Grey images in which label 1 is brighter, with noise."""
    noise = torch.randn(masks.shape, generator=torch.Generator().manual_seed(2))
    return (0.3 + 0.4 * (masks == 1) + 0.05 * noise).clamp(0, 1).unsqueeze(1)


class Squares(InMemoryModule):
    """Twelve bright squares of random places; of each, a row is not labelled, and of the last one nothing is."""

    task, class_names = "segmentation", ("background", "square")

    def __init__(self, side: int = 16, **options: Any) -> None:
        generator = torch.Generator().manual_seed(1)
        self.masks = torch.zeros(12, side, side, dtype=torch.long)
        for mask, (row, column) in zip(self.masks, torch.randint(0, side // 2, (12, 2), generator=generator).tolist()):
            mask[row : row + side // 2, column : column + side // 2] = 1
        images = image_of(self.masks)
        self.masks[:, 0] = -1
        self.masks[-1] = -1
        super().__init__({"adv_test": (images, torch.zeros(12))}, **options)

    def dataloader_of(self, split: str, per_class: int | None = None) -> Any:
        rows = zip(self.images[split], self.masks, self.ids(split), strict=True)
        items: Any = [{"image": image, "target": mask, "id": id} for image, mask, id in rows]
        return torch.utils.data.DataLoader(items, batch_size=self.batch_size)


def test_it_is_a_victim_that_can_be_loaded() -> None:
    assert isinstance(victim_of(), Victim) and is_stored_victim(victim_of())


# two pixels with the logits (0, ln 3), of probability 3/4 for label 1, and one with (0, 0)
LOGITS = torch.tensor([[0.0, 0.0, 0.0], [math.log(3)] * 2 + [0.0]]).view(1, 2, 1, 3)
LN = math.log


@pytest.mark.parametrize(
    ("mask", "cross_entropy", "weighted", "dice"),
    [
        # label 1: 2 (3/4) / (3/4 + 3/4 + 1/2 + 1) = 1/2, label 0: 2 (1/4 + 1/2) / (1/4 + 1/4 + 1/2 + 2) = 1/2
        ([1, 0, 0], (LN(4 / 3) + LN(4) + LN(2)) / 3, (3 * LN(4 / 3) + LN(4) + LN(2)) / 5, 1 / 2),
        ([1, -1, -1], LN(4 / 3), LN(4 / 3), 1 - 2 * 0.75 / 1.75),
        ([-1, -1, 0], LN(2), LN(2), 1 - 2 * 0.5 / 1.5),
        ([-1, -1, -1], 0.0, 0.0, 0.0),
    ],
)
def test_losses_of_three_pixels(mask: list[int], cross_entropy: float, weighted: float, dice: float) -> None:
    target = torch.tensor(mask).view(1, 1, 3)
    assert pixel_cross_entropy(LOGITS, target).item() == pytest.approx(cross_entropy, rel=1e-5)
    assert pixel_cross_entropy(LOGITS, target, torch.tensor([1.0, 3.0])).item() == pytest.approx(weighted, rel=1e-5)
    assert dice_losses(LOGITS, target).item() == pytest.approx(dice, rel=1e-5)
    victim = victim_of(dice_weight=0.5, class_weights=[1.0, 3.0])
    victim.network = Given(LOGITS)
    image = torch.rand(1, 1, 1, 3)
    assert victim.loss(image, target).item() == pytest.approx(cross_entropy + 0.5 * dice, rel=1e-5)
    assert victim.training_loss(image, target).item() == pytest.approx(weighted + 0.5 * dice, rel=1e-5)
    batch = torch.cat([target, torch.full_like(target, -1)])  # an image without a label weighs nothing
    both = victim.training_loss(image, batch, LOGITS.expand(2, -1, -1, -1))
    assert both.item() == pytest.approx(weighted + 0.5 * dice, rel=1e-5)


class Given(nn.Module):
    """Logits whatever the images."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits + 0 * images.sum()


def logits_of(*masks: list[int]) -> Tensor:
    return nn.functional.one_hot(torch.tensor(masks), 3).movedim(2, 1).unsqueeze(2).float()


def test_the_outcome_is_the_mean_jaccard_index_of_the_foreground() -> None:
    truth = torch.tensor([[1, 1, 0, 2], [0, 0, 0, 0], [0, 0, 0, -1], [-1] * 4, [1, 1, 1, 0]]).unsqueeze(1)
    logits = logits_of([1, 0, 0, 2], [0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 2])
    outcome = victim_of(3, threshold=0.75).outcome(logits, truth)
    assert outcome.quality.tolist()[:3] == pytest.approx([(1 / 2 + 1) / 2, 1, 0]) and outcome.quality[3].isnan()
    assert outcome.quality[4] == 1 / 2  # the invented class 2 counts
    assert outcome.right.tolist() == [True, True, False, False, False] and outcome.prediction is None
    assert victim_of(3, threshold=0.5).outcome(logits, truth).right.tolist() == [True, True, False, False, True]
    for wrong in (truth[:, :, :3], truth.float(), [truth]):
        with pytest.raises(ValueError, match=r"targets are whole numbers of the shape \(5, 1, 4\), got"):
            victim_of(3).outcome(logits, wrong)


def test_masks_of_another_shape_are_refused_by_loss_and_attack() -> None:
    victim, images = victim_of(), torch.rand(2, 1, 16, 16)
    for masks in (torch.zeros(2, 8, 16, dtype=torch.long), torch.zeros(2, 1, 16, 16, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"whole numbers of the shape \(2, 16, 16\), got \(2, "):
            victim.loss(images, masks)
        with pytest.raises(ValueError, match=r"whole numbers of the shape \(2, 16, 16\), got \(2, "):
            PGD(steps=1)(victim, images, masks, list("ab"))
        with pytest.raises(ValueError, match=r"no logits that fit targets \(2, "):
            DAG(steps=1)(victim, images, masks, list("ab"))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.bool])
def test_masks_of_any_whole_numbers_are_attacked_alike(kind: torch.dtype) -> None:
    victim, images = victim_of(), torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    masks = victim(images).argmax(1).roll(1, 2)
    for attack in (DAG(steps=3, epsilon=0.1), PGD(steps=1)):
        expected, found = (attack(victim, images, one, list("ab")) for one in (masks, masks.to(kind)))
        assert torch.equal(found.images, expected.images) and not torch.equal(found.images, images)


@pytest.mark.parametrize("side", [16, 50, 128])
def test_an_images_numbers_do_not_depend_on_its_batch(side: int) -> None:
    victim, images = victim_of(), torch.rand(3, 1, side, side)
    masks = torch.randint(-1, 2, (3, side, side))
    layers = victim.layers_named(["activations"])
    with torch.no_grad():
        whole, losses, (_, features) = victim(images), victim.loss(images, masks), victim.features(images, layers)
        for row in range(3):
            one = slice(row, row + 1)
            assert victim(images[one]).shape == (1, 2, side, side)
            torch.testing.assert_close(victim(images[one]), whole[one], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(victim.loss(images[one], masks[one]), losses[one], rtol=1e-4, atol=1e-5)
            for layer, values in victim.features(images[one], layers)[1].items():
                torch.testing.assert_close(values, features[layer][one], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv2_050", "convnext_atto"])
def test_activations_are_those_of_the_encoder(encoder: str) -> None:
    victim = Segmenter(2, encoder=encoder).eval()
    layers = victim.layers_named(["activations"])
    _, features = victim.features(torch.rand(2, 1, 32, 32), layers)
    assert layers and all(name.startswith("encoder.") for name in layers)
    assert all(values.shape[0] == 2 and values.ndim == 2 for values in features.values()) and len(features) == len(
        layers
    )
    assert set(layers) < set(victim.layers_named(["activations", "decoder.*"]))


def test_training_learns_the_squares_and_names_its_numbers() -> None:
    torch.manual_seed(0)
    victim, data = victim_of(schedule="constant", mean=0.5, std=0.25), Squares()
    trainer_of(AveragedWeights(0.9), max_epochs=15, num_sanity_val_steps=0).fit(victim, data)
    (found,) = trainer_of().validate(victim, data, verbose=False)
    assert (
        found["val/jaccard"] > 0.8
        and found["val/accuracy"] == 1
        and found["val/jaccard_square"] == found["val/jaccard"]
    )
    assert found["val/pixel_accuracy"] > 0.9 and found["val/dice"] > found["val/jaccard"]
    with torch.no_grad():
        images, masks = data.images["adv_test"][:-1], data.masks[:-1]
        expected = victim.eval().loss(images, masks).mean()
        quality = victim.outcome(victim(images), masks).quality.mean()
    assert found["val/loss"] == pytest.approx(float(expected), rel=1e-4)
    assert found["val/quality"] == pytest.approx(float(quality), rel=1e-4)


@pytest.mark.parametrize("defence", [AdversarialTraining, Trades, Mart])
def test_defences_train_on_masks(defence: type[Defence]) -> None:
    victim, data = victim_of(dice_weight=0.5).train(), Squares()
    images, masks = data.images["adv_test"], data.masks
    attack = PGD(epsilon=0.1, steps=1)
    lowered = defence(attack=attack)(victim, images, masks, data.ids("adv_test"), epoch=0)
    gradients = torch.autograd.grad(lowered.loss, list(victim.parameters()))
    assert lowered.loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
    assert victim.training and any(gradient.abs().sum() > 0 for gradient in gradients)


def test_a_checkpoint_holds_all_that_it_is_built_from(tmp_path: Path) -> None:
    victim, data = victim_of(3, threshold=0.25, dice_weight=2.0, mean=[0.4], std=0.2), Squares(num_classes=3)
    trainer = trainer_of(max_epochs=1, num_sanity_val_steps=0, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(victim, data)
    trainer.save_checkpoint(tmp_path / "victim.ckpt")
    again = Segmenter.from_checkpoint(tmp_path / "victim.ckpt").eval()
    assert again.description() == victim.description() and again.threshold == 0.25
    images, masks = data.images["adv_test"], data.masks
    assert torch.equal(again(images), victim.eval()(images))
    assert torch.equal(again.loss(images, masks), victim.loss(images, masks))
    assert set(victim.description()) >= {"num_classes", "encoder", "architecture", "channels", "options", "threshold"}


def test_data_that_do_not_fit_are_refused() -> None:
    class Classes(Squares):
        task = "classification"

    def refused(victim: Segmenter, data: pl.LightningDataModule, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            trainer_of().validate(victim, data, verbose=False)

    refused(victim_of(), Classes(), "needs data with masks, and those of items are of the task classification")
    refused(victim_of(3), Squares(), r"model.num_classes is 3, but the data set has 2 \(background, square\)$")
    refused(victim_of(channels=3), Squares(), r"model.channels is 3, but the data set has 1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 0.0}, "threshold is a Jaccard index above 0 and at most 1, got 0.0"),
        ({"threshold": 1.5}, "at most 1, got 1.5"),
        ({"dice_weight": -1.0}, "dice_weight is a number of at least 0"),
        ({"class_weights": [1.0]}, "one number for each of 2 labels"),
        ({"class_weights": [1.0, -1.0]}, "class_weights are numbers of at least 0"),
        ({"class_weights": [1.0, math.nan]}, "class_weights are numbers of at least 0"),
        ({"class_weights": [0.0, 0.0]}, "one of them above it"),
    ],
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        victim_of(**options)
