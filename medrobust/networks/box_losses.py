"""The losses of a two-stage detector, per image and without chance: expected values of those of random samples."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

BETA = 1 / 9  # where the smooth L1 loss turns from square to linear, as in torchvision
Truths = Sequence[dict[str, Tensor]]


def sample_weights(positive: Tensor, negative: Tensor, size: int, share: float) -> tuple[Tensor, Tensor]:
    """Weights of the mean over an image's positives and of that over its negatives.

    A random sample of ``size`` anchors or proposals has at most ``share`` of positives and otherwise negatives. The
    mean loss over such a sample has the expected value a * (mean over all positives) + b * (mean over all negatives),
    where a and b are the shares of both kinds in the sample.

    Args:
        positive: Number of positives of each image, ``(N,)``.
        negative: Number of its negatives, ``(N,)``.
        size: Size of the sample, at least 1.
        share: Largest share of positives in it, in [0, 1].

    >>> sample_weights(torch.tensor([16, 40]), torch.tensor([100, 100]), 64, 0.5)
    (tensor([0.2500, 0.5000]), tensor([0.7500, 0.5000]))
    """
    first = positive.clamp(max=int(share * size))
    second = torch.minimum(negative, size - first)
    count = (first + second).clamp(min=1)
    return first / count, second / count


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of each row's chosen values, ``(N,)``; 0 where none is chosen."""
    return torch.where(chosen, values, 0).sum(1) / chosen.sum(1).clamp(min=1)


def expected_loss(values: Tensor, labels: Tensor, size: int, share: float) -> Tensor:
    """Expected mean loss of a random sample of each image's places, ``(N,)``.

    Args:
        values: Loss of each place, ``(N, P)``.
        labels: Above 0 for positives, 0 for negatives, below 0 for what counts as neither, ``(N, P)``.
        size: Size of the sample, as ``sample_weights``.
        share: Largest share of positives in it.
    """
    positive, negative = labels > 0, labels == 0
    first, second = sample_weights(positive.sum(1), negative.sum(1), size, share)
    return first * _mean(values, positive) + second * _mean(values, negative)


def expected_distance(deltas: Tensor, wanted: Tensor, labels: Tensor, size: int, share: float) -> Tensor:
    """Expected smooth L1 loss of the positives in a random sample, per place of the sample, ``(N,)``.

    Args:
        deltas: Predicted codes of boxes, ``(N, P, 4)``.
        wanted: True codes ``(N, P, 4)``; those that belong to no positive are not looked at.
        labels: As in ``expected_loss``.
        size: Size of the sample.
        share: Largest share of positives in it.
    """
    positive = labels > 0
    wanted = torch.where(positive.unsqueeze(2), wanted, 0)  # of an image without boxes they are infinite
    distances = functional.smooth_l1_loss(deltas, wanted, beta=BETA, reduction="none").sum(2)
    first, _ = sample_weights(positive.sum(1), (labels == 0).sum(1), size, share)
    return first * _mean(distances, positive)


def padded(parts: Sequence[Tensor], value: float = 0) -> Tensor:
    """Tensors ``(P, ...)`` of different lengths as one ``(N, largest P, ...)``, filled up with a value."""
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=value)
