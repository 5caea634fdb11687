"""Tables of what an evaluation did to masks: pixels, and each class with its Jaccard index, Dice and contour."""

from collections.abc import Mapping
from typing import Any

from medrobust.results.report.dense_tables import Cell, DenseTable, lines_of, percent_cell, pixel_cell

GLOSSARY = {
    "pixel accuracy": "The share of an image's labelled pixels that are given their label, background included.",
    "flipped pixels": "Of the labelled pixels that were right before the attack, the share that is wrong after it.",
    "Jaccard, Dice": (
        "How well a class's pixels overlap with the true ones: the pixels that prediction and truth have in common, "
        "divided by those that either has (Jaccard), or by the mean of how many each has (Dice). Both are undefined "
        "where neither has the class."
    ),
    "HD95": (
        "The 95th percentile of the distances from the contour of the prediction to that of the truth and back, in "
        "pixels: how far off a contour is, apart from a few outliers. It is defined where both have the class."
    ),
}


def mask_tables(summary: Mapping[str, Any]) -> list[DenseTable]:
    """The tables of masks; none for an evaluation without them.

    Args:
        summary: As `summarise` returns it, with `masks` as `results.masks.mask_results` gives them.
    """
    masks = summary.get("masks") or {}
    rows = masks.get("rows") or []
    if not rows:
        return []
    whole = [
        [
            percent_cell(row, "pixel_accuracy"),
            percent_cell(row, "flipped_pixels", bad=True),
            percent_cell(row, "jaccard"),
            percent_cell(row, "dice"),
        ]
        for row in rows
    ]
    names = [str(one["name"]) for one in rows[0]["classes"]]
    tables = [
        DenseTable(
            "Masks",
            "In percent, as means over the images, with 95 % intervals over patients. Jaccard and Dice are means over "
            "the foreground classes, and over the images of which truth or prediction has any. Flipped are the pixels "
            "that the attack turned from right to wrong.",
            (),
            ("pixel accuracy", "flipped pixels", "Jaccard", "Dice"),
            lines_of(rows, whole),
        ),
        DenseTable(
            "Masks, class by class",
            "Jaccard and Dice in percent, HD95 in pixels, as means over the images where they are defined; n counts "
            "these where they are not all.",
            [(name, 3) for name in names],
            ("Jaccard", "Dice", "HD95") * len(names),
            lines_of(rows, [[cell for one in row["classes"] for cell in _of_class(one, row["n"])] for row in rows]),
        ),
    ]
    return tables if names else tables[:1]


def _of_class(one: Mapping[str, Any], images: int) -> list[Cell]:
    either, both = ("" if one[name] == images else f"n = {one[name]}" for name in ("n", "n_hausdorff95"))
    return [
        percent_cell(one, "jaccard", note=either),
        percent_cell(one, "dice", note=either),
        pixel_cell(one, "hausdorff95", both),
    ]
