"""Logistic regression whose regularisation is chosen by cross-validation over patients."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from medrobust.detectors.patient_groups import Groups, dealt

STRENGTHS = np.logspace(-4, 4, 10)  # C, inverse of the penalty: those of scikit-learn's LogisticRegressionCV
FOLDS = 5
CLOSE = 1e-3  # difference of areas that is no reason to take a weaker penalty


def balanced_regression(strength: float, iterations: int) -> LogisticRegression:
    """An unfitted regression with balanced classes, whose solver ends at the optimum up to rounding.

    Args:
        strength: C, inverse of the penalty.
        iterations: Largest number of iterations of the solver.
    """
    return LogisticRegression(
        C=strength, class_weight="balanced", max_iter=iterations, solver="newton-cholesky", tol=1e-8
    )


def cross_validated_regression(values: Tensor, truth: Tensor, groups: Groups, iterations: int) -> LogisticRegression:
    """A regression with balanced classes, fitted with the strongest penalty of those that rank other patients best.

    Each of ten strengths C from 1e-4 to 1e4 is judged by the area under the ROC curve, averaged over five folds, of a
    regression on four fifths of the patients on the remaining fifth. The smallest C whose area is at most 0.001 below
    the best is taken: where classes are far apart nearly all strengths are as good, and the weakest penalties give
    layers that agree weights of opposite signs. If fewer than two patients have adversarial images, nothing can be
    chosen, and C is 1.

    Args:
        values: Scaled measurements of the negatives and then of the positives, ``(N + M, D)``.
        truth: 0 for negatives and 1 for positives, ``(N + M,)``.
        groups: Patients of the rows.
        iterations: Largest number of iterations of the solver.
    """
    rows, classes = values.cpu().numpy(), truth.cpu().numpy()
    folds = torch.cat(dealt(groups, FOLDS)).numpy()
    parts = [(folds != fold, folds == fold) for fold in np.unique(folds)]
    parts = [part for part in parts if all(len(np.unique(classes[side])) == 2 for side in part)]

    def fitted(strength: float, chosen: NDArray[np.bool_]) -> LogisticRegression:
        return balanced_regression(strength, iterations).fit(rows[chosen], classes[chosen])

    def area(strength: float, learnt: NDArray[np.bool_], judged: NDArray[np.bool_]) -> float:
        scores, positive = fitted(strength, learnt).decision_function(rows[judged]), classes[judged] == 1
        return _area(scores[~positive], scores[positive])

    areas = [float(np.mean([area(one, *part) for part in parts])) for one in STRENGTHS] if parts else []
    best = next((float(one) for one, found in zip(STRENGTHS, areas, strict=False) if found > max(areas) - CLOSE), 1.0)
    return fitted(best, np.ones(len(classes), dtype=bool))


def _area(negative: NDArray[np.float64], positive: NDArray[np.float64]) -> float:
    """Area under the ROC curve: share of pairs in which the positive one scores higher, ties counting one half."""
    ordered = np.sort(negative)
    below, not_above = (np.searchsorted(ordered, positive, side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(ordered)))
