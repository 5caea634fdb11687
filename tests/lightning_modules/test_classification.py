"""The classification victim: its contract with attacks and detectors, its training, what it refuses."""

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_modules import Classifier
from medrobust.attacks import FGSM
from medrobust.networks import Victim, is_stored_victim
from tests.in_lightning import InMemoryModule, trainer_of

COUNT = 12


class Twelve(InMemoryModule):
    """Twelve random images, nine of class 0 and three of class 1."""

    def __init__(self, num_classes: int = 2, channels: int = 1) -> None:
        images = torch.rand(COUNT, channels, 16, 16, generator=torch.Generator().manual_seed(1))
        super().__init__({"adv_test": (images, torch.tensor([0, 0, 0, 1] * 3))}, num_classes=num_classes)

    def class_weights(self) -> Tensor:
        return torch.tensor([0.5, 1.5])  # 1/9 and 1/3, with mean 1


class Rates(pl.Callback):
    """Notes the learning rate of every training batch."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


class Means(nn.Module):
    """Logits of (N, C) channel means, by given weights."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.mean((2, 3)) @ self.weight.T


def victim_of(**options: Any) -> Classifier:
    """A small network for grey images."""
    return Classifier("resnet10t", **{"channels": 1, **options}).eval()


def fit(victim: Classifier, data: Twelve | None = None, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """Fine-tune for an epoch."""
    trainer = trainer_of(*callbacks, **{"num_sanity_val_steps": 0, "max_epochs": 1, **options})
    trainer.fit(victim, data or Twelve())
    return trainer


def test_a_classifier_is_a_victim_for_attacks_and_evaluations_that_can_be_loaded() -> None:
    assert isinstance(victim_of(), Victim)
    assert is_stored_victim(victim_of())


@pytest.mark.parametrize("weights", [None, [1.0, 9.0]])
def test_the_loss_is_each_images_own_cross_entropy_unweighted_and_unsmoothed(weights: list[float] | None) -> None:
    victim = victim_of(class_weights=weights, label_smoothing=0.2)
    victim.network = Means(torch.tensor([[1.0], [-1.0]]))
    images = torch.tensor([0.5, 1.0, 0.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)  # logits (0, 0), (1, -1), (-1, 1)

    losses = victim.loss(images, torch.tensor([0, 0, 0]))
    expected = [math.log(2), math.log1p(math.exp(-2)), math.log1p(math.exp(2))]
    assert losses.tolist() == pytest.approx(expected)
    assert victim.loss(images[2:], torch.tensor([0])).item() == losses[2].item()  # whoever its batch mates are


def test_the_outcome_says_who_is_wrong_what_was_decided_and_how_sure_the_victim_is_of_the_truth() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [-5.0, -7.0, -4.0]])
    outcome = victim_of(num_classes=3).outcome(logits, torch.tensor([0, 0, 0]))

    assert outcome.right.tolist() == [True, False, False]
    assert outcome.prediction.tolist() == [0, 1, 2]
    e = math.e
    best = [1 / (1 + 1 / e + 1 / e**2), 1 / (1 + 2 / e**3), 1 / (1 + 1 / e + 1 / e**3)]
    assert outcome.confidence.tolist() == pytest.approx(best)
    assert outcome.quality.tolist() == pytest.approx([best[0], best[1] / e**3, best[2] / e])
    assert victim_of().outcome(logits[:, :2].to(torch.bfloat16), torch.tensor([0, 0, 0])).confidence.dtype == (
        torch.float64
    )


def test_features_of_all_layers_come_from_one_forward() -> None:
    victim, images, seen = victim_of(), torch.rand(3, 1, 32, 32), []
    victim.network.register_forward_hook(lambda *_: seen.append(1))
    maps: list[Tensor] = []
    handle = victim.network.layer2.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.no_grad():
        outputs, features = victim.features(images, ["layer1", "layer2", "global_pool"])
    handle.remove()

    assert seen == [1] and sorted(features) == ["global_pool", "layer1", "layer2"]
    assert features["layer1"].shape == (3, 64) and features["global_pool"].shape == (3, 512)
    torch.testing.assert_close(features["layer2"], maps[0].mean((2, 3)))
    with torch.no_grad():
        torch.testing.assert_close(outputs, victim(images))
        torch.testing.assert_close(victim.network.fc(features["global_pool"]), outputs)
    assert not any(module._forward_hooks for module in victim.network.layer1.modules())


def test_a_layer_that_does_not_exist_is_refused_with_its_neighbours() -> None:
    with pytest.raises(ValueError, match=r"'layr1'.*layer1"):
        victim_of().features(torch.rand(1, 1, 32, 32), ["layr1"])


