"""How alike the directions are in which attacks push the penultimate features (HFC21 Fig. 2)."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from medrobust.results.columns import DIRECTION_WEIGHTS, direction_column
from medrobust.results.figures.sheet import NothingToDrawError, Sheet, panels, series
from medrobust.results.figures.studied_run import StudiedRun, drawn_attacks
from medrobust.results.formats import format_epsilon

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WEIGHTS = "weights"
DARK = 0.7  # cosine from which on a cell needs light words


def directions(runs: Sequence[StudiedRun]) -> list[Sheet]:
    """Mean cosines of the change under each attack with the classifier's weights, and with those under other attacks.

    Args:
        runs: The runs, such as one of medical and one of natural images.

    Raises:
        NothingToDrawError: A run has no such columns.
    """
    table = pl.concat([_cosines(run) for run in runs])
    if table["run"].n_unique() < len(runs):
        raise NothingToDrawError("Directions are measured where representation.directions is true, and they were not.")
    return [_weights(runs, table), _attacks(runs, table)]


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [row["attack"] for row in rows]
    return [
        name if names.count(name) == 1 else f"{name} {format_epsilon(row['epsilon'])}"
        for name, row in zip(names, rows, strict=True)
    ]


def _cosines(run: StudiedRun) -> pl.DataFrame:
    """A row for each attack and what the change of the features under it is compared with."""
    attacks = drawn_attacks(run)
    labels = _labels(attacks)
    rows = []
    for row, label in zip(attacks, labels, strict=True):
        means = row["means"]
        compared = {WEIGHTS: DIRECTION_WEIGHTS}
        compared |= {
            other: direction_column(one["attack"], one["epsilon"])
            for other, one in zip(labels, attacks, strict=True)
            if other != label
        }
        rows += [
            {
                "run": run.label,
                "attack": label,
                "compared_with": other,
                "cosine": means[name],
                "n": row["n_changed"] - row["undefined"].get(name, 0),
            }
            for other, name in compared.items()
            if name in means
        ]
    words = dict.fromkeys(("run", "attack", "compared_with"), pl.String)
    return pl.DataFrame(rows, schema={**words, "cosine": pl.Float64, "n": pl.Int64})


def _weights(runs: Sequence[StudiedRun], table: pl.DataFrame) -> Sheet:
    own = table.filter(pl.col("compared_with") == WEIGHTS)
    names = own["attack"].unique(maintain_order=True).to_list()

    def draw() -> "Figure":
        figure, ((axis,),) = panels(1, 1, 3.4)
        for number, run in enumerate(runs):
            rows = own.filter(pl.col("run") == run.label)
            places = [names.index(name) for name in rows["attack"]]
            axis.plot(places, rows["cosine"], label=run.label, **{**series(number + 1), "linestyle": ""})
        axis.axhline(0, color="#aaaaaa", linewidth=0.8)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_ylabel("cosine with the weights")
        if len(runs) > 1:
            figure.legend(loc="outside lower center", ncols=2)
        return figure

    told = "; ".join(
        f"{run.label}: {', '.join(f'{name} {value:.2f}' for name, value in _pairs(own, run))}" for run in runs
    )
    title = "Change of the penultimate features and the classifier's weights"
    note = (
        "Mean cosine between the change of the features and the difference of the weights of the class predicted after "
        f"the attack and of the true class; where the attack failed, of the likeliest other class. {told}."
    )
    return Sheet(WEIGHTS, title, "HFC21 Fig. 2a", note, f"{title}. {told}.", own, draw)


def _pairs(table: pl.DataFrame, run: StudiedRun) -> list[tuple[str, float]]:
    return list(table.filter(pl.col("run") == run.label).select("attack", "cosine").iter_rows())


def _attacks(runs: Sequence[StudiedRun], table: pl.DataFrame) -> Sheet:
    own = table.filter(pl.col("compared_with") != WEIGHTS)

    def draw() -> "Figure":
        columns = min(len(runs), 2)
        figure, grid = panels(math.ceil(len(runs) / columns), columns, min(7.0, 3.7 * columns), 3.5)
        axes = [axis for row in grid for axis in row]
        for axis, run in zip(axes, runs, strict=False):
            names = table.filter(pl.col("run") == run.label)["attack"].unique(maintain_order=True).to_list()
            _matrix(axis, own.filter(pl.col("run") == run.label), names)
            if len(runs) > 1:
                axis.set_title(run.label)
        for axis in axes[len(runs) :]:
            axis.set_axis_off()
        return figure

    told = []
    for run in runs:
        values = own.filter(pl.col("run") == run.label)["cosine"].to_numpy()
        ends = f"from {values.min():.2f} to {values.max():.2f}, mean {values.mean():.2f}" if len(values) else "none"
        told.append(f"{run.label}: {ends}")
    title = "Changes of the penultimate features under two attacks"
    note = f"Mean cosine between the changes of an image's features under two attacks. {'; '.join(told)}."
    return Sheet("attacks", title, "HFC21 Fig. 2b", note, f"{title}. {'; '.join(told)}.", own, draw)


def _matrix(axis: "Axes", table: pl.DataFrame, names: Sequence[str]) -> None:
    values = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(values, 1.0)
    for one, other, cosine in table.select("attack", "compared_with", "cosine").iter_rows():
        row, column = names.index(one), names.index(other)
        values[row, column] = values[column, row] = cosine
    axis.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    for row, column in np.argwhere(~np.isnan(values)):
        cosine = float(values[row, column])
        colour = "#ffffff" if abs(cosine) > DARK else "#000000"
        axis.text(column, row, f"{cosine:.2f}", ha="center", va="center", fontsize=7, color=colour)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(names)), names)
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
