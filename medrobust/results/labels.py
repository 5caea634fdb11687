"""What a victim of several labels makes of each of them, clean and under attack."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from medrobust.results.columns import label_column, label_names
from medrobust.results.detection import patients_of
from medrobust.results.separation import auroc, exceeded
from medrobust.results.statistics import Z95, rate_entries


def label_results(
    rows: Sequence[Mapping[str, Any]], tables: Mapping[str | None, pl.DataFrame], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """How a victim of several labels does label by label, on the clean images and under each attack, from the records.

    Args:
        rows: The rows of a summary, the clean one first.
        tables: Records by the key of the attack, and all records under the key of the clean row, None.
        manifest: Its `data` names the labels.

    Returns:
        Empty where the records have no labels. Otherwise `names` and `rows`: one for each row of the summary that has
        images, with

        - `attack`, `epsilon`, `key`, `kind`.
        - `auroc`: the mean over the labels that have one (macro average); None if none has.
        - `labels`: for each label its numbers of images `n` (where it is known) and `n_positive`; its `auroc`; its
          `sensitivity` and `specificity`; and of the `n_right_before` images about whose label the victim was right
          before the attack the share on which it is wrong after it, `flipped`. Each rate comes with its 95 % interval
          over patients (`results.statistics.rate_interval`); None where no image decides it.
    """
    names = [str(name) for name in manifest["data"].get("class_names") or []]
    columns = label_names(names)
    present = next(iter(tables.values())).columns if tables else []
    if not columns or not all(label_column(name, "true") in present for name in columns):
        return {}
    found = []
    for row in rows:
        table = tables[row["key"]]
        if row["kind"] == "clean":
            table = table.unique("id", keep="first", maintain_order=True)
        if len(table):
            own = [_of_label(table, name, "before" if row["kind"] == "clean" else "after") for name in columns]
            areas = [label["auroc"] for label in own if label["auroc"] is not None]
            head = {name: row[name] for name in ("attack", "epsilon", "key", "kind")}
            found.append({**head, "auroc": sum(areas) / len(areas) if areas else None, "labels": own})
    return {"names": names, "rows": found}


def mean_auroc(images: pl.DataFrame, names: Sequence[Any]) -> tuple[float, list[float]] | None:
    """Mean over the labels of the AUROC on clean images, with its 95 % interval over patients.

    The interval is that of Obuchowski (Biometrics 53, 1997), of whom `results.shortcuts.patient_interval` takes it for
    a single AUROC: each patient's images move the mean by the sum of their structural components, and these sums
    scatter independently.

    Args:
        images: Records, one for each image.
        names: Names of the labels.

    Returns:
        The mean and `[lower, upper]`; None without labels, without one that images have and others lack, or with a
        single patient.
    """
    moves, areas = np.zeros(len(images)), []
    for name in label_names([str(one) for one in names]):
        columns = [label_column(name, what) for what in ("true", "before")]
        if not set(columns) <= set(images.columns):
            return None
        known = images.select(pl.all_horizontal(pl.col(columns).is_not_null())).to_series().to_numpy()
        true = images[columns[0]].fill_null(0).to_numpy() > 0
        shown, with_it, without = images[columns[1]].to_numpy(), known & true, known & ~true
        area = auroc(shown[without], shown[with_it])
        if area is None:
            continue
        areas.append(area)
        moves[with_it] += (exceeded(shown[without], shown[with_it]) - area) / with_it.sum()
        moves[without] += (1 - exceeded(shown[with_it], shown[without]) - area) / without.sum()
    sums = np.bincount(patients_of(images), moves)
    if not areas or len(sums) < 2:
        return None
    mean = sum(areas) / len(areas)
    half = Z95 * math.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(areas)
    return mean, [max(0.0, mean - half), min(1.0, mean + half)]


def _of_label(table: pl.DataFrame, name: str, when: str) -> dict[str, Any]:
    known = table.drop_nulls([label_column(name, what) for what in ("true", "before", "after")])
    true, patients = known[label_column(name, "true")].to_numpy() > 0, patients_of(known)
    before, after = (known[label_column(name, what)].to_numpy() for what in ("before", "after"))
    shown = before if when == "before" else after
    right = (before > 0.5) == true
    flipped = right & ((shown > 0.5) != true)
    hits = (shown > 0.5) == true
    return {
        "n": len(known),
        "n_positive": int(true.sum()),
        "auroc": auroc(shown[~true], shown[true]),
        **rate_entries("sensitivity", hits[true], patients[true]),
        **rate_entries("specificity", hits[~true], patients[~true]),
        "n_right_before": int(right.sum()),
        **rate_entries("flipped", flipped[right], patients[right]),
    }