def test_features_carry_gradients_to_the_images() -> None:
    images = torch.rand(2, 1, 32, 32, requires_grad=True)
    victim_of().features(images, ["layer2"])[1]["layer2"].sum().backward()
    assert images.grad is not None and images.grad.abs().max() > 0


@pytest.mark.parametrize(("mean", "std"), [(0.25, 0.5), ([0.25, 0.5, 0.75], [0.5, 0.25, 1.0])])
def test_normalisation_lies_inside_one_number_or_one_per_channel(mean: Any, std: Any) -> None:
    victim = victim_of(channels=3, mean=mean, std=std, num_classes=3)
    victim.network = Means(torch.eye(3))
    levels = torch.tensor([0.1, 0.6, 0.9])
    images = levels.view(1, 3, 1, 1).expand(2, 3, 4, 4)

    means, stds = (value if isinstance(value, list) else [value] * 3 for value in (mean, std))
    expected = [(x - m) / s for x, m, s in zip(levels.tolist(), means, stds)]
    assert victim(images)[0].tolist() == pytest.approx(expected)
    assert victim(images)[1].tolist() == pytest.approx(expected)


def test_normalisation_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 channels, the images 3"):
        victim_of(channels=3, mean=[0.5, 0.5])(torch.rand(1, 3, 16, 16))
    for std in (0.0, -1.0, [0.5, 0.0, 0.5]):
        with pytest.raises(ValueError, match="std"):
            victim_of(channels=3, std=std)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 2.0])
def test_a_label_smoothing_out_of_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing.*\[0, 1\)"):
        victim_of(label_smoothing=smoothing)


def test_class_weights_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="class_weights"):
        victim_of(class_weights=[1.0, 2.0, 3.0])


def test_the_training_loss_is_weighted_and_smoothed_by_hand() -> None:
    victim = victim_of(class_weights=[1.0, 3.0], label_smoothing=0.2)
    victim.network = Means(torch.tensor([[1.0], [-1.0]]))
    images = torch.tensor([1.0, 0.5]).view(2, 1, 1, 1).expand(2, 1, 4, 4)  # logits (1, -1) and (0, 0)
    victim.log = lambda *_, **__: None
    loss = victim.training_step({"image": images, "target": torch.tensor([0, 1])}, 0)

    right, wrong, half = math.log1p(math.exp(-2)), math.log1p(math.exp(2)), math.log(2)
    # torch divides by the targets' weights, 1 + 3; the smoothed share is weighted by each class's own weight
    numerator = 0.8 * (1 * right + 3 * half) + 0.1 * (1 * right + 3 * wrong + 1 * half + 3 * half)
    assert float(loss) == pytest.approx(numerator / 4, rel=1e-5)


def test_balanced_class_weights_are_counted_in_the_training_split() -> None:
    victim = victim_of(class_weights="balanced")
    assert victim.loss_weights.tolist() == [1, 1]
    fit(victim, max_steps=1)

    assert victim.loss_weights.tolist() == [0.5, 1.5]
    assert "loss_weights" not in victim.state_dict()  # a checkpoint loads with any class weights
    assert victim_of(class_weights=[2.0, 5.0]).loss_weights.tolist() == [2, 5]


def test_balanced_class_weights_without_a_data_module_are_refused() -> None:
    with pytest.raises(ValueError, match="balanced"):
        trainer_of(max_epochs=1).fit(victim_of(class_weights="balanced"), Twelve().train_dataloader())


@pytest.mark.parametrize(("name", "data"), [("num_classes", Twelve(3)), ("channels", Twelve(channels=3))])
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_data_of_another_shape_are_refused_in_one_sentence(name: str, data: Twelve, stage: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is \d.*data set has 3") as error:
        getattr(trainer_of(), stage)(victim_of(), datamodule=data)
    assert "\n" not in str(error.value)


def test_the_cosine_schedule_warms_up_for_a_twentieth_and_ends_at_nought() -> None:
    rates, victim = Rates(), victim_of(optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    victim.network = Means(torch.ones(2, 1))
    fit(victim, None, rates, max_epochs=20)  # 60 steps, of which 3 warm up

    cosine = [0.05 * (1 + math.cos(math.pi * (step - 3) / 57)) for step in range(3, 60)]
    assert rates.seen == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, *cosine])
    assert rates.seen[3] == pytest.approx(0.1) and rates.seen[-1] < 1e-3


def test_a_constant_schedule_keeps_the_rate_of_the_default_optimizer() -> None:
    rates = Rates()
    trainer = fit(victim_of(schedule="constant"), None, rates, max_epochs=2)
    assert rates.seen == [3e-4] * 6 and isinstance(trainer.optimizers[0], torch.optim.AdamW)


