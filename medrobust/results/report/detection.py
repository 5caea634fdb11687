"""How detection is shown: tables of detectors by attacks, as HFC21 and Ma20 lay them out, and ROC curves."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medrobust.results.formats import (
    DASH,
    format_epsilon,
    format_interval,
    format_percent,
    format_score,
    markdown_lines,
)
from medrobust.results.report.svg import CHARACTER, PALETTE, figure, line, marker, polyline, scale, shorten, text

SAME = "same"  # the fit where every attack has a classifier of its own
NOTE = (
    "Only images that the victim got right before the attack count. Positives are the adversarial images that fool it; "
    "negatives are the clean images and noisy copies of them, with noise as strong (in L2) as the attack's own "
    "perturbation. There are two controls: signs are images with every value moved up or down at random by the "
    "attack's radius, and failed are images that the attack changed without fooling the victim."
)
THRESHOLDS = (
    "A detector flags an image whose score is above its threshold, which was set when the detector was fitted: "
    "{passing} of the clean images of AdvTrain score no higher if a classifier scores them that has not seen their "
    "patients."
)
OLD = (
    "A dash stands for thresholds, or scores of random signs, that are not in these records: they were made by an "
    "earlier version that kept none, or none could be set. Evaluate again to get them."
)
TOO_FEW = "no interval"  # there are too few patients for one
FLAGGED = {"clean": "clean", "noisy": "noisy", "signs": "signs", "unsuccessful": "failed"}  # and what they are called
WIDTH = 760.0  # of a figure, in pixels
ACROSS = 4  # plots side by side
MOST = 12  # plots; beyond that each attack is shown at its largest radius only

Row = Mapping[str, Any]


class AttackColumn(NamedTuple):
    """One attack at one radius."""

    attack: str
    epsilon: float | None
    key: str
    swept: bool  # whether the radius has to be named, because an attack has several
    n_positive: int  # scores of adversarial images, of the detector that has most
    n_negative: int  # the same of clean and noisy images

    @property
    def short(self) -> str:
        """The attack's name, shortened if it is long."""
        return shorten(self.attack, 16)

    @property
    def label(self) -> str:
        """The attack's name, with its radius where several are shown."""
        return f"{self.attack} {format_epsilon(self.epsilon)}" if self.swept else self.attack


class Grid(NamedTuple):
    """How well each detector recognises each attack, with classifiers that were fitted on the same attack."""

    fit: str
    columns: list[AttackColumn]
    lines: list[tuple[str, list[Row]]]  # detector, and its row of the summary for each column

    @property
    def title(self) -> str:
        """What the classifiers were fitted on."""
        return "fitted on the same attack" if self.fit == SAME else f"fitted on {self.fit}"

    @property
    def is_complete(self) -> bool:
        """Whether any detector has a threshold, and any a score of random signs."""
        rows = [row for _, rows in self.lines for row in rows]
        return all(
            any(number(row) is not None for row in rows)
            for number in (lambda row: row.get("threshold"), lambda row: control(row, "signs"))
        )


class Cell(NamedTuple):
    """One number of a table of details."""

    value: str
    interval: str
    n: int | None  # images that it is a share of; None for an AUROC


class Details(NamedTuple):
    """All numbers of all detectors on one attack."""

    column: AttackColumn
    lines: list[tuple[str, list[Cell]]]  # of each detector, under the headings of `DETAILS`


# Headings of the details, in groups: of a group, and of its columns.
DETAILS = (
    ("AUROC", ("attack", "signs", "failed")),
    ("flagged at the fitted threshold", ("attack (TPR)", "clean", "noisy", "signs", "failed")),
    ("at the ideal threshold", ("TPR",)),
)


def detection_grids(summary: Mapping[str, Any]) -> list[Grid]:
    """Arrange the summary's rows of detection in grids of detectors by attacks, one for each fit.

    Args:
        summary: As `summarise` returns it.

    Returns:
        The grids in the order of the fits; empty without detection.
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
            columns.append(AttackColumn(attack, epsilon, key, swept, max(counts[0]), max(counts[1])))
        lines = [(name, [rows[column.key, name] for column in columns]) for name in found["detectors"]]
        grids.append(Grid(fit, columns, lines))
    return grids


def control(row: Row, name: str) -> float | None:
    """AUROC of a control of a row against the same negatives; None in a summary of an earlier version."""
    value: float | None = (row.get("controls") or {}).get(name)
    return value


def flagged(row: Row, name: str) -> Mapping[str, Any]:
    """Share of a kind of image that a row's detector flags, with its interval and n; all of it undefined if unknown."""
    found: Mapping[str, Any] = (row.get("flagged") or {}).get(name) or {"rate": None, "interval": None, "n": 0}
    return found


