"""Mean maps of layers of clean and adversarial images, and how far attacks move them (Ma20 Fig. 6 and 10)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.figures.pictures import frame, shown_image
from medrobust.results.figures.sheet import NothingToDrawError, Sheet, cumulative, panels, series
from medrobust.results.figures.studied_run import StudiedRun, attack_labels
from medrobust.results.studied import Kept

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 6  # images beside each other
IMAGE = "image"


def layer_maps(runs: Sequence[StudiedRun]) -> list[Sheet]:
    """Maps of some images under the first attack, and the changes of all images' maps under every attack.

    Args:
        runs: The runs, such as one of medical and one of natural images, beside each other.

    Raises:
        NothingToDrawError: No image has been looked at, clean and under an attack.
    """
    if not all(run.studied.clean and attack_labels(run) for run in runs):
        raise NothingToDrawError("Maps of layers need an attack, and no image of one has been looked at yet.")
    table = pl.concat([_changes(run) for run in runs])
    return [_maps(runs, table), _change(runs, table)]


def relative_change(clean: NDArray[Any], other: NDArray[Any]) -> float:
    """Length of the difference of two maps divided by that of the first; NaN where the first is zero everywhere.

    >>> relative_change(np.array([[3.0, 4.0]]), np.array([[3.0, 3.0]]))
    0.2
    """
    length = float(np.linalg.norm(clean.astype(np.float64)))
    return float(np.linalg.norm(other.astype(np.float64) - clean)) / length if length else float("nan")


def _layers(run: StudiedRun) -> list[str]:
    return [name for name in run.studied.clean[0].arrays if name != IMAGE]


def _changes(run: StudiedRun) -> pl.DataFrame:
    clean = {one.id: one for one in run.studied.clean}
    rows = [
        {
            "run": run.label,
            "attack": label,
            "place": place + 1,
            "layer": layer,
            "image": one.id,
            "right_after": one.about["right_after"],
            "change": relative_change(clean[one.id].arrays[layer], one.arrays[layer]),
        }
        for key, label in attack_labels(run).items()
        for place, layer in enumerate(_layers(run))
        for one in run.studied.attacked[key]
        if one.id in clean
    ]
    return pl.DataFrame(rows)


def _pairs(run: StudiedRun, count: int) -> list[tuple[Kept, Kept]]:
    """The first images, clean and under the first attack."""
    first = next(iter(attack_labels(run)))
    adversarial = {one.id: one for one in run.studied.attacked[first]}
    return [(one, adversarial[one.id]) for one in run.studied.clean if one.id in adversarial][:count]


def _maps(runs: Sequence[StudiedRun], table: pl.DataFrame) -> Sheet:
    layers = max(len(_layers(run)) for run in runs)
    each = max(COLUMNS // len(runs), 1)
    attacks = {run.label: next(iter(attack_labels(run).values())) for run in runs}

    def draw() -> "Figure":
        figure, axes = panels(2 + 2 * layers, each * len(runs), height=7.2 / max(each * len(runs), COLUMNS))
        for axis in (axis for row in axes for axis in row):
            frame(axis)
        for number, run in enumerate(runs):
            for place, pair in enumerate(_pairs(run, each)):
                _column([row[number * each + place] for row in axes], pair, _layers(run))
            if len(runs) > 1:
                axes[0][number * each].set_title(run.label, loc="left")
        for place, words in enumerate(["image", *(f"layer {place + 1}" for place in range(layers))]):
            axes[2 * place][0].set_ylabel(words)
            axes[2 * place + 1][0].set_ylabel("attacked")
        return figure

    named = "; ".join(f"{run.label}: {', '.join(_layers(run))}, under {attacks[run.label]}" for run in runs)
    title = "Maps of layers, clean and adversarial"
    note = (
        "The mean over the channels of a layer's activations, below the image; in each pair of rows the clean image "
        "first and the attacked one second, both on one scale from black to light, the lowest 0.5th to the highest "
        f"99.5th percentile of the two. Layers, {named}."
    )
    return Sheet("maps", title, "Ma20 Fig. 6, 10", note, f"{title}. {named}.", table, draw)


def _column(axes: Sequence["Axes"], pair: tuple[Kept, Kept], layers: Sequence[str]) -> None:
    for axis, one in zip(axes, pair, strict=False):
        axis.imshow(shown_image(one.arrays[IMAGE]), cmap="gray", vmin=0, vmax=1)
    for place, layer in enumerate(layers):
        ends = np.array([np.quantile(one.arrays[layer], (0.005, 0.995)) for one in pair])
        low, high = float(ends.min()), float(ends.max())
        for axis, one in zip(axes[2 * place + 2 :], pair, strict=False):
            axis.imshow(one.arrays[layer], cmap="magma", vmin=low, vmax=high if high > low else low + 1)


def _change(runs: Sequence[StudiedRun], table: pl.DataFrame) -> Sheet:
    known = table.filter(pl.col("change").is_not_nan())
    places = sorted(known["place"].unique())
    lines = list(known.select("run", "attack").unique(maintain_order=True).iter_rows())

    def draw() -> "Figure":
        figure, (axes,) = panels(1, max(len(places), 1), min(7.0, 3.4 * max(len(places), 1)), sharey=True)
        for axis, place in zip(axes, places, strict=False):
            for number, (run, attack) in enumerate(lines):
                own = known.filter((pl.col("place") == place) & (pl.col("run") == run) & (pl.col("attack") == attack))
                label = f"{run}, {attack}" if len(runs) > 1 else attack
                line = cumulative(own["change"].to_numpy(), start=0.0)
                axis.step(*line, where="post", label=label, **{**series(number + 1), "marker": ""})
            axis.set_title(f"layer {place}")
            axis.set_xlabel("change of the map, relative to its length")
            axis.set_xlim(left=0)
        axes[0].set_ylabel("share of images up to this")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(lines), 3))
        return figure

    told = []
    for run, attack in lines:
        own = known.filter((pl.col("run") == run) & (pl.col("attack") == attack))
        medians = own.group_by("layer", maintain_order=True).agg(pl.col("change").median())
        words = ", ".join(f"{layer} {value:.3f}" for layer, value in medians.iter_rows())
        told.append(f"{run} under {attack}, {own['image'].n_unique()} images: median {words}")
    title = "How far attacks move the maps of layers"
    note = (
        "Length (L2) of the difference between the adversarial and the clean map, divided by the length of the clean "
        f"one. {'; '.join(told)}."
    )
    return Sheet("change", title, "Ma20 Fig. 10", note, f"{title}. {'; '.join(told)}.", known, draw)
