"""How well scores tell two groups apart: the area under the ROC curve, by ranks."""

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
