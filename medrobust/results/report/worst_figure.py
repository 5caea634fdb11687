"""The figure of the worst case: what is right at each radius if any attack may be used, beside the controls."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from medrobust.results.formats import DASH, capitalised, format_epsilon, format_interval, format_percent
from medrobust.results.manifest import task_of
from medrobust.results.report.behind import FigureTable
from medrobust.results.report.figures import WIDTH, percent_axis, radius_unit, tick_marks
from medrobust.results.report.svg import (
    CHARACTER,
    area,
    figure,
    line,
    marker,
    polyline,
    scale,
    series_style,
    shorten,
    spread,
    text,
)
from medrobust.results.wording import is_dense, quality_name

WORST = "worst case"
CROSSWISE = 3  # controls without a radius that are drawn; of more, only the harshest
LOGARITHMIC = 8  # ratio of radii from which their axis is logarithmic

Row = Mapping[str, Any]
Point = tuple[float, float, Sequence[float] | None, int]  # radius, share, interval, images


class WorstLine(NamedTuple):
    """One line of the figure.

    Args:
        name: What it shows.
        style: Its classes.
        start: Its value on clean images, at the radius 0.
        points: Radius, share, interval and number of images, by increasing radius.
    """

    name: str
    style: str
    start: float | None
    points: list[Point]


def worst_lines(summary: Mapping[str, Any]) -> list[WorstLine]:
    """The worst case, its quality, and the controls of each radius.

    Args:
        summary: As `summarise` returns it.
    """
    manifest, clean = summary.get("manifest") or {"data": {}}, summary["rows"][0]
    worst = [one for one in summary["worst_case"] if one["n"] and one["epsilon"]]
    name = WORST if task_of(manifest) == "classification" else f"{WORST}, right"
    lines: list[WorstLine] = []
    if worst:
        points = [(one["epsilon"], one["accuracy"], one["accuracy_interval"], one["n"]) for one in worst]
        lines.append(WorstLine(name, series_style(0), clean["clean_accuracy"], points))
    known = [one for one in worst if one.get("quality") is not None]
    labels = task_of(manifest) == "multilabel"
    if known and (is_dense(manifest) or labels):
        points = [(one["epsilon"], one["quality"], one["quality_interval"], one["n_quality"]) for one in known]
        lines.append(
            WorstLine(
                f"{WORST}, {'labels right' if labels else quality_name(manifest)}",
                series_style(1),
                clean["quality_before"],
                points,
            )
        )
    controls = [row for row in summary["rows"] if row["kind"] == "control" and row["n"] and row["epsilon"]]
    for control in dict.fromkeys(row["attack"] for row in controls):
        own = sorted((row for row in controls if row["attack"] == control), key=lambda row: float(row["epsilon"]))
        points = [
            (row["epsilon"], row["accuracy_under_attack"], row["accuracy_under_attack_interval"], row["n"])
            for row in own
        ]
        lines.append(WorstLine(f"{control} (control)", "noise", clean["clean_accuracy"], points))
    return lines


def worst_table(summary: Mapping[str, Any]) -> FigureTable:
    """The numbers of the figure, and controls that have no radius."""
    clean = summary["rows"][0]
    lines = [_cells("clean", None, clean["clean_accuracy"], clean["clean_accuracy_interval"], clean["n"])]
    for one in worst_lines(summary):
        lines += [_cells(one.name, *point) for point in one.points]
    for row in _without_radius(summary):
        share, limits = row["accuracy_under_attack"], row["accuracy_under_attack_interval"]
        lines.append(_cells(row["attack"], None, share, limits, row["n"]))
    return FigureTable(["line", "ε", "share", "95 % interval", "n"], lines)


def _cells(name: str, radius: float | None, share: float | None, limits: Sequence[float] | None, n: int) -> list[str]:
    return [name, format_epsilon(radius), format_percent(share), format_interval(limits) or DASH, str(n)]


def _without_radius(summary: Mapping[str, Any]) -> list[Row]:
    return [row for row in summary["rows"] if row["kind"] == "control" and row["n"] and not row["epsilon"]]


def _crosswise(summary: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Names of the lines across the figure, and the share that each control leaves right."""
    found = [(str(row["attack"]), float(row["accuracy_under_attack"])) for row in _without_radius(summary)]
    if len(found) <= CROSSWISE:
        return found
    name, share = min(found, key=lambda one: one[1])
    return [(f"{name} (of {len(found)})", share)]


