"""The worst that several attacks of one radius do to each image, class by class and label by label."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from medrobust.results.columns import label_column, label_names
from medrobust.results.detection import patients_of
from medrobust.results.statistics import rate_entries

NEEDED = ("id", "patient", "target", "adversarial_prediction", "correct_after")


def clean_verdicts(records: pl.DataFrame) -> pl.DataFrame:
    """What the victim made of each clean image, by its first record.

    Args:
        records: All records.

    Returns:
        One row for each image: `id`, whether it is `right_clean`, its `quality_clean` and `prediction_clean`.
    """
    return records.unique("id", keep="first", maintain_order=True).select(
        "id",
        right_clean="correct_before",
        quality_clean="quality_before",
        prediction_clean=pl.col("clean_prediction").cast(pl.Int64),
    )


def worst_case_results(
    entries: Sequence[Mapping[str, Any]],
    tables: Mapping[str, pl.DataFrame],
    manifest: Mapping[str, Any],
    clean: pl.DataFrame,
) -> list[dict[str, Any]]:
    """What becomes of each class if an image counts as wrong as soon as any attack of a radius makes it wrong.

    An image that is wrong from the start counts as wrong, too: the clean image is in every ball.

    Args:
        entries: The attacks of the manifest, in the order in which they are shown; controls do not count.
        tables: Records by the key of the attack.
        manifest: Its `data` names the classes or labels.
        clean: As `clean_verdicts` gives it.

    Returns:
        For each radius of an attack, over the images that all attacks of the radius have tried:

        - `epsilon`, `attacks`, `n`, and `n_right_before`, the number of images that were right before.
        - `n_turned`, how many of these any attack makes wrong, and their share `turned`.
        - `classes`: for each class its `n` and the share `right` of its images that are right and stay so under every
          attack. Empty where no image has one true and one predicted class.
        - `confusion`: numbers of images, `[true class][predicted class]`, where an image that was made wrong counts for
          what the first of the attacks, in their order, made of it, and one that only the clean victim gets wrong for
          what that predicts; empty without classes.
        - `labels`: for each label its `n_positive` and `n_negative`, and `sensitivity` and `specificity` if an image
          with the label counts as found only where it is found in the clean image and under all attacks, and one
          without it likewise. Empty without labels.

        Each share comes with its 95 % interval over patients; it is None where no image decides it.
    """
    attacks = [entry for entry in entries if not entry["control"] and entry["epsilon"] is not None]
    names = [str(name) for name in manifest["data"].get("class_names") or []]
    found = []
    for epsilon in sorted({entry["epsilon"] for entry in attacks}):
        at_epsilon = [entry for entry in attacks if entry["epsilon"] == epsilon]
        parts = [tables[entry["key"]] for entry in at_epsilon]
        found.append(
            {
                "epsilon": epsilon,
                "attacks": [entry["attack"] for entry in at_epsilon],
                **_of_radius(parts, names, clean),
            }
        )
    return found


def _of_radius(parts: Sequence[pl.DataFrame], names: Sequence[str], clean: pl.DataFrame) -> dict[str, Any]:
    labels = _labels_in(parts, names)
    wanted = [*NEEDED, *(label_column(name, what) for name in labels for what in ("true", "before", "after"))]
    every = pl.concat([part.select(wanted) for part in parts])
    wrong = pl.col("adversarial_prediction").filter(~pl.col("correct_after"))
    hits = [
        pl.all_horizontal(
            ((pl.col(label_column(name, when)) > 0.5) == (pl.col(label_column(name, "true")) > 0)).all()
            for when in ("before", "after")
        ).alias(name)
        for name in labels
    ]
    images = (
        every.group_by("id", maintain_order=True)
        .agg(
            pl.col("patient", "target").first(),
            pl.col("correct_after").all(),
            wrong.first().alias("wrongly"),
            pl.len().alias("attempts"),
            *hits,
            *(pl.col(label_column(name, "true")).first() for name in labels),
        )
        .filter(pl.col("attempts") == len(parts))
        .join(clean, on="id", how="left", maintain_order="left")
        .with_columns(
            pl.col("correct_after") & pl.col("right_clean"),
            prediction=pl.coalesce(
                "wrongly", pl.when("right_clean").then("target").otherwise("prediction_clean").cast(pl.Int64)
            ),
        )
    )
    patients = patients_of(images)
    before, after = images["right_clean"].to_numpy(), images["correct_after"].to_numpy()
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
