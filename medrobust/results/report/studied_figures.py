"""The figures of studies as a report shows them, with their numbers behind them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from medrobust.results.formats import DASH
from medrobust.results.report.behind import FigureTable
from medrobust.results.studied import SETTINGS, STUDIES, remove_other_figures

MOST = 200  # lines of a table; the files have all of them


class StudiedFigure(NamedTuple):
    """A figure of a study.

    Args:
        name: Name of its files.
        title: What it shows.
        source: The figure of a paper that it corresponds to.
        note: How it is read, or why there is none.
        figure: The SVG element; empty where there is none.
        tables: Its numbers.
    """

    name: str
    title: str
    source: str
    note: str
    figure: Markup
    tables: list[FigureTable]


def studied_figures(folder: Path, summary: Mapping[str, Any]) -> list[StudiedFigure]:
    """Draw and write the figures of an evaluation's studies.

    Args:
        folder: Folder of the evaluation.
        summary: Its summary.
    """
    if not any((folder / STUDIES).glob(f"*/{SETTINGS}")):
        remove_other_figures(folder, ())
        return []
    from medrobust.results.figures import write_figures  # takes matplotlib, which most evaluations do not need

    found = []
    drawn = write_figures(folder, summary)
    remove_other_figures(folder, {one.name for one in drawn if one.svg})
    for one in drawn:
        tables = []
        if one.table is not None and len(one.table.columns):
            words = sum(kind in ("String", "Boolean") for kind in map(str, one.table.dtypes))
            lines = [[_cell(value) for value in row] for row in one.table.head(MOST).iter_rows()]
            tables = [FigureTable([name.replace("_", " ") for name in one.table.columns], lines, max(words, 1))]
        found.append(StudiedFigure(one.name, one.title, one.source, one.note, Markup(one.svg), tables))
    return found


def _cell(value: Any) -> str:
    if value is None:
        return DASH
    return f"{value:.4g}" if isinstance(value, float) else str(value)
