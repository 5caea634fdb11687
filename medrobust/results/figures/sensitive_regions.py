"""Where images are sensitive to an attack: masks over images, and their mean over those it fooled (SBF20 Fig. 4)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.figures.pictures import frame, name_row, show, show_blended
from medrobust.results.figures.sheet import NothingToDrawError, Sheet, panels, series
from medrobust.results.figures.studied_run import StudiedRun, attacks_of, fooled
from medrobust.results.studied import Kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6  # images of a run
BANDS = 10  # of the profiles

Masked = tuple[str, str, list[Kept]]  # run, attack, the images that it fooled


def sensitive_regions(runs: Sequence[StudiedRun]) -> list[Sheet]:
    """Masks of some images, and the mean mask over the images that an attack fooled, rows for each run and attack.

    Args:
        runs: The runs.

    Raises:
        NothingToDrawError: No attack has fooled any of the images.
    """
    found: list[Masked] = [
        (run.label, attack.label, own)
        for run in runs
        for attack in attacks_of(run)
        if (own := [one for one in attack.kept if fooled(one)])
    ]
    if not found:
        raise NothingToDrawError("No attack has turned any of the images from right to wrong yet.")
    return [_masks(found), _mean(found)]


def _change(one: Kept) -> NDArray[np.float64]:
    """How far the attack has moved each pixel, the mean of the channels."""
    moved: NDArray[np.float64] = one.arrays["adversarial"].astype(np.float64) - one.arrays["image"]
    return np.abs(moved).mean(0)


def _mask(one: Kept) -> NDArray[np.float64]:
    return one.arrays["mask"].astype(np.float64)


def _masks(found: Sequence[Masked]) -> Sheet:
    scores = ("score_clean", "score_adversarial", "score_masked")
    table = pl.DataFrame(
        [
            {
                **{"run": label, "attack": attack, "image": one.id, "share": float(_mask(one).mean())},
                **{name: float(one.arrays[name]) for name in scores},
            }
            for label, attack, own in found
            for one in own
        ]
    )

    def draw() -> "Figure":
        figure, axes = panels(3 * len(found), SHOWN, height=1.3)
        for place, (label, attack, own) in enumerate(found):
            rows = axes[3 * place : 3 * place + 3]
            for column in range(SHOWN):
                if column >= len(own):
                    for row in rows:
                        row[column].set_axis_off()
                    continue
                one = own[column]
                show(rows[0][column], one.arrays["image"])
                show(rows[1][column], one.arrays["adversarial"])
                show_blended(rows[2][column], one.arrays["image"], _mask(one))
                rows[2][column].set_xlabel(f"{100 * _mask(one).mean():.1f} %", labelpad=2)
            name_row(rows[0][0], label)
            for row, name in zip(rows, ("image", attack, "mask"), strict=True):
                row[0].set_ylabel(name)
        return figure

    title = "Sensitive regions"
    told = "; ".join(
        f"{label}, {attack}: a mean mask of {np.mean([_mask(one).mean() for one in own]):.3f}, {len(own)} images"
        for label, attack, own in found
    )
    note = (
        "An image, what the attack made of it, and the mask: from dark, 0, where the clean image may stay, to yellow, "
        f"1, where the change is needed. Below it the mean of the mask. {told}."
    )
    return Sheet("masks", title, "SBF20 Fig. 4", note, f"{title}. {told}.", table, draw)


def _profiles(mean: NDArray[np.float64]) -> dict[str, list[float]]:
    """The mean in bands of equal width, from top to bottom and from left to right."""
    return {
        "top to bottom": [float(band.mean()) for band in np.array_split(mean, BANDS, 0)],
        "left to right": [float(band.mean()) for band in np.array_split(mean, BANDS, 1)],
    }


def _mean(found: Sequence[Masked]) -> Sheet:
    means = [
        {"mask": np.mean([_mask(one) for one in own], 0), "change": np.mean([_change(one) for one in own], 0)}
        for _, _, own in found
    ]
    table = pl.DataFrame(
        [
            {"run": label, "attack": attack, "images": len(own), "along": along, "band": band + 1}
            | {"mask": values[band], "change": _profiles(mean["change"])[along][band]}
            for (label, attack, own), mean in zip(found, means, strict=True)
            for along, values in _profiles(mean["mask"]).items()
            for band in range(BANDS)
        ]
    )
    highest = {name: max(float(mean[name].max()) for mean in means) or 1.0 for name in ("mask", "change")}

    def draw() -> "Figure":
        figure, axes = panels(len(found), 4, height=1.9, width_ratios=[1, 1.2, 1.2, 1.6])
        for (label, attack, own), mean, row in zip(found, means, axes, strict=True):
            images = np.mean([one.arrays["image"].astype(np.float64) for one in own], 0)
            name_row(show(row[0], images), f"{label}, {attack}: {len(own)} images")
            row[0].set_xlabel("mean image")
            for axis in row[:3]:
                axis.set_anchor("N")
            for axis in row[1:]:
                axis.set_title(" ")
            for axis, name, words in ((row[1], "change", "mean change"), (row[2], "mask", "mean mask")):
                drawn = frame(axis).imshow(mean[name], cmap="inferno", vmin=0, vmax=highest[name])
                axis.set_xlabel(words)
                figure.colorbar(drawn, ax=axis, shrink=0.7)
            places = (np.arange(BANDS) + 0.5) / BANDS
            for number, (along, values) in enumerate(_profiles(mean["mask"]).items()):
                row[3].plot(places, values, label=along, **series(number + 1))
            row[3].set_ylim(0, None)
            row[3].set_xlim(0, 1)
            row[3].set_xlabel("place in the image")
            row[3].set_ylabel("mean mask")
        handles, labels = axes[0][3].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=2)
        return figure

    told = "; ".join(f"{label}, {attack}: {len(own)} images" for label, attack, own in found)
    title = "Sensitive regions, the mean"
    note = (
        "Means of the images that the attack fooled, of how far it moved their pixels (absolute values, the mean of "
        "the channels, of images in [0, 1]), and of their masks, the latter in ten bands, too. A mask cannot lie where "
        f"nothing was moved: compare the two maps. {told}."
    )
    return Sheet("mean", title, "SBF20 Fig. 4", note, f"{title}. {told}.", table, draw)
