"""Tables of detection: detectors by attacks, as HFC21 and Ma20 lay them out, for the console and in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medrobust.results.formats import format_epsilon, format_interval, format_score
from medrobust.results.report.svg import shorten

SAME = "same"  # the fit where every attack has a classifier of its own
WHO = (
    "Of the images that the victim has right before: adversarial ones that succeeded against all clean and noisy ones."
)

Row = Mapping[str, Any]


class Column(NamedTuple):
    """One attack at one radius."""

    attack: str
    epsilon: float | None
    key: str
    swept: bool  # whether the radius has to be told, because an attack has several
    n_positive: int  # of the detector that has most
    n_negative: int

    @property
    def short(self) -> str:
        """The attack, cut if its name is long."""
        return shorten(self.attack, 16)

    @property
    def label(self) -> str:
        """The attack, with its radius if others have another."""
        return f"{self.attack} {format_epsilon(self.epsilon)}" if self.swept else self.attack


class Grid(NamedTuple):
    """What detectors make of the attacks when their classifiers were fitted on one of them."""

    fit: str
    columns: list[Column]
    lines: list[tuple[str, list[Row]]]  # detector, and a row of the summary for each column

    @property
    def title(self) -> str:
        """What the classifiers were fitted on."""
        return "fitted on each attack itself" if self.fit == SAME else f"fitted on {self.fit}"


def detection_grids(summary: Mapping[str, Any]) -> list[Grid]:
    """The rows of detection, as one grid of detectors and attacks for each fit.

    Args:
        summary: As `summarise` returns it.

    Returns:
        In the order of the fits; empty if there is no detection.
    """
    found = summary.get("detection") or {}
    grids = []
    for fit in found.get("fits", ()) if found.get("rows") else ():
        rows = {(row["key"], row["detector"]): row for row in found["rows"] if row["fit"] == fit}
        attacks = {row["key"]: (row["attack"], row["epsilon"]) for row in rows.values()}
        swept = len({epsilon for _, epsilon in attacks.values()}) > 1
        columns = []
        for key, (attack, epsilon) in attacks.items():
            counts = [
                [row[name] for row in rows.values() if row["key"] == key] for name in ("n_positive", "n_negative")
            ]
            columns.append(Column(attack, epsilon, key, swept, max(counts[0]), max(counts[1])))
        lines = [(name, [rows[column.key, name] for column in columns]) for name in found["detectors"]]
        grids.append(Grid(fit, columns, lines))
    return grids


def console_detection(summary: Mapping[str, Any], width: int = 80) -> RenderableType | None:
    """AUROC in percent for the console: one table for each fit, in parts where the attacks do not fit side by side.

    Args:
        summary: As `summarise` returns it.
        width: Columns of the console.

    Returns:
        None if there is no detection.
    """
    grids = detection_grids(summary)
    tables: list[RenderableType] = []
    for grid in grids:
        tables.append(Text(f"Detection: AUROC in percent, {grid.title}", style="italic"))
        for columns in _parts(grid, width):
            table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
            table.add_column("detector", no_wrap=True)
            for place in columns:
                table.add_column(_heading(grid.columns[place]), justify="right", no_wrap=True)
            for name, rows in grid.lines:
                table.add_row(Text(name), *(format_score(rows[place]["auroc"]) for place in columns))
            table.add_row("positives", *(str(grid.columns[place].n_positive) for place in columns), style="dim")
            tables.append(table)
    return Group(*tables, Text(WHO, style="dim italic")) if tables else None


def detection_markdown(summary: Mapping[str, Any], pairs: Sequence[tuple[str, str]] = ()) -> str:
    """All tables of detection in Markdown.

    For each fit AUROC and TPR with their 95 % intervals; for several fits one table that has them below each other
    (Ma20 Table 5); for pairs of attacks (A, B) one that has them as "A / B" (HFC21 Table 2).

    Args:
        summary: As `summarise` returns it.
        pairs: Names of attacks.

    Raises:
        ValueError: If there is no detection, or a pair names an attack that was not judged, or two that share no
            radius.
    """
    grids = detection_grids(summary)
    if not grids:
        raise ValueError(f"{summary['manifest']['run']} has no scores of detectors: evaluate it with detectors first")
    tnr = f"{100 * summary['detection']['tnr']:.0f} %"
    parts = [f"{WHO} In percent; in brackets the 95 % bootstrap interval over patients.\n"]
    for grid in grids:
        parts.append(f"**AUROC, {grid.title}**\n\n{_measure(grid, 'auroc')}")
        parts.append(f"**TPR at {tnr} TNR, {grid.title}**\n\n{_measure(grid, 'tpr')}")
    if len(grids) > 1:
        parts.append(f"**AUROC by what the classifiers were fitted on** (* the attack itself)\n\n{_across(grids)}")
    for grid in grids:
        mine = [pair for pair in pairs if grid.fit == pair[0] or pair[0] not in summary["detection"]["fits"]]
        if mine:
            parts.append(f"**AUROC and TPR at {tnr} TNR, {grid.title}**\n\n{_paired(grid, mine)}")
    return "\n".join(parts)


def read_pair(words: str) -> tuple[str, str]:
    """The two attacks of "A:B".

    Raises:
        ValueError: If it is anything else.
    """
    first, _, second = words.partition(":")
    if not first or not second or ":" in second:
        raise ValueError(f"a pair is two names of attacks with a colon between, like bim:bim-hfc, got {words!r}")
    return first, second


def _measure(grid: Grid, name: str) -> str:
    def written(row: Row) -> str:
        interval = format_interval(row[f"{name}_interval"])
        return format_score(row[name]) + (f" ({interval})" if interval else "")

    head = ["detector", *(column.label for column in grid.columns)]
    body = [[detector, *map(written, rows)] for detector, rows in grid.lines]
    for kind in ("n_positive", "n_negative"):
        body.append([f"{kind[2:]}s", *(_count(grid, place, kind) for place in range(len(grid.columns)))])
    return _markdown(head, body)


def _count(grid: Grid, place: int, kind: str) -> str:
    """How many scores there are: a range if detectors differ."""
    counts = [rows[place][kind] for _, rows in grid.lines]
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}–{max(counts)}"


def _across(grids: Sequence[Grid]) -> str:
    """Every detector with its fits below each other; a star where the fit is the attack itself."""
    body = []
    for line, (detector, _) in enumerate(grids[0].lines):
        for grid in grids:
            rows = grid.lines[line][1]
            own = [grid.fit in (SAME, column.attack) for column in grid.columns]
            cells = [format_score(row["auroc"]) + " *" * mine for row, mine in zip(rows, own, strict=True)]
            body.append([detector, "itself" if grid.fit == SAME else grid.fit, *cells])
    return _markdown(["detector", "fitted on", *(column.label for column in grids[0].columns)], body, words=2)


def _paired(grid: Grid, pairs: Iterable[tuple[str, str]]) -> str:
    head, places = ["detector"], []
    for first, second in pairs:
        for name in (first, second):
            if name not in {column.attack for column in grid.columns}:
                known = ", ".join(dict.fromkeys(column.attack for column in grid.columns))
                raise ValueError(f"a pair names attacks that were judged ({known}), got {name!r}")
        found = [
            (one, other)
            for one, left in enumerate(grid.columns)
            for other, right in enumerate(grid.columns)
            if (left.attack, right.attack) == (first, second) and left.epsilon == right.epsilon
        ]
        if not found:
            raise ValueError(
                f"a pair needs a radius that both attacks have, got {first} and {second}, which share none"
            )
        places += found
        for one, _ in found:
            radius = f" {format_epsilon(grid.columns[one].epsilon)}" if grid.columns[one].swept else ""
            head += [f"AUROC {first} / {second}{radius}", f"TPR {first} / {second}{radius}"]

    body = []
    for name, rows in grid.lines:
        cells = [[format_score(rows[place][kind]) for place in pair] for pair in places for kind in ("auroc", "tpr")]
        body.append([name, *(" / ".join(cell) for cell in cells)])
    counts = [" / ".join(_count(grid, place, "n_positive") for place in pair) for pair in places for _ in range(2)]
    body.append(["positives", *counts])
    return _markdown(head, body)


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table whose first columns are words and whose others are numbers."""
    rule = ["---" if place < words else "--:" for place in range(len(head))]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (head, rule, *body)]
    return "\n".join(lines) + "\n"


def _heading(column: Column) -> Text:
    return Text(f"{column.short}\n{format_epsilon(column.epsilon)}" if column.swept else column.short)


def _parts(grid: Grid, width: int) -> list[list[int]]:
    """The columns in groups that the console has room for; the box takes three characters beside each."""
    first = 4 + max(len("positives"), *(len(name) for name, _ in grid.lines))
    parts: list[list[int]] = []
    room = -1
    for place, column in enumerate(grid.columns):
        needed = 3 + max(len("100.0"), *map(len, _heading(column).plain.split("\n")))
        if needed > room:
            parts.append([])
            room = width - first
        parts[-1].append(place)
        room -= needed
    return parts
