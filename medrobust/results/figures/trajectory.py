"""Variance of the perturbation and cosine of updates against the iteration (SMIA21 Fig. 2)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.figures.pictures import frame
from medrobust.results.figures.sheet import NothingToDrawError, Sheet, panels, percent, series
from medrobust.results.figures.studied_run import StudiedRun, attack_labels
from medrobust.results.formats import format_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURES = {"var": "variance of η / ε", "cos": "cosine of updates"}
RIGHT = "right"
SHOWN = (1, 4, 9)  # iterations whose perturbation is kept: those of the paper


def trajectory(runs: Sequence[StudiedRun]) -> list[Sheet]:
    """Both measures and what is still right at each iteration, and the perturbations of one image of each run.

    Args:
        runs: The runs, one below the other.

    Raises:
        NothingToDrawError: No image of an attack with iterations has been looked at.
    """
    table = pl.concat([_rows(run) for run in runs])
    if table["run"].n_unique() < len(runs):
        raise NothingToDrawError("No image of an attack with steps of a fixed length has been looked at yet.")
    return [_iterations(runs, table), _perturbations(runs)]


def _attacks(run: StudiedRun) -> dict[str, str]:
    """The attacks with iterations, by key."""
    labels = attack_labels(run)
    return {key: label for key, label in labels.items() if "var" in run.studied.attacked[key][0].arrays}


def _rows(run: StudiedRun) -> pl.DataFrame:
    """A row for each attack and iteration: means and quartiles over the images, and what is right of those it was."""
    rows = []
    for key, label in _attacks(run).items():
        kept = run.studied.attacked[key]
        right = np.array([one.arrays[RIGHT] for one in kept if one.about["right_before"]])
        values = {name: np.array([one.arrays[name] for one in kept], dtype=np.float64) for name in MEASURES}
        for place in range(values["var"].shape[1]):
            row: dict[str, Any] = {"run": run.label, "attack": label, "iteration": place + 1, "n": len(kept)}
            for name, of_all in values.items():
                row |= _spread(name, of_all[:, place])
            row["still_right"] = float(right[:, place].mean()) if len(right) else None
            rows.append({**row, "n_right_before": len(right)})
    words = {"run": pl.String, "attack": pl.String, "iteration": pl.Int64, "n": pl.Int64}
    numbers = [f"{name}{end}" for name in MEASURES for end in ("", "_lower", "_upper")]
    schema = {**words, **dict.fromkeys((*numbers, "still_right"), pl.Float64), "n_right_before": pl.Int64}
    return pl.DataFrame(rows, schema=schema)


def _spread(name: str, values: NDArray[np.float64]) -> dict[str, float | None]:
    """Mean and quartiles of the values that are defined."""
    known = values[~np.isnan(values)]
    if not len(known):
        return {name: None, f"{name}_lower": None, f"{name}_upper": None}
    lower, upper = (float(end) for end in np.quantile(known, (0.25, 0.75)))
    return {name: float(known.mean()), f"{name}_lower": lower, f"{name}_upper": upper}


def _iterations(runs: Sequence[StudiedRun], table: pl.DataFrame) -> Sheet:
    attacks = table["attack"].unique(maintain_order=True).to_list()

    def draw() -> "Figure":
        from matplotlib.ticker import MaxNLocator

        figure, grid = panels(len(runs), 3, height=2.0 if len(runs) > 1 else 2.3, sharex=True)
        for row, run in zip(grid, runs, strict=True):
            own = table.filter(pl.col("run") == run.label)
            for number, attack in enumerate(attacks):
                _lines(row, own.filter(pl.col("attack") == attack), attack, series(number + 1))
            for axis, words in zip(row, MEASURES.values(), strict=False):
                axis.set_ylabel(words)
            percent(row[2], "still right")
            if len(runs) > 1:
                row[0].set_title(run.label, loc="left")
        for axis in grid[-1]:
            axis.set_xlabel("iteration")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = {label: one for row in grid for one, label in zip(*row[0].get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 4))
        return figure

    told = []
    for run in runs:
        for attack in attacks:
            own = table.filter((pl.col("run") == run.label) & (pl.col("attack") == attack)).sort("iteration")
            if len(own):
                cosine = own["cos"].drop_nulls().to_numpy()
                mean = f"{cosine.mean():.2f}" if len(cosine) else "none"
                told.append(
                    f"{run.label}, {attack} ({own['n'][0]} images): variance {own['var'][-1]:.3f} at the end, mean "
                    f"cosine {mean}, {format_percent(own['still_right'][-1])} still right"
                )
    title = "Perturbations against the iteration"
    note = (
        "Left: variance over an image's values of the perturbation η divided by ε. Middle: cosine between an image's "
        "consecutive updates, 1 where an attack goes on as before. Both are means over the images, and bands hold the "
        "middle half of them. Right: share still right of the images that were right before. "
        f"{'; '.join(told)}."
    )
    return Sheet("iterations", title, "SMIA21 Fig. 2", note, f"{title}. {'; '.join(told)}.", table, draw)


def _lines(axes: Sequence["Axes"], table: pl.DataFrame, attack: str, style: dict[str, Any]) -> None:
    for axis, name in zip(axes, (*MEASURES, "still_right"), strict=True):
        known = table.filter(pl.col(name).is_not_null()).sort("iteration")
        axis.plot(known["iteration"], known[name], label=attack, **style)
        if name in MEASURES:
            band: dict[str, Any] = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
            axis.fill_between(known["iteration"], known[f"{name}_lower"], known[f"{name}_upper"], **band)


def _perturbations(runs: Sequence[StudiedRun]) -> Sheet:
    """The perturbations of each run's first image: a row for each attack, a group of columns for each run."""
    chosen = [(run, run.studied.attacked[next(iter(_attacks(run)))][0].id) for run in runs]
    shown = {
        (run.label, label): one.arrays
        for run, id in chosen
        for key, label in _attacks(run).items()
        for one in run.studied.attacked[key]
        if one.id == id
    }
    attacks = list(dict.fromkeys(label for _, label in shown))
    rows = [
        {"run": run, "attack": attack, "iteration": step, "var": float(arrays["var"][step - 1])}
        for (run, attack), arrays in shown.items()
        for step in SHOWN[: len(arrays["perturbations"])]
    ]

    def draw() -> "Figure":
        columns = len(SHOWN) * len(runs)
        side = min(1.4, 6.6 / columns)
        figure, axes = panels(len(attacks), columns, side * columns + 0.4, side + 0.2)
        for axis in (axis for row in axes for axis in row):
            frame(axis)
        for (run, attack), arrays in shown.items():
            first = len(SHOWN) * [one.label for one in runs].index(run)
            for place, picture in enumerate(arrays["perturbations"]):
                axis = axes[attacks.index(attack)][first + place]
                axis.imshow(picture.astype(float).mean(0), cmap="RdBu_r", vmin=-1, vmax=1)
                if attack == attacks[-1]:
                    axis.set_xlabel(f"t = {SHOWN[place]}")
                if attack == attacks[0] and len(runs) > 1 and not place:
                    axis.set_title(run, loc="left")
        for row, attack in zip(axes, attacks, strict=True):
            row[0].set_ylabel(attack)
        return figure

    title = "Perturbations of one image at some iterations"
    note = (
        f"Iterations t = {', '.join(map(str, SHOWN))} from left to right, the perturbation's mean over the colours, "
        f"divided by ε: blue -1, white 0, red 1. Images: {', '.join(f'{id} of {run.label}' for run, id in chosen)}."
    )
    return Sheet("perturbations", title, "SMIA21 Fig. 2", note, f"{title}. {note}", pl.DataFrame(rows), draw)
