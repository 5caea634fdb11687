"""Metrics of two processes of which one has no image: both gather alike, and find what the other alone would."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torchmetrics import Metric

from medrobust.metrics.boxes import BoxQuality
from medrobust.metrics.classification import ClassifierQuality
from medrobust.metrics.labels import LabelQuality
from tests.random_boxes import random_boxes


def of_classes(**options: Any) -> Metric:
    metric = ClassifierQuality(**options)
    metric.update(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3)
    return metric


def of_labels(**options: Any) -> Metric:
    metric = LabelQuality(**options)
    metric.update(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(16).view(8, 2) % 3 - 1)
    return metric


def of_boxes(**options: Any) -> Metric:
    metric = BoxQuality(**options)
    metric.update(torch.arange(9.0), torch.arange(9) > 2, torch.arange(9.0) / 9, *random_boxes(9))
    return metric


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("fed", [of_classes, of_labels, of_boxes])
def test_a_process_without_images_gathers_what_the_other_does(fed: Callable[..., Metric]) -> None:
    sent: list[torch.Tensor] = []

    def first(state: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
        sent.append(state)
        return [state]

    def second(state: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
        other = next(waiting)
        assert (state.ndim, state.dtype) == (other.ndim, other.dtype)  # or a real process would crash or hang
        return [state, other]

    distributed = {"distributed_available_fn": lambda: True}
    expected = {name: float(value) for name, value in fed(dist_sync_fn=first, **distributed).compute().items()}
    idle = type(fed())(dist_sync_fn=second, **distributed)
    for _ in range(2):  # also after a reset
        waiting = iter(sent)
        found = {name: float(value) for name, value in idle.compute().items()}
        assert found == pytest.approx(expected, nan_ok=True) and next(waiting, None) is None
        idle.reset()
