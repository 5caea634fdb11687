"""Where images are sensitive to an attack: masks over images, and their mean over those it fooled (SBF20 Fig. 4)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.figures.pictures import frame, show, show_blended
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


def _name(label: str, attack: str, found: Sequence[Masked]) -> str:
    """What a row is called: the attack, the run, or both, whatever tells it from the others."""
    if len({attack for _, attack, _ in found}) == 1:
        return label
    return attack if len({label for label, _, _ in found}) == 1 else f"{label}\n{attack}"


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
                rows[2][column].set_xlabel(f"{100 * _mask(one).mean():.0f} %", labelpad=2)
            for row, name in zip(rows, (_name(label, attack, found), attack, "mask"), strict=True):
                row[0].set_ylabel(name)
        return figure

    title = "Sensitive regions"
    told = "; ".join(
        f"{label}, {attack}: {np.mean([_mask(one).mean() for one in own]):.1%} of an image on average, {len(own)} images"
        for label, attack, own in found
    )
    note = (
        "An image, what the attack made of it, and the mask: from dark, 0, where the clean image may stay, to yellow, 1, "
        f"where the change is needed. Below it the mean of the mask. {told}."
    )
    return Sheet("masks", title, "SBF20 Fig. 4", note, f"{title}. {told}.", table, draw)


def _profiles(mean: NDArray[np.float64]) -> dict[str, list[float]]:
    """The mean in bands of equal width, from top to bottom and from left to right."""
    return {
        "top to bottom": [float(band.mean()) for band in np.array_split(mean, BANDS, 0)],
        "left to right": [float(band.mean()) for band in np.array_split(mean, BANDS, 1)],
    }


def _mean(found: Sequence[Masked]) -> Sheet:
    means = [np.mean([_mask(one) for one in own], 0) for _, _, own in found]
    table = pl.DataFrame(
        [
            {"run": label, "attack": attack, "images": len(own), "along": along, "band": band + 1, "mask": value}
            for (label, attack, own), mean in zip(found, means, strict=True)
            for along, values in _profiles(mean).items()
            for band, value in enumerate(values)
        ]
    )
    highest = max(float(mean.max()) for mean in means) or 1.0

    def draw() -> "Figure":
        figure, axes = panels(len(found), 3, height=2.0, width_ratios=[1, 1.1, 1.4])
        for (label, attack, own), mean, row in zip(found, means, axes, strict=True):
            images = np.mean([one.arrays["image"].astype(np.float64) for one in own], 0)
            show(row[0], images).set_ylabel(_name(label, attack, found))
            drawn = frame(row[1]).imshow(mean, cmap="inferno", vmin=0, vmax=highest)
            figure.colorbar(drawn, ax=row[1], label="mean mask")
            places = (np.arange(BANDS) + 0.5) / BANDS
            for number, (along, values) in enumerate(_profiles(mean).items()):
                row[2].plot(places, values, label=along, **series(number + 1))
            row[2].set_ylim(0, None)
            row[2].set_xlim(0, 1)
            row[2].set_xlabel("place in the image")
            row[2].set_ylabel("mean mask")
            row[2].legend(loc="best")
        axes[0][0].set_title("mean image")
        axes[0][1].set_title("mean mask")
        return figure

    told = "; ".join(f"{label}, {attack}: {len(own)} images" for label, attack, own in found)
    title = "Sensitive regions, the mean"
    note = f"The mean of the images that the attack fooled and of their masks, and the latter in ten bands. {told}."
    return Sheet("mean", title, "SBF20 Fig. 4", note, f"{title}. {told}.", table, draw)
