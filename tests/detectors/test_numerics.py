"""Numerics that detectors share, by hand, beside scipy, and at their limits."""

import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from medrobust.detectors import numerics
from medrobust.detectors.numerics import (
    check_variation,
    count_classes,
    rows_at_once,
    spread_over_classes,
    squared_distances,
    standardisation,
    unit_scaling,
)


def normal(count: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randn((count, channels), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_classes_are_counted_by_hand() -> None:
    classes, members, counts = count_classes(torch.tensor([7, 3, 7, 3, 7]), "this method")
    assert (classes.tolist(), members.tolist(), counts.tolist()) == ([3, 7], [1, 0, 1, 0, 1], [2, 3])
    with pytest.raises(ValueError, match="class 3 has 1 reference image, this method needs at least 2"):
        count_classes(torch.tensor([7, 3, 7]), "this method")
    with pytest.raises(ValueError, match="this method needs reference images, got none"):
        count_classes(torch.tensor([], dtype=torch.long), "this method")


def test_the_first_images_of_all_classes_are_chosen_in_turn() -> None:
    labels = torch.tensor([5, 5, 5, 5, 5, 2, 5, 9, 2, 5])
    assert spread_over_classes(labels, 5).tolist() == [0, 1, 5, 7, 8]
    assert spread_over_classes(labels, 6).tolist() == [0, 1, 2, 5, 7, 8]
    assert spread_over_classes(labels, 99).tolist() == list(range(10))


def test_squared_distances_are_those_of_scipy() -> None:
    points, references = normal(6, 9), normal(8, 9, 1)
    expected = torch.from_numpy(cdist(points.numpy(), references.numpy(), "sqeuclidean"))
    torch.testing.assert_close(squared_distances(points, references, references.square().sum(1)), expected)
    assert squared_distances(points, points, points.square().sum(1)).diagonal().amax() < 1e-13


def test_rows_at_once_are_bounded_by_the_memory_and_by_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "MEMORY", 8 * 100)
    assert [rows_at_once(numbers) for numbers in (0, 1, 10, 50, 51, 1000)] == [100, 100, 10, 2, 1, 1]
    monkeypatch.setattr(numerics, "ROWS", 7)
    assert rows_at_once(10) == 7


def test_features_that_are_the_same_for_all_images_are_refused() -> None:
    check_variation(torch.tensor([[1.0, 2.0], [1.0, 2.5]]), "late")
    with pytest.raises(ValueError, match="the features of layer 'late' are the same for all 3 reference images"):
        check_variation(torch.tensor([[1.0, 2.0]] * 3), "late")


def test_a_channel_that_varies_by_rounding_alone_has_the_width_one() -> None:
    column = torch.tensor([0.1, 0.1, 0.1]).double()
    rounded = torch.nextafter(torch.tensor([1000.0] * 3), torch.tensor([0.0, 1000.0, 2000.0])).double()
    alive = torch.tensor([0.0, 2e-9, 4e-9]).double()
    centre, width = standardisation(torch.stack([column, rounded, alive], 1))
    torch.testing.assert_close(width, torch.tensor([1, 1, 4e-9 / 6**0.5]).double())
    torch.testing.assert_close(centre, torch.tensor([0.1, 1000, 2e-9]).double(), rtol=1e-6, atol=0)


def test_the_smallest_value_is_scaled_to_0_and_the_largest_to_1() -> None:
    """Columns -1, 3, 1 and a constant 5: widths 4 and 1."""
    values = torch.tensor([[-1.0, 5.0], [3.0, 5.0], [1.0, 5.0]])
    low, width = unit_scaling(values)
    assert (low.tolist(), width.tolist()) == ([-1, 5], [4, 1])
    assert ((values - low) / width).tolist() == [[0, 0], [1, 0], [0.5, 0]]
