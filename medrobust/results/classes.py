"""What a classifier makes of each class, clean and under attack: confusion, sensitivity, kappa, AUROC, calibration."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.columns import probability_column
from medrobust.results.detection import patients_of
from medrobust.results.separation import auroc
from medrobust.results.statistics import rate_entries

BINS = 15  # of equal width over [0, 1], as in Guo et al. (2017)

Counts = NDArray[np.int64]
When = Literal["before", "after"]


def class_results(
    rows: Sequence[Mapping[str, Any]], tables: Mapping[str | None, pl.DataFrame], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """How a classifier does class by class, on the clean images and under each attack, from the records alone.

    Args:
        rows: The rows of a summary, the clean one first.
        tables: Records by the key of the attack, and all records under the key of the clean row, None.
        manifest: Its `data` names the classes, and says by `ordered` whether they are grades.

    Returns:
        Empty where no image has one true and one predicted class. Otherwise `names`, `ordered`, `bins`, and `rows`: one
        for each row of the summary that has such images, with

        - `attack`, `epsilon`, `key`, `kind`, and `n`, the number of these images.
        - `confusion`: numbers of images, `[true class][predicted class]`.
        - `classes`: for each class its `n`, and `sensitivity` and `specificity` with their 95 % intervals over patients
          (`results.statistics.rate_interval`); None where no image decides them.
        - `kappa`: Cohen's with quadratic weights (`quadratic_kappa`), for ordered grades; else None.
        - `auroc`: the mean over the classes of each one's AUROC against all others; for two classes that of class 1.
          None if the records lack the probabilities: of two classes they follow from the quality, of more they are
          the columns of the listener `ClassProbabilities`.
        - `calibration_error` and `reliability`, as `reliability` gives them.
    """
    found = []
    for row in rows:
        when: When = "before" if row["kind"] == "clean" else "after"
        table = tables[row["key"]]
        if row["kind"] == "clean":
            table = table.unique("id", keep="first", maintain_order=True)
        prediction = "clean_prediction" if when == "before" else "adversarial_prediction"
        table = table.drop_nulls(["target", prediction])
        if len(table):
            found.append((row, when, table.rename({prediction: "prediction"})))
    if not found:
        return {}
    names = [str(name) for name in manifest["data"].get("class_names") or []]
    largest = max(int(table.select(pl.max_horizontal("target", "prediction")).max().item()) for _, _, table in found)
    names += [f"class {place}" for place in range(len(names), largest + 1)]
    ordered = bool(manifest["data"].get("ordered", False))
    return {
        "names": names,
        "ordered": ordered,
        "bins": BINS,
        "rows": [_row(row, when, table, len(names), ordered) for row, when, table in found],
    }


def _row(row: Mapping[str, Any], when: When, table: pl.DataFrame, classes: int, ordered: bool) -> dict[str, Any]:
    target, prediction, patients = table["target"].to_numpy(), table["prediction"].to_numpy(), patients_of(table)
    confusion = np.bincount(target * classes + prediction, minlength=classes**2).reshape(classes, classes)
    confidences = table["clean_confidence" if when == "before" else "adversarial_confidence"]
    known = confidences.is_not_null().to_numpy()
    right = table[f"correct_{when}"].to_numpy()
    error, bins = reliability(confidences.to_numpy()[known], right[known], patients[known])
    return {
        **{name: row[name] for name in ("attack", "epsilon", "key", "kind")},
        "n": len(table),
        "confusion": confusion.tolist(),
        "classes": [_of_class(target == place, prediction == place, patients) for place in range(classes)],
        "kappa": quadratic_kappa(confusion) if ordered else None,
        "auroc": _auroc(table, when, classes),
        "calibration_error": error,
        "reliability": bins,
    }


def _of_class(of_it: NDArray[np.bool_], found: NDArray[np.bool_], patients: Counts) -> dict[str, Any]:
    """Sensitivity and specificity of a class against all others, from which images are of it and are taken for it."""
    return {
        "n": int(of_it.sum()),
        **rate_entries("sensitivity", found[of_it], patients[of_it]),
        **rate_entries("specificity", ~found[~of_it], patients[~of_it]),
    }


def quadratic_kappa(confusion: Counts) -> float | None:
    """Cohen's kappa with quadratic weights (Cohen, Psychol. Bull. 1968): agreement of ordered grades beyond chance.

    One minus the mean squared distance between true and predicted grades, divided by that of independent ones with the
    same frequencies: 1 if all agree, 0 for as much agreement as chance gives, negative for less.

    Args:
        confusion: Numbers of images ``(K, K)``, by true and by predicted grade.

    Returns:
        None where chance alone would agree fully, as all images are of one grade and predicted as it.

    >>> round(quadratic_kappa(np.array([[2, 0], [1, 1]])), 4)  # 1 - (1 / 4) / ((2 * 1 + 2 * 3) / 16)
    0.5
    """
    places = np.arange(len(confusion))
    weights = (places[:, None] - places) ** 2
    total = confusion.sum()
    chance = float((weights * np.outer(confusion.sum(1), confusion.sum(0))).sum())
    return None if not chance else float(1 - (weights * confusion).sum() * total / chance)


def reliability(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], patients: Counts
) -> tuple[float | None, list[dict[str, Any]]]:
    """Expected calibration error (Guo et al., ICML 2017, arXiv:1706.04599, eq. 3) and the bins of its diagram.

    The images are sorted into 15 bins ((m - 1) / 15, m / 15] by the probability of their predicted class. The error is
    the mean over the images of how far the share of right ones in their bin is from the bin's mean probability.

    Args:
        confidence: Probability of the predicted class, ``(N,)`` in (0, 1].
        right: Whether the prediction is right, ``(N,)``.
        patients: Number of the patient that each image shows, from 0, ``(N,)``.

    Returns:
        The error, None without images, and each bin that has images: its `lower` and `upper` edge, its number of images
        `n`, their mean `confidence`, and their `accuracy` with its 95 % interval over patients.

    >>> error, _ = reliability(np.array([0.9, 0.9, 0.6]), np.array([True, False, True]), np.arange(3))
    >>> round(error, 4)  # (2 * 0.4 + 0.4) / 3
    0.4
    """
    edges = np.linspace(0, 1, BINS + 1)
    places = (np.searchsorted(edges, confidence) - 1).clip(0, BINS - 1)
    bins, total = [], 0.0
    for place in np.unique(places).tolist():
        inside = places == place
        n, mean = int(inside.sum()), float(confidence[inside].mean())
        accuracy = rate_entries("accuracy", right[inside], patients[inside])
        total += n * abs(accuracy["accuracy"] - mean)
        bins.append(
            {
                "lower": float(edges[place]),
                "upper": float(edges[place + 1]),
                "n": n,
                "confidence": mean,
                **accuracy,
            }
        )
    return (total / len(confidence) if len(confidence) else None), bins


def _log_odds(probability: NDArray[np.float64], against: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the odds; infinite where one of the two is 0."""
    with np.errstate(divide="ignore"):
        odds: NDArray[np.float64] = np.log(probability) - np.log(against)
    return odds


def _auroc(table: pl.DataFrame, when: When, classes: int) -> float | None:
    """Macro AUROC of one class against the others; None if the records lack probabilities."""
    columns = [probability_column(place, when) for place in range(classes)]
    # log-odds, since probabilities of confident answers are all 1
    if set(columns) <= set(table.columns):
        table = table.drop_nulls(columns)
        shares = table.select(columns).to_numpy()
        compared = [1] if classes == 2 else list(range(classes))
        scores = [_log_odds(shares[:, place], np.delete(shares, place, 1).sum(1)) for place in compared]
    elif classes == 2:
        table = table.drop_nulls(f"quality_{when}")
        quality = table[f"quality_{when}"].to_numpy()
        compared = [1]
        scores = [_log_odds(quality, 1 - quality) * np.where(table["target"].to_numpy() == 1, 1, -1)]
    else:
        return None
    targets = table["target"].to_numpy()
    areas = [
        auroc(values[targets != place], values[targets == place])
        for place, values in zip(compared, scores, strict=True)
    ]
    defined = [area for area in areas if area is not None]
    return sum(defined) / len(defined) if defined else None
