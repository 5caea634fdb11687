"""How well scores tell two groups apart: the ROC curve, the area under it by ranks, and the TPR at a given TNR."""

import math

import torch
from torch import Tensor


def auroc(negative: Tensor, positive: Tensor) -> Tensor:
    """Probability that a positive scores above a negative one, ties counting one half.

    Args:
        negative: Raw scores of one group, ``(N,)``, of any range.
        positive: Raw scores of the other, ``(M,)``.

    Returns:
        A float64 scalar; NaN if a group is empty.

    >>> auroc(torch.tensor([300.0, 310.0]), torch.tensor([305.0, 400.0]))
    tensor(0.7500, dtype=torch.float64)
    """
    if not len(negative) or not len(positive):
        return torch.tensor(float("nan"), dtype=torch.float64, device=negative.device)
    ordered = negative.sort().values
    below = torch.searchsorted(ordered, positive.contiguous(), right=False)
    not_above = torch.searchsorted(ordered, positive.contiguous(), right=True)
    return (below + not_above).double().mean() / (2 * len(negative))


def tpr_at_tnr(negative: Tensor, positive: Tensor, tnr: float = 0.9) -> Tensor:
    """Share of positives that are flagged when at least `tnr` of the negatives pass (TPR@90 for 0.9).

    The threshold is the smallest score of a negative that at least ``tnr * N`` negatives do not exceed; what lies
    strictly above it is flagged. So never more than ``(1 - tnr) * N`` negatives are flagged, and a positive that ties
    with the threshold counts as missed. It is the highest TPR of the ROC curve at an FPR of at most ``1 - tnr``.

    Args:
        negative: Raw scores of one group, ``(N,)``, of any range.
        positive: Raw scores of the other, ``(M,)``.
        tnr: True negative rate, above 0 and at most 1.

    Returns:
        A float64 scalar; NaN if a group is empty.

    Raises:
        ValueError: If `tnr` is out of range.

    >>> tpr_at_tnr(torch.arange(10.0), torch.tensor([7.5, 8.0, 8.5, 20.0]))  # threshold 8: one of ten lies above
    tensor(0.5000, dtype=torch.float64)
    """
    if not 0 < tnr <= 1:
        raise ValueError(f"a true negative rate lies above 0 and is at most 1, got {tnr}")
    if not len(negative) or not len(positive):
        return torch.tensor(float("nan"), dtype=torch.float64, device=negative.device)
    passing = max(1, math.ceil(tnr * len(negative) - 1e-9))  # 0.9 of 30 are 27, whatever the product rounds to
    return (positive > negative.sort().values[passing - 1]).double().mean()


def roc_curve(negative: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """False and true positive rate as the threshold falls from above all scores to the lowest.

    Args:
        negative: Raw scores of one group, ``(N,)``, of any range.
        positive: Raw scores of the other, ``(M,)``.

    Returns:
        The rates, float64, each ``(K + 1,)`` for K different scores, from (0, 0) to (1, 1); the rate of an empty group
        is NaN.

    >>> roc_curve(torch.tensor([1.0]), torch.tensor([1.0, 2.0]))[1]
    tensor([0.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    thresholds = torch.cat([negative, positive]).unique().flip(0)
    rates = []
    for group in (negative, positive):
        below = torch.searchsorted(group.to(thresholds.dtype).sort().values, thresholds)
        flagged = torch.cat([below.new_zeros(1), len(group) - below])
        rates.append(flagged.double() / len(group) if len(group) else flagged.double() * math.nan)
    return rates[0], rates[1]
