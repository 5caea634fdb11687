"""AUROC of every detector against the radius, with and without hiding (HFC21 Fig. 3b)."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from medrobust.results.figures.sheet import NothingToDrawError, Sheet, panels, radii, series
from medrobust.results.figures.studied_run import StudiedRun, of_other_norms, said_of_other_norms
from medrobust.results.formats import format_epsilon, format_score
from medrobust.results.hiding import hiding_terms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 3  # panels in a row
CHANCE = 0.5


def detection_sweep(runs: Sequence[StudiedRun]) -> list[Sheet]:
    """A figure for each attack that detectors were fitted on: a panel for each detector, a line for each attack.

    Args:
        runs: The runs; the lines of several stand in the same panels.

    Raises:
        NothingToDrawError: No detector has an AUROC at two radii or more.
    """
    table = pl.concat([_rows(run) for run in runs])
    known = table.filter(pl.col("auroc").is_not_null())
    if known["epsilon"].n_unique() < 2:
        raise NothingToDrawError(
            "Detection against the radius needs detectors, and attacks that succeed at two radii or more: give several "
            "by attack.epsilons."
        )
    fits = known["fit"].unique(maintain_order=True).to_list()
    return [_sheet(fit, table.filter(pl.col("fit") == fit), runs) for fit in fits]


def _rows(run: StudiedRun) -> pl.DataFrame:
    """A row for each attack, radius, detector and fit."""
    entries: Sequence[Mapping[str, Any]] = run.summary["manifest"]["attacks"]
    hiding = {entry["key"] for entry in entries if hiding_terms(entry.get("parameters") or {})}
    wanted = run.studied.parameters.get("attacks")
    rows, others = [], of_other_norms(run)
    for row in (run.summary.get("detection") or {}).get("rows", []):
        if row["epsilon"] is None or row["key"] in others or (wanted and row["attack"] not in wanted):
            continue
        low, high = row["auroc_interval"] or (None, None)
        rows.append(
            {
                "run": run.label,
                "attack": row["attack"],
                "hides": row["key"] in hiding,
                "detector": row["detector"],
                "fit": row["fit"],
                "epsilon": row["epsilon"],
                "auroc": row["auroc"],
                "auroc_low": low,
                "auroc_high": high,
                "n_positive": row["n_positive"],
                "n_negative": row["n_negative"],
            }
        )
    words = dict.fromkeys(("run", "attack", "detector", "fit"), pl.String) | {"hides": pl.Boolean}
    numbers = dict.fromkeys(("epsilon", "auroc", "auroc_low", "auroc_high"), pl.Float64)
    schema = words | numbers | dict.fromkeys(("n_positive", "n_negative"), pl.Int64)
    order = ("run", "attack", "hides", "detector", "fit", *numbers, "n_positive", "n_negative")
    return pl.DataFrame(rows, schema={name: schema[name] for name in order})


def _sheet(fit: str, table: pl.DataFrame, runs: Sequence[StudiedRun]) -> Sheet:
    known = table.filter(pl.col("auroc").is_not_null())
    detectors = known["detector"].unique(maintain_order=True).to_list()
    unknown = [name for name in table["detector"].unique(maintain_order=True) if name not in detectors]
    lines = list(table.select("run", "attack", "hides").unique(maintain_order=True).iter_rows())

    def draw() -> "Figure":
        columns = min(len(detectors), SIDE)
        rows = math.ceil(len(detectors) / columns)
        figure, grid = panels(rows, columns, min(7.0, 3.4 * columns), 1.9, sharey=True, sharex=True)
        axes = [axis for row in grid for axis in row]
        for axis, detector in zip(axes, detectors, strict=False):
            _panel(axis, table.filter(pl.col("detector") == detector), lines, len(runs) > 1)
            axis.set_title(detector)
        for axis in axes[len(detectors) :]:
            axis.set_axis_off()
        for axis in axes[: len(detectors) - columns]:
            axis.set_xlabel("")
        for place in range(len(detectors) - columns, len(detectors)):
            axes[place].tick_params(labelbottom=True)
        for row in grid:
            row[0].set_ylabel("AUROC")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(lines), 3))
        return figure

    whom = "each attack itself" if fit == "same" else fit
    told = _told(table, lines) + (f" Without any AUROC: {', '.join(unknown)}." if unknown else "")
    title = f"Detection against the radius, detectors fitted on {whom}"
    note = (
        "Solid lines: attacks that hide; dotted lines: attacks that do not. Bands are 95 % intervals over patients. "
        "Grey: chance; far below it a detector finds the images for whoever turns it round. A radius at which an "
        f"attack fools nobody has no AUROC. {told}{said_of_other_norms(runs)}"
    )
    return Sheet(fit, title, "HFC21 Fig. 3b", note, f"{title}. {told}", table, draw)


def _panel(axis: "Axes", table: pl.DataFrame, lines: Sequence[tuple[str, str, bool]], named: bool) -> None:
    axis.axhline(CHANCE, color="#aaaaaa", linewidth=0.8)
    for number, (run, attack, hides) in enumerate(lines):
        own = table.filter((pl.col("run") == run) & (pl.col("attack") == attack) & pl.col("auroc").is_not_null())
        own = own.sort("epsilon")
        style = {**series(number + 1), "linestyle": "-" if hides else (0, (1, 1.2))}
        axis.plot(own["epsilon"], own["auroc"], label=f"{run}: {attack}" if named else attack, **style)
        known = own.filter(pl.col("auroc_low").is_not_null())
        band: dict[str, Any] = {"color": style["color"], "alpha": 0.12, "linewidth": 0}
        axis.fill_between(known["epsilon"], known["auroc_low"], known["auroc_high"], **band)
    axis.set_ylim(-0.03, 1.03)
    radii(axis, table["epsilon"].to_list())


def _told(table: pl.DataFrame, lines: Sequence[tuple[str, str, bool]]) -> str:
    """The mean AUROC over all detectors at the smallest and the largest radius of each line."""
    words = []
    for run, attack, _ in lines:
        own = table.filter((pl.col("run") == run) & (pl.col("attack") == attack) & pl.col("auroc").is_not_null())
        ends = dict.fromkeys((own["epsilon"].min(), own["epsilon"].max())) if len(own) else {}
        means = [_mean(own.filter(pl.col("epsilon") == end)) for end in ends]
        words.append(f"{run}, {attack}: {' and '.join(means) or 'none'}")
    return f"Mean AUROC (%) over the detectors, and how many images were fooled: {'; '.join(words)}."


def _mean(table: pl.DataFrame) -> str:
    """Mean AUROC at one radius, and the most adversarial images that a detector has told from the others."""
    mean, images = float(table["auroc"].to_numpy().mean()), max(table["n_positive"].to_list())
    return f"{format_score(mean)} at {format_epsilon(table['epsilon'][0])} ({images} images)"
