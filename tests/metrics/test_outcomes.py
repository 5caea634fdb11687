"""The mean outcome: every image counts once, whatever the batches."""

import pytest
import torch

from medrobust.metrics.outcomes import MeanOutcome

LOSS, RIGHT = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, False, False])
QUALITY = torch.tensor([0.5, 0.25, 0.0])


@pytest.mark.parametrize("sizes", [[3], [2, 1], [1, 1, 1], [0, 3]])
def test_means_are_those_of_all_images_in_any_batches(sizes: list[int]) -> None:
    metric = MeanOutcome()
    for loss, right, quality in zip(LOSS.split(sizes), RIGHT.split(sizes), QUALITY.split(sizes), strict=True):
        metric.update(loss, right, quality)
    values = {name: float(value) for name, value in metric.compute().items()}
    assert values == pytest.approx({"loss": 3.0, "accuracy": 1 / 3, "quality": 0.25})


def test_after_a_reset_the_images_before_are_forgotten() -> None:
    metric = MeanOutcome()
    metric.update(LOSS, RIGHT, QUALITY)
    metric.reset()
    metric.update(LOSS[:1], RIGHT[:1], QUALITY[:1])
    assert float(metric.compute()["loss"]) == 1.0


def test_without_an_image_nothing_is_defined() -> None:
    assert all(bool(value.isnan()) for value in MeanOutcome().compute().values())


def test_a_loss_with_a_gradient_keeps_no_graph() -> None:
    metric = MeanOutcome()
    metric.update(LOSS.clone().requires_grad_(), RIGHT, QUALITY)
    assert not metric.sums.requires_grad


@pytest.mark.parametrize("sizes", [[3], [2, 1]])
def test_an_image_without_a_quality_counts_for_the_rest_alone(sizes: list[int]) -> None:
    metric, quality = MeanOutcome(), torch.tensor([0.5, float("nan"), 0.0])
    for loss, right, one in zip(LOSS.split(sizes), RIGHT.split(sizes), quality.split(sizes), strict=True):
        metric.update(loss, right, one)
    values = {name: float(value) for name, value in metric.compute().items()}
    assert values == pytest.approx({"loss": 3.0, "accuracy": 1 / 3, "quality": 0.25})
