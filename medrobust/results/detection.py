"""How well detectors tell adversarial images from clean and noisy ones, computed from the records alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.columns import Kind, score_column
from medrobust.results.separation import Scores, auroc, bootstrap_intervals, roc_curve, tpr_at_tnr

TNR = 0.9  # HFC21: the detector may flag 10 % of the normal images
POINTS = 60  # of an ROC curve, at most


def detection(
    entries: Sequence[Mapping[str, Any]], tables: Mapping[str, pl.DataFrame], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Evaluate every detector on every attack, from the scores in the records.

    Only images that the victim got right before the attack count. Positives are the adversarial images of successful
    attacks; negatives are the clean and the noisy version of every image, with noise as large as the attack's
    perturbation. Missing scores are left out and lower the counts. Noise controls are not attacks to be detected: their
    images resemble the negatives.

    Args:
        entries: The attacks of the manifest, in the order in which they are shown.
        tables: Records by the key of the attack, with the columns that `results.columns.score_column` names.
        manifest: Its `listeners.detection` names the detectors and the fits: the attacks that classifiers were fitted
            on, where "same" stands for the evaluated attack itself.

    Returns:
        Empty without detectors. Otherwise `detectors`, `fits`, `tnr`, and `rows`: one for each attack, fit and
        detector, with `attack`, `epsilon`, `key`, `detector`, `fit`, `n_positive` and `n_negative` (numbers of scores,
        so each image counts twice among the negatives), `auroc` and `tpr` (at that TNR, see
        `results.separation.tpr_at_tnr`) with their 95 % bootstrap intervals over patients, all None where a group is
        empty, and `roc`: `fpr` and `tpr` of at most 60 points.
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
    return np.unique(names.to_numpy(), return_inverse=True)[1]


def _separation(table: pl.DataFrame, detector: str, fit: str) -> dict[str, Any]:
    clean, noisy = scores_of(table, detector, fit, "clean"), scores_of(table, detector, fit, "noisy")
    adversarial = np.where(table["success"].to_numpy(), scores_of(table, detector, fit), np.nan)
    scored = ~(np.isnan(clean) & np.isnan(noisy) & np.isnan(adversarial))
    clean, noisy, adversarial = clean[scored], noisy[scored], adversarial[scored]
    both, patients = np.concatenate([clean, noisy]), patients_of(table)[scored]
    negative, negative_patients = both[~np.isnan(both)], np.tile(patients, 2)[~np.isnan(both)]
    positive, positive_patients = adversarial[~np.isnan(adversarial)], patients[~np.isnan(adversarial)]
    intervals = bootstrap_intervals(negative, negative_patients, positive, positive_patients, TNR)
    false, true = roc_curve(negative, positive, POINTS)
    return {
        "n_positive": len(positive),
        "n_negative": len(negative),
        "auroc": auroc(negative, positive),
        "auroc_interval": intervals.auroc,
        "tpr": tpr_at_tnr(negative, positive, TNR),
        "tpr_interval": intervals.tpr,
        "roc": {"fpr": np.round(false, 4).tolist(), "tpr": np.round(true, 4).tolist()},
    }
