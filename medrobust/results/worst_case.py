"""The worst that several attacks of one radius do to each image, class by class and label by label."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from medrobust.results.columns import label_column, label_names
from medrobust.results.detection import patients_of
from medrobust.results.statistics import mean_interval, rate_entries

JUDGED = ("correct_before", "correct_after", "quality_before", "quality_after")
NEEDED = ("id", "patient", "target", "clean_prediction", "adversarial_prediction", "correct_before", "correct_after")


def worst_case(
    entries: Sequence[Mapping[str, Any]], tables: Mapping[str, pl.DataFrame], qualities: bool
) -> list[dict[str, Any]]:
    """Accuracy, and quality, if each image meets the attack of a radius that harms it most.

    The clean image is within every radius: an image counts as right if it is right before and after every attack.

    Args:
        entries: The attacks of the manifest; controls do not count.
        tables: Records by the key of the attack.
        qualities: Whether outputs are masks or boxes, whose quality says more than right and wrong.

    Returns:
        For each radius of an attack, over the images that all attacks of the radius have tried: `epsilon`, `attacks`,
        `n`, `n_correct_after`, and the `accuracy` with its 95 % `accuracy_interval` over patients. With qualities also
        `quality`, the mean of the lowest quality that an image has before or after any of these attacks, with
        `quality_interval` and `n_quality`, the number of images that have one after each attack.
    """
    worst = []
    for epsilon, counted in _by_radius(entries):
        every = pl.concat(tables[entry["key"]].select("id", "patient", *JUDGED) for entry in counted)
        tried = (
            every.group_by("id")
            .agg(
                pl.col("patient").first(),
                (pl.col("correct_before") & pl.col("correct_after")).all().alias("standing"),
                pl.min_horizontal("quality_before", "quality_after").min().alias("quality"),
                pl.col("quality_after").null_count().alias("without"),
                pl.len().alias("attempts"),
            )
            .filter(pl.col("attempts") == len(counted))
            .sort("id")
        )
        standing = tried["standing"].to_numpy()
        worst.append(
            {
                "epsilon": epsilon,
                "attacks": [entry["attack"] for entry in counted],
                "n": len(tried),
                "n_correct_after": int(standing.sum()),
                **rate_entries("accuracy", standing, patients_of(tried)),
                **(_lowest_quality(tried) if qualities else {}),
            }
        )
    return worst


def worst_case_results(
    entries: Sequence[Mapping[str, Any]], tables: Mapping[str, pl.DataFrame], manifest: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What becomes of each class if an image counts as wrong where it is wrong before, or any attack makes it wrong.

    Args:
        entries: The attacks of the manifest, in the order in which they are shown; controls do not count.
        tables: Records by the key of the attack.
        manifest: Its `data` names the classes or labels.

    Returns:
        For each radius of an attack, over the images that all attacks of the radius have tried:

        - `epsilon`, `attacks`, `n`, and `n_right_before`, the number of images that were right before.
        - `n_turned`, how many of these any attack makes wrong, and their share `turned`.
        - `classes`: for each class its `n` and the share `right` of its images that are right before and that no attack
          makes wrong. Empty where no image has one true and one predicted class.
        - `confusion`: numbers of images, `[true class][predicted class]`, where an image that was made wrong counts for
          what the first of the attacks, in their order, made of it, and one that was wrong before and is right after
          them all for what it was taken for before; empty without classes.
        - `labels`: for each label its `n_positive` and `n_negative`, and `sensitivity` and `specificity` if an image
          with the label counts as found only where it is found before and under all attacks, and one without it
          likewise. Empty without labels.

        Each share comes with its 95 % interval over patients; it is None where no image decides it.
    """
    names = [str(name) for name in manifest["data"].get("class_names") or []]
    return [
        {
            "epsilon": epsilon,
            "attacks": [entry["attack"] for entry in counted],
            **_of_radius([tables[entry["key"]] for entry in counted], names),
        }
        for epsilon, counted in _by_radius(entries)
    ]


