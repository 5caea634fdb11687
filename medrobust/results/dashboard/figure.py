"""The figure of the curves: what each run is left with at each radius, with bands, by colour, dashes and marks."""

from collections.abc import Mapping
from typing import Any

from medrobust.results.dashboard.curves import radius_key
from medrobust.results.dashboard.tables import Column, Table, cell, interval
from medrobust.results.formats import format_epsilon
from medrobust.results.report.svg import (
    CHARACTER,
    PALETTE,
    figure,
    line,
    marker,
    polyline,
    scale,
    shorten,
    spread,
    text,
)

WIDTH, TOP, HEIGHT, LEFT = 760.0, 16.0, 320.0, 52.0  # the script of the page draws by the same numbers
FIRST = 8  # runs that are drawn when the page opens
DASHES = 4
BESIDE = 16.0  # pixels between runs of which one radius is known
LABEL = 24  # characters of a run's name beside its line


def style_of(place: int) -> str:
    """Classes of the run at a place: a colour and a dash pattern, which only two runs 32 places apart share."""
    return f"s{place % PALETTE} d{(place + place // PALETTE) % DASHES}"


def curve_figure(table: Table) -> str:
    """The first runs of a table of curves, as inline SVG; a radius of 0 has no place on its logarithmic axis.

    Args:
        table: Runs below each other, radii beside each other.

    Returns:
        An SVG element, or "" without a value at a radius above 0.
    """
    columns = _drawn(table)
    rows = [(place, row) for place, row in enumerate(table.rows[:FIRST]) if _values(table, row)]
    if not rows:
        return ""
    radii = [float(column.key.removeprefix("at_")) for column in columns]
    names = [shorten(str(row["run"]), LABEL) for _, row in rows]
    right = WIDTH - 30 - CHARACTER * max(map(len, names))
    bottom = TOP + HEIGHT
    x = scale(radii[0], radii[-1], LEFT + 16, right - 14, logarithmic=True)
    y = scale(0, 1, bottom, TOP)
    body = [line(LEFT, y(tick / 4), right, y(tick / 4), "grid") for tick in range(5)]
    body += [text(LEFT - 8, y(tick / 4) + 4, f"{25 * tick} %", "end") for tick in range(5)]
    end = 0.0
    for epsilon in radii:
        words = format_epsilon(epsilon)
        body.append(line(x(epsilon), bottom, x(epsilon), bottom + 5, "grid"))
        if x(epsilon) - CHARACTER * len(words) / 2 > end + 6:
            body.append(text(x(epsilon), bottom + 20, words, "middle"))
            end = x(epsilon) + CHARACTER * len(words) / 2
    body.append(text((LEFT + right) / 2, bottom + 40, "ε, logarithmic" if len(radii) > 1 else "ε", "middle", "title"))
    beside = [BESIDE * (number - (len(rows) - 1) / 2) if len(radii) == 1 else 0.0 for number in range(len(rows))]
    lines = [
        (place, row, [(x(one) + aside, y(value), one) for one, value in _values(table, row)])
        for (place, row), aside in zip(rows, beside, strict=True)
    ]
    heights = spread([points[-1][1] for _, _, points in lines], 15, TOP, bottom)
    for (place, row, points), height, name in zip(lines, heights, names, strict=True):
        body.append(f'<g class="series {style_of(place)}">')
        limits = [(at, row.get(f"{radius_key(one)}_interval")) for at, _, one in points]
        if len(points) > 1 and all(found for _, found in limits):
            band = [(at, y(found[1])) for at, found in limits if found]
            band += [(at, y(found[0])) for at, found in reversed(limits) if found]
            body.append(polyline(band, "band"))
        elif limits[0][1]:
            body.append(line(limits[0][0], y(limits[0][1][0]), limits[0][0], y(limits[0][1][1]), "whisker"))
        body.append(polyline([point[:2] for point in points]))
        for at, up, one in points:
            column = next(column for column in columns if column.key == radius_key(one))
            found = interval(column, row)
            words = f"{row['run']}, ε = {format_epsilon(one)}: {cell(column, row)}{f' ({found})' if found else ''}"
            body.append(marker(at, up, place, words))
        body.append(
            polyline([(points[-1][0] + 6, points[-1][1]), (right - 2, points[-1][1]), (right + 8, height)], "leader")
        )
        body += [text(right + 11, height + 4, name, "start", "name"), "</g>"]
    return figure(WIDTH, bottom + 52, f"Line chart, {table.title}; the table below it has the numbers", body)


def _drawn(table: Table) -> list[Column]:
    """The columns whose radius is above 0."""
    return [column for column in table.columns[1:] if float(column.key.removeprefix("at_")) > 0]


def _values(table: Table, row: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Radii and values of a run, where it has any."""
    found = [(float(column.key.removeprefix("at_")), row.get(column.key)) for column in _drawn(table)]
    return [(epsilon, float(value)) for epsilon, value in found if value is not None]
