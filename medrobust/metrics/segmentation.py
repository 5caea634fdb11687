"""How well masks fit: pixel accuracy, Jaccard and Dice of each class and image, distances between their borders."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

PERCENTILE = 95  # of the distances between two borders


@dataclass(frozen=True)
class Overlaps:
    """Numbers of pixels of each image and class; pixels whose label is negative count nowhere.

    Args:
        both: Pixels that truth and prediction give to the class, ``(N, K)``.
        found: Pixels that the prediction gives to it, ``(N, K)``.
        true: Pixels that the truth gives to it, ``(N, K)``.
    """

    both: Tensor
    found: Tensor
    true: Tensor

    def pixel_accuracy(self) -> Tensor:
        """Share of each image's labelled pixels that are right, float64 ``(N,)``; NaN if it has none."""
        return _share(self.both.sum(1), self.true.sum(1))

    def jaccard(self) -> Tensor:
        """Intersection over union of each class, float64 ``(N, K)``; NaN where neither mask has the class."""
        return _share(self.both, self.found + self.true - self.both)

    def dice(self) -> Tensor:
        """Twice the intersection over the sum of both sizes, float64 ``(N, K)``; NaN where neither has the class."""
        return _share(2 * self.both, self.found + self.true)


def predicted_labels(logits: Tensor) -> Tensor:
    """The label of each pixel, ``(N, H, W)``: that of the largest logit, or of a single one whether it is positive.

    Args:
        logits: ``(N, K, H, W)``.
    """
    return logits.max(1).indices if logits.shape[1] > 1 else (logits[:, 0] > 0).long()  # argmax is slow on a CPU


def overlaps(predictions: Tensor, targets: Tensor, classes: int) -> Overlaps:
    """Count the pixels that predicted and true masks have in common.

    Args:
        predictions: Predicted labels, ``(N, H, W)`` in [0, K).
        targets: True labels, ``(N, H, W)``; negative ones are ignored.
        classes: Number of labels K.

    >>> counts = overlaps(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 0, 1, -1]]]), 2)
    >>> counts.jaccard(), counts.both  # of three pixels, one is of class 0 and taken for class 1
    (tensor([[0.5000, 0.5000]], dtype=torch.float64), tensor([[1, 1]]))
    """
    labels = torch.arange(classes, device=targets.device).view(-1, 1, 1)
    labelled = (targets >= 0).unsqueeze(1)
    found, true = (predictions.unsqueeze(1) == labels) & labelled, targets.unsqueeze(1) == labels
    return Overlaps((found & true).sum((2, 3)), found.sum((2, 3)), true.sum((2, 3)))


def foreground_mean(values: Tensor) -> Tensor:
    """Mean over each image's classes but the first, the background, ``(N,)``; NaN where no class has a value.

    Args:
        values: One value for each image and class, ``(N, K)``; NaN where it has none.
    """
    return values[:, 1:].nanmean(1)


def quality_of_masks(counts: Overlaps) -> Tensor:
    """Mean Jaccard index over each image's foreground classes that truth or prediction has, float64 ``(N,)``.

    It is 1 where neither has any, and NaN for an image without a labelled pixel.
    """
    mean = foreground_mean(counts.jaccard())
    empty = (counts.found[:, 1:] + counts.true[:, 1:]).sum(1) == 0
    known = counts.true.sum(1) > 0
    return mean.masked_fill(empty, 1.0).masked_fill(~known, math.nan)


def border_distances(predictions: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Hausdorff distance of each foreground class, the larger of the two directed 95 % percentiles.

    MONAI's ``compute_hausdorff_distance``: from each pixel of one mask's border to the nearest one of the other's, the
    95 % percentile of these distances, and the larger of the two directions. Pixels whose label is negative belong to
    no mask.

    Args:
        predictions: Predicted labels, ``(N, H, W)`` in [0, K).
        targets: True labels, ``(N, H, W)``; negative ones are ignored.
        classes: Number of labels K.

    Returns:
        Pixels, float64 ``(N, K - 1)``, on the device of the targets; NaN where one of the masks lacks the class.
    """
    distances = torch.full((len(targets), classes - 1), math.nan, dtype=torch.float64)
    labels = torch.arange(1, classes, device=targets.device).view(-1, 1, 1)
    found = ((predictions.unsqueeze(1) == labels) & (targets >= 0).unsqueeze(1)).cpu()
    true = (targets.unsqueeze(1) == labels).cpu()
    places = (found.flatten(2).any(2) & true.flatten(2).any(2)).nonzero(as_tuple=True)
    if len(places[0]):
        distances[places] = _hausdorff(found[places].unsqueeze(1), true[places].unsqueeze(1)).double()
    return distances.to(targets.device)


def _hausdorff(found: Tensor, true: Tensor) -> Tensor:
    """Distances between masks ``(M, 1, H, W)``, none of them empty, ``(M,)``."""
    from monai.metrics import compute_hausdorff_distance  # seconds, which only masks need

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given: dict[str, Any] = {"include_background": True, "percentile": PERCENTILE}
        distances: Tensor = compute_hausdorff_distance(found, true, **given)
    return distances[:, 0]


class SegmentationQuality(Metric):
    """Loss, pixel accuracy, Jaccard and Dice of all images of all ranks, each image counted once.

    ``accuracy`` is the share of images that the victim is right about, ``quality`` the mean of their qualities,
    ``pixel_accuracy`` the mean share of right pixels. ``jaccard`` and ``dice`` are means over the images that have any
    foreground, in truth or prediction, of the mean over its classes; under a class's name they are means over the
    images that have this class. An image without a labelled pixel counts nowhere.

    Args:
        classes: Number of labels K, the background among them.
        names: Names of the labels; numbers where there are none.
        options: Those of any torchmetrics metric.
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, classes: int, names: Sequence[str] = (), **options: Any) -> None:
        """Start without images."""
        super().__init__(**options)
        self.classes, self.names = classes, list(names)
        size = 6 + 2 * (classes - 1)
        self.add_state("sums", default=torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", default=torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, loss: Tensor, right: Tensor, quality: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: loss, outcome and quality of each image ``(N,)``, logits ``(N, K, H, W)``, masks ``(N, H, W)``.

        Masks hold labels in [0, K), negative where a pixel is ignored.
        """
        found = overlaps(predicted_labels(logits.detach()), targets, self.classes)
        jaccard, dice, pixels = found.jaccard(), found.dice(), found.pixel_accuracy()
        heads = [loss.detach(), right, quality, pixels, foreground_mean(jaccard), foreground_mean(dice)]
        values = torch.cat([torch.stack([value.double() for value in heads], 1), jaccard[:, 1:], dice[:, 1:]], 1)
        judged = ~pixels.isnan().unsqueeze(1)
        counted = ~values.isnan() & judged
        counted[:, :1] = judged  # a loss that is not a number is one of the victim, not of an image without a value
        self.sums += values.where(counted, 0).sum(0)
        self.counts += counted.sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Values by name: ``loss`` as training has it, the others in [0, 1]; NaN where no image has a value."""
        heads = ["loss", "accuracy", "quality", "pixel_accuracy", "jaccard", "dice"]
        foreground = [self.names[one] if one < len(self.names) else str(one) for one in range(1, self.classes)]
        names = heads + [f"{kind}_{name}" for kind in ("jaccard", "dice") for name in foreground]
        return dict(zip(names, (self.sums / self.counts).unbind(), strict=True))


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """A quotient of whole numbers in float64; NaN where the divisor is 0."""
    return part.double() / whole.double()
