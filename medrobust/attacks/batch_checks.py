"""What every attack asks of the batch that it is given."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def without_inference(value: Any) -> Any:
    """Clone inference tensors, also those inside lists and dicts, because they cannot be saved for a backward."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf, value)


def check_batch(images: Tensor, targets: Any, ids: Sequence[str]) -> None:
    """Refuse a batch that an attack cannot take.

    Args:
        images: Floating point, ``(N, C, H, W)``, finite and in [0, 1].
        targets: One entry per image, as ``Attack.__call__`` describes them.
        ids: One name per image.

    Raises:
        ValueError: One of them is not as described.
    """
    if images.ndim != 4 or images.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected float32 images (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
    if images.numel():
        low, high = (float(bound) for bound in torch.stack(images.detach().aminmax()))  # NaN is passed on
        if not (low >= 0 and high <= 1):
            raise ValueError(f"expected finite images in [0, 1], got values from {low:g} to {high:g}")
    if isinstance(targets, Tensor):
        if not targets.ndim or targets.is_floating_point() or targets.is_complex():
            received = f"{targets.dtype} {tuple(targets.shape)}"
            raise ValueError(f"expected targets of whole numbers, one entry per image, got {received}")
        if targets.ndim == 1 and len(targets) and bool((targets < 0).any()):
            raise ValueError(f"classes are counted from 0, got {int(targets.min())}")
    elif not isinstance(targets, list | tuple) or not all(isinstance(target, dict) for target in targets):
        raise ValueError(
            "expected targets as a tensor of classes, labels or masks, or as a list of boxes' dicts, "
            f"got {type(targets).__name__}"
        )
    if not len(images) == len(targets) == len(ids):
        raise ValueError(f"got {len(images)} images, {len(targets)} targets and {len(ids)} ids: one of each is needed")
