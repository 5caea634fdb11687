"""Figures for papers, of what an evaluation's records and studies say."""

from medrobust.results.figures.drawing import compare_figures, write_figures
from medrobust.results.figures.sheet import Drawn

__all__ = ["Drawn", "compare_figures", "write_figures"]