def bounded_attacks(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The attacks that have a radius and whose radii can be compared: those of one norm; controls do not count.

    Where attacks have several norms, L-infinity is taken, else that of the first: a radius of the image's logarithm is
    none of its grey values, even if the numbers are the same.
    """
    attacks = [entry for entry in entries if not entry.get("control") and entry.get("epsilon") is not None]
    norms = [entry.get("norm", "linf") for entry in attacks]
    norm = norms[0] if norms and "linf" not in norms else "linf"
    return [entry for entry in attacks if entry.get("norm", "linf") == norm]


def _by_radius(entries: Sequence[Mapping[str, Any]]) -> list[tuple[float, list[Mapping[str, Any]]]]:
    """The attacks of each radius, by increasing radius."""
    attacks = bounded_attacks(entries)
    radii = sorted({float(entry["epsilon"]) for entry in attacks})
    return [(epsilon, [entry for entry in attacks if entry["epsilon"] == epsilon]) for epsilon in radii]


def _lowest_quality(tried: pl.DataFrame) -> dict[str, Any]:
    """Mean over the images of their lowest quality; one to which some attack leaves none counts nowhere."""
    images = tried.filter(pl.col("without") == 0)
    return {
        "quality": images["quality"].mean(),
        "quality_interval": mean_interval(images["quality"].to_numpy(), patients_of(images)),
        "n_quality": len(images),
    }


def _of_radius(parts: Sequence[pl.DataFrame], names: Sequence[str]) -> dict[str, Any]:
    labels = _labels_in(parts, names)
    wanted = [*NEEDED, *(label_column(name, what) for name in labels for what in ("true", "before", "after"))]
    every = pl.concat([part.select(wanted) for part in parts])
    wrong = pl.col("adversarial_prediction").filter(~pl.col("correct_after"))
    mistaken = pl.col("clean_prediction").filter(~pl.col("correct_before"))
    hits = [
        pl.all_horizontal(
            (pl.col(label_column(name, when)) > 0.5) == (pl.col(label_column(name, "true")) > 0)
            for when in ("before", "after")
        )
        .all()
        .alias(name)
        for name in labels
    ]
    images = (
        every.group_by("id", maintain_order=True)
        .agg(
            pl.col("patient", "target", "correct_before").first(),
            (pl.col("correct_before") & pl.col("correct_after")).all().alias("correct_after"),
            pl.coalesce(wrong.first(), mistaken.first(), pl.col("target").first()).alias("prediction"),
            pl.len().alias("attempts"),
            *hits,
            *(pl.col(label_column(name, "true")).first() for name in labels),
        )
        .filter(pl.col("attempts") == len(parts))
    )
    patients = patients_of(images)
    before, after = images["correct_before"].to_numpy(), images["correct_after"].to_numpy()
    return {
        "n": len(images),
        "n_right_before": int(before.sum()),
        "n_turned": int((before & ~after).sum()),
        **rate_entries("turned", ~after[before], patients[before]),
        **_of_classes(images, names),
        "labels": [_of_label(images, label, name) for label, name in zip(labels, names, strict=False)],
    }


def _labels_in(parts: Sequence[pl.DataFrame], names: Sequence[str]) -> list[str]:
    """How the columns of all parts name the labels; empty where one has none."""
    labels = label_names(names)
    present = [set(part.columns) for part in parts]
    return labels if all(label_column(name, "true") in one for one in present for name in labels) else []


def _of_classes(images: pl.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    known = images.drop_nulls(["target", "prediction"])
    if not len(known):
        return {"classes": [], "confusion": []}
    target, prediction = known["target"].to_numpy(), known["prediction"].to_numpy()
    count = max(len(names), 1 + int(max(target.max(), prediction.max())))
    confusion = np.bincount(target * count + prediction, minlength=count**2).reshape(count, count)
    right, patients = known["correct_after"].to_numpy(), patients_of(known)
    classes = [
        {"n": int((target == place).sum()), **rate_entries("right", right[target == place], patients[target == place])}
        for place in range(count)
    ]
    return {"classes": classes, "confusion": confusion.tolist()}


def _of_label(images: pl.DataFrame, label: str, name: str) -> dict[str, Any]:
    known = images.drop_nulls([label, label_column(label, "true")])
    true, hit = known[label_column(label, "true")].to_numpy() > 0, known[label].to_numpy()
    patients = patients_of(known)
    return {
        "name": name,
        "n_positive": int(true.sum()),
        "n_negative": int((~true).sum()),
        **rate_entries("sensitivity", hit[true], patients[true]),
        **rate_entries("specificity", hit[~true], patients[~true]),
    }
