"""The tables behind figures: the same numbers, for those who cannot see a figure or want to copy from it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from medrobust.results.formats import (
    DASH,
    format_epsilon,
    format_interval,
    format_passes,
    format_percent,
    format_score,
)
from medrobust.results.report.detection_grids import Grid

AT = (0.01, 0.05, 0.1, 0.2)  # false positive rates at which a table shows an ROC curve

Row = Mapping[str, Any]


class FigureTable(NamedTuple):
    """The numbers of a figure.

    Args:
        head: Headings of the columns.
        lines: The cells as they are written.
        words: How many of the first columns hold words; numbers stand to the right.
    """

    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    words: int = 1


def radius_table(rows: Sequence[Row], after: str, name: str) -> FigureTable:
    """The numbers of a figure of what is left at each radius.

    Args:
        rows: The rows of a summary.
        after: The entry that the figure shows.
        name: How it is called.
    """
    shown = [row for row in rows if row["n"] and row[after] is not None]
    lines = [
        [
            row["attack"] + (" (control)" if row["control"] else ""),
            format_epsilon(row["epsilon"]),
            str(row["n"]),
            format_percent(row[after]),
            format_interval(row[f"{after}_interval"]) or DASH,
        ]
        for row in shown
    ]
    return FigureTable(["attack", "ε", "n", name, "95 % interval"], lines)


def cost_table(rows: Sequence[Row]) -> FigureTable:
    """What each attack costs: passes and, where they were measured, seconds."""
    shown = [row for row in rows if row["kind"] != "clean" and row["n"]]
    timed = any(row.get("mean_seconds") is not None for row in shown)
    head = ["attack", "ε", "forward passes", "backward passes", "all passes", "fooled"]
    lines = []
    for row in shown:
        passes = [DASH if row[name] is None else f"{row[name]:.3g}" for name in ("mean_forwards", "mean_backwards")]
        seconds = [_seconds(row.get("mean_seconds"))] if timed else []
        cells = [row["attack"], format_epsilon(row["epsilon"]), *passes, format_passes(row)]
        lines.append([*cells, format_percent(row["success_rate"]), *seconds])
    return FigureTable([*head, "seconds"] if timed else head, lines)


def _seconds(seconds: float | None) -> str:
    return DASH if seconds is None else f"{seconds:.3g}"


def roc_table(grid: Grid) -> FigureTable:
    """Shares of adversarial images that detectors flag at some shares of false alarms, by attack and detector."""
    lines = []
    for place, column in enumerate(grid.columns):
        for name, rows in grid.lines:
            row = rows[place]
            if row["auroc"] is None:
                continue
            reached = [format_score(highest(row["roc"]["fpr"], row["roc"]["tpr"], limit)) for limit in AT]
            lines.append([column.label, name, format_score(row["auroc"]), *reached])
    return FigureTable(["attack", "detector", "AUROC", *(f"TPR at {100 * limit:g} % FPR" for limit in AT)], lines, 2)


def highest(false: Sequence[float], true: Sequence[float], limit: float) -> float:
    """The highest true positive rate of a curve whose false positive rate does not exceed a limit.

    >>> highest([0.0, 0.1, 0.3, 1.0], [0.2, 0.6, 0.9, 1.0], 0.2)
    0.6
    """
    return max((up for across, up in zip(false, true, strict=True) if across <= limit + 1e-9), default=0.0)


def confusion_table(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> FigureTable:
    """Numbers of images by true class, one line each, and by predicted class."""
    lines = [[name, *map(str, counts)] for name, counts in zip(names, confusion, strict=True)]
    return FigureTable(["true class", *(f"taken for {name}" for name in names)], lines)


def reliability_table(clean: Row, attacked: Row | None = None) -> FigureTable:
    """The bins of a reliability diagram, of clean images and of those under an attack."""
    lines = []
    for words, row in (("clean", clean), ("attacked", attacked)):
        for one in row["reliability"] if row else ():
            limits = format_interval(one["accuracy_interval"])
            edges = f"{one['lower']:.2f}–{one['upper']:.2f}"
            numbers = [format_percent(one["confidence"]), format_percent(one["accuracy"]), limits]
            lines.append([words, edges, str(one["n"]), *numbers])
    return FigureTable(["images", "confidence", "n", "mean confidence", "right", "95 % interval"], lines, 2)