def test_a_plateau_schedule_watches_the_validation_loss() -> None:
    def plateau(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        # after the first epoch nothing is ever good enough
        return ReduceLROnPlateau(optimizer, factor=0.1, patience=0, threshold=1e9, threshold_mode="abs")

    rates = Rates()
    victim = victim_of(schedule=plateau, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    fit(victim, None, rates, max_epochs=3)
    assert rates.seen == pytest.approx([0.1] * 6 + [0.01] * 3)


def test_a_scheduler_class_is_stepped_once_an_epoch() -> None:
    rates = Rates()
    victim = victim_of(
        schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )
    fit(victim, None, rates, max_epochs=3)
    assert rates.seen == pytest.approx([0.1] * 3 + [0.05] * 3 + [0.025] * 3)


def test_frozen_parameters_are_not_handed_to_the_optimizer() -> None:
    given: list[int] = []

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        parameters = list(parameters)
        given.append(len(parameters))
        return torch.optim.SGD(parameters, lr=0.1)

    victim = victim_of(optimizer=optimizer)
    victim.network.conv1.requires_grad_(False)
    fit(victim, max_steps=1)
    assert given == [sum(parameter.requires_grad for parameter in victim.parameters())]


def test_metrics_of_each_epoch_are_those_of_the_weights_after_it() -> None:
    victim, data = victim_of(), Twelve()
    trainer = fit(victim, data)
    names = ("loss", "accuracy", "auroc", "sensitivity", "specificity")
    assert {f"val/{name}" for name in names} | {"train/loss"} <= trainer.callback_metrics.keys()

    victim.eval()
    with torch.no_grad():
        logits = victim(data.images["adv_test"])
    accuracy = float((logits.argmax(1) == data.targets("adv_test")).double().mean())
    loss = float(nn.functional.cross_entropy(logits, data.targets("adv_test")))
    assert float(trainer.callback_metrics["val/accuracy"]) == pytest.approx(accuracy)
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(loss, rel=1e-4)
    tested = trainer.test(victim, data, verbose=False)[0]
    assert tested["test/loss"] == pytest.approx(loss, rel=1e-4) and len(tested) == 7


def test_the_checkpoint_says_what_the_weights_belong_to(tmp_path: Path) -> None:
    victim = victim_of(head="dense", options={"drop_rate": 0.25})
    trainer = fit(victim, max_steps=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)

    assert checkpoint["victim"] == {
        "class": "Classifier",
        "backbone": "resnet10t",
        "num_classes": 2,
        "head": "dense",
        "channels": 1,
        "options": {"drop_rate": 0.25},
    }
    again = victim_of(head="dense", options={"drop_rate": 0.25})
    again.load_state_dict(checkpoint["state_dict"])
    with torch.no_grad():
        images = torch.rand(2, 1, 16, 16)
        torch.testing.assert_close(again(images), victim.eval()(images))


def test_the_checkpoint_keeps_the_normalisation(tmp_path: Path) -> None:
    trainer = fit(victim_of(mean=0.3, std=0.2), max_steps=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]
    assert state["mean"].flatten().tolist() == pytest.approx([0.3]) and state[
        "std"
    ].flatten().tolist() == pytest.approx([0.2])


def test_the_dense_head_is_that_of_ma20() -> None:
    head = victim_of(head="dense", num_classes=4).network.fc
    kinds = [type(layer) for layer in head]
    assert kinds == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert head[0].out_features == 128 and head[2].p == 0.2 and head[3].out_features == 4


def test_a_classifier_in_train_mode_is_attacked_and_given_back_as_it_was() -> None:
    victim = victim_of(head="dense").train()
    before = {name: tensor.clone() for name, tensor in victim.state_dict().items()}
    attacked = FGSM(epsilon=0.1)(victim, torch.rand(3, 1, 16, 16), torch.tensor([0, 1, 0]))

    assert attacked.images.shape == (3, 1, 16, 16) and victim.training
    assert all(torch.equal(before[name], tensor) for name, tensor in victim.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in victim.parameters())


def test_a_victim_is_built_from_its_checkpoint_alone(tmp_path: Path, run_of: Any) -> None:
    victim = victim_of(mean=0.3, std=0.7, head="dense", options={"drop_rate": 0.25})
    again = Classifier.from_checkpoint(Path(run_of(tmp_path / "v", victim)) / "checkpoints" / "best.ckpt").eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(images), victim(images))
    assert again.description() == victim.description()
    assert float(again.mean) == pytest.approx(0.3)


def test_a_file_that_is_no_checkpoint_of_this_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"torn\.ckpt is not a checkpoint that train\.py wrote"):
        Classifier.from_checkpoint(tmp_path / "torn.ckpt")
    torch.save({"state_dict": {}, "victim": {"class": "Segmenter"}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="holds a Segmenter, a Classifier is needed"):
        Classifier.from_checkpoint(tmp_path / "other.ckpt")
