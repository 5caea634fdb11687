"""The victim of several labels: unknown ones count nowhere, each has its own numbers, goals are any, one or all."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules import MultiLabelClassifier
from medrobust.attacks import FGSM, PGD
from medrobust.networks import Victim, is_stored_victim
from tests.in_lightning import InMemoryModule, trainer_of


class Labelled(InMemoryModule):
    """Twelve random images with three labels, of which some are not known."""

    task, class_names = "multilabel", ("Mass", "No Finding", "Effusion")
    truth = torch.tensor([[1, 0, -1], [0, 1, 0], [1, 1, 1], [0, -1, 0]] * 3)

    def __init__(self) -> None:
        images = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(1))
        super().__init__({"adv_test": (images, torch.zeros(12))}, num_classes=3)

    def dataloader_of(self, split: str, per_class: int | None = None) -> Any:
        items = [
            {"image": image, "target": target, "id": id}
            for image, target, id in zip(self.images[split], self.truth, self.ids(split), strict=True)
        ]
        return torch.utils.data.DataLoader(items, batch_size=5)  # type: ignore[arg-type]

    def positive_weights(self) -> Tensor:
        return torch.tensor([1.0, 1 / 2, 2.0])


class Given(nn.Module):
    """Logits that are those of the first pixels of an image."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.scale = count, nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : self.count] * self.scale


def victim_of(**options: Any) -> MultiLabelClassifier:
    return MultiLabelClassifier("resnet10t", **{"num_classes": 3, "channels": 1, **options}).eval()


def given(**options: Any) -> MultiLabelClassifier:
    """A victim whose three logits are the first three pixels, less one half, in fourths."""
    victim = victim_of(mean=0.5, std=0.25, **options)
    victim.network = Given(3)
    return victim


def image_of(*logits: float) -> Tensor:
    image = torch.full((1, 1, 4, 4), 0.5)
    image.view(-1)[: len(logits)] += torch.tensor(logits) / 4
    return image


def test_it_is_a_victim_that_can_be_loaded() -> None:
    assert isinstance(victim_of(), Victim) and is_stored_victim(victim_of())


def test_the_loss_is_the_mean_over_an_images_known_labels() -> None:
    images = torch.cat([image_of(1.0, -1.0, 2.0), image_of(0.0, 0.0, 1.0), image_of(1.0, 1.0, 1.0)])
    targets = torch.tensor([[1, 1, 0], [0, -1, -1], [-1, -1, -1]])
    softplus = [math.log1p(math.exp(x)) for x in (-1, 1, 2)]
    losses = given(class_weights=[1.0, 5.0, 9.0], label_smoothing=0.2).loss(images, targets)
    assert losses.tolist() == pytest.approx([sum(softplus) / 3, math.log(2), 0.0])


def test_the_outcome_asks_for_all_known_labels() -> None:
    logits = torch.tensor([[2.0, -1.0, 3.0]] * 4)
    outcome = victim_of().outcome(logits, torch.tensor([[1, 0, 1], [1, 1, 1], [1, 0, -1], [-1, -1, -1]]))
    assert outcome.right.tolist() == [True, False, True, False] and outcome.prediction is None
    assert outcome.quality[:3].tolist() == pytest.approx([1, 2 / 3, 1]) and outcome.quality[3].isnan()


@pytest.mark.parametrize(("epsilon", "turned"), [(0.1, [True, False, False]), (0.2, [True, True, True])])
def test_flipping_any_label_a_chosen_one_and_all_of_them(epsilon: float, turned: list[bool]) -> None:
    # pixels move by epsilon and logits by four times that: by 0.4 or 0.8, and they are 0.3, -0.5 and 0.7 from turning
    victim, images, truth = given(), image_of(0.3, -0.5, 0.7), torch.tensor([[1, 0, 1]])
    assert FGSM(epsilon=epsilon)(victim, images, truth).success.tolist() == [True]
    for label in range(3):
        goals = torch.full((1, 3), -1)
        goals[0, label] = 1 - truth[0, label]
        assert PGD(epsilon=epsilon, targeted=True)(victim, images, goals).success.tolist() == [turned[label]]
    assert PGD(epsilon=epsilon, targeted=True)(victim, images, 1 - truth).success.tolist() == [all(turned)]


def test_training_leaves_out_unknown_labels_and_weighs_positives() -> None:
    victim, data = victim_of(mean=0.5, std=0.25, class_weights="balanced", label_smoothing=0.1), Labelled()
    trainer = trainer_of(max_epochs=1, num_sanity_val_steps=0, limit_train_batches=1)
    trainer.fit(victim, data)
    assert victim.loss_weights.tolist() == [1.0, 0.5, 2.0]
    logits = torch.tensor([[0.5, -1.0, 2.0], [1.0, 1.0, -0.5]])
    victim.network = Given(3)
    images = torch.cat([image_of(*row.tolist()) for row in logits])
    batch = {"image": images, "target": torch.tensor([[1, 0, -1], [-1, 1, 0]])}
    victim.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    loss = victim.training_step(batch, 0)

    def weighted(z: float, positive: bool, weight: float) -> float:
        share = 0.95 if positive else 0.05
        return weight * share * math.log1p(math.exp(-z)) + (1 - share) * math.log1p(math.exp(z))

    entries = [(0.5, True, 1.0), (-1.0, False, 0.5), (1.0, True, 0.5), (-0.5, False, 2.0)]
    assert float(loss.detach()) == pytest.approx(sum(weighted(*entry) for entry in entries) / 4, rel=1e-5)


def test_validation_names_each_labels_numbers() -> None:
    victim, data = victim_of(), Labelled()
    (found,) = trainer_of().validate(victim, data, verbose=False)
    with torch.no_grad():
        logits = victim(data.images["adv_test"])
    for place, name in enumerate(data.class_names):
        known = data.truth[:, place] >= 0
        hits = ((logits[:, place] > 0) == (data.truth[:, place] > 0))[known & (data.truth[:, place] > 0)]
        assert found[f"val/sensitivity_{name}"] == pytest.approx(float(hits.float().mean()))
    assert {"val/loss", "val/accuracy", "val/quality", "val/auroc", "val/auroc_Mass", "val/loss_Effusion"} <= set(found)


def test_a_checkpoint_holds_all_that_it_is_built_from(tmp_path: Path) -> None:
    victim, data = victim_of(head="dense"), Labelled()
    trainer = trainer_of(max_epochs=1, num_sanity_val_steps=0, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(victim, data)
    trainer.save_checkpoint(tmp_path / "victim.ckpt")
    again = MultiLabelClassifier.from_checkpoint(tmp_path / "victim.ckpt").eval()
    images = data.images["adv_test"]
    torch.testing.assert_close(again(images), victim.eval()(images))


def test_data_of_classes_are_refused() -> None:
    class Classes(Labelled):
        task = "classification"

    with pytest.raises(ValueError, match="needs data of several labels per image, and those of items are of the task"):
        trainer_of().validate(victim_of(), Classes(), verbose=False)
    with pytest.raises(ValueError, match=r"model.num_classes is 2, but the data set has 3"):
        trainer_of().validate(victim_of(num_classes=2), Labelled(), verbose=False)
    with pytest.raises(ValueError, match="head of several labels is 'linear' or 'dense', got 'label_graph'"):
        victim_of(head="label_graph")
