"""The smallest perturbation that makes an image wrong: its distribution, and the patients who are fragile."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.detection import patients_of
from medrobust.results.statistics import rate_entries

POINTS = 60  # of the curve, at most
PATIENTS = 10  # in the table
NORMS = ("linf", "l2")  # whose length the records hold


class Smallest(NamedTuple):
    """The smallest known perturbation of each image.

    Args:
        images: One row for each image, in the order of their ids: `id`, `patient`, `right` before any attack, the
            `smallest` perturbation that makes it wrong (0 if it was wrong before, infinity if none does), the
            number of `attempts` of all attacks, and how many of them made it wrong, `broken`.
        norm: How perturbations are measured.
        largest: The largest radius that an attack was bound to; None if none was.
    """

    images: pl.DataFrame
    norm: str
    largest: float | None


def smallest_of(entries: Sequence[Mapping[str, Any]], tables: Mapping[str, pl.DataFrame]) -> Smallest | None:
    """The smallest known perturbation of each image over all attacks in one norm; controls do not count.

    An attack that is bound to a radius counts with that radius, since it asks for no smaller one; one that looks for
    the smallest perturbation counts with the length of what it found. Where attacks have several norms, L-infinity is
    taken.

    Args:
        entries: The attacks of the manifest.
        tables: Records by the key of the attack.

    Returns:
        None where no attack has such a norm or no image was tried.
    """
    norm, counted = counted_attacks(entries)
    if not counted:
        return None
    parts = []
    for entry in counted:
        radius = pl.lit(float(entry["epsilon"])) if is_bounded(entry) else pl.col(norm).cast(pl.Float64)
        wrong = ~pl.col("correct_after")
        distance = pl.when(~pl.col("correct_before")).then(0.0).when(wrong).then(radius).otherwise(float("inf"))
        parts.append(
            tables[entry["key"]].select("id", "patient", "correct_before", distance.alias("distance"), wrong.alias("w"))
        )
    images = (
        pl.concat(parts)
        .group_by("id")
        .agg(
            pl.col("patient").first(),
            pl.col("correct_before").first().alias("right"),
            pl.col("distance").min().alias("smallest"),
            pl.len().alias("attempts"),
            pl.col("w").sum().alias("broken"),
        )
        .sort("id")
    )
    radii = [float(entry["epsilon"]) for entry in counted if is_bounded(entry)]
    return Smallest(images, norm, max(radii, default=None)) if len(images) else None


def counted_attacks(entries: Sequence[Mapping[str, Any]]) -> tuple[str, list[Mapping[str, Any]]]:
    """The norm in which a run's smallest perturbations are told, and the attacks in it; controls do not count."""
    real = [entry for entry in entries if not entry.get("control") and entry.get("norm", "linf") in NORMS]
    norms = [str(entry.get("norm", "linf")) for entry in real]
    norm = norms[0] if norms and "linf" not in norms else "linf"
    return norm, [entry for entry in real if entry.get("norm", "linf") == norm]


def is_bounded(entry: Mapping[str, Any]) -> bool:
    """Whether an attack keeps to a radius that was given, rather than looking for the smallest."""
    return entry.get("epsilon") is not None and not entry.get("minimal", False)


def median_of(distances: NDArray[np.float64]) -> float:
    """The smallest distance that at least half of some images need no more than; infinity if there is none."""
    return float(np.sort(distances)[(len(distances) - 1) // 2])


def smallest_results(found: Smallest | None) -> dict[str, Any]:
    """How many images a perturbation of each size is known to make wrong.

    Args:
        found: As `smallest_of` gives it.

    Returns:
        Empty without images. Otherwise `norm`, `largest`, the number of images `n`, of them `n_wrong_before` and
        `n_never`, which no attack makes wrong; `median`, the smallest perturbation that is known to make at least half
        of the images wrong, None if none does; and `points` with a `distance`, the `share` of all images that are
        wrong before or within it, and that share's 95 % `share_interval` over patients, at 60 distances at most.
    """
    if found is None:
        return {}
    distances, patients = found.images["smallest"].to_numpy(), patients_of(found.images)
    ordered, median = np.sort(distances), median_of(distances)
    places = np.unique(ordered[np.isfinite(ordered) & (ordered > 0)])
    if len(places) > POINTS:
        places = places[np.unique(np.linspace(0, len(places) - 1, POINTS).round().astype(int))]
    points = [
        {"distance": place, **rate_entries("share", distances <= place, patients)} for place in [0.0, *places.tolist()]
    ]
    return {
        "norm": found.norm,
        "largest": found.largest,
        "n": len(distances),
        "n_wrong_before": int((distances == 0).sum()),
        "n_never": int(np.isinf(distances).sum()),
        "median": median if np.isfinite(median) else None,
        "points": points,
    }


def fragile_patients(found: Smallest | None) -> dict[str, Any]:
    """The patients whose images take least to be made wrong, among those with an image that was right before.

    Args:
        found: As `smallest_of` gives it.

    Returns:
        Empty without such a patient. Otherwise `known`, whether the records name patients (where they do not, each
        image stands for one), their number `n`, and at most ten `rows` with `patient`, the numbers of `images`, of
        those `right` before and of those `turned` by any attack, the `smallest` perturbation that turns one, None if
        none does, and `tries`, the share of all attempts on these images that made them wrong. They are in the order of
        the smallest perturbation, and then of that share.
    """
    if found is None or not found.images["right"].any():
        return {}
    known = found.images["patient"].null_count() < len(found.images)
    names = pl.coalesce(pl.col("patient").cast(pl.String), pl.col("id")).alias("patient")
    right = pl.col("right")
    table = (
        found.images.with_columns(names)
        .group_by("patient")
        .agg(
            pl.len().alias("images"),
            right.sum(),
            (right & pl.col("smallest").is_finite()).sum().alias("turned"),
            pl.col("smallest").filter(right).min(),
            (pl.col("broken").filter(right).sum() / pl.col("attempts").filter(right).sum()).alias("tries"),
        )
        .filter(pl.col("right") > 0)
        .sort("smallest", pl.col("tries"), "patient", descending=[False, True, False])
    )
    rows = table.head(PATIENTS).with_columns(pl.when(pl.col("smallest").is_finite()).then("smallest").alias("smallest"))
    return {"known": known, "n": len(table), "rows": rows.to_dicts()}
