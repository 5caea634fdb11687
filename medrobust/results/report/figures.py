"""Figures of a summary, as inline SVG: the accuracy that is left at each radius, and the cost of success."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from medrobust.results.formats import capitalised, format_epsilon, format_interval, format_passes, format_percent
from medrobust.results.report.svg import (
    CHARACTER,
    figure,
    line,
    marker,
    place,
    polyline,
    scale,
    series_style,
    shorten,
    spread,
    text,
)
from medrobust.results.wording import is_dense

WIDTH = 760.0
Row = Mapping[str, Any]


class Shown(NamedTuple):
    """What a figure of the radii shows: the entry of a row, that of clean images, and how both are called."""

    after: str
    clean: str
    name: str


ACCURACY = Shown("accuracy_under_attack", "clean_accuracy", "accuracy under attack")
QUALITY = Shown("quality_after", "quality_before", "quality after the attack")


class Series(NamedTuple):
    """The rows of one attack, drawn in its own colour and with its own marker, which `number` sets for all figures."""

    name: str
    number: int
    rows: list[Row]

    @property
    def label(self) -> str:
        """The name, shortened if it is long."""
        return shorten(self.name)


def accuracy_figure(summary: Mapping[str, Any]) -> str:
    """Accuracy under attack against the radius, with one line and 95 % intervals for each attack.

    With fewer than two radii there is no line to draw, and each attack has one mark, the strongest first.

    Args:
        summary: As `summarise` returns it.

    Returns:
        An SVG element, or "" if nothing has been attacked.
    """
    dense = is_dense(summary.get("manifest") or {"data": {}})
    return _against_radius(summary, ACCURACY._replace(name="right after the attack") if dense else ACCURACY)


def quality_figure(summary: Mapping[str, Any], name: str) -> str:
    """The same for the mean quality of the victim's outputs.

    Args:
        summary: As `summarise` returns it.
        name: How the quality is called, such as "mean Jaccard".

    Returns:
        An SVG element, or "" if no image has a quality.
    """
    return _against_radius(summary, QUALITY._replace(name=f"{name} after the attack"))


def _against_radius(summary: Mapping[str, Any], shown: Shown) -> str:
    rows = [row for row in summary["rows"] if row["kind"] != "clean" and row["n"] and row[shown.after] is not None]
    if not rows:
        return ""
    if len({row["epsilon"] for row in rows} - {None, 0.0}) < 2:
        return _ranking(summary, rows, shown)
    return _curves(summary, [row for row in rows if row["epsilon"]], shown)


def cost_figure(summary: Mapping[str, Any]) -> str:
    """Success rate against the passes through the victim that an attack spent per image, forwards plus backwards.

    Points of one attack at several radii are joined; its name stands where there is most room.

    Args:
        summary: As `summarise` returns it.

    Returns:
        An SVG element, or "" if no image was right before the attacks.
    """
    rows = [row for row in summary["rows"] if row["kind"] != "clean" and row["n_correct_before"] and _passes(row) > 0]
    if not rows:
        return ""
    series = _series(summary, rows)
    left, right, height = 52.0, WIDTH - 20, 330.0
    legend, top = _legend(series, left)
    bottom = height + top - 52
    lowest, highest = min(map(_passes, rows)), max(map(_passes, rows))
    x = scale(lowest / 1.5, highest * 1.9, left, right, logarithmic=True)
    y = scale(0, 1, bottom, top)
    body = legend + percent_axis(y, left, right)
    ticks = [
        digit * 10.0**power
        for power in range(math.floor(math.log10(lowest / 1.5)), math.ceil(math.log10(highest * 1.9)) + 1)
        for digit in (1, 2, 5)
        if lowest / 1.5 <= digit * 10.0**power <= highest * 1.9
    ]
    body += tick_marks([(x(tick), f"{tick:g}") for tick in ticks], bottom)
    body.append(text((left + right) / 2, bottom + 40, "forward + backward passes per image", "middle", "title"))
    drawn, marks = [], []
    for one in series:
        points = [(x(_passes(row)), y(row["success_rate"])) for row in one.rows]
        body += [_group(one), polyline(points, "leader")]
        body += [marker(*point, one.number, _tooltip(row)) for point, row in zip(points, one.rows, strict=True)]
        body.append("</g>")
        marks += points
        drawn.append(points)
    labels = [(*_loneliest(points, drawn), one.label) for one, points in zip(series, drawn, strict=True)]
    for one, found in zip(series, place(labels, marks, (left, top - 14, WIDTH, bottom)), strict=True):
        if found is not None:
            body += [_group(one), text(*found, one.label, "start", "name"), "</g>"]
    return figure(WIDTH, height + top, "Success rate against passes per image", body)


def _curves(summary: Mapping[str, Any], rows: Sequence[Row], shown: Shown) -> str:
    series = _series(summary, rows)
    radii = sorted({row["epsilon"] for row in rows})
    logarithmic = radii[-1] / radii[0] > 8
    left, right = 52.0, WIDTH - 24 - CHARACTER * max(len(one.label) for one in series)
    legend, top = _legend(series, left)
    bottom = top + max(290.0, 15.0 * len(series))
    x = scale(radii[0] if logarithmic else 0.0, radii[-1], left + (22 if logarithmic else 0), right - 14, logarithmic)
    y = scale(0, 1, bottom, top)
    clean = summary["rows"][0][shown.clean]
    body = legend + percent_axis(y, left, right)
    unit, factor = radius_unit(radii)
    body += tick_marks([(x(radius), f"{radius * factor:.3g}") for radius in radii], bottom)
    body.append(text((left + right) / 2, bottom + 40, unit, "middle", "title"))
    if clean is not None:
        body.append(line(left, y(clean), right, y(clean), "clean"))
        body.append(text(left + 4, y(clean) - 6, f"clean {format_percent(clean)}"))
    ends = []
    for one in series:
        points = [(x(row["epsilon"]), y(row[shown.after])) for row in one.rows]
        start = [] if logarithmic or clean is None else [(x(0), y(clean))]
        body.append(_group(one))
        for (position, _), row in zip(points, one.rows, strict=True):
            if limits := row[f"{shown.after}_interval"]:
                body.append(line(position, y(limits[0]), position, y(limits[1]), "whisker"))
        body.append(polyline(start + points))
        body += [marker(*point, one.number, _tooltip(row, shown)) for point, row in zip(points, one.rows, strict=True)]
        body.append("</g>")
        ends.append(points[-1])
    heights = spread([height for _, height in ends], 15, top, bottom)
    for one, (end, height), label in zip(series, ends, heights, strict=True):
        body += [_group(one), polyline([(end + 6, height), (right - 2, height), (right + 8, label)], "leader")]
        body += [text(right + 11, label + 4, one.label, "start", "name"), "</g>"]
    return figure(WIDTH, bottom + 52, f"{capitalised(shown.name)} against the radius", body)


def _ranking(summary: Mapping[str, Any], rows: Sequence[Row], shown: Shown) -> str:
    rows = sorted(rows, key=lambda row: (row[shown.after], row["attack"]))
    left, right, top = 24 + CHARACTER * max(len(shorten(row["attack"])) for row in rows), WIDTH - 70, 30.0
    bottom = top + 30 * len(rows)
    x = scale(0, 1, left, right)
    clean = summary["rows"][0][shown.clean]
    body = [line(x(tick / 4), top, x(tick / 4), bottom, "grid") for tick in range(5)]
    body += [text(x(tick / 4), bottom + 18, f"{25 * tick} %", "middle") for tick in range(5)]
    body.append(text((left + right) / 2, bottom + 40, shown.name, "middle", "title"))
    if clean is not None:
        body.append(line(x(clean), top - 6, x(clean), bottom, "clean"))
        body.append(text(x(clean), top - 12, f"clean {format_percent(clean)}", "middle"))
    series = {one.name: one for one in _series(summary, rows)}
    for position, row in enumerate(rows):
        height, one = top + 30 * position + 15, series[row["attack"]]
        body += [_group(one), text(left - 12, height + 4, one.label, "end", "name")]
        if limits := row[f"{shown.after}_interval"]:
            body.append(line(x(limits[0]), height, x(limits[1]), height, "whisker"))
        body.append(marker(x(row[shown.after]), height, one.number, _tooltip(row, shown)))
        body += ["</g>", text(WIDTH, height + 4, format_percent(row[shown.after]), "end")]
    return figure(WIDTH, bottom + 50, capitalised(shown.name), body)


def _series(summary: Mapping[str, Any], rows: Sequence[Row]) -> list[Series]:
    names = list(dict.fromkeys(row["attack"] for row in summary["rows"] if row["kind"] != "clean"))
    series = [Series(name, index, [row for row in rows if row["attack"] == name]) for index, name in enumerate(names)]
    return [one for one in series if one.rows]


def _group(one: Series) -> str:
    return f'<g class="series {"noise" if one.rows[0]["control"] else series_style(one.number)}">'


def _legend(series: Sequence[Series], left: float) -> tuple[list[str], float]:
    """Marks and names in as many lines as they need, and the height where the figure below may start."""
    body, x, y = [], left, 14.0
    for one in series:
        words = one.label + (" (control)" if one.rows[0]["control"] else "")
        width = 18 + CHARACTER * len(words) + 14
        if x > left and x + width > WIDTH:
            x, y = left, y + 20
        body += [_group(one), marker(x + 6, y - 4, one.number), "</g>", text(x + 16, y, words)]
        x += width
    return body, y + 24


def percent_axis(y: Callable[[float], float], left: float, right: float) -> list[str]:
    """Lines and words of an upright axis from 0 to 100 %."""
    lines = [line(left, y(tick / 4), right, y(tick / 4), "grid") for tick in range(5)]
    return lines + [text(left - 8, y(tick / 4) + 4, f"{25 * tick} %", "end") for tick in range(5)]


def tick_marks(ticks: Sequence[tuple[float, str]], bottom: float) -> list[str]:
    """Ticks of the axis below a figure, with those of their words that have room."""
    body, end = [], -math.inf
    for x, words in ticks:
        body.append(line(x, bottom, x, bottom + 5, "grid"))
        half = CHARACTER * len(words) / 2
        if x - half > end + 6:
            body.append(text(x, bottom + 20, words, "middle"))
            end = x + half
    return body


def radius_unit(radii: Sequence[float]) -> tuple[str, float]:
    """Title and factor of the axis of radii: in units of 1/255 or 1/256 if they are written so, plain otherwise."""
    written = [format_epsilon(radius) for radius in radii]
    for denominator in (255, 256):
        if all(words.endswith(f"/{denominator}") for words in written):
            return f"ε · {denominator}", float(denominator)
    return ("ε · 255", 255.0) if any("/" in words for words in written) else ("ε", 1.0)


def _loneliest(
    points: Sequence[tuple[float, float]], drawn: Sequence[Sequence[tuple[float, float]]]
) -> tuple[float, float]:
    """The point of a line that is farthest from the points of all other lines, where its name has most room."""
    crowd = [other for line in drawn if line is not points for other in line]
    return max(points, key=lambda point: min((math.dist(point, other) for other in crowd), default=0.0))


def _passes(row: Row) -> float:
    return float((row["mean_forwards"] or 0) + (row["mean_backwards"] or 0))


def _tooltip(row: Row, shown: Shown = ACCURACY) -> str:
    quality = ""
    if shown.after != ACCURACY.after:
        limits = format_interval(row[f"{shown.after}_interval"])
        quality = f"{shown.name} {format_percent(row[shown.after])}{f' [{limits}]' if limits else ''}\n"
    return quality + (
        f"{row['attack']}, ε {format_epsilon(row['epsilon'])}\n"
        f"right {format_percent(row['accuracy_under_attack'])} "
        f"[{format_interval(row['accuracy_under_attack_interval'])}], "
        f"fooled {format_percent(row['success_rate'])}\n"
        f"{format_passes(row)} passes per image, n = {row['n']}"
    )
