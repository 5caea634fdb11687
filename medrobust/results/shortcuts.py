"""Shortcuts: how well a single number that says nothing of the findings tells the classes of a dataset apart."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrobust.results.separation import Scores, auroc, auroc_score_interval, exceeded
from medrobust.results.statistics import FEWEST, Z95

# Where both classes are normal with equal variances, an area of 0.7 is a threshold on this one number that puts 64 %
# of both on their side: enough to train on, and more than chance explains once the interval lies above it.
SHORTCUT = 0.7


def shortcuts(
    features: Mapping[str, Scores], targets: NDArray[np.int64], names: Sequence[str], patients: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """AUROC of each feature between each class and the rest.

    Two classes that exclude each other are one comparison, of the second with the first.

    Args:
        features: For each feature a number per image, ``(N,)``, NaN where there is none.
        targets: Class of each image, ``(N,)``; or for each of L labels 1, 0, or negative if unknown, ``(N, L)``.
        names: Names of the classes or labels.
        patients: Number of the patient that each image shows, from 0, ``(N,)``.

    Returns:
        `{"feature", "class", "against", "auroc", "interval", "higher", "n_positive", "n_negative", "undefined"}` each:
        `auroc` is at least 0.5, `higher` says whether the class has the higher values, `interval` is that of the AUROC
        in this direction and may reach below 0.5, `undefined` counts images without a value. `auroc` is None where
        one side has no image. Features in the order given, for each the classes in their order.
    """
    return [
        _compared(feature, values, name, against, positive, negative, patients)
        for feature, values in features.items()
        for name, against, positive, negative in _sides(targets, names)
    ]


def _sides(
    targets: NDArray[np.int64], names: Sequence[str]
) -> list[tuple[str, str, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Each comparison: a class, what it is compared with, and which images are its own and which are the others'."""
    if targets.ndim == 2:
        return [
            (name, f"no {name}", targets[:, place] == 1, targets[:, place] == 0) for place, name in enumerate(names)
        ]
    if len(names) == 2:
        return [(names[1], names[0], targets == 1, targets == 0)]
    return [(name, "the other classes", targets == place, targets != place) for place, name in enumerate(names)]


def _compared(
    feature: str,
    values: Scores,
    name: str,
    against: str,
    positive: NDArray[np.bool_],
    negative: NDArray[np.bool_],
    patients: NDArray[np.int64],
) -> dict[str, Any]:
    """One row of `shortcuts`."""
    known = ~np.isnan(values)
    mine, others = known & positive, known & negative
    area = auroc(values[others], values[mine])
    interval = patient_interval(values[others], patients[others], values[mine], patients[mine])
    higher = area is None or area >= 0.5
    if not higher and area is not None:
        area = 1 - area
        interval = None if interval is None else [1 - interval[1], 1 - interval[0]]
    return {
        "feature": feature,
        "class": name,
        "against": against,
        "auroc": area,
        "interval": interval,
        "higher": higher,
        "n_positive": int(mine.sum()),
        "n_negative": int(others.sum()),
        "undefined": int(((positive | negative) & ~known).sum()),
    }


def patient_interval(
    negative: Scores, negative_patients: NDArray[np.int64], positive: Scores, positive_patients: NDArray[np.int64]
) -> list[float] | None:
    """95 % interval of an AUROC whose images belong to patients (Obuchowski, Biometrics 53, 1997).

    The variance of the area is that of sums over patients of DeLong's structural components, so that images of one
    patient count together, also where they lie on both sides. Limits are those of the area's logit, which stay within
    (0, 1). With one image a patient this is DeLong's (1988) interval.

    At an area of 0 or 1, or without any spread, the interval is `auroc_score_interval` with patients as numbers.

    Args:
        negative: Scores, ``(N,)``.
        negative_patients: Number of the patient of each, from 0, ``(N,)``.
        positive: Scores, ``(M,)``.
        positive_patients: The same for the positives, ``(M,)``.

    Returns:
        `[lower, upper]`; None with fewer than `FEWEST` patients on either side.
    """
    counts = len(np.unique(negative_patients)), len(np.unique(positive_patients))
    area = auroc(negative, positive)
    if area is None or min(counts) < FEWEST:
        return None
    above, below = exceeded(negative, positive), 1 - exceeded(positive, negative)
    number = 1 + int(max(negative_patients.max(), positive_patients.max()))
    ups = np.bincount(positive_patients, above - area, number)
    downs = np.bincount(negative_patients, below - area, number)
    everybody = len(np.union1d(negative_patients, positive_patients))
    m, n = len(positive), len(negative)
    variance = (
        counts[1] / (counts[1] - 1) * (ups**2).sum() / m**2
        + counts[0] / (counts[0] - 1) * (downs**2).sum() / n**2
        + 2 * everybody / (everybody - 1) * (ups * downs).sum() / (m * n)
    )
    if not 0 < area < 1 or variance <= 0:
        return auroc_score_interval(area, *counts)
    logit, half = math.log(area / (1 - area)), Z95 * math.sqrt(variance) / (area * (1 - area))
    return [1 / (1 + math.exp(half - logit)), 1 / (1 + math.exp(-half - logit))]
