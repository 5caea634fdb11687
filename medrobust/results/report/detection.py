"""Tables of detection, of detectors by attacks as HFC21 and Ma20 lay them out, for the console and in Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medrobust.results.formats import DASH, format_epsilon, format_interval, format_score, markdown_lines
from medrobust.results.report.detection_grids import (
    FLAGGED,
    SAME,
    AttackColumn,
    Grid,
    Row,
    area_interval,
    control,
    detection_grids,
    flagged,
    rate_with_interval,
    threshold_note,
    with_interval,
)

NOTE = (
    "Only images that the victim got right before the attack count. Positives are the adversarial images that fool it; "
    "negatives are the clean images and noisy copies of them, with noise as strong (in L2) as the attack's own "
    "perturbation. There are two controls: signs are images with every value moved up or down at random by the "
    "attack's radius, and failed are images that the attack changed without fooling the victim."
)


def console_detection(summary: Mapping[str, Any], width: int = 80) -> RenderableType | None:
    """Tables in percent for the console, two for each fit; attacks that do not fit side by side wrap.

    The first shows AUROCs and below them those of the controls, the second what is flagged at the fitted thresholds.

    Args:
        summary: As `summarise` returns it.
        width: Columns of the console.

    Returns:
        The tables, or None without detection.
    """
    grids = detection_grids(summary)
    tables: list[RenderableType] = []
    for grid in grids:
        for title, cell in (
            ("AUROC in percent (50 is guessing)\nBelow it, in grey: AUROC of the controls (signs, failed)", _areas),
            ("adversarial images flagged, in percent\nBelow it, in grey: clean, noisy, signs, failed flagged", _shares),
        ):
            tables.append(Text(f"Detectors {grid.title}: {title}", style="italic"))
            for places in _parts(grid, width, cell):
                tables.append(_console_table(grid, places, cell))
    return Group(*tables, Text(f"{NOTE} {threshold_note(summary)}", style="dim italic")) if tables else None


def detection_markdown(summary: Mapping[str, Any], pairs: Sequence[tuple[str, str]] = ()) -> str:
    """All tables of detection in Markdown.

    For each fit there are tables of the AUROC with 95 % intervals, of the AUROC of the controls, of the TPR at the
    fitted threshold, of all else that is flagged there, and of the TPR at an ideal threshold; if there are several
    fits, one table with the fits below each other (Ma20 Table 5); and for pairs of attacks (A, B), one that shows them
    as "A / B" (HFC21 Table 2).

    Args:
        summary: As `summarise` returns it.
        pairs: Names of two attacks each.

    Raises:
        ValueError: If there is no detection, or a pair names an attack that was not evaluated, or two that share no
            radius.
    """
    grids = detection_grids(summary)
    if not grids:
        raise ValueError(f"{summary['manifest']['run']} has no scores of detectors: evaluate it with detectors first")
    tnr = f"{100 * summary['detection']['tnr']:.0f} %"
    parts = [
        f"{NOTE} In percent; in brackets are 95 % intervals over patients. {threshold_note(summary)}".rstrip() + "\n"
    ]
    for grid in grids:
        detectors = f"detectors {grid.title}"
        parts.append(f"**AUROC, {detectors}**\n\n{_table(grid, _area)}")
        parts.append(f"**AUROC of the controls (signs / failed), {detectors}**\n\n{_table(grid, _controls, 'signs')}")
        parts.append(f"**Adversarial images flagged (TPR), {detectors}**\n\n{_table(grid, rate_with_interval)}")
        parts.append(
            f"**Other images flagged (clean / noisy / signs / failed), {detectors}**\n\n"
            f"{_table(grid, _alarms, 'flagged')}"
        )
        parts.append(f"**TPR at {tnr} TNR, the ideal threshold, {detectors}**\n\n{_table(grid, _ideal)}")
    if len(grids) > 1:
        title = (
            "**AUROC by the attack that the detectors were fitted on** (* the same attack; in brackets signs / failed)"
        )
        parts.append(f"{title}\n\n{_across(grids)}")
    for grid in grids:
        mine = [pair for pair in pairs if grid.fit == pair[0] or pair[0] not in summary["detection"]["fits"]]
        if mine:
            parts.append(f"**Pairs of attacks, detectors {grid.title}**\n\n{_paired(grid, mine, tnr)}")
    return "\n".join(parts)


def read_pair(words: str) -> tuple[str, str]:
    """Read two names of attacks from "A:B".

    Raises:
        ValueError: If the words are anything else.
    """
    first, _, second = words.partition(":")
    if not first or not second or ":" in second:
        raise ValueError(f"a pair is two names of attacks with a colon between them, like bim:bim-hfc, got {words!r}")
    return first, second


def _area(row: Row) -> str:
    return with_interval(row["auroc"], area_interval(row))


def _controls(row: Row) -> str:
    return " / ".join(format_score(control(row, kind)) for kind in ("signs", "unsuccessful"))


def _alarms(row: Row) -> str:
    return " / ".join(format_score(flagged(row, kind)["rate"]) for kind in FLAGGED)


def _ideal(row: Row) -> str:
    return with_interval(row["tpr"], format_interval(row["tpr_interval"]))


def _areas(row: Row) -> str:
    return f"{format_score(row['auroc'])}\n{_whole(control(row, 'signs'), control(row, 'unsuccessful'))}"


def _shares(row: Row) -> str:
    others = _whole(*(flagged(row, kind)["rate"] for kind in FLAGGED))
    return f"{format_score(flagged(row, 'successful')['rate'])}\n{others}"


def _whole(*rates: float | None) -> str:
    """Rates in percent without decimals, side by side."""
    return ", ".join(DASH if rate is None else f"{100 * rate:.0f}" for rate in rates)


def _console_table(grid: Grid, places: Sequence[int], cell: Callable[[Row], str]) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("detector", no_wrap=True)
    for place in places:
        table.add_column(_heading(grid.columns[place]), justify="right", no_wrap=True)
    for name, rows in grid.lines:
        cells = [cell(rows[place]).partition("\n") for place in places]
        table.add_row(Text(name), *(Text.assemble(first, "\n", (rest, "dim")) for first, _, rest in cells))
    table.add_row("positives", *(str(grid.columns[place].n_positive) for place in places), style="dim")
    return table


def _table(grid: Grid, cell: Callable[[Row], str], counted: Literal["", "signs", "flagged"] = "") -> str:
    """A table of one cell for each detector and attack, with the numbers of images below."""
    head = ["detector", *(column.label for column in grid.columns)]
    body = [[detector, *map(cell, rows)] for detector, rows in grid.lines]
    kinds = {"": (), "signs": ("signs", "unsuccessful"), "flagged": tuple(FLAGGED)}[counted]
    if kinds:
        counts = [
            " / ".join(str(max(flagged(rows[place], kind)["n"] for _, rows in grid.lines)) for kind in kinds)
            for place in range(len(grid.columns))
        ]
        return markdown_lines(head, [*body, ["images", *counts]])
    for kind in ("n_positive", "n_negative"):
        body.append([f"{kind[2:]}s", *(_count(grid, place, kind) for place in range(len(grid.columns)))])
    return markdown_lines(head, body)


def _count(grid: Grid, place: int, kind: str) -> str:
    """Number of scores, as a range where detectors differ; detectors without any score do not count."""
    counts = [rows[place][kind] for _, rows in grid.lines if rows[place]["n_positive"] + rows[place]["n_negative"]] or [
        0
    ]
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}–{max(counts)}"


def _across(grids: Sequence[Grid]) -> str:
    """A table of every detector with its fits below each other; a star where the fit is the attack itself."""
    body = []
    for number, (detector, _) in enumerate(grids[0].lines):
        for grid in grids:
            rows = grid.lines[number][1]
            cells = [
                f"{format_score(row['auroc'])}{' *' * (grid.fit in (SAME, column.attack))} ({_controls(row)})"
                for row, column in zip(rows, grid.columns, strict=True)
            ]
            body.append([detector, "same attack" if grid.fit == SAME else grid.fit, *cells])
    head = ["detector", "fitted on", *(column.label for column in grids[0].columns)]
    return markdown_lines(head, body, words=(0, 1))


def _paired(grid: Grid, pairs: Iterable[tuple[str, str]], tnr: str) -> str:
    numbers: dict[str, Callable[[Row], float | None]] = {
        "AUROC": lambda row: row["auroc"],
        "TPR": lambda row: flagged(row, "successful")["rate"],
        "clean flagged": lambda row: flagged(row, "clean")["rate"],
        "noisy flagged": lambda row: flagged(row, "noisy")["rate"],
        "signs flagged": lambda row: flagged(row, "signs")["rate"],
        "failed flagged": lambda row: flagged(row, "unsuccessful")["rate"],
        f"TPR at {tnr} TNR": lambda row: row["tpr"],
    }
    head, places = ["detector"], []
    for first, second in pairs:
        for name in (first, second):
            if name not in {column.attack for column in grid.columns}:
                known = ", ".join(dict.fromkeys(column.attack for column in grid.columns))
                raise ValueError(f"a pair names attacks that were evaluated ({known}), got {name!r}")
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
            head += [f"{words} {first} / {second}{radius}" for words in numbers]

    body = []
    for name, rows in grid.lines:
        cells = [
            [format_score(number(rows[place])) for place in pair] for pair in places for number in numbers.values()
        ]
        body.append([name, *(" / ".join(cell) for cell in cells)])
    counts = [" / ".join(_count(grid, place, "n_positive") for place in pair) for pair in places for _ in numbers]
    body.append(["positives", *counts])
    return markdown_lines(head, body)


def _heading(column: AttackColumn) -> Text:
    return Text(f"{column.short}\n{format_epsilon(column.epsilon)}" if column.swept else column.short)


def _parts(grid: Grid, width: int, cell: Callable[[Row], str]) -> list[list[int]]:
    """Places of the columns, in groups that fit side by side; the box takes three characters beside each column."""
    first = 4 + max(len("positives"), *(len(name) for name, _ in grid.lines))
    parts: list[list[int]] = []
    room = -1
    for place, column in enumerate(grid.columns):
        words = [_heading(column).plain, "100.0", *(cell(rows[place]) for _, rows in grid.lines)]
        needed = 3 + max(len(line) for part in words for line in part.split("\n"))
        if needed > room:
            parts.append([])
            room = width - first
        parts[-1].append(place)
        room -= needed
    return parts
