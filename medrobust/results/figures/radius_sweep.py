"""Accuracy and AUROC against the radius, and the smallest perturbations of all attacks (Ma20 Fig. 4-5, Tables 2-3)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from medrobust.results.figures.sheet import NothingToDrawError, Sheet, panels, percent, radii, series
from medrobust.results.figures.studied_run import StudiedRun, of_other_norms, said_of_other_norms
from medrobust.results.formats import format_epsilon, format_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WORST = "worst case"
NOISE = "noise"


def radius_sweep(runs: Sequence[StudiedRun]) -> list[Sheet]:
    """The figures of a sweep over radii, a panel for each run.

    Args:
        runs: The runs, such as those of several datasets or numbers of classes.

    Returns:
        Accuracy, AUROC where victims name one class, and the smallest perturbations where attacks are bound by
        L-infinity.

    Raises:
        NothingToDrawError: No run has an attack at two radii or more.
    """
    table = pl.concat([_accuracies(run) for run in runs])
    if table.filter(pl.col("epsilon") > 0)["epsilon"].n_unique() < 2:
        raise NothingToDrawError("A sweep needs attacks at two radii or more: give several by attack.epsilons.")
    sheets = [
        _sheet("accuracy", "Accuracy against the radius", "accuracy", table, runs),
    ]
    if len(table.filter(pl.col("auroc").is_not_null())):
        sheets.append(_sheet("auroc", "AUROC against the radius", "auroc", table, runs))
    if smallest := _smallest(runs):
        sheets.append(smallest)
    return sheets


def area_under(points: Sequence[Mapping[str, Any]], largest: float) -> float:
    """Mean share of wrong images over all radii from 0 to the largest: the area under the curve of steps.

    Args:
        points: With ``distance`` and ``share``, by increasing distance, the first at 0.
        largest: Where the curve ends.

    >>> area_under([{"distance": 0.0, "share": 0.1}, {"distance": 0.5, "share": 0.6}], 1.0)  # (0.1 + 0.6) / 2
    0.35
    """
    inside = [one for one in points if one["distance"] < largest]
    ends = np.array([*(one["distance"] for one in inside[1:]), largest])
    begins = np.array([one["distance"] for one in inside])
    return float(((ends - begins) * np.array([one["share"] for one in inside])).sum() / largest)


def _accuracies(run: StudiedRun) -> pl.DataFrame:
    """A row for each attack and radius, of the worst case, too; the clean images are at radius 0."""
    summary = run.summary
    areas = {row["key"]: row["auroc"] for row in (summary.get("classes") or {}).get("rows", [])}
    rows, others = [], of_other_norms(run)
    for row in summary["rows"]:
        if row["kind"] != "clean" and (row["epsilon"] is None or row["key"] in others):
            continue
        low, high = row["accuracy_under_attack_interval"] or (None, None)
        rows.append(
            {
                "run": run.label,
                "attack": row["attack"],
                "control": row["kind"] == "control",
                "epsilon": row["epsilon"] or 0.0,
                "accuracy": row["accuracy_under_attack"],
                "accuracy_low": low,
                "accuracy_high": high,
                "auroc": areas.get(row["key"]),
                "n": row["n"],
            }
        )
    if len({row["attack"] for row in summary["rows"] if row["kind"] == "attack"}) > 1:
        for worst in summary["worst_case"]:
            low, high = worst["accuracy_interval"] or (None, None)
            own = {"attack": WORST, "control": False, "epsilon": worst["epsilon"], "accuracy": worst["accuracy"]}
            own |= {"accuracy_low": low, "accuracy_high": high, "auroc": None, "n": worst["n"]}
            rows.append({"run": run.label, **own})
    kinds = {"run": pl.String, "attack": pl.String, "control": pl.Boolean, "epsilon": pl.Float64}
    numbers = dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high", "auroc"), pl.Float64)
    return pl.DataFrame(rows, schema={**kinds, **numbers, "n": pl.Int64})


def _sheet(name: str, title: str, what: str, table: pl.DataFrame, runs: Sequence[StudiedRun]) -> Sheet:
    attacks = [attack for attack in table["attack"].unique(maintain_order=True) if attack != "clean"]
    known = table.filter(pl.col(what).is_not_null())

    def draw() -> "Figure":
        figure, ((*axes,),) = panels(1, len(runs), min(7.0, 3.4 * len(runs)), sharey=True)
        for axis, run in zip(axes, runs, strict=True):
            own = known.filter(pl.col("run") == run.label)
            _panel(axis, own, what, attacks)
            if len(runs) > 1:
                axis.set_title(run.label)
        percent(axes[0], "accuracy" if what == "accuracy" else "AUROC")
        handles = {label: one for axis in axes for one, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
        return figure

    band = " Bands are 95 % intervals over patients." if what == "accuracy" else " Of several classes, the mean."
    note = f"The dotted line is that of the clean images.{band} Noise of the same size is the control."
    note += said_of_other_norms(runs)
    return Sheet(name, title, "Ma20 Fig. 4, 5", note, f"{title}. {_told(known, what, runs)}", known, draw)


def _panel(axis: "Axes", table: pl.DataFrame, what: str, attacks: Sequence[str]) -> None:
    clean = table.filter(pl.col("attack") == "clean")
    for value in clean[what]:
        axis.axhline(value, color="#555555", linestyle=":", linewidth=0.8)
    for number, attack in enumerate(attacks):
        own = table.filter(pl.col("attack") == attack).sort("epsilon")
        if not len(own):
            continue
        style: dict[str, Any] = series(number + 1)
        if own["control"][0]:
            style |= {"color": "#888888"}
        if attack == WORST:
            style |= {"color": "#000000", "linestyle": "-", "linewidth": 1.8}
        axis.plot(own["epsilon"], own[what], label=attack, **style)
        if what == "accuracy" and own["accuracy_low"].null_count() == 0:
            band = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
            axis.fill_between(own["epsilon"], own["accuracy_low"], own["accuracy_high"], **band)
    radii(axis, table.filter(pl.col("epsilon") > 0)["epsilon"].to_list())


def _told(table: pl.DataFrame, what: str, runs: Sequence[StudiedRun]) -> str:
    words = []
    for run in runs:
        own = table.filter((pl.col("run") == run.label) & ~pl.col("control") & (pl.col("epsilon") > 0)).sort("epsilon")
        ends = []
        for epsilon in (own["epsilon"].min(), own["epsilon"].max()) if len(own) else ():
            lowest = own.filter(pl.col("epsilon") == epsilon).sort(what).row(0, named=True)
            ends.append(f"{format_percent(lowest[what])} at {format_epsilon(lowest['epsilon'])} ({lowest['attack']})")
        if ends:
            words.append(f"{run.label}: from {ends[0]} to {ends[1]}, the lowest of all attacks")
    return "; ".join(words)


def _smallest(runs: Sequence[StudiedRun]) -> Sheet | None:
    found = [(run, run.summary.get("smallest") or {}) for run in runs]
    found = [(run, own) for run, own in found if own.get("norm") == "linf" and own.get("largest")]
    if not found:
        return None
    rows, areas = [], {}
    for run, own in found:
        areas[run.label] = area_under(own["points"], own["largest"])
        # attacks without a radius may need more than the largest one: the curve ends there
        inside = [one for one in own["points"] if one["distance"] <= own["largest"]]
        for one in [*inside, {**inside[-1], "distance": own["largest"]}]:
            low, high = one["share_interval"]
            rows.append({"run": run.label, "epsilon": one["distance"], "wrong": one["share"], "low": low, "high": high})
    table = pl.DataFrame(rows).with_columns(pl.col("run").replace_strict(areas).alias("area"))

    def draw() -> "Figure":
        figure, ((axis,),) = panels(1, 1, 3.4)
        for number, (label, own) in enumerate(table.group_by("run", maintain_order=True)):
            style = {**series(number + 1), "marker": ""}
            axis.step(
                own["epsilon"],
                own["wrong"],
                where="post",
                label=f"{label[0]}, area {areas[str(label[0])]:.3f}",
                **style,
            )
            band = {"color": style["color"], "alpha": 0.12, "linewidth": 0, "step": "post"}
            axis.fill_between(own["epsilon"], own["low"], own["high"], **band)
        percent(axis, "images wrong within ε")
        radii(axis, table["epsilon"].to_list(), logarithmic=False)
        figure.legend(loc="outside lower center")
        return figure

    told = "; ".join(
        f"{run.label}: area {areas[run.label]:.3f} up to {format_epsilon(own['largest'])}" for run, own in found
    )
    note = (
        "Share of images that are wrong before, or that a perturbation of at most this size is known to make wrong, by "
        "any attack of the run: a lower bound of what is possible. The area is the mean of the curve from 0 to the "
        "largest radius."
    )
    title = "Smallest perturbation that makes an image wrong"
    return Sheet("smallest", title, "", note, f"{title}. {told}.", table, draw)
