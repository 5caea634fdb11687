"""Detectors that measure each image against clean ones and weight the measurements by logistic regression."""

from typing import ClassVar

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from medrobust.detectors.base import Detector, check_groups
from medrobust.detectors.cross_validation import balanced_regression
from medrobust.detectors.numerics import unit_scaling
from medrobust.detectors.patient_groups import Groups


class WeightedMeasurements(Detector):
    """Base of the detectors whose measurements grow with suspicion: KD, BU, LID, Mahalanobis.

    The measurements are scaled to [0, 1] on the negatives (Ma20 section 5) and weighted by a logistic regression with
    balanced classes. Until the detector has been fitted on adversarial images, or if ``raw`` is set, the score is the
    plain sum of the measurements.

    A regression is free to choose the signs of its weights, and one on a single number can do nothing else. With a
    negative weight the score falls where the measurement grows: ``wrong_signs`` names such measurements.
    """

    iterations: ClassVar[int] = 10_000
    raw: bool = False

    def measurement_names(self) -> list[str]:
        """Names of the columns of ``measure``, in order: the layers, unless a subclass measures something else."""
        return self.layer_names

    def wrong_signs(self) -> list[str]:
        """Names of the measurements whose weight is negative, though by definition they grow with suspicion."""
        if self.raw or "weights" not in self._buffers:
            return []
        weights, names = self.get_buffer("weights").tolist(), self.measurement_names()
        if len(names) != len(weights):  # a class of one's own that measures something else and names nothing
            names = [f"measurement {number}" for number in range(len(weights))]
        return [name for name, weight in zip(names, weights, strict=True) if weight < 0]

    def fit_classifier(self, negative: Tensor, positive: Tensor, groups: Groups | None = None) -> None:
        """Fit the scaling on the negatives ``(N, D)``, and the regression on them and the positives ``(M, D)``.

        With ``raw`` there is nothing to fit.
        """
        check_groups(negative, positive)
        if self.raw:
            return
        negative, positive = negative.double(), positive.double()
        low, width = self.scaling(negative)
        values = (torch.cat([negative, positive]) - low) / width
        truth = torch.cat([torch.zeros(len(negative)), torch.ones(len(positive))])
        regression = self.regression(values, truth, groups)
        weights = torch.from_numpy(regression.coef_[0]).to(negative)
        self.keep(low=low, width=width, weights=weights, bias=negative.new_tensor(float(regression.intercept_[0])))

    def scaling(self, negative: Tensor) -> tuple[Tensor, Tensor]:
        """What is subtracted from measurements and what they are divided by, ``(D,)``, from the negatives ``(N, D)``.

        The divisor is positive, so that it leaves the direction of a measurement as it is.
        """
        return unit_scaling(negative)

    def regression(self, values: Tensor, truth: Tensor, groups: Groups | None) -> LogisticRegression:
        """A fitted regression on scaled measurements.

        Args:
            values: Scaled measurements of the negatives and then of the positives, ``(N, D)``.
            truth: 0 for negatives and 1 for positives, ``(N,)``.
            groups: Patients of the rows, if they are known.
        """
        return balanced_regression(1.0, self.iterations).fit(values.cpu().numpy(), truth.numpy())

    def classify(self, measured: Tensor) -> Tensor:
        """Log-odds by the regression, ``(N,)``, or the sum of the measurements if there is none."""
        if self.raw or "weights" not in self._buffers:
            return measured.double().sum(1)
        return ((measured.double() - self.low) / self.width) @ self.weights + self.bias  # type: ignore[operator]
