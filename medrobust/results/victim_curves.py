"""ROC curves and calibration of a victim on its clean images, from the probabilities that records hold."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.columns import label_column, label_names, probability_column
from medrobust.results.detection import patients_of
from medrobust.results.manifest import task_of
from medrobust.results.separation import Scores, auroc, roc_curve
from medrobust.results.shortcuts import patient_interval
from medrobust.results.statistics import rate_entries

POINTS = 60  # of a curve, at most
BINS = 10  # of probabilities, of equal width
LACKING = (
    "The records lack the probabilities of all classes, which ROC curves of more than two classes need; an evaluation "
    "with --journal.probabilities true keeps them."
)

Flags = NDArray[np.bool_]


def victim_curves(records: pl.DataFrame, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """How well a victim ranks its clean images, class by class, before any attack.

    Args:
        records: All records; one of each image counts.
        manifest: Its `data` names the classes or labels.

    Returns:
        Empty for tasks without classes or labels. Otherwise

        - `curves`: for each class against the others, of two classes the second, or for each label, its `name`; the
          numbers `n_positive` and `n_negative`; `auroc` with its 95 % interval over patients (Obuchowski 1997); `fpr`
          and `tpr` of at most 60 points; and `operating`, the `fpr` and `tpr` at which the victim decides.
        - `missing`: why there are no curves; "" if there are.
        - `calibration`: of labels, the bins of their probabilities, all labels together: the number of answers `n`, the
          mean `probability`, and the share `true` of those in which the label is there. Empty for classes, whose
          reliability `results.classes` has.
    """
    images = records.unique("id", keep="first", maintain_order=True)
    names = [str(name) for name in manifest["data"].get("class_names") or []]
    if task_of(manifest) in ("segmentation", "boxes") or not len(images):
        return {}
    labels = label_names(names)
    if labels and all(label_column(name, "before") in images.columns for name in labels):
        return _of_labels(images, names, labels)
    images = images.drop_nulls(["target", "clean_prediction"])
    if not len(images):
        return {}
    count = max(
        len(names), 1 + int(max(images["target"].to_numpy().max(), images["clean_prediction"].to_numpy().max()))
    )
    names += [f"class {place}" for place in range(len(names), count)]
    columns = [probability_column(place, "before") for place in range(count)]
    if set(columns) <= set(images.columns):
        images = images.drop_nulls(columns)
        shares = images.select(columns).to_numpy()
        others = np.stack([np.delete(shares, place, 1).sum(1) for place in range(count)], 1)
    elif count == 2:
        images = images.drop_nulls("quality_before")
        of_truth, second = images["quality_before"].to_numpy(), images["target"].to_numpy() == 1
        shares = np.stack([np.where(second, 1 - of_truth, of_truth), np.where(second, of_truth, 1 - of_truth)], 1)
        others = shares[:, ::-1]
    else:
        return {"curves": [], "missing": LACKING, "calibration": []}
    target, prediction = images["target"].to_numpy(), images["clean_prediction"].to_numpy()
    patients = patients_of(images)
    curves = []
    for place in [1] if count == 2 else range(count):
        scores = log_odds(shares[:, place], others[:, place])
        curves.append(_curve(names[place], scores, target == place, prediction == place, patients))
    return {"curves": curves, "missing": "", "calibration": []}


def _of_labels(images: pl.DataFrame, names: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    curves, shown, there, who = [], [], [], []
    everybody = patients_of(images)
    for name, label in zip(names, labels, strict=True):
        columns = [label_column(label, "true"), label_column(label, "before")]
        known = images.select(pl.all_horizontal(pl.col(columns).is_not_null())).to_series().to_numpy()
        probability = images[columns[1]].to_numpy()[known]
        true = images[columns[0]].to_numpy()[known] > 0
        curves.append(_curve(name, probability, true, probability > 0.5, everybody[known]))
        shown.append(probability)
        there.append(true)
        who.append(everybody[known])
    bins = calibration(np.concatenate(shown), np.concatenate(there), np.concatenate(who))
    return {"curves": curves, "missing": "", "calibration": bins}


def _curve(name: str, scores: Scores, positive: Flags, said: Flags, patients: NDArray[np.int64]) -> dict[str, Any]:
    negative = ~positive
    false, true = roc_curve(scores[negative], scores[positive], POINTS)
    operating = {"fpr": float(said[negative].mean()), "tpr": float(said[positive].mean())} if len(false) else None
    return {
        "name": name,
        "n_positive": int(positive.sum()),
        "n_negative": int(negative.sum()),
        "auroc": auroc(scores[negative], scores[positive]),
        "auroc_interval": patient_interval(scores[negative], patients[negative], scores[positive], patients[positive]),
        "fpr": np.round(false, 4).tolist(),
        "tpr": np.round(true, 4).tolist(),
        "operating": operating,
    }


def log_odds(probability: NDArray[np.float64], others: NDArray[np.float64]) -> Scores:
    """Logarithm of the odds of a probability, which still ranks answers whose probability is rounded to 1.

    Args:
        probability: Probabilities of a class, ``(N,)``.
        others: The sums of those of all other classes, ``(N,)``.

    >>> log_odds(np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.5, 0.0])).tolist()
    [-inf, 0.0, inf]
    """
    with np.errstate(divide="ignore"):
        odds: Scores = np.log(probability) - np.log(others)
    return odds


def calibration(probability: NDArray[np.float64], happened: Flags, patients: NDArray[np.int64]) -> list[dict[str, Any]]:
    """How often what is given a probability is there, in ten bins of equal width.

    Args:
        probability: Probabilities in [0, 1], ``(N,)``.
        happened: Whether each is there, ``(N,)``.
        patients: Number of the patient, from 0, of each, ``(N,)``.

    >>> bins = calibration(np.array([0.12, 0.18, 0.95]), np.array([False, True, True]), np.arange(3))
    >>> [(one["n"], round(one["probability"], 2), one["true"]) for one in bins]
    [(2, 0.15, 0.5), (1, 0.95, 1.0)]
    """
    places = np.minimum((probability * BINS).astype(int), BINS - 1)
    return [
        {
            "n": int((places == place).sum()),
            "probability": float(probability[places == place].mean()),
            **rate_entries("true", happened[places == place], patients[places == place]),
        }
        for place in np.unique(places).tolist()
    ]
