"""Detectors that measure each image against clean ones and weight the measurements by logistic regression."""

from typing import ClassVar

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from medrobust.detectors.base import Detector, check_groups
from medrobust.detectors.numerics import unit_scaling


class WeightedMeasurements(Detector):
    """Base of the detectors whose measurements grow with suspicion: KD, BU, LID, Mahalanobis.

    The measurements are scaled to [0, 1] on the negatives (Ma20 section 5) and weighted by a logistic regression with
    balanced classes. Until the detector has been fitted on adversarial images, or if ``raw`` is set, the score is the
    plain sum of the measurements.
    """

    iterations: ClassVar[int] = 10_000
    raw: bool = False

    def fit_classifier(self, negative: Tensor, positive: Tensor) -> None:
        """Fit the scaling on the negatives ``(N, D)``, and the regression on them and the positives ``(M, D)``."""
        check_groups(negative, positive)
        negative, positive = negative.double(), positive.double()
        low, width = unit_scaling(negative)
        values = (torch.cat([negative, positive]) - low) / width
        truth = torch.cat([torch.zeros(len(negative)), torch.ones(len(positive))])
        regression = LogisticRegression(class_weight="balanced", max_iter=self.iterations)
        regression.fit(values.cpu().numpy(), truth.numpy())
        weights = torch.from_numpy(regression.coef_[0]).to(negative)
        self.keep(low=low, width=width, weights=weights, bias=negative.new_tensor(float(regression.intercept_[0])))

    def classify(self, measured: Tensor) -> Tensor:
        """Log-odds by the regression, ``(N,)``, or the sum of the measurements if there is none."""
        if self.raw or "weights" not in self._buffers:
            return measured.double().sum(1)
        return ((measured.double() - self.low) / self.width) @ self.weights + self.bias  # type: ignore[operator]
