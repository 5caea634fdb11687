"""Labels that do not exclude each other: what decides whether a victim is right about an image, and its loss."""

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.networks.victims import Outcome


def label_outcome(logits: Tensor, targets: Tensor) -> Outcome:
    """Whether all known labels of an image are right, and the share of them that are.

    A label is found where its logit is positive. An image without a known label has no quality (NaN) and is not right,
    so that no attack succeeds on it.

    Args:
        logits: ``(N, L)``.
        targets: ``(N, L)``, each 0 or 1, or negative where it is not known.

    Raises:
        ValueError: The targets are not one number per label.

    >>> outcome = label_outcome(torch.tensor([[2.0, -1.0], [2.0, 1.0]]), torch.tensor([[1, 0], [1, 0]]))
    >>> outcome.right, outcome.quality
    (tensor([ True, False]), tensor([1.0000, 0.5000]))
    """
    if not isinstance(targets, Tensor) or targets.shape != logits.shape:
        received = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(
            f"targets of a victim of {logits.shape[1]} labels are {tuple(logits.shape)}, one number per label, "
            f"got {received}"
        )
    known = targets >= 0
    hits = ((logits > 0) == (targets > 0)) & known
    count = known.sum(1)
    quality = torch.where(count > 0, hits.sum(1) / count.clamp(min=1), torch.nan)
    return Outcome((hits == known).all(1) & (count > 0), quality)


def label_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy over each image's known labels, ``(N,)``; 0 if none is known.

    >>> label_loss(torch.zeros(1, 2), torch.tensor([[1, -1]]))  # ln 2, and nothing of a label that is not known
    tensor([0.6931])
    """
    truths, known = (targets > 0).to(logits.dtype), targets >= 0
    losses = functional.binary_cross_entropy_with_logits(logits, truths, reduction="none") * known
    return losses.sum(1) / known.sum(1).clamp(min=1)
