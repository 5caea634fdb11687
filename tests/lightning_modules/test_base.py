"""What all victims share: clean metrics of any task from losses and outcomes, and layers by patterns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules import Classifier, VictimModule
from medrobust.networks import Outcome, is_evaluated_victim
from tests.in_lightning import InMemoryModule, trainer_of


class Bright(VictimModule):
    """A victim whose output is the mean of an image, which is right above one half; its quality is the mean."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), mean=0.0, std=1.0)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).mean(1)

    def loss(self, images: Tensor, targets: Any) -> Tensor:
        return 2 * self(images)

    def outcome(self, outputs: Tensor, targets: Any) -> Outcome:
        return Outcome(outputs > 0.5, outputs)

    def description(self) -> dict[str, Any]:
        return {"class": "Bright"}


def data_of(levels: Sequence[float]) -> InMemoryModule:
    """Even images of these levels, two per batch."""
    images = torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    return InMemoryModule({"adv_test": (images, torch.zeros(len(levels)))}, batch_size=2)


def test_a_victim_of_any_task_logs_mean_loss_accuracy_and_quality() -> None:
    levels = [0.25, 0.75, 1.0]  # in batches of two and one: a mean of batches would be another number
    (logged,) = trainer_of().test(Bright(), data_of(levels), verbose=False)
    assert logged == pytest.approx(
        {"test/loss": 4 / 3, "test/accuracy": 2 / 3, "test/quality": 2 / 3, "test/images": 3}
    )


def test_a_second_test_starts_to_count_anew() -> None:
    victim = Bright()
    trainer_of().test(victim, data_of([0.25]), verbose=False)
    (logged,) = trainer_of().test(victim, data_of([1.0]), verbose=False)
    assert logged["test/accuracy"] == logged["test/quality"] == 1.0


def test_validate_logs_under_its_own_name() -> None:
    (logged,) = trainer_of().validate(Bright(), data_of([0.25, 0.75]), verbose=False)
    assert logged == pytest.approx({"val/loss": 1.0, "val/accuracy": 0.5, "val/quality": 0.5, "val/images": 2.0})


def test_a_victim_of_another_task_is_one_for_an_evaluation() -> None:
    assert is_evaluated_victim(Bright())


def test_a_victim_that_fixes_its_normalisation_is_built_from_its_checkpoint(tmp_path: Path, run_of: Any) -> None:
    folder = Path(run_of(tmp_path / "bright", Bright()))
    again = Bright.from_checkpoint(folder / "checkpoints" / "best.ckpt")
    assert torch.equal(again(torch.full((1, 1, 2, 2), 0.25)), torch.tensor([0.25]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state, about: state.pop("network.fc.bias"), "it lacks network.fc.bias"),
        (
            lambda state, about: state.update(extra=torch.ones(2), other=torch.ones(1)),
            "it has besides extra and 1 more",
        ),
        (lambda state, about: state.update({"network.fc.bias": torch.ones(7)}), "network.fc.bias has another shape"),
        (lambda state, about: about.update(num_classes=3), "network.fc.weight and 1 more has another shape"),
        (lambda state, about: about.update(depth=3), "does not say what its Classifier is built from: .*depth"),
        (lambda state, about: about.pop("backbone"), "does not say what its Classifier is built from: .*backbone"),
        (lambda state, about: state.pop("mean"), "does not say what its Classifier is built from: 'mean'"),
    ],
)
def test_a_checkpoint_with_keys_too_many_or_too_few_is_refused_in_a_sentence(
    tmp_path: Path, run_of: Any, change: Any, words: str
) -> None:
    path = Path(run_of(tmp_path / "run", Classifier("resnet10t", channels=1))) / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint["state_dict"], checkpoint["victim"])
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=words) as refused:
        Classifier.from_checkpoint(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
