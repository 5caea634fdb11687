"""Loss and margin in a plane around images, as surfaces and contours, of some images and as a mean (Ma20 Fig. 7)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.figures.pictures import name_row, show
from medrobust.results.figures.sheet import FONT, PAGE, NothingToDrawError, Sheet
from medrobust.results.figures.studied_run import StudiedRun
from medrobust.results.formats import format_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 4  # images of a run
COLOURS = "cividis"  # which colour-blind readers see as others do
FIRST, SECOND = "ε₁ · 255", "ε₂ · 255"


def loss_landscape(runs: Sequence[StudiedRun]) -> list[Sheet]:
    """The landscapes of some images, and the mean over all of a run's, rows for each run.

    Args:
        runs: The runs, such as one of medical and one of natural images.

    Raises:
        NothingToDrawError: No image has been looked at.
    """
    if not all(run.studied.clean for run in runs):
        raise NothingToDrawError("No image has been looked at yet.")
    return [_images(runs), _mean(runs)]


def _radii(run: StudiedRun) -> NDArray[np.float64]:
    """The values of either epsilon, in units of 1/255."""
    return np.linspace(0, 255 * _number(run.studied.parameters["epsilon"]), int(run.studied.parameters["points"]))


def _number(value: Any) -> float:
    """A radius as parameters hold it: a number, or a fraction as text."""
    numerator, _, denominator = str(value).partition("/")
    return float(numerator) / float(denominator or 1)


def _stacked(run: StudiedRun, name: str) -> NDArray[np.float64]:
    return np.stack([one.arrays[name] for one in run.studied.clean]).astype(np.float64)


def _images(runs: Sequence[StudiedRun]) -> Sheet:
    shown = [(run, run.studied.clean[:SHOWN]) for run in runs]
    table = pl.concat([_grid(run, {"image": one.id}, one.arrays) for run, kept in shown for one in kept])
    highest = max(float(one.arrays["loss"].max()) for _, kept in shown for one in kept)
    margins = np.concatenate([one.arrays["margin"].ravel() for _, kept in shown for one in kept])

    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(PAGE, len(runs) * 4.3))
        grid = figure.add_gridspec(3 * len(runs), SHOWN, height_ratios=[1.1, 1.5, 1.6] * len(runs))
        for place, (run, kept) in enumerate(shown):
            for column, one in enumerate(kept):
                axis = show(figure.add_subplot(grid[3 * place, column]), one.arrays["image"])
                if column == 0:
                    name_row(axis, run.label)
                surface = figure.add_subplot(grid[3 * place + 1, column], projection="3d")
                _surface(surface, _radii(run), one.arrays["loss"], (0, highest), "loss" if column == 0 else "", 1.15)
                contour = figure.add_subplot(grid[3 * place + 2, column])
                drawn = _contour(contour, _radii(run), one.arrays["margin"], _levels(margins), column == 0)
                if column == len(kept) - 1:
                    figure.colorbar(drawn, ax=contour, label="margin", shrink=0.8)
        return figure

    title = "Loss and margin around images"
    note = (
        "Below each image the surface of its loss and the contours of its margin, along the sign of the loss's "
        f"gradient (ε₁) and {_second(runs)} (ε₂). The victim is wrong where the margin is above 0, its thick line. All "
        "panels have the same scales."
    )
    names = ", ".join(run.label for run in runs)
    return Sheet("images", title, "Ma20 Fig. 7", note, f"{title}, of {names}.", table, draw)


def _mean(runs: Sequence[StudiedRun]) -> Sheet:
    means = [{name: _stacked(run, name).mean(0) for name in ("loss", "margin")} for run in runs]
    wrong = [(_stacked(run, "margin") > 0).mean(0) for run in runs]
    table = pl.concat(
        _grid(run, {"images": len(run.studied.clean)}, {**mean, "wrong": share})
        for run, mean, share in zip(runs, means, wrong, strict=True)
    )

    def draw() -> "Figure":
        from matplotlib.figure import Figure

        figure = Figure(figsize=(PAGE, 1.9 * len(runs)))
        grid = figure.add_gridspec(len(runs), 4, width_ratios=[1.2, 1, 1.2, 1])
        columns = {name: np.stack([mean[name] for mean in means]) for name in ("loss", "margin")}
        for row, (run, mean) in enumerate(zip(runs, means, strict=True)):
            for place, (name, values) in enumerate(columns.items()):
                limits = (min(0.0, float(values.min())), float(values.max()))
                surface = figure.add_subplot(grid[row, 2 * place], projection="3d")
                _surface(surface, _radii(run), mean[name], limits, f"mean {name}", 1.0)
                contour = figure.add_subplot(grid[row, 2 * place + 1])
                drawn = _contour(contour, _radii(run), mean[name], _levels(values), True)
                figure.colorbar(drawn, ax=contour, shrink=0.6, aspect=15)
                if len(runs) > 1 and place == 0:
                    surface.set_title(run.label, loc="left", pad=0)
        return figure

    told = "; ".join(_told(run, mean["loss"], share) for run, mean, share in zip(runs, means, wrong, strict=True))
    lost = sum(int(one.arrays["lost"]) for run in runs for one in run.studied.clean)
    flat = f" Of {lost} images the loss has lost its gradient, and that of the margin stands in." if lost else ""
    title = "Loss and margin around images, the mean"
    note = (
        f"ε₁ is along the sign of the loss's gradient, ε₂ along {_second(runs)}. The mean margin is 0 on the thick "
        f"line. All runs have the same scales. {told}.{flat}"
    )
    return Sheet("mean", title, "Ma20 Fig. 7", note, f"{title}. {told}.", table, draw)


def _second(runs: Sequence[StudiedRun]) -> str:
    """What the second direction is, in words."""
    kinds = {bool(run.studied.parameters["surrogates"]) for run in runs}
    words = {True: "the sign of the surrogates' gradient", False: "random signs"}
    return " or ".join(words[kind] for kind in sorted(kinds, reverse=True))


def _told(run: StudiedRun, loss: NDArray[np.float64], wrong: NDArray[np.float64]) -> str:
    epsilon = f"{_radii(run)[-1]:.3g}/255"
    places = {"at the images": (0, 0), "at the end of ε₁": (-1, 0), "at that of ε₂": (0, -1)}
    told = [f"{loss[at]:.3g} {where} ({format_percent(wrong[at])} wrong)" for where, at in places.items()]
    cosine = f"mean cosine of both directions {_stacked(run, 'cosine').mean():.2f}"
    return f"{run.label}, {len(run.studied.clean)} images up to {epsilon}: mean loss {', '.join(told)}, {cosine}"


def _grid(run: StudiedRun, about: dict[str, Any], values: Mapping[str, NDArray[Any]]) -> pl.DataFrame:
    """A row for each point of the plane."""
    radii = _radii(run) / 255
    own = {name: np.asarray(values[name], np.float64).ravel() for name in ("loss", "margin", "wrong") if name in values}
    count = len(radii)
    rows = {"epsilon_1": np.repeat(radii, count), "epsilon_2": np.tile(radii, count), **own}
    return pl.DataFrame(
        {name: pl.Series([value] * count**2) for name, value in {"run": run.label, **about}.items()} | rows
    )


def _levels(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Levels that all panels share, round numbers."""
    from matplotlib.ticker import MaxNLocator

    low, high = float(values.min()), float(values.max())
    return np.asarray(MaxNLocator(8).tick_values(low, high if high > low else low + 1), np.float64)


