"""Tables of what an evaluation did to boxes: average precision, EAD-2019's numbers, and what became of the boxes."""

from collections.abc import Mapping
from typing import Any

from medrobust.results.report.dense_tables import Cell, DenseTable, count_cell, lines_of, percent_cell

GLOSSARY = {
    "mAP@0.5, COCO mAP": (
        "Average precision is the area below the curve of precision against recall as the score falls; the mean over "
        "the classes, for detections that overlap a true box by an IoU of at least 0.5, and as the mean over the "
        "overlaps 0.5, 0.55, ..., 0.95. It belongs to all images together, and to no single one."
    ),
    "EAD IoU, EAD score": (
        "Numbers of the challenge Endoscopic Artefact Detection 2019, of the detections whose score reaches the "
        "victim's threshold. IoU is the mean overlap of a class's detections with their true boxes, 0 for those that "
        "are wrong, as the mean over the classes. The score is 0.4 times that IoU and 0.6 times a mean "
        "average precision of the challenge's own, for which an overlap of 0.25 is enough; it does "
        "not follow from the mAP beside it."
    ),
    "lost, relabelled, invented": (
        "What the attack did, in boxes: lost are those that were found with the right class before it and that no "
        "detection covers after it; relabelled are those that only a detection of another class still covers; "
        "invented are the detections that match no true box and were not there before."
    ),
}


def box_tables(summary: Mapping[str, Any]) -> list[DenseTable]:
    """The tables of boxes; none for an evaluation without them.

    Args:
        summary: As `summarise` returns it, with `boxes` as `results.boxes.box_results` gives them.
    """
    boxes = summary.get("boxes") or {}
    rows = boxes.get("rows") or []
    if not rows:
        return []
    whole = [
        [
            *(percent_cell(row, name) for name in ("map50", "map", "iou", "ead_score")),
            *(count_cell(row, name) for name in ("lost", "relabelled", "invented")),
        ]
        for row in rows
    ]
    classes = [(str(one["name"]), int(one["n_boxes"])) for one in rows[0]["classes"]]
    each = [[_of_class(one) for one in row["classes"]] for row in rows]
    tables = [
        DenseTable(
            "Boxes",
            f"{rows[0]['n_boxes']} true boxes in {rows[0]['n']} images. mAP, IoU and EAD's score in percent, with 95 % "
            "intervals over patients; lost, relabelled and invented are numbers of boxes over all images.",
            (),
            ("mAP@0.5", "COCO mAP", "EAD IoU", "EAD score", "lost", "relabelled", "invented"),
            lines_of(rows, whole),
        ),
        DenseTable(
            "Average precision of each class",
            "At an overlap of 0.5, in percent: "
            + ", ".join(f"{name} with {count} {'box' if count == 1 else 'boxes'}" for name, count in classes)
            + ".",
            (),
            [name for name, _ in classes],
            lines_of(rows, each),
        ),
    ]
    return tables if classes else tables[:1]


def _of_class(one: Mapping[str, Any]) -> Cell:
    return percent_cell(one, "ap50")
