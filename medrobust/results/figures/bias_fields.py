"""Bias fields over their images, and what a bound in photographic stops costs an attacker (SBF20)."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from medrobust.results.figures.pictures import frame, shown_image
from medrobust.results.figures.sheet import FONT, PAGE, NothingToDrawError, Sheet, panels, percent, series
from medrobust.results.figures.studied_run import StudiedRun
from medrobust.results.formats import format_percent
from medrobust.results.studied import Kept

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = {"AdvSBF", "RandomBiasField"}
SHOWN = 3  # images of a run
COLUMNS = 6  # fields of an image
LEVELS = (0.25, 0.5, 0.75)  # of a field's largest size, at which it has contours on either side of 0
BRIGHT, DARK = "#e69f00", "#56b4e9"
MEASURES = {"success": "success rate", "ssim": "SSIM", "brisque": "BRISQUE"}


def bias_fields(runs: Sequence[StudiedRun]) -> list[Sheet]:
    """Fields over some images, a row for each, and success, SSIM and BRISQUE against the bound.

    Args:
        runs: The runs.

    Raises:
        NothingToDrawError: No attack of any run makes a bias field.
    """
    rows = [row for run in runs for row in _rows(run)]
    if not rows:
        raise NothingToDrawError("No attack makes a bias field: give AdvSBF, as configs/studies/sbf20_max_stops.yaml.")
    numbers = ("max_stops", "success", "low", "high", "ssim", "brisque", "brisque_clean", "psnr", "largest", "folds")
    names = {"run": pl.String, "line": pl.String, "attack": pl.String, "control": pl.Boolean}
    table = pl.DataFrame(rows, schema={**names, **dict.fromkeys(numbers, pl.Float64), "n": pl.Int64})
    fields = _fields(runs)
    return ([] if fields is None else [fields]) + [_bounds(runs, table)]


def _rows(run: StudiedRun) -> list[dict[str, Any]]:
    """A row for each attack and control that makes a field, by what it is called without its bound."""
    rows = {row["key"]: row for row in run.summary["rows"] if row["n"]}
    entries = [entry for entry in run.summary["manifest"]["attacks"] if entry["method"] in METHODS]
    entries = [entry for entry in entries if entry["key"] in rows]
    lines: dict[str, list[str]] = {}
    for entry in entries:
        lines.setdefault(_but_its_bound(entry), []).append(entry["attack"])
    starts = {family: _common_start(own) or own[0] for family, own in lines.items()}
    shared = {start for start in starts.values() if list(starts.values()).count(start) > 1}
    found = []
    for entry in entries:
        row, family = rows[entry["key"]], _but_its_bound(entry)
        low, high = row["success_rate_interval"] or (None, None)
        means = {name: row["means"].get(name) for name in ("ssim", "brisque", "brisque_clean", "psnr")}
        largest = row["means"].get("field_largest")
        found.append(
            {
                "run": run.label,
                "line": ", ".join(lines[family]) if starts[family] in shared else starts[family],
                "attack": entry["attack"],
                "control": bool(entry.get("control")),
                "max_stops": entry["parameters"].get("max_stops"),
                "success": row["success_rate"],
                "low": low,
                "high": high,
                **means,
                "largest": None if largest is None else largest / math.log(2),
                "folds": row["means"].get("warp_folds"),
                "n": row["n_correct_before"],
            }
        )
    return found


def _common_start(names: Sequence[str]) -> str:
    """What names have in common at their beginning, without what separates it from the rest.

    >>> _common_start(["field-0.5", "field-1", "field"])
    'field'
    """
    count = 0
    for letters in zip(*names, strict=False):
        if len(set(letters)) > 1:
            break
        count += 1
    return names[0][:count].rstrip("-_. ")


def _but_its_bound(entry: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in entry["parameters"].items() if name != "max_stops"}
    return json.dumps([entry["method"], kept], sort_keys=True)


def _fields(runs: Sequence[StudiedRun]) -> Sheet | None:
    """Fields over the images that were looked at; None where none has one."""
    of_runs = [(run, _of_images(run)) for run in runs]
    of_runs = [(run, found) for run, found in of_runs if found]
    if not of_runs:
        return None
    columns = max(len(kept) for _, found in of_runs for kept in found) + 1
    down = sum(len(found) for _, found in of_runs)
    numbers = [
        {"run": run.label, "image": one.id, "attack": one.about["attack"], "fooled": _fooled(one)}
        | {"lowest": float(one.arrays["stops"].min()), "highest": float(one.arrays["stops"].max())}
        for run, found in of_runs
        for kept in found
        for one in kept
    ]

    def draw() -> "Figure":
        figure, axes = panels(down, columns, PAGE, PAGE / columns * 1.18)
        every = [(run.label if kept is found[0] else "", kept) for run, found in of_runs for kept in found]
        for row, (name, kept) in zip(axes, every, strict=True):
            for axis in row:
                frame(axis)
            row[0].imshow(shown_image(kept[0].arrays["clean"]), cmap="gray", vmin=0, vmax=1)
            row[0].set_xlabel("clean", fontsize=FONT - 1)
            row[0].set_ylabel(name.replace(" \N{MIDDLE DOT} ", "\n") if len(of_runs) > 1 else "")
            for axis, one in zip(row[1:], kept, strict=False):
                _contours(axis, one)
            for axis in row[len(kept) + 1 :]:
                axis.set_axis_off()
        return figure

    title = "Bias fields over their images"
    note = (
        "Each image under each field, with contours at a quarter, a half and three quarters of the field's largest "
        "size: solid and orange where it is brighter, dashed and blue where it is darker. Below each the field's range "
        "in photographic stops, each of which doubles the light; an asterisk marks images that fool the victim."
    )
    label = f"{title}: {down} images of {', '.join(run.label for run, _ in of_runs)}, with contours of the fields."
    return Sheet("fields", title, "SBF20 Fig. 2", note, label, pl.DataFrame(numbers), draw)


def _of_images(run: StudiedRun) -> list[list[Kept]]:
    """What was kept of some images, in the order of the attacks; all have the same attacks."""
    by_attack = [kept for kept in run.studied.attacked.values() if kept and "stops" in kept[0].arrays]
    images: dict[str, list[Kept]] = {}
    for kept in by_attack[:COLUMNS]:
        for one in kept:
            images.setdefault(one.id, []).append(one)
    return list(images.values())[:SHOWN]


def _fooled(one: Kept) -> bool:
    return bool(one.about["right_before"]) and not one.about["right_after"]


def _contours(axis: "Axes", one: Kept) -> None:
    """A changed image with the contours of its field."""
    from matplotlib import patheffects

    stops = one.arrays["stops"]
    axis.imshow(shown_image(one.arrays["changed"]), cmap="gray", vmin=0, vmax=1)
    largest = float(np.abs(stops).max())
    if largest > 0:
        levels = largest * np.array(LEVELS)
        outline: list[patheffects.AbstractPathEffect] = [patheffects.withStroke(linewidth=1.8, foreground="#000000")]
        for chosen, colour, dashes in ((levels, BRIGHT, "solid"), (-levels[::-1], DARK, (0, (3, 1.5)))):
            inside = [level for level in chosen if stops.min() < level < stops.max()]
            if inside:
                lines = axis.contour(stops, levels=inside, colors=colour, linewidths=0.8, linestyles=[dashes])
                lines.set_path_effects(outline)
    star = " *" if _fooled(one) else ""
    span = f"{stops.min():+.2g} to {stops.max():+.2g}".replace("-", "\N{MINUS SIGN}")
    words = f"{one.about['attack']}{star}\n{span}"
    axis.set_xlabel(words, fontsize=FONT - 1)


def _bounds(runs: Sequence[StudiedRun], table: pl.DataFrame) -> Sheet:
    shown = [name for name in MEASURES if table[name].drop_nulls().len()]
    bounds = sorted(table["max_stops"].drop_nulls().unique().to_list())
    free = 2 * bounds[-1] if bounds else 1.0
    ticks = [*bounds, *([free] if table["max_stops"].null_count() else [])]
    drawn = table.with_columns(pl.col("max_stops").fill_null(free).alias("place")).sort("place")
    lines = table.sort("control", maintain_order=True)["line"].unique(maintain_order=True).to_list()

    def draw() -> "Figure":
        figure, axes = panels(len(runs), len(shown), PAGE, sharex=True)
        for row, run in zip(axes, runs, strict=True):
            own = drawn.filter(pl.col("run") == run.label)
            for axis, name in zip(row, shown, strict=True):
                for line in lines:
                    _line(axis, own.filter(pl.col("line") == line), name, series(lines.index(line) + 1))
                _bound_axis(axis, ticks, bounds)
                axis.tick_params(labelbottom=row is axes[-1])
                axis.set_xlabel("largest change, stops" if row is axes[-1] else "")
                axis.set_ylabel(MEASURES[name])
                if name == "success":
                    percent(axis, MEASURES[name])
                clean = own["brisque_clean"].drop_nulls()
                if name == "brisque" and len(clean):
                    axis.axhline(clean[0], color="#777777", linewidth=0.8, linestyle=":")
            if len(runs) > 1:
                row[0].set_title(run.label)
        handles = {label: one for row in axes for one, label in zip(*row[0].get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
        return figure

    title = "Bias fields against their bound"
    note = (
        "Success among the images that were right before, with 95 % intervals, and means of SSIM and BRISQUE over the "
        "changed images (dotted: of the clean ones; lower is better). A bound of one stop lets no value be multiplied "
        "by more than 2 or less than 1/2. Random fields of the same bound are the control."
    )
    told = "; ".join(
        f"{row['run']}, {row['attack']}: {format_percent(row['success'])}" for row in drawn.iter_rows(named=True)
    )
    return Sheet("bounds", title, "", note, f"{title}: success rates. {told}.", table, draw)


def _line(axis: "Axes", own: pl.DataFrame, name: str, style: dict[str, Any]) -> None:
    """One family of fields, by its bound."""
    if not len(own):
        return
    label = str(own["line"][0]) + (" (control)" if own["control"][0] else "")
    axis.plot(own["place"], own[name], label=label, **style)
    if name == "success":
        axis.fill_between(own["place"], own["low"], own["high"], color=style["color"], alpha=0.12, linewidth=0)


def _bound_axis(axis: "Axes", ticks: Sequence[float], bounds: Sequence[float]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axis.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" if tick in bounds else "none" for tick in ticks]))
    axis.xaxis.set_minor_locator(NullLocator())
