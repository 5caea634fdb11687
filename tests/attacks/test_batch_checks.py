"""Which targets an attack accepts; images and ids are checked for every attack in the contract test."""

import pytest
import torch

from medrobust.attacks.batch_checks import check_batch

IMAGES = torch.zeros(2, 1, 4, 4)
IDS = ["a", "b"]
FRAMES = torch.zeros(2, 1, 8, 8)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 4, 4), (2, 3, 4, 4)])
def test_whole_numbers_with_one_entry_per_image_are_targets(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    targets = torch.ones(shape, dtype=dtype)
    check_batch(IMAGES, targets, IDS)
    with pytest.raises(ValueError, match="got 2 images, 1 targets and 2 ids"):
        check_batch(IMAGES, targets[:1], IDS)


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 4), (2, 3, 4, 4)])
def test_labels_masks_and_maps_may_hold_ignored_entries(shape: tuple[int, ...]) -> None:
    targets = torch.full(shape, -1)
    check_batch(IMAGES, targets, IDS)
    with pytest.raises(ValueError, match="got torch.float32"):
        check_batch(IMAGES, targets.float(), IDS)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, -1]), "classes are counted from 0, got -1"),
        (torch.tensor([0.0, 1.0]), r"targets of whole numbers, one entry per image, got torch.float32 \(2,\)"),
        (torch.tensor([0, 1j]), r"targets of whole numbers, one entry per image, got torch.complex64 \(2,\)"),
        (torch.tensor(1), r"targets of whole numbers, one entry per image, got torch.int64 \(\)"),
        (torch.zeros(3, 2).long(), "got 2 images, 3 targets and 2 ids"),
        ("ab", "a tensor of classes, labels or masks, or as a list of boxes' dicts, got str"),
        ([0, 1], "a tensor of classes, labels or masks, or as a list of boxes' dicts, got list"),
    ],
)
def test_other_targets_are_refused(targets: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_batch(IMAGES, targets, IDS)


def boxed(boxes: object = ((1.0, 2.0, 3.0, 4.0),), labels: object = (0,), **more: object) -> list[dict[str, object]]:
    """Targets of two images of 8 x 8, the second of which has no box."""
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    return [{"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), **more}, none]


def test_boxes_may_fill_their_image_and_be_none_at_all() -> None:
    check_batch(FRAMES, boxed([[0.0, 0.0, 8.0, 8.001]]), IDS)
    check_batch(FRAMES, boxed(sought=torch.tensor([True])), IDS)
    check_batch(FRAMES, [boxed()[1]] * 2, IDS)
    check_batch(FRAMES[:0], [], [])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([{}, {}], r"a dict of tensors boxes \(B, 4\) and labels \(B,\) .* got one of nothing for image 0"),
        (boxed([[1.0, 2.0, 3.0]]), r"got torch.float32 \(1, 3\) and torch.int64 \(1,\) for image 0"),
        (boxed(labels=[0, 1]), r"as many whole labels \(B,\), got torch.float32 \(1, 4\) and torch.int64 \(2,\)"),
        (boxed(labels=[0.0]), "whole labels"),
        (boxed([[1, 2, 3, 4]]), r"floating point boxes \(B, 4\) .* got torch.int64"),
        (boxed([[1.0, 2.0, 9.0, 4.0]]), r"inside images of 8 x 8 pixels, got \[1.0, 2.0, 9.0, 4.0\]"),
        (boxed([[-1.0, 2.0, 3.0, 4.0]]), r"got \[-1.0, 2.0, 3.0, 4.0\]"),
        (boxed([[3.0, 2.0, 1.0, 4.0]]), "boxes x1 < x2, y1 < y2"),
        (boxed([[1.0, 2.0, 1.0, 4.0]]), "boxes x1 < x2, y1 < y2"),
        (boxed([[1.0, 2.0, float("nan"), 4.0]]), r"expected finite boxes .* got \[1.0, 2.0, nan, 4.0\]"),
        (boxed(labels=[-1]), "labels of boxes are counted from 0, got -1"),
        (boxed(sought=torch.tensor([1])), r"sought tells of each box whether it is, bool \(B,\), got tensor\(\[1\]\)"),
    ],
)
def test_boxes_that_are_none_are_refused(targets: list[dict[str, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_batch(FRAMES, targets, IDS)
