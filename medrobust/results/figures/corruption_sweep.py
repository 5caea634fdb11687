"""Accuracy and SSIM against the severity of corruptions, a panel for each kind."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from medrobust.results.figures.sheet import NothingToDrawError, Sheet, panels, percent, series
from medrobust.results.figures.studied_run import StudiedRun
from medrobust.results.formats import format_percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 5  # panels beside each other


def corruption_sweep(runs: Sequence[StudiedRun]) -> list[Sheet]:
    """The figures of corruptions, a panel for each kind and a line for each run.

    Args:
        runs: The runs.

    Returns:
        Accuracy, and SSIM where it was measured.

    Raises:
        NothingToDrawError: No run has a corruption with records.
    """
    rows = [row for run in runs for row in _rows(run)]
    if not rows:
        raise NothingToDrawError("No corruption has a record: give some by configs/attacks/corruptions_xray.yaml.")
    numbers = dict.fromkeys(("strength", "accuracy", "low", "high", "clean", "success", "ssim", "brisque"), pl.Float64)
    counts = {"severity": pl.Int64, **numbers, "n": pl.Int64}
    names = dict.fromkeys(("run", "modality", "kind", "attack"), pl.String)
    table = pl.DataFrame(rows, schema={**names, **counts})
    several = pl.col("modality").n_unique().over("run", "kind") > 1  # whose strengths are others
    table = table.with_columns(
        pl.when(several).then(pl.format("{} ({})", "kind", "modality")).otherwise("kind").alias("kind")
    )
    sheets = [_sheet("accuracy", "Accuracy under corruptions", "accuracy", table, runs)]
    if table["ssim"].drop_nulls().len():
        sheets.append(_sheet("ssim", "What corruptions leave of an image", "ssim", table, runs))
    return sheets


def _rows(run: StudiedRun) -> list[dict[str, Any]]:
    """A row for each corruption that has a record, by kind and severity."""
    entries = {entry["key"]: entry for entry in run.summary["manifest"]["attacks"]}
    clean = run.summary["rows"][0]["clean_accuracy"]
    found = []
    for row in run.summary["rows"]:
        entry = entries.get(row["key"])
        if entry is None or entry["method"] != "Corruption" or not row["n"]:
            continue
        told = {name: entry["parameters"][name] for name in ("modality", "kind", "severity", "strength")}
        low, high = row["accuracy_under_attack_interval"] or (None, None)
        values = {"accuracy": row["accuracy_under_attack"], "low": low, "high": high, "clean": clean}
        means = {name: row["means"].get(name) for name in ("ssim", "brisque")}
        found.append(
            {"run": run.label, **told, "attack": row["attack"], **values, **means}
            | {"success": row["success_rate"], "n": row["n"]}
        )
    return sorted(found, key=lambda one: one["severity"])


def _sheet(name: str, title: str, what: str, table: pl.DataFrame, runs: Sequence[StudiedRun]) -> Sheet:
    kinds = sorted(table["kind"].unique().to_list())

    def draw() -> "Figure":
        down = math.ceil(len(kinds) / ACROSS)
        across = min(ACROSS, len(kinds))
        figure, axes = panels(down, across, 1.4 * across, 1.25, sharex=True, sharey=True)
        for place, axis in enumerate(axis for row in axes for axis in row):
            if place >= len(kinds):
                axis.set_axis_off()
                continue
            for number, run in enumerate(runs):
                own = table.filter((pl.col("run") == run.label) & (pl.col("kind") == kinds[place]))
                style = series(number + 1)
                axis.plot(own["severity"], own[what], label=run.label, **style)
                if what == "accuracy" and len(own):
                    band = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
                    axis.fill_between(own["severity"], own["low"], own["high"], **band)
                    axis.axhline(own["clean"][0], color=style["color"], linewidth=0.8, linestyle=":")
            axis.set_title(kinds[place].replace("_", " "))
            axis.set_xticks([1, 2, 3, 4, 5])
            last = place + across >= len(kinds)
            axis.tick_params(labelbottom=last)
            axis.set_xlabel("severity" if last else "")
        for row in axes:
            if what == "accuracy":
                percent(row[0], "accuracy")
            else:
                row[0].set_ylim(-0.02, 1.02)
                row[0].set_ylabel("SSIM")
        if len(runs) > 1:
            handles, labels = axes[0][0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=4)
        return figure

    note = (
        "Severities are those of MedMNIST-C where it has them. The dotted line is that of the clean images, the band a "
        "95 % interval."
        if what == "accuracy"
        else "Mean structural similarity of the corrupted with the clean images; 1 is equal."
    )
    told = "; ".join(_told(table, what, run) for run in runs)
    return Sheet(name, title, "", note, f"{title}. {told}.", table, draw)


def _told(table: pl.DataFrame, what: str, run: StudiedRun) -> str:
    own = table.filter((pl.col("run") == run.label) & pl.col(what).is_not_null()).sort(what)
    if not len(own):
        return f"{run.label}: none"
    least = own.row(0, named=True)
    value = format_percent(least[what]) if what == "accuracy" else f"{least[what]:.3f}"
    return f"{run.label}: at least {value}, under {least['kind'].replace('_', ' ')} of severity {least['severity']}"