def area_interval(row: Row) -> str:
    """Interval of a row's AUROC, or words that say that there is none, for want of patients."""
    if row["auroc"] is not None and row["auroc_interval"] is None:
        return TOO_FEW
    return format_interval(row["auroc_interval"])


def beside_area(row: Row) -> list[str]:
    """The lines below an AUROC: that of each control which has one."""
    areas = {"signs": control(row, "signs"), "failed": control(row, "unsuccessful")}
    return [" · ".join(f"{name} {format_score(area)}" for name, area in areas.items() if area is not None)]


def beside_rate(row: Row) -> list[str]:
    """The lines below a TPR: the false alarms on clean and noisy images, and what of the controls is flagged."""
    shares = [(name, flagged(row, kind)["rate"]) for kind, name in FLAGGED.items()]
    words = [f"{name} {format_score(rate)}" for name, rate in shares if rate is not None]
    return [" · ".join(words[:2]), " · ".join(words[2:])]


def details(grid: Grid) -> list[Details]:
    """Every number of a grid, attack by attack."""
    found = []
    for place, column in enumerate(grid.columns):
        lines = []
        for name, rows in grid.lines:
            row = rows[place]
            cells = [Cell(format_score(row["auroc"]), area_interval(row), None)]
            cells += [Cell(format_score(control(row, kind)), "", None) for kind in ("signs", "unsuccessful")]
            for kind in ("successful", *FLAGGED):
                share = flagged(row, kind)
                cells.append(Cell(format_score(share["rate"]), format_interval(share["interval"]), share["n"]))
            cells.append(Cell(format_score(row["tpr"]), format_interval(row["tpr_interval"]), row["n_positive"]))
            lines.append((name, cells))
        found.append(Details(column, lines))
    return found


def threshold_note(summary: Mapping[str, Any]) -> str:
    """How thresholds were set, or that there are none."""
    detection = summary["manifest"].get("listeners", {}).get("detection") or {}
    passing = (detection.get("threshold") or {}).get("passing")
    told = "" if passing is None else THRESHOLDS.format(passing=format_percent(passing).replace(".0", ""))
    return " ".join(filter(None, (told, "" if all(grid.is_complete for grid in detection_grids(summary)) else OLD)))


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
        parts.append(f"**Adversarial images flagged (TPR), {detectors}**\n\n{_table(grid, _rate)}")
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
    return _with_interval(row["auroc"], area_interval(row))


def _controls(row: Row) -> str:
    return " / ".join(format_score(control(row, kind)) for kind in ("signs", "unsuccessful"))


def _rate(row: Row) -> str:
    share = flagged(row, "successful")
    return _with_interval(share["rate"], format_interval(share["interval"]))


def _alarms(row: Row) -> str:
    return " / ".join(format_score(flagged(row, kind)["rate"]) for kind in FLAGGED)


def _ideal(row: Row) -> str:
    return _with_interval(row["tpr"], format_interval(row["tpr_interval"]))


def _with_interval(value: float | None, interval: str) -> str:
    return format_score(value) + (f" ({interval})" if interval else "")


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


def roc_note(grid: Grid) -> str:
    """Say in a sentence which attacks have no plot; "" if all have one."""
    defined, places = _defined(grid), _places(grid)
    sentences = []
    if len(places) < len(defined):
        sentences.append("Each attack is drawn at its largest radius.")
    if len(defined) < len(grid.columns):
        sentences.append("Attacks without positives or without negatives have no curve.")
    return " ".join(sentences)


