"""QFeat: an SVM on quantised deep features (SafetyNet, Lu et al., ICCV 2017; Ma et al. 2020 section 5)."""

from typing import ClassVar

import torch
from torch import Tensor

from medrobust.detectors.support_vectors import SupportVectorDetector


class QuantizedFeatures(SupportVectorDetector):
    """SVM on the penultimate features, each replaced by its level among the negatives (SafetyNet; QFeat in Ma20).

    The thresholds of a feature are the values that cut the negatives into ``levels`` groups of equal size: the n-th is
    the smallest value with at least n / levels of the negatives at or below it. The level of a feature, from 0 to
    ``levels - 1``, is the number of thresholds that it exceeds. The levels are not scaled.

    Args:
        levels: Number of levels, at least 2; 3, as in SafetyNet, makes the features ternary.
        penalty: C, the weight of an image on the wrong side of its margin, > 0.

    Raises:
        ValueError: A setting is out of range.
    """

    differentiable: ClassVar[bool] = False  # levels are steps

    thresholds: Tensor

    def __init__(self, levels: int = 3, penalty: float = 1.0) -> None:
        super().__init__(penalty)
        if not isinstance(levels, int) or levels < 2:
            raise ValueError(f"levels counts the values that a feature may take and is at least 2, got {levels!r}")
        self.levels = levels

    def fit_preparation(self, negative: Tensor) -> None:
        """Store the thresholds, ``(levels - 1, C)``."""
        # rank of n / levels of the negatives, rounded up, counted from 0
        ranks = [(cut * len(negative) + self.levels - 1) // self.levels - 1 for cut in range(1, self.levels)]
        self.keep(thresholds=negative.sort(0).values[ranks])

    def prepare(self, measured: Tensor) -> Tensor:
        """Levels of the features, ``(N, C)``, as float64."""
        levels = torch.zeros_like(measured)
        for threshold in self.thresholds:
            levels += measured > threshold
        return levels
