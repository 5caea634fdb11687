"""Tables of masks and of boxes, laid out once for the report, the console and Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from medrobust.results.formats import DASH, format_epsilon, format_interval, format_score, markdown_lines

WIDE = 120  # columns that a console needs for intervals
NO_INTERVAL = "no interval"
WITH_INTERVALS = ", with 95 % intervals over patients"


class Cell(NamedTuple):
    """One number of a table.

    Args:
        value: The number as it is written.
        interval: Its 95 % interval as it is written; empty if there is none.
        heat: How bad it is for the victim, in [0, 1]; None where that has no shade.
        note: What stands below it, such as how many images have such a number; empty for nothing.
    """

    value: str
    interval: str = ""
    heat: float | None = None
    note: str = ""


class DenseTable(NamedTuple):
    """A table with one line for each row of a summary.

    Args:
        title: What it shows.
        note: How to read it, in whole sentences.
        groups: Words above several columns and how many these are; empty if there are none.
        head: Headings of the columns after the attack and its radius.
        lines: Kind, attack, radius and cells of each line.
    """

    title: str
    note: str
    groups: Sequence[tuple[str, int]]
    head: Sequence[str]
    lines: Sequence[tuple[str, str, float | None, Sequence[Cell]]]


def percent_cell(found: Mapping[str, Any], name: str, bad: bool = False, note: str = "") -> Cell:
    """A number in [0, 1] in percent, with the interval beside it.

    Args:
        found: Numbers by name, where an interval is called ``NAME_interval``.
        name: Which of them.
        bad: Whether a larger number is worse for the victim.
        note: What stands below it.
    """
    value = found.get(name)
    heat = None if value is None else value if bad else 1 - value
    return Cell(format_score(value), _limits(found, name, format_interval(found.get(f"{name}_interval"))), heat, note)


def pixel_cell(found: Mapping[str, Any], name: str, note: str = "") -> Cell:
    """A distance in pixels, with the interval beside it."""
    value, limits = found.get(name), found.get(f"{name}_interval")
    interval = "" if limits is None else f"{limits[0]:.1f}–{limits[1]:.1f}"
    return Cell(DASH if value is None else f"{value:.1f}", _limits(found, name, interval), None, note)


def _limits(found: Mapping[str, Any], name: str, written: str) -> str:
    """An interval as it is written, or words for a number without one, as too few patients tell how they differ."""
    lacks = found.get(name) is not None and f"{name}_interval" in found and not written
    return NO_INTERVAL if lacks else written


def count_cell(found: Mapping[str, Any], name: str) -> Cell:
    """A number of things; a dash where nothing could be counted."""
    value = found.get(name)
    return Cell(DASH if value is None else str(value))


def lines_of(
    rows: Sequence[Mapping[str, Any]], cells: Sequence[Sequence[Cell]]
) -> list[tuple[str, str, float | None, Sequence[Cell]]]:
    """Lines of a table, from the rows of masks or boxes and the cells of each."""
    heads = [(str(row["kind"]), str(row["attack"]), row["epsilon"]) for row in rows]
    return [(*head, own) for head, own in zip(heads, cells, strict=True)]


def shortened(tables: Sequence[DenseTable], columns: int = 8) -> Iterator[DenseTable]:
    """The tables that a console has room for: those of each class only where there are few columns."""
    yield from (table for table in tables if not table.groups or len(table.head) <= columns)


def console_tables(tables: Sequence[DenseTable], width: int = 80) -> Iterator[Table]:
    """The tables for the console.

    Args:
        tables: As `mask_tables` and `box_tables` give them.
        width: Columns of the console. Intervals need 120 of them.
    """
    for table in shortened(tables):
        shown = Table(
            title=table.title,
            caption=table.note if width >= WIDE else table.note.replace(WITH_INTERVALS, ""),
            title_justify="left",
            caption_justify="left",
            header_style="bold",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        shown.add_column("attack", overflow="fold", min_width=12)
        shown.add_column("ε", justify="right", no_wrap=True)
        for name in _full_heads(table, "\n"):
            shown.add_column(name, justify="right", no_wrap=True)
        for kind, attack, epsilon, cells in table.lines:
            style = {"clean": "bold", "control": "dim"}.get(kind, "")
            numbers = [
                "\n".join(
                    [
                        cell.value,
                        *([f"[{cell.interval}]"] if cell.interval and width >= WIDE else []),
                        *([cell.note] if cell.note else []),
                    ]
                )
                for cell in cells
            ]
            shown.add_row(Text(_named(kind, attack)), format_epsilon(epsilon), *numbers, style=style)
        yield shown


def markdown_tables(tables: Sequence[DenseTable]) -> str:
    """The tables in Markdown, each below its title and how to read it, with intervals in brackets."""
    parts = []
    for table in tables:
        body = [
            [
                _named(kind, attack),
                format_epsilon(epsilon),
                *(
                    cell.value
                    + (f" [{cell.interval}]" if cell.interval else "")
                    + (f" ({cell.note})" if cell.note else "")
                    for cell in cells
                ),
            ]
            for kind, attack, epsilon, cells in table.lines
        ]
        parts.append(
            f"{table.title}\n\n{table.note}\n\n{markdown_lines(['attack', 'ε', *_full_heads(table, ' ')], body)}"
        )
    return "\n".join(parts)


def _full_heads(table: DenseTable, between: str) -> list[str]:
    """Headings that say which group they belong to."""
    groups = [words for words, count in table.groups for _ in range(count)] or [""] * len(table.head)
    return [f"{group}{between}{name}" if group else name for group, name in zip(groups, table.head, strict=True)]


def _named(kind: str, attack: str) -> str:
    return f"{attack} (control)" if kind == "control" else attack
