"""Grad-CAM over clean and adversarial images, and how much of both is the same (Ma20 Fig. 11)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from medrobust.results.figures.pictures import name_row, show, show_blended
from medrobust.results.figures.sheet import NothingToDrawError, Sheet, cumulative, panels, series
from medrobust.results.figures.studied_run import StudiedAttack, StudiedRun, attacks_of, fooled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN, ATTACKS = 6, 2  # images of a run, and attacks beside the control
NOISE = "#888888"
FINE = 4  # places on each side from which a map says where


def grad_cam(runs: Sequence[StudiedRun]) -> list[Sheet]:
    """Maps of some images, and the distribution of the overlap over all that were kept, a panel for each run.

    Args:
        runs: The runs, such as one of medical and one of natural images.

    Raises:
        NothingToDrawError: No image has been looked at.
    """
    found = [(run, attacks_of(run)) for run in runs if run.studied.clean]
    if len(found) < len(runs) or not any(attacks for _, attacks in found):
        raise NothingToDrawError("No image has been looked at yet, clean and under an attack.")
    table = pl.DataFrame(
        [
            {
                "run": run.label,
                "attack": attack.label,
                "control": attack.control,
                "image": one.id,
                "fooled": fooled(one),
                "overlap": _number(one.arrays["overlap"]),
            }
            for run, attacks in found
            for attack in attacks
            for one in attack.kept
        ],
        schema_overrides={"overlap": pl.Float64},
    )
    return [_maps(found, table), _overlap(found, table)]


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _shown(run: StudiedRun, attacks: Sequence[StudiedAttack]) -> list[str]:
    """Ids of the images that are shown: those that the first attack fooled come first."""
    of_attack = {one.id: one for one in attacks[0].kept} if attacks else {}
    ids = [one.id for one in run.studied.clean if one.id in of_attack]
    return sorted(ids, key=lambda id: not fooled(of_attack[id]))[:SHOWN]


def _maps(found: Sequence[tuple[StudiedRun, list[StudiedAttack]]], table: pl.DataFrame) -> Sheet:
    chosen = [(run, [one for one in attacks if not one.control][:ATTACKS] or attacks[:1]) for run, attacks in found]

    def draw() -> "Figure":
        rows = sum(2 + len(attacks) for _, attacks in chosen)
        figure, axes = panels(rows, SHOWN, height=1.3)
        for axis in (axis for row in axes for axis in row):
            axis.set_axis_off()
        top = 0
        for run, attacks in chosen:
            ids = _shown(run, attacks)
            clean = {one.id: one for one in run.studied.clean}
            for column, id in enumerate(ids):
                own = [axes[top + row][column] for row in range(2 + len(attacks))]
                for axis in own:
                    axis.set_axis_on()
                show(own[0], clean[id].arrays["image"])
                show_blended(own[1], clean[id].arrays["image"], clean[id].arrays["map"])
                for axis, attack in zip(own[2:], attacks, strict=True):
                    one = next((one for one in attack.kept if one.id == id), None)
                    if one is None:
                        axis.set_axis_off()
                        continue
                    show_blended(axis, one.arrays["image"], one.arrays["map"])
                    overlap = _number(one.arrays["overlap"])
                    axis.set_xlabel("no IoU" if overlap is None else f"IoU {overlap:.2f}", labelpad=2)
            name_row(axes[top][0], run.label)
            for row, name in enumerate(["image", "clean", *(attack.label for attack in attacks)]):
                axes[top + row][0].set_ylabel(name)
            top += 2 + len(attacks)
        return figure

    title = "Grad-CAM of clean and adversarial images"
    names = ", ".join(run.label for run, _ in chosen)
    explained = {"prediction": "class that the victim names", "truth": "true class"}
    classes = dict.fromkeys(explained[run.studied.parameters["explains"]] for run, _ in chosen)
    cells = "; ".join(f"{run.label}: {_cells(run)}" for run, _ in chosen)
    note = (
        f"Below each image the map of the {' or '.join(classes)}, of the clean image and of the adversarial one, each "
        "from dark, 0, to yellow, its largest value. Images that the first attack fooled come first. IoU is the "
        f"overlap of the largest tenths of both maps. {cells}.{_coarse(found)}"
    )
    return Sheet("maps", title, "Ma20 Fig. 11", note, f"{title}: images of {names}.", table, draw)


def _coarse(found: Sequence[tuple[StudiedRun, list[StudiedAttack]]]) -> str:
    """A caution where maps have few places."""
    fewest = min(int(one.arrays["cells"].min()) for run, _ in found for one in run.studied.clean)
    if fewest >= FINE:
        return ""
    return f" Maps of fewer than {FINE} x {FINE} places hardly say where: larger images, or an earlier layer, do."


def _cells(run: StudiedRun) -> str:
    layer = run.studied.parameters["layer"]
    sizes = dict.fromkeys(" x ".join(map(str, one.arrays["cells"].tolist())) for one in run.studied.clean)
    return f"{' or '.join(sizes)} of {'the last spatial layer' if layer is None else layer}"


def _overlap(found: Sequence[tuple[StudiedRun, list[StudiedAttack]]], table: pl.DataFrame) -> Sheet:
    names = list(dict.fromkeys(attack.label for _, attacks in found for attack in attacks))
    known = table.filter(pl.col("overlap").is_not_null())

    def draw() -> "Figure":
        figure, (axes,) = panels(1, len(found), min(7.0, 3.4 * len(found)), sharey=True)
        for axis, (run, attacks) in zip(axes, found, strict=True):
            for attack in attacks:
                own = known.filter((pl.col("run") == run.label) & (pl.col("attack") == attack.label))
                style: dict[str, Any] = series(names.index(attack.label) + 1)
                style |= {"color": NOISE} if attack.control else {}
                line = cumulative(own["overlap"].to_numpy(), start=0.0, end=1.0)
                axis.step(*line, where="post", label=attack.label, **{**style, "marker": ""})
            axis.set_xlim(-0.02, 1.02)
            axis.set_xlabel("overlap with the clean map (IoU)")
            if len(found) > 1:
                axis.set_title(run.label)
        axes[0].set_ylabel("share of images up to this")
        handles = {label: one for axis in axes for one, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
        return figure

    told = []
    for run, attacks in found:
        for attack in attacks:
            own = known.filter((pl.col("run") == run.label) & (pl.col("attack") == attack.label))
            if len(own):
                median = np.median(own["overlap"].to_numpy())
                told.append(f"{run.label}, {attack.label}: median {median:.2f} of {len(own)} images")
    lost = len(table) - len(known)
    zero = f" Pairs left out, since a map is 0 everywhere: {lost}." if lost else ""
    title = "Overlap of Grad-CAM before and after an attack"
    note = (
        "The largest tenth of the clean image's map and that of the adversarial one, of places above 0: pixels in both "
        f"over pixels in either. {'; '.join(told)}.{zero}{_coarse(found)}"
    )
    return Sheet("overlap", title, "Ma20 Fig. 11", note, f"{title}. {'; '.join(told)}.", table, draw)
