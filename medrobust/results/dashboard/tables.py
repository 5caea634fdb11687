"""The tables of a comparison: named columns and rows of plain values, for the page, the console and files."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from medrobust.results.formats import DASH, format_epsilon, format_interval, format_linf, format_percent

Kind = Literal["words", "count", "rate", "share", "score", "measure", "radius", "linf", "l2", "chance", "difference"]
Norm = Literal["linf", "l2"]
NORMS: dict[Norm, str] = {"linf": "L∞", "l2": "L2"}


class Column(NamedTuple):
    """One column of a table.

    Args:
        key: Entry of a row that it shows; the 95 % limits of a rate or a difference stand under ``<key>_interval``.
        heading: What stands above it.
        kind: How its values are written; "linf" and "l2" are smallest perturbations in these norms, with the largest
            radius that was tried under ``<key>_above``.
        note: What they mean, where the heading does not say it all.
        worse: A high value is "high" or a low one is "low" where that is bad for the victim; else "".
    """

    key: str
    heading: str
    kind: Kind = "words"
    note: str = ""
    worse: Literal["", "high", "low"] = ""


class Table(NamedTuple):
    """One table of a comparison.

    Args:
        name: Its name as a file, in lower case.
        title: Its heading.
        note: What it shows, in sentences.
        columns: The columns in their order.
        rows: A mapping for each row; a missing entry or None is shown as a dash.
    """

    name: str
    title: str
    note: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]


def has_interval(column: Column) -> bool:
    """Whether values of a column come with 95 % limits."""
    return column.kind in ("rate", "difference", "score")


def cell(column: Column, row: Mapping[str, Any]) -> str:
    """The value of a row in a column, as it is read, without its interval.

    >>> cell(Column("p", "p", "chance"), {"p": 0.00003}), cell(Column("d", "A - B", "difference"), {"d": -0.05})
    ('< 0.0001', '−5.0')
    """
    value = row.get(column.key)
    if value is None:
        return DASH
    match column.kind:
        case "rate" | "share":
            return format_percent(value)
        case "score":
            return f"{100 * value:.1f}"
        case "difference":
            return _signed(100 * value)
        case "radius":
            return format_epsilon(value)
        case "linf" | "l2":
            return _smallest(value, row.get(f"{column.key}_above"), column.kind)
        case "chance":
            return "< 0.0001" if value < 0.0001 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"
        case "count":
            return f"{value:,}"
        case "measure":
            return f"{value:.3g}"
    return str(value)


def check_values(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse values that cannot be written as their column says.

    Raises:
        ValueError: One cannot.
        TypeError: One cannot.
    """
    for row in rows:
        for column in columns:
            for written in (cell, interval, sort_value):
                written(column, row)


def interval(column: Column, row: Mapping[str, Any]) -> str:
    """The 95 % limits of a value as they are read; "" without any."""
    limits = row.get(f"{column.key}_interval") if has_interval(column) else None
    if limits is None:
        return ""
    if column.kind == "difference":
        return f"{_signed(100 * limits[0])} to {_signed(100 * limits[1])}"
    return format_interval(limits)


def sort_value(column: Column, row: Mapping[str, Any]) -> str:
    """What a column is sorted by: the number in full, or the words; "" for a missing value."""
    value = row.get(column.key)
    return "" if value is None else str(value) if column.kind == "words" else f"{float(value):.6g}"


def _signed(points: float) -> str:
    """A number of percentage points with its sign; rounding leaves no negative zero."""
    rounded = round(points, 1) + 0.0
    return f"−{-rounded:.1f}" if rounded < 0 else f"+{rounded:.1f}" if rounded > 0 else "0.0"


def _smallest(value: float, above: float | None, norm: str) -> str:
    """The length of a smallest perturbation; an infinite one, which nobody has found, is more than the largest tried.

    >>> _smallest(float("inf"), 8 / 255, "linf"), _smallest(0.0241, 8 / 255, "linf"), _smallest(0.0241, None, "l2")
    ('> 8/255', '6.15/255', '0.0241')
    """
    if value == float("inf"):
        return "∞" if above is None else f"> {_smallest(above, above, norm)}"
    return f"{value:.3g}" if norm == "l2" else format_linf(value, [above])
