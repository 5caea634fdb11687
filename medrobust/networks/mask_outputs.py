"""Masks: what fits the logits of a victim that segments, and its cross-entropy."""

from typing import Any

from torch import Tensor
from torch.nn import functional


def check_masks(logits: Tensor, targets: Any) -> None:
    """Refuse what are no masks of the size of the logits.

    Args:
        logits: ``(N, K, H, W)``.
        targets: Labels, whole numbers ``(N, H, W)``.

    Raises:
        ValueError: The message shows what came.
    """
    expected = (len(logits), *logits.shape[2:])
    if not isinstance(targets, Tensor) or targets.shape != expected or targets.is_floating_point():
        received = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(f"a segmenter's targets are whole numbers of the shape {expected}, got {received}")


def pixel_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over each image's labelled pixels, ``(N,)`` in nats; 0 if it has none.

    Args:
        logits: ``(N, K, H, W)``.
        targets: Labels ``(N, H, W)``, negative where a pixel is ignored.
        weights: Weight of each label's pixels, ``(K,)``, in a weighted mean; None for equal ones.
    """
    labelled = targets >= 0
    truths = targets.clamp(min=0)
    losses = functional.cross_entropy(logits, truths, reduction="none")
    counted = labelled.to(losses.dtype) if weights is None else weights[truths] * labelled
    total = counted.sum((1, 2))
    return (losses * counted).sum((1, 2)) / total.where(total > 0, 1)
