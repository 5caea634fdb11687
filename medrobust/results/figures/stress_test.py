"""How far attacks move the mean of a layer, medical beside natural images (HFC21 Table 1)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from medrobust.results.columns import layer_mean_column
from medrobust.results.figures.sheet import NothingToDrawError, Sheet, panels, series
from medrobust.results.figures.studied_run import StudiedRun
from medrobust.results.formats import format_epsilon

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGNS = {"up": "raised", "down": "lowered"}
NOISE = "noise"
TOLD = SIGNS | {NOISE: "moved by noise"}


def stress_test(runs: Sequence[StudiedRun]) -> list[Sheet]:
    """The mean of each layer after the attack that lowers it and the one that raises it, relative to the clean mean.

    Args:
        runs: The runs, such as one of medical and one of natural images; layers are compared by their order.

    Raises:
        NothingToDrawError: A run has no attack on the mean of a layer that ``representation.layers`` names.
    """
    table = pl.concat([_rows(run) for run in runs])
    if table["run"].n_unique() < len(runs):
        raise NothingToDrawError(
            "The stress test needs attacks that raise or lower the mean of a layer (LayerMean), and these layers in "
            "representation.layers."
        )
    return [_sheet(runs, table)]


def _rows(run: StudiedRun) -> pl.DataFrame:
    """A row for each layer, direction and radius."""
    by_key = {row["key"]: row for row in run.summary["rows"]}
    places: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for entry in run.summary["manifest"]["attacks"]:
        objective = (entry.get("parameters") or {}).get("objective")
        if isinstance(objective, dict) and objective.get("class") == "LayerMean" and entry["key"] in by_key:
            layer = str(objective["layer"])
            place = places.setdefault(layer, len(places) + 1)
            rows += _row(run, by_key[entry["key"]], place, layer, objective["sign"])
    controls = [row for row in run.summary["rows"] if row["kind"] == "control"]
    for layer, place in places.items():
        rows += [one for row in controls for one in _row(run, row, place, layer, NOISE)]
    words = {"run": pl.String, "place": pl.Int64, "layer": pl.String, "direction": pl.String}
    numbers = dict.fromkeys(("epsilon", "clean", "adversarial", "difference", "ratio"), pl.Float64)
    return pl.DataFrame(rows, schema={**words, **numbers, "n": pl.Int64})


def _row(run: StudiedRun, row: Mapping[str, Any], place: int, layer: str, direction: str) -> list[dict[str, Any]]:
    """What an attack or noise does to the mean of a layer; nothing if that was not measured."""
    before, after = (row["means"].get(layer_mean_column(layer, clean)) for clean in (True, False))
    if before is None or after is None:
        return []
    about = {"run": run.label, "place": place, "layer": layer, "direction": direction, "epsilon": row["epsilon"]}
    means = {"clean": before, "adversarial": after, "difference": abs(after - before)}
    return [{**about, **means, "ratio": after / before if before > 0 else None, "n": row["n_changed"]}]


def _sheet(runs: Sequence[StudiedRun], table: pl.DataFrame) -> Sheet:
    largest = table.filter(pl.col("epsilon") == pl.col("epsilon").max().over("run"))
    known = largest.filter(pl.col("ratio").is_not_null())

    def draw() -> "Figure":
        figure, ((axis,),) = panels(1, 1, 3.4, 2.6)
        for number, run in enumerate(runs):
            style = series(number + 1)
            for sign in SIGNS:
                own = known.filter((pl.col("run") == run.label) & (pl.col("direction") == sign)).sort("place")
                label = run.label if sign == "up" else None
                axis.plot(own["place"], own["ratio"], **style, label=label)
            noise = known.filter((pl.col("run") == run.label) & (pl.col("direction") == NOISE))
            marks: dict[str, Any] = {
                "linestyle": "",
                "marker": "x",
                "markersize": 5,
                "zorder": 3,
                "color": style["color"],
            }
            axis.plot(noise["place"], noise["ratio"], **marks)
        axis.axhline(1, color="#aaaaaa", linewidth=0.8)
        _ratios(axis)
        axis.set_xticks(sorted(known["place"].unique()))
        axis.set_xlabel("layer")
        axis.set_ylabel("mean of the layer / clean")
        if len(runs) > 1:
            figure.legend(loc="outside lower center", ncols=2)
        return figure

    told = []
    for run in runs:
        own = largest.filter(pl.col("run") == run.label).sort("place")
        words = ", ".join(
            f"{one['layer']} {TOLD[one['direction']]} from {one['clean']:.4f} to {one['adversarial']:.4f}"
            for one in own.iter_rows(named=True)
        )
        count, radius = min(own["n"].to_list()), format_epsilon(own["epsilon"][0])
        told.append(f"{run.label} ({count} images, radius {radius}): {words}")
    title = "Stress test: how far the mean of a layer can be moved"
    note = (
        "Upper lines: the attack raises the mean of this layer's activations; lower lines: it lowers it; both relative "
        f"to the mean over the same clean images, drawn as 1. Crosses: noise of the same radius. {'; '.join(told)}."
    )
    return Sheet("stress_test", title, "HFC21 Table 1", note, f"{title}. {'; '.join(told)}.", table, draw)


def _ratios(axis: Any) -> None:
    """A logarithmic axis of ratios that names some of them."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    ticks = [one for one in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= one <= high]
    axis.yaxis.set_major_locator(FixedLocator(ticks))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
