"""A figure for a paper: drawn once, written as SVG, PDF and PNG with its numbers beside it."""

import io
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.manifest import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLUMN, PAGE = 3.4, 7.0  # inches: widths of a paper's column and of its text
FONT = 8  # points; nothing is smaller than 7
DOTS = 200  # of an inch of the PNG
ON_PAGE = 1.25, 1.6  # pixels of a page for each point, at least and at most: a column's figure fits on a telephone
# Okabe and Ito's colours, which colour-blind readers tell apart, darkest first; series differ in dashes and marks, too
COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a8a00")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
MARKS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "xtick.labelsize": FONT - 1,
    "ytick.labelsize": FONT - 1,
    "legend.fontsize": FONT - 1,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",  # words stay words
    "text.parse_math": False,  # names of runs, attacks and classes may hold dollars
    "pdf.fonttype": 42,  # fonts that journals take
}


class Sheet(NamedTuple):
    """A figure that can be drawn.

    Args:
        name: Name of its files.
        title: What it shows, in words.
        source: The figure or table of a paper that it corresponds to; empty without one.
        note: How it is read, and what it leaves out.
        label: What is seen, for those who do not see it.
        table: All numbers that are drawn.
        draw: Draws it.
    """

    name: str
    title: str
    source: str
    note: str
    label: str
    table: pl.DataFrame
    draw: Callable[[], "Figure"]


class Drawn(NamedTuple):
    """A figure as it was written, or why there is none.

    Args:
        name: Name of its files.
        title: What it shows.
        source: The figure of a paper that it corresponds to.
        note: How it is read; or why there is no figure.
        svg: The SVG element, to stand in a page; empty where there is no figure.
        table: All numbers that are drawn; None where there is no figure.
    """

    name: str
    title: str
    source: str
    note: str
    svg: str = ""
    table: pl.DataFrame | None = None


class NothingToDrawError(ValueError):
    """An evaluation has not what a figure needs; the message is a sentence for the report."""


def write_sheet(folder: str | Path, sheet: Sheet) -> Drawn:
    """Draw a figure and write ``NAME.svg``, ``.pdf``, ``.png``, ``.parquet`` and ``.csv`` into a folder.

    The same numbers give the same SVG.
    """
    with _style(sheet.name) as close:
        figure = sheet.draw()
        try:
            written = {kind: _rendered(figure, kind) for kind in ("svg", "pdf", "png")}
        finally:
            close(figure)
    for kind, content in written.items():
        replace_file(Path(folder) / f"{sheet.name}.{kind}", content)
    buffer = io.BytesIO()
    sheet.table.write_parquet(buffer)
    replace_file(Path(folder) / f"{sheet.name}.parquet", buffer.getvalue())
    replace_file(Path(folder) / f"{sheet.name}.csv", sheet.table.write_csv().encode())
    svg = inline(written["svg"].decode(), sheet.label)
    return Drawn(sheet.name, sheet.title, sheet.source, sheet.note, svg, sheet.table)


def inline(svg: str, label: str) -> str:
    """An SVG file as an element of a page, as wide as the page lets it be while its words can be read."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, count=1, flags=re.DOTALL)
    head, _, rest = element.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    wide = re.search(r'width="([\d.]+)pt"', head)
    least, most = (scale * float(wide[1]) if wide else 0.0 for scale in ON_PAGE)
    width = f"min-width:{least:.0f}px;max-width:{most:.0f}px;" if wide else ""
    start = f'<svg class="paper" role="img" aria-label="{escape(label)}" {box[0] if box else ""} '
    return f'{start}style="{width}width:100%;height:auto" xmlns="http://www.w3.org/2000/svg" ' + (
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{rest}'
    )


def panels(
    rows: int, columns: int, width: float = PAGE, height: float = 2.3, **options: Any
) -> tuple["Figure", list[list["Axes"]]]:
    """An empty figure of some panels, each of a height in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, rows * height))
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, [list(row) for row in axes]


def series(number: int) -> dict[str, Any]:
    """Colour, dashes and mark of a series, by its number."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[(number + number // len(COLOURS)) % len(DASHES)],
        "marker": MARKS[number % len(MARKS)],
    }


def cumulative(
    values: NDArray[np.float64], start: float | None = None, end: float | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places and heights of the line that says which share of values is at most so large, for ``where="post"``.

    It rises from 0, and from the least value on; of no values it is empty.

    Args:
        values: ``(N,)``, in any order.
        start: Where the line begins instead of at the least value.
        end: Where it ends instead of at the largest.

    >>> places, heights = cumulative(np.array([3.0, 1.0]), start=0.0)
    >>> places.tolist(), heights.tolist()
    ([0.0, 1.0, 3.0], [0.0, 0.5, 1.0])
    """
    if not len(values):
        return np.zeros(0), np.zeros(0)
    places = np.concatenate([[values.min() if start is None else start], np.sort(values)])
    heights = np.arange(len(values) + 1) / len(values)
    return (places, heights) if end is None else (np.append(places, end), np.append(heights, 1.0))


def percent(axis: "Axes", label: str) -> None:
    """Let the vertical axis of a panel show a rate from 0 to 100 percent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_ylim(-0.02, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_ylabel(label)


def radii(axis: "Axes", values: Sequence[float], logarithmic: bool = True) -> None:
    """Let the horizontal axis of a panel show radii in units of 1/255 or 1/256: those given, if it is logarithmic."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    unit = unit_of_radii(values)
    axis.set_xlabel(f"ε · {unit}")
    if not logarithmic:
        steps = [step / unit for step in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, unit * max(values))]
        axis.xaxis.set_major_locator(FixedLocator([step for step in steps if step <= max(values)]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{unit * value:.3g}"))
        return
    shown = sorted(set(values))
    axis.set_xscale("log")
    kept = [shown[place] for place in _spread(len(shown), 7)]
    axis.xaxis.set_major_locator(FixedLocator(kept))
    axis.xaxis.set_major_formatter(FixedFormatter([f"{unit * value:.3g}" for value in kept]))
    axis.xaxis.set_minor_locator(NullLocator())


def unit_of_radii(values: Sequence[float]) -> int:
    """What radii are multiples of: 256 where each is a multiple of 0.01/256 and not all are of 0.01/255, else 255.

    >>> unit_of_radii([0.5 / 256, 4 / 256]), unit_of_radii([0.5 / 255, 0.01])
    (256, 255)
    """
    told = {unit: all(abs(unit * one - round(unit * one, 2)) < 1e-6 for one in values) for unit in (255, 256)}
    return 256 if told[256] and not told[255] else 255


def _spread(count: int, most: int) -> list[int]:
    """At most so many places of a list, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})


def _rendered(figure: "Figure", kind: str) -> bytes:
    buffer = io.BytesIO()
    nothing = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    figure.savefig(buffer, format=kind, metadata=nothing, dpi=DOTS)
    return buffer.getvalue()


@contextmanager
def _style(name: str) -> Iterator[Callable[["Figure"], None]]:
    """The style of all figures; what closes one when it is written."""
    import matplotlib

    fonts = logging.getLogger("fontTools")  # it logs every table of a font that it puts into a PDF
    level = fonts.level
    fonts.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
            yield lambda figure: figure.clear()
    finally:
        fonts.setLevel(level)
