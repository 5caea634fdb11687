"""Which way a number that a training watches is better; a checkpoint that keeps the worst one is refused."""

from collections.abc import Iterable

from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint

LOWER = ("loss", "calibration_error")  # and what begins with one of them and an underscore, such as a label's loss
HIGHER = (
    *("accuracy", "robust_accuracy", "quality", "auroc", "sensitivity", "specificity", "kappa"),
    *("pixel_accuracy", "jaccard", "dice", "map", "map50", "iou", "ead_score"),
)
OF_CLEAN = ("val/loss", "val/jaccard", "val/map50")  # by which configurations choose a checkpoint where nothing attacks


def check_modes(callbacks: Iterable[Callback]) -> None:
    """Refuse callbacks that would keep the worst checkpoint, or stop while a training gets better.

    Raises:
        ValueError: A callback watches one of our numbers in the wrong direction; the sentence says what to give.
    """
    for one in callbacks:
        if not isinstance(one, ModelCheckpoint | EarlyStopping) or one.monitor is None:
            continue
        wanted = better(one.monitor)
        if wanted and one.mode != wanted:
            larger = "larger" if wanted == "max" else "smaller"
            name = "checkpoint.mode" if isinstance(one, ModelCheckpoint) else "mode of EarlyStopping"
            raise ValueError(
                f"{one.monitor} is better the {larger} it is, and {name} is {one.mode!r}: give the mode {wanted!r}"
            )


def better(monitor: str) -> str:
    """``max`` or ``min``, as a number is better the larger or the smaller it is; empty for those that are not ours.

    >>> better("val/auroc"), better("train/loss"), better("mine")
    ('max', 'min', '')
    """
    stage, _, name = monitor.partition("/")
    if stage == "robustness":
        return "max"
    if stage not in ("train", "val"):
        return ""
    for kinds, way in ((LOWER, "min"), (HIGHER, "max")):
        if any(name == kind or name.startswith(f"{kind}_") for kind in kinds):
            return way
    return ""
