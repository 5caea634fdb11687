"""The figure of the smallest perturbations: the share of images that one of each size is known to make wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from medrobust.results.formats import DASH, format_interval, format_linf, format_measure, format_percent
from medrobust.results.report.behind import FigureTable
from medrobust.results.report.figures import WIDTH, percent_axis, tick_marks
from medrobust.results.report.svg import area, figure, line, marker, polyline, scale, series_style, text

LOGARITHMIC = 8  # ratio of distances from which their axis is logarithmic
TICKS = 8
TITLES = {"linf": "L∞ length of the perturbation", "l2": "L2 length of the perturbation"}

Found = Mapping[str, Any]


def smallest_words(found: Found) -> str:
    """The median in a sentence; "more than" the largest radius where half of the images stand it."""
    if found["n_wrong_before"] * 2 >= found["n"]:
        return "At least half of the images were wrong before any attack."
    if found["median"] is not None:
        return (
            f"Median: {distance_words(found, found['median'])}, the smallest that is known to make half of the images "
            "wrong."
        )
    if found["largest"] is None:
        return f"No attack has made half of the images wrong: {found['n_never']} of {found['n']} stood all of them."
    return (
        f"Median: more than {distance_words(found, found['largest'])}, the largest radius that was tried; "
        f"{found['n_never']} of {found['n']} images stood every attack."
    )


def distance_words(found: Found, distance: float | None) -> str:
    """A length as it is written in its norm; a dash for None."""
    if distance is None:
        return DASH
    return format_linf(distance, [found["largest"]]) if found["norm"] == "linf" else format_measure(distance)


def _factor(found: Found, lengths: Sequence[float]) -> float:
    """What the axis multiplies lengths by: 255 or 256 where `distance_words` writes fractions of it, else 1."""
    written = [distance_words(found, length) for length in lengths] if found["norm"] == "linf" else []
    if not any("/" in words for words in written):
        return 1.0
    return 256.0 if all(words.endswith("/256") for words in written) else 255.0


def smallest_table(found: Found) -> FigureTable:
    """The points of the curve."""
    lines = [
        [
            "0 (wrong before)" if not one["distance"] else distance_words(found, one["distance"]),
            format_percent(one["share"]),
            format_interval(one["share_interval"]),
        ]
        for one in found["points"]
    ]
    return FigureTable(["perturbation", "images wrong", "95 % interval"], lines)


def smallest_figure(found: Found) -> str:
    """The curve as steps, with a band for its 95 % interval, and lines at one half and at the largest radius.

    Args:
        found: As `results.smallest.smallest_results` gives it.

    Returns:
        An SVG element, or "" where no image is made wrong.
    """
    points = found["points"][1:]
    if not points:
        return ""
    lowest = points[0]["distance"]
    highest = max(points[-1]["distance"], found["largest"] or 0.0)
    logarithmic = highest / lowest > LOGARITHMIC
    left, right, top = 52.0, WIDTH - 30, 20.0
    bottom = top + 250
    x = scale(lowest / 1.5 if logarithmic else 0.0, highest * (1.15 if logarithmic else 1.05), left, right, logarithmic)
    y = scale(0, 1, bottom, top)
    places = [one["distance"] for one in points]
    shown = [places[round(place * (len(places) - 1) / (TICKS - 1))] for place in range(TICKS)]
    shown = sorted({*(places if len(places) <= TICKS else shown), highest})
    factor = _factor(found, shown)
    title = TITLES[found["norm"]] + (f" · {factor:.0f}" if factor != 1.0 else "")
    body = percent_axis(y, left, right)
    body += tick_marks([(x(one), f"{one * factor:.3g}") for one in shown], bottom)
    body.append(text((left + right) / 2, bottom + 40, title, "middle", "title"))
    body.append(line(left, y(0.5), right, y(0.5), "clean"))
    body.append(f'<g class="series {series_style(0)}">')
    steps: dict[str, list[tuple[float, float]]] = {"share": [], "low": [], "high": []}
    before = found["points"][0]
    along = [left, *(x(one) for one in places), right]
    for place, one in enumerate([before, *points]):
        values = {"share": one["share"], "low": one["share_interval"][0], "high": one["share_interval"][1]}
        for name, value in values.items():
            steps[name] += [(along[place], y(value)), (along[place + 1], y(value))]
    body += [area(steps["high"] + steps["low"][::-1]), polyline(steps["share"])]
    if len(points) <= 2 * TICKS:
        for one in points:
            told = (
                f"{distance_words(found, one['distance'])}\n{format_percent(one['share'])} "
                f"[{format_interval(one['share_interval'])}] of {found['n']} images"
            )
            body.append(marker(x(one["distance"]), y(one["share"]), 0, told))
    body.append("</g>")
    words = f"Share of images wrong against the size of the smallest known perturbation. {smallest_words(found)}"
    return figure(WIDTH, bottom + 52, words, body)
