"""Masks: overlaps counted by hand and by scikit-learn, border distances by brute force, and means over all ranks."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist
from sklearn.metrics import f1_score, jaccard_score
from torch import Tensor

from medrobust.metrics.segmentation import (
    SegmentationQuality,
    border_distances,
    foreground_mean,
    overlaps,
    predicted_labels,
    quality_of_masks,
)


def masks_of(*rows: list[int]) -> Tensor:
    """Masks of one row of pixels each."""
    return torch.tensor(rows).unsqueeze(1)


# labels 0, 1, 2 of four pixels, of which -1 is ignored
TRUE = masks_of([1, 1, 0, 2], [0, 0, 0, 0], [0, 0, -1, 0], [-1, -1, -1, -1], [1, -1, -1, 2])
FOUND = masks_of([1, 0, 1, 2], [0, 0, 0, 0], [0, 0, 2, 1], [1, 1, 1, 1], [1, 2, 2, 1])


def test_overlaps_by_hand() -> None:
    counts = overlaps(FOUND, TRUE, 3)
    assert counts.pixel_accuracy()[:3].tolist() == pytest.approx([1 / 2, 1, 2 / 3])
    assert counts.pixel_accuracy()[3].isnan()
    nan = math.nan
    jaccard = [[0, 1 / 3, 1], [1, nan, nan], [2 / 3, 0, nan], [nan, nan, nan], [nan, 1 / 2, 0]]
    dice = [[0, 1 / 2, 1], [1, nan, nan], [4 / 5, 0, nan], [nan, nan, nan], [nan, 2 / 3, 0]]
    np.testing.assert_allclose(counts.jaccard(), jaccard)
    np.testing.assert_allclose(counts.dice(), dice)
    np.testing.assert_allclose(foreground_mean(counts.jaccard()), [2 / 3, nan, 0, nan, 1 / 4])
    np.testing.assert_allclose(quality_of_masks(counts), [2 / 3, 1, 0, nan, 1 / 4])


def test_the_label_is_that_of_the_largest_logit_or_the_sign_of_a_single_one() -> None:
    logits = torch.tensor([[[[0.0, 3.0]], [[1.0, 2.0]]]])
    assert predicted_labels(logits).tolist() == [[[1, 0]]]
    assert predicted_labels(torch.tensor([[[[0.5, -0.5]]]])).tolist() == [[[1, 0]]]


def test_indices_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(-1, 4, (6, 9, 7), generator=generator)
    found = torch.randint(0, 4, (6, 9, 7), generator=generator)
    counts = overlaps(found, true, 4)
    for place in range(6):
        known = true[place] >= 0
        pair = (true[place][known].numpy(), found[place][known].numpy())
        given = {"average": None, "labels": range(4)}
        np.testing.assert_allclose(counts.jaccard()[place], jaccard_score(*pair, **given))
        np.testing.assert_allclose(counts.dice()[place], f1_score(*pair, **given))
        assert float(counts.pixel_accuracy()[place]) == pytest.approx((pair[0] == pair[1]).mean())


def disk(row: float, column: float, radius: float, side: int = 24) -> np.ndarray:
    places = np.mgrid[:side, :side]
    return (places[0] - row) ** 2 + (places[1] - column) ** 2 <= radius**2


def brute_force(one: np.ndarray, other: np.ndarray) -> float:
    borders = [np.argwhere(mask & ~ndimage.binary_erosion(mask)) for mask in (one, other)]
    apart = cdist(*borders)
    return max(np.percentile(apart.min(axis), 95) for axis in (0, 1))


def test_border_distances_of_squares_and_by_brute_force() -> None:
    square, shifted, none = torch.zeros(3, 12, 12, dtype=torch.long)
    square[2:6, 2:6] = 1
    shifted[2:6, 5:9] = 1
    # of the 12 border pixels of each square, the furthest 8 lie 1, 2 and 3 columns away from the other: 95 % is 3
    assert border_distances(square[None], shifted[None], 2).tolist() == [[3.0]]
    assert border_distances(square[None], square[None], 2).tolist() == [[0.0]]
    assert border_distances(torch.stack([square, none]), torch.stack([none, none]), 2).isnan().all()
    ignored = torch.where(shifted == 1, shifted, -1)  # where no label is known, no mask is
    assert border_distances(square[None], ignored[None], 2).tolist() == [
        [brute_force((square & shifted).numpy() > 0, shifted.numpy() > 0)]
    ]

    true = np.stack([np.where(disk(9, 8, 5), 1, 0), np.where(disk(15, 15, 6), 2, 0)])
    found = np.stack([np.where(disk(11, 12, 7), 1, 0) + 2 * disk(2, 2, 1), np.where(disk(12, 9, 4.5), 2, 0)])
    distances = border_distances(torch.tensor(found), torch.tensor(true), 3)
    assert distances[0, 0] == pytest.approx(brute_force(found[0] == 1, true[0] == 1), abs=1e-5)
    assert distances[1, 1] == pytest.approx(brute_force(found[1] == 2, true[1] == 2), abs=1e-5)
    assert distances[0, 1].isnan() and distances[1, 0].isnan()


def logits_of(masks: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(masks, classes).movedim(3, 1).float()


def test_quality_over_all_images_whatever_the_batches_and_ranks() -> None:
    logits, quality = logits_of(FOUND, 3), quality_of_masks(overlaps(FOUND, TRUE, 3))
    losses, right = torch.tensor([1.0, 2.0, 4.0, 99.0, 5.0]), quality >= 0.5
    ranks = [SegmentationQuality(3, ["background", "left", "right"]) for _ in range(2)]
    for rank, rows in ((0, [0]), (1, [1, 2]), (0, [3, 4])):
        ranks[rank].update(losses[rows], right[rows], quality[rows], logits[rows], TRUE[rows])
    whole = ranks[0]
    whole.sums, whole.counts = whole.sums + ranks[1].sums, whole.counts + ranks[1].counts
    found = {name: float(value) for name, value in whole.compute().items()}
    expected = {
        "loss": 12 / 4,  # the fourth image has no labelled pixel and counts nowhere
        "accuracy": 2 / 4,
        "quality": (2 / 3 + 1 + 0 + 1 / 4) / 4,
        "pixel_accuracy": (1 / 2 + 1 + 2 / 3 + 1 / 2) / 4,
        "jaccard": (2 / 3 + 0 + 1 / 4) / 3,  # the second has no foreground
        "dice": (3 / 4 + 0 + 1 / 3) / 3,
        "jaccard_left": (1 / 3 + 0 + 1 / 2) / 3,
        "jaccard_right": (1 + 0) / 2,
        "dice_left": (1 / 2 + 0 + 2 / 3) / 3,
        "dice_right": (1 + 0) / 2,
    }
    assert found == pytest.approx(expected)


def test_a_loss_that_is_not_a_number_is_not_hidden() -> None:
    metric = SegmentationQuality(2)
    mask = masks_of([0, 1])
    metric.update(torch.tensor([math.nan]), torch.tensor([True]), torch.tensor([1.0]), logits_of(mask, 2), mask)
    assert metric.compute()["loss"].isnan() and metric.compute()["jaccard_1"] == 1