def roc_figure(grid: Grid, tnr: float) -> str:
    """ROC curves: one plot for each attack, one line for each detector, and a mark at its TPR for the given TNR.

    Args:
        grid: As `detection_grids` returns it.
        tnr: True negative rate that the marks stand at.

    Returns:
        An SVG element, or "" if no detector has a curve.
    """
    places = _places(grid)
    if not places:
        return ""
    margin, gap = 44.0, 22.0
    across = min(ACROSS, len(places))
    side = min(230.0, (WIDTH - margin - 6 - gap * (across - 1)) / across)
    wide = across * (side + gap) - gap
    left = margin + (WIDTH - margin - 6 - wide) / 2
    body, top = _legend([name for name, _ in grid.lines], margin, left)
    step = side + 52
    for number, place in enumerate(places):
        row, column = divmod(number, across)
        x = left + column * (side + gap)
        body += _plot(grid, place, tnr, (x, top + row * step, side), column == 0)
    rows = -(-len(places) // across)
    bottom = top + rows * step + 8
    words = "false positive rate (clean and noisy images flagged)"
    body.append(text(left + wide / 2, bottom, words, "middle", "title"))
    x, y = left - 34, top + (rows * step - 52) / 2
    words = text(x, y, "true positive rate", "middle", "title")
    body.append(f'<g transform="rotate(-90 {x:.1f} {y:.1f})">{words}</g>')
    return figure(WIDTH, bottom + 10, f"ROC curves of detectors {grid.title}", body)


def _plot(grid: Grid, place: int, tnr: float, frame: tuple[float, float, float], first: bool) -> list[str]:
    left, top, side = frame
    x, y = scale(0, 1, left, left + side), scale(0, 1, top + side, top)
    column = grid.columns[place]
    body = [text(left, top - 10, _title(column, side), "start", "title")]
    for tick in (0.0, 0.5, 1.0):
        body += [line(x(tick), y(0), x(tick), y(1), "grid"), line(x(0), y(tick), x(1), y(tick), "grid")]
        body.append(text(x(tick), y(0) + 16, f"{tick:g}", ("start", "middle", "end")[int(2 * tick)]))
        if first:
            body.append(text(left - 6, y(tick) + 4, f"{tick:g}", "end"))
    body += [line(x(0), y(0), x(1), y(1), "clean"), line(x(1 - tnr), y(0), x(1 - tnr), y(1), "clean")]
    for number, (name, rows) in enumerate(grid.lines):
        row = rows[place]
        if row["auroc"] is None:
            continue
        points = [(x(false), y(true)) for false, true in zip(row["roc"]["fpr"], row["roc"]["tpr"], strict=True)]
        dash = ' stroke-dasharray="5 3"' if number >= PALETTE else ""  # where colours begin anew
        body += [f'<g class="series s{number % PALETTE}"{dash}>', polyline(points)]
        body += [marker(x(1 - tnr), y(row["tpr"]), number, _tooltip(name, row)), "</g>"]
    return body


def _title(column: AttackColumn, side: float) -> str:
    radius = f" {format_epsilon(column.epsilon)}" if column.swept else ""
    return shorten(column.attack, max(6, int(side / CHARACTER) - len(radius))) + radius


def _tooltip(name: str, row: Mapping[str, Any]) -> str:
    return (
        f"{name} on {row['attack']}, ε {format_epsilon(row['epsilon'])}\n"
        f"AUROC {format_score(row['auroc'])} [{area_interval(row)}]\n"
        f"TPR {format_score(row['tpr'])} [{format_interval(row['tpr_interval'])}]\n"
        f"flagged at its threshold {_rate(row)}\n"
        f"{row['n_positive']} positives, {row['n_negative']} negatives"
    )


def _legend(names: list[str], margin: float, left: float) -> tuple[list[str], float]:
    """Marks and names in one line from `left`, or in several from the margin; and the height where plots may start."""
    labels = [shorten(name) for name in names]
    widths = [18 + CHARACTER * len(label) + 14 for label in labels]
    start = left if left + sum(widths) <= WIDTH else margin
    body, x, y = [], start, 14.0
    for number, (label, width) in enumerate(zip(labels, widths, strict=True)):
        if x > start and x + width > WIDTH:
            x, y = start, y + 20
        body += [f'<g class="series s{number % PALETTE}">', marker(x + 6, y - 4, number), "</g>"]
        body.append(text(x + 16, y, label))
        x += width
    return body, y + 34


def _defined(grid: Grid) -> list[int]:
    """Places of the columns for which some detector has a curve."""
    places = range(len(grid.columns))
    return [place for place in places if any(rows[place]["auroc"] is not None for _, rows in grid.lines)]


def _places(grid: Grid) -> list[int]:
    """Places of the columns that get a plot: all that can, or if they are too many each attack's largest radius."""
    places = _defined(grid)
    if len(places) <= MOST:
        return places
    by_radius = sorted(places, key=lambda place: _radius(grid, place))
    return sorted({grid.columns[place].attack: place for place in by_radius}.values())


def _radius(grid: Grid, place: int) -> float:
    epsilon = grid.columns[place].epsilon
    return float("inf") if epsilon is None else epsilon
