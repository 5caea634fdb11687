"""How the quality of a victim's outputs is called, and when an image counts as right: both depend on its task."""

from collections.abc import Mapping
from typing import Any

from medrobust.results.formats import format_percent
from medrobust.results.manifest import task_of


def is_dense(manifest: Mapping[str, Any]) -> bool:
    """Whether the victim finds masks or boxes, whose quality tables show beside the rates."""
    return task_of(manifest) in ("segmentation", "boxes")


def quality_name(manifest: Mapping[str, Any]) -> str:
    """How headings call the quality: by its definition where the manifest says by which one images are judged.

    >>> quality_name({"data": {"task": "segmentation"}, "victim": {"threshold": 0.5}})
    'mean Jaccard'
    """
    if _is_jaccard(manifest):
        return "mean Jaccard"
    return "boxes found" if _is_share(manifest) else "quality"


def quality_phrase(manifest: Mapping[str, Any], quality: float | None) -> str:
    """A mean quality in a sentence, after "with".

    >>> quality_phrase({"data": {"task": "segmentation"}, "victim": {"threshold": 0.5}}, 0.25)
    'a mean Jaccard of 25.0 %'
    """
    value = format_percent(quality)
    if _is_share(manifest):
        return f"{value} of an image's boxes found on average"
    return f"a mean {quality_name(manifest).removeprefix('mean ')} of {value}"


def quality_meaning(manifest: Mapping[str, Any]) -> str:
    """What the quality of an image is, in one sentence."""
    if _is_jaccard(manifest):
        return (
            "The Jaccard index of an image's mask, which is the number of pixels that prediction and truth have in "
            "common divided by the number that either has, as the mean over the foreground classes that the image's "
            "truth or prediction has; an image without foreground in both has 100 %."
        )
    if _is_share(manifest):
        return (
            "The share of an image's true boxes that are found, each by a detection of its own of the same class with "
            f"a score of at least {_victim(manifest)['score_threshold']:g} and an overlap (IoU) of at least "
            f"{_victim(manifest)['iou_threshold']:g}. Images without a true box have no share."
        )
    return (
        "How good the victim's outputs are, such as the Jaccard index of masks, the share of true boxes that are "
        "found, or the share of labels that are right."
    )


def right_meaning(manifest: Mapping[str, Any]) -> str:
    """When an image counts as right, in a sentence; empty where that needs no words, or is not known."""
    victim = _victim(manifest)
    if _is_jaccard(manifest):
        return (
            f"An image counts as right where its Jaccard index is at least {format_percent(victim['threshold'])}, as "
            "the mean over the foreground classes that its truth or prediction has."
        )
    if _is_share(manifest):
        return (
            f"An image counts as right where at least {format_percent(victim['share'])} of its true boxes are found, "
            f"by a detection of the same class with a score of at least {victim['score_threshold']:g} and an overlap "
            f"(IoU) of at least {victim['iou_threshold']:g}; one without a true box, where nothing is found with that "
            "score."
        )
    if task_of(manifest) == "multilabel":
        return "An image counts as right where all of its known labels are."
    return ""


def _victim(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    return manifest.get("victim") or {}


def _is_jaccard(manifest: Mapping[str, Any]) -> bool:
    return task_of(manifest) == "segmentation" and "threshold" in _victim(manifest)


def _is_share(manifest: Mapping[str, Any]) -> bool:
    known = {"share", "score_threshold", "iou_threshold"} <= set(_victim(manifest))
    return task_of(manifest) == "boxes" and known
