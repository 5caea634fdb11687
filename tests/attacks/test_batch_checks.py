"""Which targets an attack accepts; images and ids are checked for every attack in the contract test."""

import pytest
import torch

from medrobust.attacks.batch_checks import check_batch

IMAGES = torch.zeros(2, 1, 4, 4)
IDS = ["a", "b"]


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