def worst_figure(summary: Mapping[str, Any]) -> str:
    """What the worst case leaves right against the radius, with a band for its 95 % interval, and the controls.

    The axis of radii is logarithmic where they span more than a factor of eight; otherwise it begins at 0, with the
    clean images. Controls without a radius, such as a corruption, are lines across the figure; of many it is the one
    that leaves least right.

    Args:
        summary: As `summarise` returns it.

    Returns:
        An SVG element, or "" without an attack of a radius.
    """
    lines = worst_lines(summary)
    if not lines or not lines[0].name.startswith(WORST):
        return ""
    radii = sorted({point[0] for one in lines for point in one.points})
    logarithmic = radii[-1] / radii[0] > LOGARITHMIC
    crosswise = _crosswise(summary)
    names = [shorten(name, 26) for name in (*(one.name for one in lines), *(name for name, _ in crosswise))]
    left, right, top = 52.0, WIDTH - 26 - CHARACTER * max(map(len, names)), 24.0
    bottom = top + 280
    first = radii[0] / 1.25 if logarithmic else 0.0
    x = scale(first, radii[-1], left, right - 14, logarithmic)
    y = scale(0, 1, bottom, top)
    clean = summary["rows"][0]["clean_accuracy"]
    unit, factor = radius_unit(radii)
    body = percent_axis(y, left, right)
    body += tick_marks([(x(radius), f"{radius * factor:.3g}") for radius in radii], bottom)
    body.append(text((left + right) / 2, bottom + 40, unit, "middle", "title"))
    if clean is not None:
        body += [line(left, y(clean), right, y(clean), "clean")]
        body.append(text(left + 4, y(clean) - 6, f"clean {format_percent(clean)}"))
    ends = []
    for number, one in enumerate(lines):
        body += _drawn(one._replace(start=None) if logarithmic else one, number, x, y)
        ends.append((y(one.points[-1][1]), x(one.points[-1][0]), names[number], one.style))
    for (_, share), name in zip(crosswise, names[len(lines) :], strict=True):
        height = y(share)
        body += ['<g class="series noise">', polyline([(left, height), (right, height)]), "</g>"]
        ends.append((height, right, name, "noise"))
    heights = spread([height for height, *_ in ends], 15, top, bottom)
    for (height, end, name, style), label in zip(ends, heights, strict=True):
        body.append(f'<g class="series {style}">')
        body += [polyline([(end + 6, height), (right - 2, height), (right + 8, label)], "leader")]
        body += [text(right + 11, label + 4, name, "start", "name"), "</g>"]
    return figure(WIDTH, bottom + 52, worst_words(summary), body)


def _drawn(one: WorstLine, number: int, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    """Band, line and marks of one line, from its start above the radius 0 if it has one."""
    name, style, start, points = one
    body = [f'<g class="series {style}">']
    limited = [(radius, limits) for radius, _, limits, _ in points if limits]
    if style != "noise" and len(limited) > 1:
        upper = [(x(radius), y(limits[1])) for radius, limits in limited]
        lower = [(x(radius), y(limits[0])) for radius, limits in limited]
        body.append(area(upper + lower[::-1]))
    else:
        body += [line(x(radius), y(limits[0]), x(radius), y(limits[1]), "whisker") for radius, limits in limited]
    along = [(x(radius), y(share)) for radius, share, _, _ in points]
    if start is not None:  # nobody has tried what lies between the clean images and the first radius
        body.append(polyline([(x(0.0), y(start)), along[0]], "leader"))
    body.append(polyline(along))
    for radius, share, limits, n in points:
        told = f"{name}, ε {format_epsilon(radius)}\n{format_percent(share)} [{format_interval(limits)}], n = {n}"
        body.append(marker(x(radius), y(share), number, told))
    return [*body, "</g>"]


def worst_words(summary: Mapping[str, Any]) -> str:
    """What the figure shows, in a sentence."""
    parts = []
    for name, _, _, points in worst_lines(summary):
        ends = [points[0]] if len(points) == 1 else [points[0], points[-1]]
        parts.append(f"{name} " + ", ".join(f"{format_percent(p[1])} at ε = {format_epsilon(p[0])}" for p in ends))
    clean = summary["rows"][0]["clean_accuracy"]
    return capitalised(f"share of images right against the radius: clean {format_percent(clean)}; {'; '.join(parts)}")
