"""The summary of an evaluation: one row for each attack and radius, with intervals and the flags of self-checks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.boxes import box_results
from medrobust.results.checks import check
from medrobust.results.classes import class_results
from medrobust.results.columns import BROKEN_BY, COLUMNS, DOUBTS, MEASURES, SCORE_PATTERNS, judge_column
from medrobust.results.detection import detection, patients_of
from medrobust.results.evaluations import evaluations_of
from medrobust.results.formats import all_printable
from medrobust.results.labels import label_results
from medrobust.results.manifest import read_manifest, task_of, write_json
from medrobust.results.masks import mask_results
from medrobust.results.records import read_records
from medrobust.results.smallest import fragile_patients, smallest_of, smallest_results
from medrobust.results.statistics import mean_interval, rate_entries
from medrobust.results.timings import Timing, read_timings, timing_entries
from medrobust.results.victim_curves import victim_curves
from medrobust.results.worst_case import worst_case, worst_case_results

SCHEMA = 1
SUMMARY = "summary.json"
RATES = ("accuracy_under_attack", "success_rate")
QUALITIES = ("quality_before", "quality_after")


def summarise(
    records: pl.DataFrame, manifest: Mapping[str, Any], timings: Mapping[str, Timing] | None = None
) -> dict[str, Any]:
    """Reduce the records of an evaluation to one row for each attack and radius.

    Two rates are kept apart: `success_rate` is the share of successful attacks among the images that were right before;
    `accuracy_under_attack` is the share of all images that are right after. Each comes with its count and a 95 %
    interval `[lower, upper]` over patients (`results.statistics.rate_interval`), as all rates do. Beside them,
    `quality_before` and `quality_after` are the means over the `n_quality_before` and `n_quality_after` images that
    have a quality, each with a 95 % interval by a normal approximation that counts patients, not images
    (`results.statistics.mean_interval`). What is undefined (a rate of no images) is None.

    Args:
        records: Merged records, as `merge` and `read_records` return them.
        manifest: The manifest of the same evaluation: it says which attacks and how many images there should be.
        timings: What each attack took, by its key, as `read_timings` gives it.

    Returns:
        An object that is written to JSON as it is:

        - `schema`: the version of this object.
        - `manifest`: a copy of the manifest.
        - `rows`: first the clean row, then the controls, then the attacks in the manifest's order, each by
          increasing epsilon. A row's `kind` is "clean", "control" or "attack".
        - `worst_case`: what is left if each image meets the attack that harms it most, see `results.worst_case`.
        - `checks` and `flags`: the self-checks, each with its number of comparisons, and what they found.
        - `detection`: how well detectors do, see `results.detection`; empty without them.
        - `classes`: confusion, sensitivity, kappa and calibration, clean and under each attack, see `results.classes`;
          empty for victims that do not name one class per image.
        - `labels`, `masks` and `boxes`: the same for each label, for masks and for boxes, see `results.labels`,
          `results.masks` and `results.boxes`; empty for other tasks.
        - `worst_case_classes`, `smallest`, `fragile_patients` and `victim_curves`: see `_of_images`.
    """
    entries = sorted(_entries(manifest), key=lambda entry: not entry["control"])
    by_key = {key: rows for (key,), rows in records.group_by("key", maintain_order=True)}
    tables = {entry["key"]: by_key.get(entry["key"], records.clear()) for entry in entries}
    rows = [row | timing_entries(timings or {}, row["key"]) for row in _rows(records, entries, tables, manifest)]
    of_rows = {None: records, **tables}
    detected = detection([entry for entry in entries if not entry["control"]], tables, manifest)
    checks, flags = check(rows, tables, manifest, records, detected)
    return {
        "schema": SCHEMA,
        "manifest": dict(manifest),
        "rows": rows,
        "worst_case": worst_case(entries, tables, QUALITIES[1] in columns_shown(manifest)),
        "checks": checks,
        "flags": flags,
        "detection": detected,
        "classes": class_results(rows, of_rows, manifest),
        "labels": label_results(rows, of_rows, manifest),
        "masks": mask_results(rows, of_rows, manifest),
        "boxes": box_results(rows, of_rows, manifest),
        **_of_images(records, entries, tables, manifest),
    }


def _rows(
    records: pl.DataFrame,
    entries: Sequence[Mapping[str, Any]],
    tables: Mapping[str, pl.DataFrame],
    manifest: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The clean row, and one for each attack and radius."""
    expected = int(manifest["data"]["images"])
    judges, weights = manifest.get("listeners", {}).get("judges", {}), manifest.get("victim", {}).get("weights")
    rows = [_clean_row(records, expected)]
    for entry in entries:
        table, patients = tables[entry["key"]], patients_of(tables[entry["key"]])
        of_judges = {"transfer": _transfer(table, patients, judges, weights)}
        rows.append(_row(entry, table, patients, expected) | of_judges)
    return rows


