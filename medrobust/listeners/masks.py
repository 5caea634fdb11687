"""Columns of the records for masks: right pixels, and how well the mask of each foreground class fits."""

from typing import Literal

from torch import Tensor

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.listeners.probabilities import names_of_data
from medrobust.metrics.segmentation import border_distances, overlaps, predicted_labels
from medrobust.results.columns import FLIPPED_PIXELS, PIXEL_ACCURACY, label_names, mask_column


def mask_columns(batch: AdversarialBatch) -> dict[str, Tensor]:
    """How well the masks of the clean and the adversarial images fit, ``(N,)`` by column; empty for other tasks.

    They are the shares of labelled pixels that are right before and after the attack, and the share of those right
    before it that are wrong after it; and for each foreground class its Jaccard and Dice index and its 95 % Hausdorff
    distance in pixels. A value is NaN where it is undefined: where no pixel is labelled or right before, for an index
    where neither mask has the class, for a distance where one of them lacks it.

    Args:
        batch: Its targets ``(N, H, W)`` and outputs ``(N, K, H, W)`` belong to masks; negative labels are ignored.
    """
    targets, outputs = batch.targets, (batch.clean_outputs, batch.adversarial_outputs)
    if not isinstance(targets, Tensor) or targets.ndim != 3 or targets.is_floating_point():
        return {}
    if not all(isinstance(logits, Tensor) and logits.ndim == 4 for logits in outputs):
        return {}
    classes = max(outputs[0].shape[1], 2)
    names = label_names(names_of_data(batch, classes))
    masks = [predicted_labels(logits) for logits in outputs]
    columns: dict[str, Tensor] = {}
    moments: tuple[Literal["before", "after"], ...] = ("before", "after")
    for column, what, mask in zip(PIXEL_ACCURACY, moments, masks, strict=True):
        counts = overlaps(mask, targets, classes)
        columns[column] = counts.pixel_accuracy()
        jaccard, dice, distances = counts.jaccard(), counts.dice(), border_distances(mask, targets, classes)
        for place, name in enumerate(names[1:], 1):
            columns[mask_column("jaccard", name, what)] = jaccard[:, place]
            columns[mask_column("dice", name, what)] = dice[:, place]
            columns[mask_column("hausdorff95", name, what)] = distances[:, place - 1]
    right = [(mask == targets).flatten(1) for mask in masks]
    columns[FLIPPED_PIXELS] = (right[0] & ~right[1]).sum(1).double() / right[0].sum(1)
    return columns
