"""What every attack asks of the batch that it is given."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def without_inference(value: Any) -> Any:
    """Clone inference tensors, which cannot be saved for a backward; lists and dicts are looked into."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if isinstance(value, dict):
        return {key: without_inference(inner) for key, inner in value.items()}
    return [without_inference(inner) for inner in value] if isinstance(value, list | tuple) else value


def check_batch(images: Tensor, targets: Any, ids: Sequence[str]) -> None:
    """Refuse a batch that an attack cannot take.

    Raises:
        ValueError: Says what was expected and what came.
    """
    if images.ndim != 4 or images.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"expected float32 images (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
    if images.numel():
        low, high = (float(bound) for bound in torch.stack(images.detach().aminmax()))  # NaN comes through
        if not (low >= 0 and high <= 1):
            raise ValueError(f"expected finite images in [0, 1], got values from {low:g} to {high:g}")
    if isinstance(targets, Tensor):
        if targets.ndim not in (1, 3) or targets.is_floating_point():
            came = f"{targets.dtype} {tuple(targets.shape)}"
            raise ValueError(f"expected targets of whole numbers, classes (N,) or masks (N, H, W), got {came}")
        if targets.ndim == 1 and len(targets) and bool((targets < 0).any()):
            raise ValueError(f"classes are counted from 0, got {int(targets.min())}")
    elif not isinstance(targets, list | tuple) or not all(isinstance(target, dict) for target in targets):
        raise ValueError(
            f"expected a tensor of classes or masks or a list of boxes' dicts, got {type(targets).__name__}"
        )
    if not len(images) == len(targets) == len(ids):
        raise ValueError(f"got {len(images)} images, {len(targets)} targets and {len(ids)} ids: one of each is needed")
