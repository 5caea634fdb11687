"""Figures for papers, of what an evaluation's records and studies say."""

from medrobust.results.figures.drawing import compare_figures, write_figures
from medrobust.results.figures.sheet import Drawn, NothingToDrawError, Sheet
from medrobust.results.figures.studied_run import StudiedRun

__all__ = ["Drawn", "NothingToDrawError", "Sheet", "StudiedRun", "compare_figures", "write_figures"]
