"""The form of found boxes: what a victim returns for an image, looked at before numbers are made of it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

NAMES = ("boxes", "scores", "labels")


def checked_boxes(output: Mapping[str, Any], classes: int | None = None) -> None:
    """Refuse detections of an image of which mAP, IoU and matches would be wrong; other outputs are not looked at.

    Args:
        output: ``boxes`` (D, 4), ``scores`` (D,) and ``labels`` (D,), the most certain first.
        classes: Number of classes, if it is known.

    Raises:
        ValueError: A tensor has another shape or type, a label is none of the classes, a score lies outside [0, 1],
            scores rise, or a box ends before it begins.
    """
    if not all(isinstance(output.get(name), Tensor) for name in NAMES):
        return
    boxes, scores, labels = (output[name] for name in NAMES)
    if boxes.shape != (len(labels), 4) or scores.shape != labels.shape or labels.is_floating_point():
        shapes = ", ".join(f"{name} {tuple(output[name].shape)} {output[name].dtype}" for name in NAMES)
        raise ValueError(
            f"found boxes are boxes (D, 4), scores (D,) and labels (D,), the latter whole numbers, got {shapes}"
        )
    if not len(labels):
        return
    least, most = labels.min(), labels.max()
    if bool((least < 0) | (most >= classes if classes else least < 0)):
        highest = f" to {classes - 1}" if classes else " on"
        raise ValueError(
            f"labels of found boxes count the classes from 0{highest}, without a background, got {int(least)} to "
            f"{int(most)}"
        )
    low, high = float(scores.min()), float(scores.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"scores of found boxes lie in [0, 1], as thresholds do, got {low:g} to {high:g}")
    turned = (boxes[:, 2:] < boxes[:, :2]).any(1)
    if bool(turned.any()):
        corners = [round(value, 3) for value in boxes[turned][0].tolist()]
        raise ValueError(f"found boxes are corners x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, got {corners}")
    if bool((scores[1:] > scores[:-1]).any()):
        raise ValueError("found boxes are listed with the most certain first, and these scores rise")