def _surface(
    axis: Any,
    radii: NDArray[np.float64],
    values: NDArray[Any],
    limits: tuple[float, float],
    label: str,
    zoom: float,
) -> None:
    first, second = np.meshgrid(radii, radii, indexing="ij")
    axis.plot_surface(first, second, values.astype(float), cmap=COLOURS, vmin=limits[0], vmax=limits[1], linewidth=0)
    axis.set_zlim(limits[0], limits[1] if limits[1] > limits[0] else limits[0] + 1)
    axis.view_init(elev=25, azim=-130)
    axis.set_xlabel(FIRST, labelpad=-8)
    axis.set_ylabel(SECOND, labelpad=-8)
    axis.text2D(0.02, 0.94, label, transform=axis.transAxes)
    axis.tick_params(pad=-4, labelsize=FONT - 1)
    axis.set_box_aspect((1, 1, 0.8), zoom=zoom)
    for direction in (axis.xaxis, axis.yaxis, axis.zaxis):
        direction.set_major_locator(_few(4))


def _contour(
    axis: "Axes", radii: NDArray[np.float64], values: NDArray[Any], levels: NDArray[np.float64], labelled: bool
) -> Any:
    own = values.astype(float).T  # contours take rows for the vertical axis
    drawn = axis.contourf(radii, radii, own, levels=levels, cmap=COLOURS)
    drawn.set_edgecolor("face")
    if own.min() < 0 < own.max():
        axis.contour(radii, radii, own, levels=[0.0], colors="#000000", linewidths=1.6)
    axis.set_aspect("equal")
    axis.grid(False)
    axis.set_xlabel(FIRST)
    axis.set_ylabel(SECOND if labelled else "")
    for direction in (axis.xaxis, axis.yaxis):
        direction.set_major_locator(_few(4))
    return drawn


def _few(count: int) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, steps=[1, 2, 4, 5, 10])
