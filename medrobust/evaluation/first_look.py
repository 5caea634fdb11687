"""A first look at a victim on the data, before anything is attacked: what does not fit is said in a sentence."""

import logging
from collections.abc import Sequence

from torch import Tensor

from medrobust.evaluation.context import EvaluationContext, to_device
from medrobust.evaluation.deployment import judging
from medrobust.evaluation.loaded_data import LoadedData
from medrobust.evaluation.loaded_split import LoadedSample
from medrobust.networks.victims import EvaluatedVictim, Outputs, checked_outcome, probability_like

DIFFERENCE = 1e-2  # of the largest logit, by which rounding may change another one
SMALL = 0.1  # logits that are all smaller than this may be mostly rounding, and count as if one were as large

logger = logging.getLogger(__name__)


def look_first(context: EvaluationContext, victim: EvaluatedVictim, data: LoadedData, split: str) -> None:
    """Show a victim the first images of a split, and compare what it answers with the targets of all.

    Classes and labels without names are named by their numbers.

    Args:
        context: The process.
        victim: The victim.
        data: The data.
        split: The split under evaluation.

    Raises:
        ValueError: The victim cannot take the images, answers in another form than the targets have, or answers
            otherwise when it is asked again or about an image alone; or a target is none of its classes.
    """
    first = data.split(split).first
    if first is None:  # of this process; another one looks
        return
    ids = first.ids or [sample.id for sample in data.splits[split][: len(first.images)]]
    images, targets = to_device(first.images, context.device), to_device(first.targets, context.device)
    with judging(victim, ids):
        try:
            outputs = victim(images)
        except ValueError:
            raise
        except Exception as error:  # whatever somebody's model raises
            said = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"the model cannot take images {tuple(images.shape)} in [0, 1]: {said}") from error
        _compare(data, data.splits[split], outputs)
        checked_outcome(victim.outcome(outputs, targets), len(ids))
        alike = probability_like(outputs, targets)
    _ask_again(victim, images, outputs, ids)
    if alike is not None and bool(alike.all()) and context.is_first:
        logger.warning(
            "the model's outputs look like probabilities, on which attacks are weaker than they ought to be: return "
            "logits, or wrap it by as_victim(model, output='probabilities')"
        )


def _ask_again(victim: EvaluatedVictim, images: Tensor, outputs: Outputs, ids: Sequence[str]) -> None:
    """Refuse a victim whose answer about an image is not always the same, or not that image's alone."""
    if not isinstance(outputs, Tensor):  # of boxes, rounding may find one more
        return
    with judging(victim, ids):
        again = victim(images)
    if (difference := _difference(outputs, again)) > DIFFERENCE:
        raise ValueError(
            f"the model answers otherwise when it is shown the same images again (by {difference:.1%} of its largest "
            "logit): its forward must not be random, as with dropout that stays in train mode, nor change anything"
        )
    if len(ids) < 2:
        return
    try:
        with judging(victim, ids[:1]):
            alone = victim(images[:1])
    except Exception:  # it takes batches of some sizes only, and says so itself where another one comes
        return
    if (difference := _difference(outputs[:1], alone)) > DIFFERENCE:
        raise ValueError(
            "the model's answer about an image depends on the images beside it in the batch (by "
            f"{difference:.1%} of its largest logit), as with a BatchNorm that goes by the statistics of the batch: "
            "its results would be those of the batches"
        )


def _difference(first: Tensor, second: Tensor) -> float:
    """The largest difference of two outputs as a share of the largest value; 0 where one is not finite."""
    if first.shape != second.shape or not first.numel():
        return float(first.shape != second.shape)
    difference = float((first - second).abs().max() / first.abs().max().clamp(min=SMALL))
    return difference if difference < float("inf") else 0.0


def _compare(data: LoadedData, samples: Sequence[LoadedSample], outputs: Outputs) -> None:
    """Refuse targets, and names of classes, that are not the victim's; name those that have no names."""
    if not isinstance(outputs, Tensor) or data.task not in ("classification", "multilabel", "segmentation"):
        return
    known = outputs.shape[1] if outputs.ndim > 1 else 1
    if data.task == "multilabel":
        count = len(samples[0].target)
        if outputs.ndim == 2 and count != known:
            raise ValueError(f"the victim has {known} labels, and the targets {count} for each image")
        wrong = next((one for one in samples if one.highest is not None and one.highest > 1), None)
        if wrong is not None:
            raise ValueError(
                f"a label is 0 or 1, or negative where it is not known, and image {wrong.id!r} has {wrong.highest}"
            )
    else:
        known = max(known, 2)
        wrong = next((one for one in samples if one.highest is not None and one.highest >= known), None)
        if wrong is not None:
            what = "the target" if data.task == "classification" else "a pixel with the label"
            raise ValueError(
                f"the victim distinguishes {known} classes, counted from 0 to {known - 1}, and image {wrong.id!r} has "
                f"{what} {wrong.highest}"
            )
    if data.class_names is None:
        data.class_names = [f"{'label' if data.task == 'multilabel' else 'class'} {number}" for number in range(known)]
    if len(data.class_names) != known:
        raise ValueError(
            f"class_names names the victim's {known} {'labels' if data.task == 'multilabel' else 'classes'}, "
            f"got {len(data.class_names)}: {', '.join(data.class_names)}"
        )
