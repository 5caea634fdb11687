"""Columns of the records for boxes: the true ones, those found before and after the attack, and what it changed."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.metrics.boxes import Boxes, box_changes, ead_numbers
from medrobust.networks.box_outputs import checked_boxes
from medrobust.networks.victims import Outputs, Targets

LEAST_SCORE, MOST = 0.05, 100  # detections that are written, as COCO's evaluation takes them
CORNER_DIGITS, SCORE_DIGITS = 3, 6


def box_columns(batch: AdversarialBatch) -> dict[str, Tensor | list[str | None]]:
    """Boxes of each image and what an attack did to them, ``(N,)`` by column; empty for victims that find no boxes.

    ``boxes_true``, ``boxes_before`` and ``boxes_after`` are JSON texts, lists of ``[label, x1, y1, x2, y2]`` and, of
    detections, ``[label, score, x1, y1, x2, y2]``. ``boxes_lost``, ``boxes_relabelled`` and ``boxes_invented`` count
    (``metrics.boxes.box_changes``). ``iou_before`` and ``iou_after`` are EAD-2019's IoU of the one image, NaN without a
    true box (``metrics.boxes.ead_numbers``). Thresholds are the victim's own.

    Args:
        batch: Its outputs have boxes, scores and labels, and its targets boxes and labels, or there are no columns.

    Raises:
        ValueError: A detection's label is none of the classes that the victim states; the message names the image.
    """
    sides = (batch.clean_outputs, batch.adversarial_outputs)
    if not (_has(batch.targets, "boxes", "labels") and all(_has(side, "boxes", "labels", "scores") for side in sides)):
        return {}
    victim = batch.plan.victim
    score, overlap = float(victim.get("score_threshold", 0.5)), float(victim.get("iou_threshold", 0.5))
    before, after = (_on_cpu(side) for side in sides)
    targets = _on_cpu(batch.targets)
    for id, *found in zip(batch.ids, before, after, strict=True):
        try:
            for output in found:
                checked_boxes(output, victim.get("num_classes"))
        except ValueError as error:
            raise ValueError(f"the victim's outputs for {id!r}: {error}") from None
    columns: dict[str, Tensor | list[str | None]] = {"boxes_true": [_text(target) for target in targets]}
    for when, outputs in (("before", before), ("after", after)):
        columns[f"boxes_{when}"] = [_text(output) for output in outputs]
        ious = [ead_numbers([output], [target], score)["iou"] for output, target in zip(outputs, targets, strict=True)]
        columns[f"iou_{when}"] = torch.tensor(ious, dtype=torch.float64)
    changes = box_changes(before, after, targets, score, overlap) if len(batch) else {}
    return columns | {f"boxes_{name}": counts for name, counts in changes.items()}


def _has(values: Outputs | Targets, *names: str) -> bool:
    """Whether values are a list of dicts that have these names."""
    return isinstance(values, list) and all(isinstance(one, dict) and set(names) <= one.keys() for one in values)


def _on_cpu(values: Sequence[dict[str, Any]]) -> list[Boxes]:
    names = ("boxes", "labels", "scores")
    return [{name: one[name].detach().cpu() for name in names if name in one} for one in values]


def _text(boxes: Boxes) -> str:
    """Boxes as JSON; of detections the first hundred whose score is large enough."""
    corners, labels = boxes["boxes"].double().tolist(), boxes["labels"].tolist()
    rounded = [[round(corner, CORNER_DIGITS) for corner in box] for box in corners]
    if "scores" not in boxes:
        return json.dumps([[label, *box] for label, box in zip(labels, rounded, strict=True)])
    scores = [round(score, SCORE_DIGITS) for score in boxes["scores"].double().tolist()]
    rows = [[label, score, *box] for label, score, box in zip(labels, scores, rounded, strict=True)]
    return json.dumps([row for row in rows if row[1] >= LEAST_SCORE][:MOST])
