"""Which rows belong to one patient, so that what is learnt from some patients is judged on others."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Groups(NamedTuple):
    """Numbers that tell to which patient the rows of both groups belong; rows of one patient share a number.

    All versions of an image (clean, noisy, adversarial) belong to its patient.
    """

    negative: Tensor  # (N,) int64
    positive: Tensor  # (M,) int64


def patient_numbers(patients: Sequence[str]) -> Tensor:
    """A number for each patient's name, int64 ``(N,)``: the same for a name wherever and in whatever order it stands.

    Args:
        patients: Name of the patient of each row.
    """
    digests = {name: hashlib.sha256(name.encode()).digest() for name in set(patients)}
    numbers = [int.from_bytes(digests[name][:8], "big") >> 1 for name in patients]
    return torch.tensor(numbers, dtype=torch.int64)


def rows_apart(negative: Tensor, positive: Tensor) -> Groups:
    """Groups that take every row for a patient of its own, for rows of which nothing is known."""
    count = len(negative)
    return Groups(torch.arange(count), torch.arange(count, count + len(positive)))


def dealt(groups: Groups, folds: int) -> Groups:
    """Fold, in [0, F), of every row: rows of one patient share a fold, and the folds have about equal shares.

    Patients with positive rows are dealt out, those with the most first, each to the fold that has the fewest positive
    rows; then the other patients, each to the fold that has the fewest rows. So the folds depend on the groups' numbers
    alone, not on the order of the rows.

    Args:
        groups: Patients of the negative and of the positive rows.
        folds: Largest number of folds. F is smaller if fewer patients have positive rows.

    Example:
        >>> dealt(Groups(torch.tensor([7, 7, 8, 9]), torch.tensor([7, 8])), 5)
        Groups(negative=tensor([0, 0, 1, 1]), positive=tensor([0, 1]))
    """
    numbers, places = torch.cat([groups.negative, groups.positive]).cpu().unique(return_inverse=True)
    first = len(groups.negative)
    positives = torch.bincount(places[first:], minlength=len(numbers)).tolist()
    rows = torch.bincount(places, minlength=len(numbers)).tolist()
    count = max(1, min(folds, sum(number > 0 for number in positives)))
    with_positives, with_rows = [0] * count, [0] * count
    fold_of = [0] * len(numbers)
    for one in sorted(range(len(numbers)), key=lambda number: (-positives[number], -rows[number], number)):
        by_positives = positives[one] > 0
        shares = [(with_positives[fold] if by_positives else 0, with_rows[fold]) for fold in range(count)]
        fold = fold_of[one] = shares.index(min(shares))
        with_positives[fold] += positives[one]
        with_rows[fold] += rows[one]
    of_rows = torch.tensor(fold_of, dtype=torch.int64)[places]
    return Groups(of_rows[:first], of_rows[first:])
