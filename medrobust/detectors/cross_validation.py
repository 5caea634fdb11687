"""Logistic regression whose regularisation is chosen by cross-validation over patients."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from medrobust.detectors.patient_groups import Groups, dealt

STRENGTHS = np.logspace(-4, 4, 10)  # C, inverse of the penalty: those of scikit-learn's LogisticRegressionCV
FOLDS = 5


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
    """A regression with balanced classes, fitted with the strongest penalty of those that predict other patients best.

    Each of ten strengths C from 1e-4 to 1e4 is judged by the accuracy, averaged over both classes and over the folds,
    with which a regression on four fifths of the patients predicts the remaining fifth. If fewer than two patients have
    adversarial images, nothing can be chosen, and C is 1.

    Args:
        values: Scaled measurements of the negatives and then of the positives, ``(N + M, D)``.
        truth: 0 for negatives and 1 for positives, ``(N + M,)``.
        groups: Patients of the rows.
        iterations: Largest number of iterations of the solver.
    """
    rows, classes = values.cpu().numpy(), truth.cpu().numpy()
    folds = torch.cat(dealt(groups, FOLDS)).numpy()
    parts = [(folds != fold, folds == fold) for fold in np.unique(folds)]
    parts = [pair for pair in parts if all(len(np.unique(classes[part])) == 2 for part in pair)]

    def fitted(strength: float, chosen: np.ndarray) -> LogisticRegression:
        return balanced_regression(strength, iterations).fit(rows[chosen], classes[chosen])

    def accuracy(strength: float, learnt: np.ndarray, judged: np.ndarray) -> float:
        right = fitted(strength, learnt).predict(rows[judged]) == classes[judged]
        return float(right[classes[judged] > 0].mean() + right[classes[judged] == 0].mean()) / 2

    # rounded, so that equal accuracies are equal however their sums are rounded
    found = [round(float(np.mean([accuracy(one, *pair) for pair in parts])), 9) for one in STRENGTHS] if parts else []
    best = float(STRENGTHS[found.index(max(found))]) if found else 1.0
    return fitted(best, np.ones(len(classes), dtype=bool))
