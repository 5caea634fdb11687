"""SVM: support vectors with a Gaussian kernel on the penultimate features (SafetyNet, Lu et al., ICCV 2017)."""

import math
from abc import abstractmethod

import torch
from sklearn.svm import SVC
from torch import Tensor

from medrobust.detectors.base import check_groups
from medrobust.detectors.numerics import standardisation
from medrobust.detectors.patient_groups import Groups
from medrobust.detectors.supervised import SupervisedDetector


class SupportVectorDetector(SupervisedDetector):
    """Base of the detectors whose classifier is a support vector machine with a Gaussian kernel.

    The classes are balanced. The kernel is ``exp(-gamma ||x - y||^2)``, where gamma is 1 / (number of channels times
    variance of all values). The machine is fitted by scikit-learn; its support vectors are stored, and its decision
    function is computed from them in float64.

    Args:
        penalty: C, the weight of an image on the wrong side of its margin, > 0.

    Raises:
        ValueError: The penalty is out of range.
    """

    vectors: Tensor
    coefficients: Tensor
    intercept: Tensor
    gamma: Tensor

    def __init__(self, penalty: float = 1.0) -> None:
        super().__init__()
        if not (isinstance(penalty, int | float) and 0 < penalty < math.inf):
            raise ValueError(f"penalty weighs the images within the margin and is positive, got {penalty!r}")
        self.penalty = penalty

    @abstractmethod
    def fit_preparation(self, negative: Tensor) -> None:
        """Store what `prepare` needs of the clean and noisy images, float64 ``(N, C)``."""

    @abstractmethod
    def prepare(self, measured: Tensor) -> Tensor:
        """Values ``(N, C)`` that the kernel compares, from float64 features ``(N, C)``."""

    def fit_classifier(self, negative: Tensor, positive: Tensor, groups: Groups | None = None) -> None:
        """Fit the preparation on the negatives ``(N, C)`` and the machine on them and the positives ``(M, C)``."""
        check_groups(negative, positive)
        with torch.inference_mode(False), torch.no_grad():  # what is fitted must be usable outside inference mode
            negative, positive = (group.detach().clone().double() for group in (negative, positive))
            self.fit_preparation(negative)
            values = self.prepare(torch.cat([negative, positive])).cpu().numpy()
            truth = [0] * len(negative) + [1] * len(positive)
            gamma = 1 / (values.shape[1] * float(values.var())) if values.var() > 0 else 1.0
            machine = SVC(C=self.penalty, gamma=gamma, class_weight="balanced").fit(values, truth)
            self.keep(
                vectors=negative.new_tensor(machine.support_vectors_),
                coefficients=negative.new_tensor(machine.dual_coef_[0]),
                intercept=negative.new_tensor(machine.intercept_[0]),
                gamma=negative.new_tensor(gamma),
            )

    def classify(self, measured: Tensor) -> Tensor:
        """Decision function of the machine, ``(N,)``, positive on the adversarial side of its boundary.

        Raises:
            ValueError: The detector has not been fitted on adversarial images.
        """
        self.require("intercept")
        values = self.prepare(measured.double())
        squares = values.square().sum(1, keepdim=True) + self.vectors.square().sum(1)
        distances = (squares - 2 * values @ self.vectors.T).clamp(min=0)
        return torch.exp(-self.gamma * distances) @ self.coefficients + self.intercept


class SupportVectors(SupportVectorDetector):
    """SVM on the penultimate features, standardised (SafetyNet, Lu et al. 2017; Yao et al. 2021 section 4.1).

    The mean and the standard deviation of each channel are those of the negatives; see `standardisation`.

    Args:
        penalty: C, the weight of an image on the wrong side of its margin, > 0.

    Raises:
        ValueError: The penalty is out of range.
    """

    centre: Tensor
    width: Tensor

    def fit_preparation(self, negative: Tensor) -> None:
        """Store the means and standard deviations of the channels."""
        centre, width = standardisation(negative)
        self.keep(centre=centre, width=width)

    def prepare(self, measured: Tensor) -> Tensor:
        """Features in standard deviations from the mean."""
        return (measured - self.centre) / self.width
