"""How well detectors tell adversarial images from clean and noisy ones, computed from the records alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.columns import (
    Kind,
    fitted_positives_column,
    score_column,
    threshold_column,
    wrong_signs_column,
)
from medrobust.results.separation import Scores, auroc, bootstrap_intervals, roc_curve, tpr_at_tnr
from medrobust.results.statistics import rate_interval

TNR = 0.9  # HFC21: the detector may flag 10 % of the normal images
POINTS = 60  # of an ROC curve, at most

Groups = Mapping[str, tuple[Scores, NDArray[np.int64]]]  # scores and patients of each kind of image


def detection(
    entries: Sequence[Mapping[str, Any]], tables: Mapping[str, pl.DataFrame], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Evaluate every detector on every attack, from the scores in the records.

    Only images that the victim got right before the attack count. Positives are the adversarial images of successful
    attacks; negatives are the clean and the noisy version of every image, with noise as long as the attack's
    perturbation. Two kinds of image that are neither stand beside them: random signs, which look like a step of an
    attack, and what an attack changed without success. Missing scores are left out and lower the counts. Noise controls
    are not attacks to be detected: their images resemble the negatives.

    Args:
        entries: The attacks of the manifest, in the order in which they are shown.
        tables: Records by the key of the attack, with the columns that `results.columns.score_column` names.
        manifest: Its `listeners.detection` names the detectors and the fits: the attacks that classifiers were fitted
            on, where "same" stands for the evaluated attack itself.

    Returns:
        Empty without detectors. Otherwise `detectors`, `fits`, `tnr`, and `rows`: one for each attack, fit and
        detector, with

        - `attack`, `epsilon`, `key`, `detector`, `fit`.
        - `n_positive` and `n_negative`: numbers of scores, so that an image counts twice among the negatives.
        - `auroc` and `tpr`, the latter at that TNR of these negatives themselves (see
          `results.separation.tpr_at_tnr`), with 95 % intervals over patients; None where a group is empty. Where an
          AUROC has no interval, there are too few patients.
        - `roc`: `fpr` and `tpr` of at most 60 points.
        - `controls`: AUROC of the `signs` and of the `unsuccessful` images against the same negatives.
        - `threshold`, which was set on clean images when the detector was fitted, and `flagged`: the `rate` of the
          `successful`, `clean`, `noisy`, `signs` and `unsuccessful` images above it, each with `interval` and `n`. All
          None in records of a version that kept no threshold, or where none could be set.
        - `fitted_positives`, the number of adversarial images that the classifier learnt from, and `wrong_signs`, how
          many of its weights have the wrong sign; None if unknown.
    """
    known = manifest.get("listeners", {}).get("detection") or {}
    if not known.get("detectors"):
        return {}
    detectors, fits = list(known["detectors"]), list(known["fits"])
    rows = []
    for entry in entries:
        if entry.get("control") or entry.get("method") == "UniformNoise":
            continue
        table = tables[entry["key"]].filter(pl.col("correct_before"))
        for fit in fits:
            for detector in detectors:
                head = {"attack": entry["attack"], "epsilon": entry["epsilon"], "key": entry["key"]}
                rows.append({**head, "detector": detector, "fit": fit, **_separation(table, detector, fit)})
    return {"detectors": detectors, "fits": fits, "tnr": TNR, "rows": rows}


def scores_of(table: pl.DataFrame, detector: str, fit: str, kind: Kind = "adversarial") -> Scores:
    """Scores of one detector in the order of the records, ``(N,)``; NaN where a score is missing.

    Args:
        table: Records of one attack.
        detector: Name of the detector in the manifest.
        fit: Attack that its classifier was fitted on.
        kind: Version of the images that was scored.
    """
    name = score_column(detector, fit, kind)
    if name not in table.columns:
        return np.full(len(table), np.nan)
    return table[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def patients_of(table: pl.DataFrame) -> NDArray[np.int64]:
    """Number of the patient that each image shows, from 0, ``(N,)``; an image of an unknown patient counts as one."""
    names = table["id"]
    if "patient" in table.columns:
        names = pl.select(pl.coalesce(table["patient"].cast(pl.String), names)).to_series()
    return names.rank("dense").cast(pl.Int64).to_numpy() - 1


def _separation(table: pl.DataFrame, detector: str, fit: str) -> dict[str, Any]:
    groups = _groups(table, detector, fit)
    positive, positive_patients = groups["successful"]
    negative, negative_patients = (
        np.concatenate(parts) for parts in zip(groups["clean"], groups["noisy"], strict=True)
    )
    intervals = bootstrap_intervals(negative, negative_patients, positive, positive_patients, TNR)
    false, true = roc_curve(negative, positive, POINTS)
    threshold = _only(table, threshold_column(detector, fit))
    return {
        "n_positive": len(positive),
        "n_negative": len(negative),
        "auroc": auroc(negative, positive),
        "auroc_interval": intervals.auroc,
        "tpr": tpr_at_tnr(negative, positive, TNR),
        "tpr_interval": intervals.tpr,
        "roc": {"fpr": np.round(false, 4).tolist(), "tpr": np.round(true, 4).tolist()},
        "controls": {name: auroc(negative, groups[name][0]) for name in ("signs", "unsuccessful")},
        "threshold": threshold,
        "flagged": {name: _flagged(*groups[name], threshold) for name in groups},
        "fitted_positives": _only(table, fitted_positives_column(fit)),
        "wrong_signs": _only(table, wrong_signs_column(detector, fit)),
    }


def _groups(table: pl.DataFrame, detector: str, fit: str) -> Groups:
    """The scores that each kind of image has, with the patient of each, numbered from 0 over all kinds."""
    success, changed = table["success"].to_numpy(), (table["linf"] > 0).to_numpy()
    adversarial = scores_of(table, detector, fit)
    kinds = {
        "successful": np.where(success, adversarial, np.nan),
        "clean": scores_of(table, detector, fit, "clean"),
        "noisy": scores_of(table, detector, fit, "noisy"),
        "signs": scores_of(table, detector, fit, "signs"),
        "unsuccessful": np.where(~success & changed, adversarial, np.nan),
    }
    scored = ~np.all([np.isnan(scores) for scores in kinds.values()], axis=0)
    patients = np.unique(patients_of(table)[scored], return_inverse=True)[1]
    return {
        name: (scores[scored][~np.isnan(scores[scored])], patients[~np.isnan(scores[scored])])
        for name, scores in kinds.items()
    }


def _flagged(scores: Scores, patients: NDArray[np.int64], threshold: float | None) -> dict[str, Any]:
    """Share of scores above the threshold, its interval, and their number."""
    if threshold is None or not len(scores):
        return {"rate": None, "interval": None, "n": len(scores)}
    above = scores > threshold
    return {"rate": float(above.mean()), "interval": rate_interval(above, patients), "n": len(scores)}


def _only(table: pl.DataFrame, name: str) -> float | None:
    """The one value of a column that is the same in all records; None if there is none, or more than one."""
    values: list[Any] = table[name].drop_nulls().unique().to_list() if name in table.columns else []
    return float(values[0]) if len(values) == 1 else None