def _of_images(
    records: pl.DataFrame,
    entries: Sequence[Mapping[str, Any]],
    tables: Mapping[str, pl.DataFrame],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """What all attacks together do to each image, and how well the clean images are told apart.

    - `worst_case_classes`: the worst case class by class and label by label, see `results.worst_case` too.
    - `smallest` and `fragile_patients`: the smallest perturbations that make images wrong, and whose images take least,
      see `results.smallest`; empty without attacks that have such a norm.
    - `victim_curves`: ROC of the clean images, see `results.victim_curves`; empty without classes or labels.
    """
    smallest = smallest_of(entries, tables)
    return {
        "worst_case_classes": worst_case_results(entries, tables, manifest),
        "smallest": smallest_results(smallest),
        "fragile_patients": fragile_patients(smallest),
        "victim_curves": victim_curves(records, manifest),
    }


def columns_shown(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Entries of a summary's row that tables show: the rates, and the qualities unless the victim is a classifier.

    A classifier's quality is the probability of the true class, which adds little to the rates. The quality of masks
    and boxes tells how far off an output is.
    """
    return RATES if task_of(manifest) == "classification" else RATES + QUALITIES


def write_summary(folder: str | Path) -> dict[str, Any]:
    """Summarise the merged records of an evaluation into `summary.json`, atomically.

    Args:
        folder: The folder of the evaluation.

    Raises:
        ValueError: If the manifest or the records are missing or damaged.
    """
    summary = summarise(read_records(folder), read_manifest(folder), read_timings(folder))
    write_json(Path(folder) / SUMMARY, summary)
    return summary


def read_summary(folder: str | Path) -> dict[str, Any]:
    """Read the summary of an evaluation; its texts are as a terminal can show them.

    Args:
        folder: Folder of the run, or of its evaluation.

    Raises:
        ValueError: If there is no summary, or it is damaged or of another schema.
    """
    places = (Path(folder) / SUMMARY, Path(folder) / "evaluate" / SUMMARY)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        others = " or ".join(map(str, evaluations_of(Path(folder))))
        what = f"give {others}" if others else "evaluate that run first"
        raise ValueError(f"there is no {SUMMARY} in {places[0].parent} or {places[1].parent}: {what}")
    try:
        summary: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError:
        raise ValueError(f"{path} is damaged: evaluate that run again, which attacks no image anew") from None
    found = summary.get("schema") if isinstance(summary, dict) else None
    if found != SCHEMA:
        raise ValueError(
            f"{path}: this version reads summaries of schema {SCHEMA}, got {found}: evaluate that run again, which "
            "attacks no image anew"
        )
    kinds = {"manifest": dict, "rows": list}
    if wrong := [name for name, kind in kinds.items() if not isinstance(summary.get(name), kind)]:
        raise ValueError(
            f"{path} is damaged, it has no {' and no '.join(wrong)}: evaluate that run again, which attacks no image "
            "anew"
        )
    shown: dict[str, Any] = all_printable(summary)
    return shown


def _entries(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The manifest's attacks, in the order of their names' first appearance and then by epsilon, None last."""
    defaults: dict[str, Any] = {"method": None, "epsilon": None, "control": False, "parameters": {}, "norm": "linf"}
    entries = [{**defaults, **entry} for entry in manifest["attacks"]]
    names = list(dict.fromkeys(entry["attack"] for entry in entries))
    return sorted(
        entries,
        key=lambda entry: (names.index(entry["attack"]), entry["epsilon"] is None, entry["epsilon"] or 0.0),
    )


def _clean_row(records: pl.DataFrame, expected: int) -> dict[str, Any]:
    images = records.unique("id", keep="first")
    seen = records.drop_nulls("quality_before").unique("id", keep="first", maintain_order=True)
    head = _head("clean", None, None, None, "clean", images["correct_before"].to_numpy(), patients_of(images), expected)
    named = images["patient"].drop_nulls().n_unique() if "patient" in images.columns else 0
    return {
        **head,
        "n_patients": named,  # 0 where nobody says whom the images show
        **{f"accuracy_under_attack{end}": head[f"clean_accuracy{end}"] for end in ("", "_interval")},
        **{"success_rate": None, "success_rate_interval": None},
        "n_correct_after": head["n_correct_before"],
        "n_success": 0,
        **_quality("quality_before", seen["quality_before"], patients_of(seen)),
        **_quality("quality_after", seen["quality_before"], patients_of(seen)),  # nothing has changed the images
        "n_changed": 0,
        "median_linf": None,
        "median_l2": None,
        "mean_forwards": None,
        "mean_backwards": None,
        "zero_gradient_share": None,
        "means": {},
        "undefined": {},
        "broken_by": {},
        "transfer": {},
    }


def _row(entry: Mapping[str, Any], table: pl.DataFrame, patients: NDArray[np.int64], expected: int) -> dict[str, Any]:
    before, after, success = (table[name].to_numpy() for name in ("correct_before", "correct_after", "success"))
    backwards = int(table["backwards"].sum())
    kind = "control" if entry["control"] else "attack"
    # an image that an attack gave up on comes back unchanged: its distance of 0 would make the attack look gentle
    changed = table.filter(pl.col("linf") > 0)
    return {
        **_head(entry["attack"], entry["method"], entry["epsilon"], entry["key"], kind, before, patients, expected),
        **rate_entries("accuracy_under_attack", after, patients),
        **rate_entries("success_rate", success[before], patients[before]),
        "n_correct_after": int(after.sum()),
        "n_success": int(success.sum()),
        **_quality("quality_before", table["quality_before"], patients),
        **_quality("quality_after", table["quality_after"], patients),
        "n_changed": len(changed),
        "median_linf": changed["linf"].median(),
        "median_l2": changed["l2"].median(),
        "mean_forwards": table["forwards"].mean(),
        "mean_backwards": table["backwards"].mean(),
        "zero_gradient_share": int(table["zero_gradients"].sum()) / backwards if backwards else 0.0,
        **_means(changed),
        "broken_by": _broken_by(table),
    }


def _head(
    attack: str,
    method: str | None,
    epsilon: float | None,
    key: str | None,
    kind: str,
    right: NDArray[np.bool_],
    patients: NDArray[np.int64],
    expected: int,
) -> dict[str, Any]:
    n = len(right)
    return {
        "attack": attack,
        "method": method,
        "epsilon": epsilon,
        "key": key,
        "kind": kind,
        "control": kind == "control",
        "n": n,
        "images": expected,
        "complete": n == expected,
        "n_correct_before": int(right.sum()),
        **rate_entries("clean_accuracy", right, patients),
    }


def _quality(name: str, values: pl.Series, patients: NDArray[np.int64]) -> dict[str, Any]:
    """Mean of the images' qualities over those that have one, with its interval and their number."""
    known = values.is_not_null().to_numpy()
    found = values.drop_nulls()
    return {
        name: found.mean(),
        f"{name}_interval": mean_interval(found.to_numpy(), patients[known]),
        f"n_{name}": len(found),
    }


def _transfer(
    table: pl.DataFrame, patients: NDArray[np.int64], judges: Mapping[str, str], weights: str | None
) -> dict[str, Any]:
    """How often each judge is fooled by an attack's images, among those that it got right before."""
    found = {}
    for judge, weights_of_judge in judges.items():
        if judge_column(judge, "before") not in table.columns:
            continue
        before, after, success = (
            table[judge_column(judge, what)].fill_null(False).cast(pl.Boolean).to_numpy()
            for what in ("before", "after", "success")
        )
        found[judge] = {
            "same_weights": weights_of_judge == weights,
            "n_correct_before": int(before.sum()),
            "n_success": int((before & success).sum()),
            **rate_entries("success_rate", success[before], patients[before]),
            **rate_entries("clean_accuracy", before, patients),
            **rate_entries("accuracy_under_attack", after, patients),
        }
    return found


def _means(table: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Means of the measurements, which are all numeric columns beside the table's, and how many images lack a value."""
    numeric = table.select(pl.selectors.numeric() | pl.selectors.boolean())
    measured = numeric.select(pl.exclude([*COLUMNS, *DOUBTS, *SCORE_PATTERNS]))
    order = {name: place for place, name in enumerate(MEASURES)}
    columns = sorted(measured.get_columns(), key=lambda column: order.get(column.name, len(order)))
    means = {column.name: column.cast(pl.Float64).drop_nulls().mean() for column in columns}
    defined = {name: float(mean) for name, mean in means.items() if isinstance(mean, float)}
    return {"means": defined, "undefined": {name: measured[name].null_count() for name in defined}}


def _broken_by(table: pl.DataFrame) -> dict[str, int]:
    """How many of the successes each attack of a worst case had, the most first."""
    if BROKEN_BY not in table.columns:
        return {}
    names = table.filter(pl.col("success"))[BROKEN_BY].drop_nulls().cast(pl.String)
    counts = names.value_counts().sort(["count", BROKEN_BY], descending=[True, False])
    return dict(counts.iter_rows())
