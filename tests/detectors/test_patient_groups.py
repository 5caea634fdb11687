"""Patients of rows: their numbers, the folds that they are dealt to, and how they travel with features."""

import pytest
import torch
from torch import Tensor

from medrobust.detectors import Features, Groups, concatenate, groups_of, patient_numbers
from medrobust.detectors.patient_groups import dealt, rows_apart


def seen(count: int, groups: Tensor | None = None) -> Features:
    return Features({"layer": torch.zeros(count, 2)}, torch.zeros(count).long(), groups=groups)


def test_a_patients_number_depends_on_the_name_alone() -> None:
    numbers = patient_numbers(["b", "a", "b", "ab"])
    assert numbers.dtype == torch.int64 and bool((numbers >= 0).all())
    assert numbers[0] == numbers[2] and len(numbers.unique()) == 3
    assert torch.equal(patient_numbers(["a"]), numbers[1:2])
    assert patient_numbers([]).tolist() == []


def test_every_patient_is_in_one_fold_and_every_fold_has_its_share() -> None:
    """60 patients of three images, each clean and noisy; every other one has three adversarial images, too."""
    clean = torch.arange(60).repeat_interleave(3)
    groups = Groups(torch.cat([clean, clean]), clean[clean % 2 == 0])
    folds = dealt(groups, 5)
    for one in range(60):
        mine = torch.cat([folds.negative[groups.negative == one], folds.positive[groups.positive == one]])
        assert len(mine.unique()) == 1
    assert folds.positive.bincount().tolist() == [18] * 5  # 30 patients of three
    assert folds.negative.bincount().tolist() == [72] * 5  # 60 of six


def test_folds_depend_neither_on_the_order_of_the_rows_nor_on_that_of_the_patients() -> None:
    generator = torch.Generator().manual_seed(0)
    negative = patient_numbers([f"p{int(one)}" for one in torch.randint(0, 20, (80,), generator=generator)])
    positive = negative[:37]
    folds = dealt(Groups(negative, positive), 5)
    order = torch.randperm(80, generator=generator)
    assert torch.equal(dealt(Groups(negative[order], positive.flip(0)), 5).negative, folds.negative[order])
    assert torch.equal(dealt(Groups(negative[order], positive.flip(0)), 5).positive, folds.positive.flip(0))


def test_there_are_no_more_folds_than_patients_with_adversarial_images() -> None:
    folds = dealt(Groups(torch.arange(10), torch.tensor([3, 4, 4])), 5)
    assert set(folds.positive.tolist()) == {0, 1}
    assert sorted(folds.negative.bincount().tolist()) == [5, 5]
    assert dealt(Groups(torch.arange(3), torch.tensor([1, 1])), 5).negative.tolist() == [0, 0, 0]


def test_rows_of_which_nothing_is_known_are_dealt_in_turn() -> None:
    groups = rows_apart(torch.zeros(7, 2), torch.zeros(3, 2))
    assert len(torch.cat(groups).unique()) == 10
    folds = dealt(groups, 5)
    assert folds.positive.tolist() == [0, 1, 2]
    assert folds.negative.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_groups_travel_with_their_images() -> None:
    whole = seen(4, torch.tensor([5, 5, 7, 9]))
    assert whole[[3, 0]].groups.tolist() == [9, 5]
    assert concatenate([whole[:1], whole[2:]]).groups.tolist() == [5, 7, 9]
    assert groups_of(seen(2), seen(3)) is None
    assert groups_of(whole, whole[:1]).positive.tolist() == [5]
    with pytest.raises(ValueError, match="features with and without groups cannot be concatenated"):
        concatenate([whole, seen(1)])
    with pytest.raises(ValueError, match="known of the negatives or of the positives only, expected of both"):
        groups_of(whole, seen(2))
    with pytest.raises(ValueError, match="the same number of images, got .*'groups': 3"):
        seen(4, torch.tensor([1, 2, 3]))
