"""How well detectors tell adversarial images from clean and noisy ones, from the records of an evaluation alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.columns import Kind, score_column
from medrobust.results.separation import Scores, auroc, bootstrap_intervals, roc_curve, tpr_at_tnr

TNR = 0.9  # HFC21: the detector may drop 10 % of the normal images
POINTS = 60  # of a ROC curve, at most


def detection(
    entries: Sequence[Mapping[str, Any]], tables: Mapping[str, pl.DataFrame], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Judge every detector on every attack, from the columns that the detectors left in the records.

    Only images that the victim has right before count. Positives are the adversarial images among them on which the
    attack succeeded; negatives are the clean and the noisy version of all of them. The noise is of the attack's own
    size. A score that is not there is left out, and n says so. Noise controls are no attack to be detected: their
    images are of the negatives' kind.

    Args:
        entries: The attacks of the manifest, in the order in which they are shown.
        tables: Records by the key of the attack, with the columns `detector_D_F`, `detector_D_F_clean` and
            `detector_D_F_noisy` for detector D whose classifier was fitted on the attack F.
        manifest: Its `listeners.detection` names the detectors and the fits; "same" is each attack's own classifier.

    Returns:
        Empty if there are no detectors. Else `detectors`, `fits`, `tnr`, and `rows`: one for each attack, fit and
        detector, with `attack`, `epsilon`, `key`, `detector`, `fit`, `n_positive` and `n_negative` (scores, so an image
        counts twice among the negatives), `auroc` and `tpr` (at that TNR, as `results.separation.tpr_at_tnr` defines
        it) with their 95 % bootstrap intervals over patients, None where a group is empty, and `roc`: `fpr` and `tpr`
        of at most 60 points.
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
        success = table["success"].fill_null(False).to_numpy()
        for fit in fits:
            for detector in detectors:
                head = {"attack": entry["attack"], "epsilon": entry["epsilon"], "key": entry["key"]}
                rows.append({**head, "detector": detector, "fit": fit, **_judge(table, success, detector, fit)})
    return {"detectors": detectors, "fits": fits, "tnr": TNR, "rows": rows}


def scores_of(table: pl.DataFrame, detector: str, fit: str, kind: Kind = "adversarial") -> Scores:
    """Scores of one detector in the order of the records, ``(N,)``; NaN where there is none.

    Args:
        table: Records of one attack.
        detector: Its name in the manifest.
        fit: The attack that its classifier was fitted on.
        kind: Version of the image.
    """
    name = score_column(detector, fit, kind)
    if name not in table.columns:
        return np.full(len(table), np.nan)
    return table[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def patients_of(table: pl.DataFrame) -> NDArray[np.int64]:
    """Number of the patient that each image shows, from 0, ``(N,)``; where none is known, the image has its own."""
    names = table["id"]
    if "patient" in table.columns:
        names = pl.select(pl.coalesce(table["patient"].cast(pl.String), names)).to_series()
    return np.unique(names.to_numpy(), return_inverse=True)[1]


def _judge(table: pl.DataFrame, success: np.ndarray, detector: str, fit: str) -> dict[str, Any]:
    clean, noisy = scores_of(table, detector, fit, "clean"), scores_of(table, detector, fit, "noisy")
    adversarial = np.where(success, scores_of(table, detector, fit), np.nan)
    scored = ~(np.isnan(clean) & np.isnan(noisy) & np.isnan(adversarial))
    clean, noisy, adversarial = clean[scored], noisy[scored], adversarial[scored]
    both, images = np.concatenate([clean, noisy]), patients_of(table)[scored]
    negative, negative_images = both[~np.isnan(both)], np.tile(images, 2)[~np.isnan(both)]
    positive, positive_images = adversarial[~np.isnan(adversarial)], images[~np.isnan(adversarial)]
    intervals = bootstrap_intervals(negative, negative_images, positive, positive_images, TNR)
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
