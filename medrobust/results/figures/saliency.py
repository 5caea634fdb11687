"""Saliency maps beside their images, and how concentrated they are in each run (Ma20 Fig. 6)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from medrobust.results.figures.pictures import frame, name_row, shown_image
from medrobust.results.figures.sheet import NothingToDrawError, Sheet, cumulative, panels, series
from medrobust.results.figures.studied_run import StudiedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6  # images of a run
MEASURES = {"gini": "Gini coefficient", "top_energy": "energy in 1 % of the pixels"}


def saliency(runs: Sequence[StudiedRun]) -> list[Sheet]:
    """Maps of some images, and the distribution of both measures over all of a run's, a row and a line for each run.

    Args:
        runs: The runs, such as one of medical and one of natural images.

    Raises:
        NothingToDrawError: No image has been looked at.
    """
    if not all(run.studied.clean for run in runs):
        raise NothingToDrawError("No image has been looked at yet.")
    table = pl.DataFrame(
        [
            {"run": run.label, "image": one.id, **{name: float(one.arrays[name]) for name in MEASURES}}
            for run in runs
            for one in run.studied.clean
        ]
    )
    return [_maps(runs, table), _concentration(runs, table)]


def _maps(runs: Sequence[StudiedRun], table: pl.DataFrame) -> Sheet:
    def draw() -> "Figure":
        figure, axes = panels(2 * len(runs), SHOWN, height=1.25)
        for place, run in enumerate(runs):
            for column in range(SHOWN):
                pair = axes[2 * place][column], axes[2 * place + 1][column]
                if column >= len(run.studied.clean):
                    for axis in pair:
                        axis.set_axis_off()
                    continue
                one = run.studied.clean[column]
                frame(pair[0]).imshow(shown_image(one.arrays["image"]), cmap="gray", vmin=0, vmax=1)
                values = np.abs(one.arrays["map"]).astype(float)
                frame(pair[1]).imshow(values / (np.quantile(values, 0.995) or 1.0), cmap="magma", vmin=0, vmax=1)
            name_row(axes[2 * place][0], run.label)
            axes[2 * place][0].set_ylabel("image")
            axes[2 * place + 1][0].set_ylabel("saliency")
        return figure

    title = "Saliency"
    label = f"{title}: images of {', '.join(run.label for run in runs)}, and below each its input gradient."
    differentiated = sorted({_differentiated(run.studied.parameters) for run in runs})
    note = (
        f"Below each image the size of the gradient of its {' or '.join(differentiated)} with respect to each pixel, "
        "each map from black, 0, to light, the 99.5th percentile of its values."
    )
    return Sheet("maps", title, "Ma20 Fig. 6", note, label, table, draw)


def _differentiated(parameters: Mapping[str, Any]) -> str:
    """What a study has differentiated: the victim's loss, or an objective by its class."""
    objective = parameters.get("objective")
    return str(objective.get("class", "objective")) if isinstance(objective, Mapping) else "loss"


def _concentration(runs: Sequence[StudiedRun], table: pl.DataFrame) -> Sheet:
    known = table.filter(pl.col("gini").is_not_nan())

    def draw() -> "Figure":
        figure, (axes,) = panels(1, len(MEASURES), sharey=True)
        for axis, (name, words) in zip(axes, MEASURES.items(), strict=True):
            for number, run in enumerate(runs):
                values = known.filter(pl.col("run") == run.label)[name].to_numpy()
                axis.step(*cumulative(values), where="post", label=run.label, **_line(number))
            axis.set_xlabel(words)
        axes[0].set_ylabel("share of images up to this")
        if len(runs) > 1:
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(runs), 3))
        return figure

    told = []
    for run in runs:
        own = known.filter(pl.col("run") == run.label)
        medians = [f"{words} {np.median(own[name].to_numpy()):.3f}" for name, words in MEASURES.items() if len(own)]
        told.append(f"{run.label}: median {', '.join(medians) or 'of no image'}, {len(own)} images")
    lost = len(table) - len(known)
    zero = f" Images left out, since their gradient is zero everywhere: {lost}." if lost else ""
    title = "How concentrated saliency is"
    note = (
        "Both are larger where fewer pixels matter: the Gini coefficient of the map's values, 0 where all are alike "
        "and near 1 where one is alone, and the share of the sum of their squares in the largest 1 %. "
        f"{'; '.join(told)}.{zero}"
    )
    return Sheet("concentration", title, "Ma20 Fig. 6", note, f"{title}. {'; '.join(told)}.", table, draw)


def _line(number: int) -> dict[str, Any]:
    """The line of a run, by its number."""
    return {**series(number + 1), "marker": ""}
