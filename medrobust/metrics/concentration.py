"""How concentrated a map is: on few pixels, or evenly on all."""

import math

import torch
from torch import Tensor


def gini(maps: Tensor) -> Tensor:
    """Gini coefficient of the values of maps: 0 if all are equal, (n - 1) / n if all but one of n are zero.

    With x_1 <= ... <= x_n it is sum_i (2 i - n - 1) x_i / (n sum_i x_i) (Gini 1912).

    Args:
        maps: Values that are not negative, ``(N, ...)``.

    Returns:
        ``(N,)`` float64; NaN for a map of zeros.

    >>> gini(torch.tensor([[1.0, 1.0], [0.0, 3.0], [1.0, 3.0]]))
    tensor([0.0000, 0.5000, 0.2500], dtype=torch.float64)
    """
    values = maps.flatten(1).double().sort(1).values
    count = values.shape[1]
    ranks = 2 * torch.arange(1, count + 1, device=values.device, dtype=values.dtype) - count - 1
    return (values @ ranks) / (count * values.sum(1))


def top_energy(maps: Tensor, share: float = 0.01) -> Tensor:
    """Share of the energy, the sum of squares, that lies in the pixels of the largest values.

    Args:
        maps: ``(N, ...)``.
        share: Which share of the pixels, rounded up to a whole number of them.

    Returns:
        ``(N,)`` float64; `share` for a map of equal values, NaN for a map of zeros.

    >>> top_energy(torch.tensor([[3.0, 1.0, 1.0, 1.0]]), 0.25)  # 9 of 12
    tensor([0.7500], dtype=torch.float64)
    """
    energy = maps.flatten(1).double().square()
    count = math.ceil(share * energy.shape[1])
    return energy.topk(count, 1).values.sum(1) / energy.sum(1)


def top_overlap(one: Tensor, other: Tensor, share: float = 0.1) -> Tensor:
    """Intersection over union of the pixels of the largest values of two maps.

    Pixels that hold a map's smallest value never count, so that a map that is 0 almost everywhere, as behind a ReLU,
    has fewer pixels than `share` of them.

    Args:
        one: ``(N, ...)``.
        other: The same shape.
        share: Which share of the pixels of each counts at most, rounded up to a whole number of them.

    Returns:
        ``(N,)`` float64 in [0, 1]; NaN where a map has one value only, so that no pixel stands out.

    >>> top_overlap(torch.tensor([[4.0, 3.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, 4.0, 0.0]]), 0.5)  # 1 of 3
    tensor([0.3333], dtype=torch.float64)
    """
    first, second = one.flatten(1), other.flatten(1)
    count = math.ceil(share * first.shape[1])
    none = torch.zeros_like(first, dtype=torch.bool)
    ours, theirs = (
        none.scatter(1, maps.topk(count, 1).indices, True) & (maps > maps.amin(1, keepdim=True))
        for maps in (first, second)
    )
    met, both = (ours & theirs).sum(1).double(), (ours | theirs).sum(1)
    flat = torch.stack([maps.amax(1) == maps.amin(1) for maps in (first, second)]).any(0)
    return torch.where(flat, torch.nan, met / both)
