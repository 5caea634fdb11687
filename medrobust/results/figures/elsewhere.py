"""Figures of studies that come from elsewhere: drawn by a function that their class names."""

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import isfunction
from typing import TYPE_CHECKING

import polars as pl

from medrobust.results.figures.sheet import NothingToDrawError, Sheet
from medrobust.results.figures.studied_run import StudiedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def sheets_of(path: str, runs: Sequence[StudiedRun]) -> list[Sheet]:
    """The figures that a function from elsewhere makes of a study, imported now.

    Args:
        path: Import path of the function, ``MODULE.FUNCTION``.
        runs: The study, of one run or of several side by side.

    Raises:
        NothingToDrawError: It cannot be imported, is no function, has nothing to draw or fails; the message is a
            sentence for the report, which is made without this figure.
    """
    function = _imported(path)
    try:
        made = list(function(runs))
    except NothingToDrawError:
        raise
    except Exception as error:
        raise NothingToDrawError(f"{path} draws this study and has failed: {_said(error)}") from error
    if not made or not all(isinstance(sheet, Sheet) and isinstance(sheet.table, pl.DataFrame) for sheet in made):
        raise NothingToDrawError(f"{path} draws this study by a list of Sheet, each with its table, and gave none.")
    return [sheet._replace(draw=_guarded(path, sheet.draw)) for sheet in made]


def _imported(path: str) -> Callable[[Sequence[StudiedRun]], Sequence[Sheet]]:
    module, _, name = path.rpartition(".")
    if not PATH.fullmatch(path):
        raise NothingToDrawError(f"A drawing is named by its import path, MODULE.FUNCTION, and this one by {path!r}.")
    try:
        function = getattr(import_module(module), name, None)
    except Exception as error:  # whatever the code of a module can raise
        raise NothingToDrawError(
            f"{path} draws this study and cannot be imported: {_said(error)} Put its folder into PYTHONPATH."
        ) from error
    if not isfunction(function):
        raise NothingToDrawError(f"{path} draws this study, and {module} has no function {name}.")
    return function


def _guarded(path: str, draw: Callable[[], "Figure"]) -> Callable[[], "Figure"]:
    def drawn() -> "Figure":
        try:
            figure = draw()
            figure.draw_without_rendering()  # what cannot be laid out, such as a formula, fails here
            return figure
        except Exception as error:
            raise NothingToDrawError(f"{path} draws this study and has failed: {_said(error)}") from error

    return drawn


def _said(error: Exception) -> str:
    """An error in one line that ends in a full stop."""
    said = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
    return f"{said}."
