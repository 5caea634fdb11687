"""ROC curves of detectors: a plot for each attack, a line for each detector."""

from collections.abc import Mapping
from typing import Any

from medrobust.results.formats import format_epsilon, format_interval, format_score
from medrobust.results.report.detection_grids import AttackColumn, Grid, area_interval, rate_with_interval
from medrobust.results.report.svg import CHARACTER, figure, line, marker, polyline, scale, series_style, shorten, text

WIDTH = 760.0  # of a figure, in pixels
ACROSS = 4  # plots side by side
MOST = 12  # plots; beyond that each attack is shown at its largest radius only


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
        body += [f'<g class="series {series_style(number)}">', polyline(points)]
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
        f"flagged at its threshold {rate_with_interval(row)}\n"
        f"{row['n_positive']} positives, {row['n_negative']} negatives"
    )


def _legend(names: list[str], margin: float, left: float) -> tuple[list[str], float]:
    """Marks and names in one line from `left`, or in several from the margin; and the height where plots may start."""
    labels = [shorten(name) for name in names]
    widths = [40 + CHARACTER * len(label) + 14 for label in labels]
    start = left if left + sum(widths) <= WIDTH else margin
    body, x, y = [], start, 14.0
    for number, (label, width) in enumerate(zip(labels, widths, strict=True)):
        if x > start and x + width > WIDTH:
            x, y = start, y + 20
        body += [f'<g class="series {series_style(number)}">', line(x, y - 4, x + 30, y - 4, "line")]
        body += [marker(x + 15, y - 4, number), "</g>", text(x + 36, y, label)]
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
