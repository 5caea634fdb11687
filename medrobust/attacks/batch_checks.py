"""What every attack asks of the batch that it is given."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

OUTSIDE = 0.01  # pixels by which rounding may carry a box beyond its image


def without_inference(value: Any) -> Any:
    """Clone inference tensors, also those inside lists and dicts, because they cannot be saved for a backward."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf, value)


def check_batch(images: Tensor, targets: Any, ids: Sequence[str] | None) -> None:
    """Refuse a batch that an attack cannot take.

    Args:
        images: Floating point, ``(N, C, H, W)``, finite and in [0, 1].
        targets: One entry per image, as ``Attack.__call__`` describes them.
        ids: One name per image, none twice; None if they have none.

    Raises:
        ValueError: One of them is not as described.
    """
    _check_images(images)
    _check_targets(targets)
    if not isinstance(targets, Tensor) and len(images) == len(targets):
        _check_boxes(images, targets)
    count = len(images) if ids is None else len(ids)
    if not len(images) == len(targets) == count:
        raise ValueError(f"got {len(images)} images, {len(targets)} targets and {count} ids: one of each is needed")
    if ids is not None and (other := next((id for id in ids if not isinstance(id, str)), None)) is not None:
        raise ValueError(f"ids are text, one name per image, got {other!r}: convert them by [str(id) for id in ids]")
    if ids is not None and len(set(ids)) < count:
        twice, times = Counter(ids).most_common(1)[0]
        raise ValueError(
            f"ids name the images of a batch and decide their random numbers, got {twice!r} for {times} of {count}"
        )


def _check_images(images: Any) -> None:
    """Refuse what is no batch of images in [0, 1], and say how it becomes one."""
    if isinstance(images, np.ndarray):
        steps = ".permute(0, 3, 1, 2)" if images.ndim == 4 and images.shape[-1] in (1, 3) else ""
        steps += ".float() / 255" if images.dtype == np.uint8 else ".float()"
        raise ValueError(
            f"expected a tensor of float32 images (N, C, H, W) in [0, 1], got a NumPy array of {images.dtype} "
            f"{images.shape}: convert it by torch.from_numpy(images){steps}"
        )
    if not isinstance(images, Tensor):
        raise ValueError(f"expected float32 images (N, C, H, W) in one tensor, got {type(images).__name__}")
    if images.ndim != 4 or images.dtype not in (torch.float32, torch.float64):
        received, how = f"{images.dtype} {tuple(images.shape)}", ""
        if images.ndim == 3:
            how = ": a batch of this one image is images[None]"
        if images.ndim == 4:
            how = ": convert them by images.float()" + (" / 255" if images.dtype == torch.uint8 else "")
        raise ValueError(f"expected float32 images (N, C, H, W), got {received}{how}")
    if images.numel():
        low, high = (float(bound) for bound in torch.stack(images.detach().aminmax()))  # NaN is passed on
        if not (low >= 0 and high <= 1):
            raise ValueError(f"expected finite images in [0, 1], got values from {low:g} to {high:g}")


def _check_boxes(images: Tensor, targets: Sequence[dict[str, Any]]) -> None:
    """Refuse what are no boxes inside their images; the host waits for the device once."""
    for place, target in enumerate(targets):
        boxes, labels, sought = (target.get(name) for name in ("boxes", "labels", "sought"))
        if not isinstance(boxes, Tensor) or not isinstance(labels, Tensor):
            raise ValueError(
                "boxes are a dict of tensors boxes (B, 4) and labels (B,) for each image, got one of "
                f"{', '.join(target) or 'nothing'} for image {place}"
            )
        whole = not (labels.is_floating_point() or labels.is_complex())
        fits = boxes.ndim == 2 and boxes.shape[1] == 4 and labels.shape == boxes.shape[:1]
        if not (fits and boxes.is_floating_point() and whole):
            raise ValueError(
                f"expected floating point boxes (B, 4) and as many whole labels (B,), got {boxes.dtype} "
                f"{tuple(boxes.shape)} and {labels.dtype} {tuple(labels.shape)} for image {place}"
            )
        if sought is not None and (
            not isinstance(sought, Tensor) or (sought.dtype, sought.shape) != (torch.bool, labels.shape)
        ):
            raise ValueError(f"sought tells of each box whether it is, bool (B,), got {sought!r} for image {place}")
    height, width = images.shape[-2:]
    if not targets:
        return
    sizes = torch.tensor([width, height, width, height], dtype=torch.float64)
    corners = torch.cat([target["boxes"].detach() for target in targets]).double().cpu()
    labels = torch.cat([target["labels"] for target in targets]).cpu()
    fine = ((corners >= -OUTSIDE) & (corners <= sizes + OUTSIDE)).all(1) & (corners[:, :2] < corners[:, 2:]).all(1)
    if not bool(fine.all()):
        bad = [round(value, 3) for value in corners[~fine][0].tolist()]
        raise ValueError(
            f"expected finite boxes x1 < x2, y1 < y2 inside images of {width} x {height} pixels, got {bad}"
        )
    if bool((labels < 0).any()):
        raise ValueError(f"labels of boxes are counted from 0, got {int(labels.min())}")


def _check_targets(targets: Any) -> None:
    """Refuse what are no targets of any task."""
    if isinstance(targets, np.ndarray):
        raise ValueError(
            f"expected targets as a tensor, got a NumPy array of {targets.dtype} {targets.shape}: convert it by "
            "torch.from_numpy(targets)"
        )
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
