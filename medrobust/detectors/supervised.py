"""Detectors that have no score until they have been fitted on adversarial images."""

from torch import Tensor

from medrobust.detectors.base import Detector
from medrobust.detectors.features import Features


class SupervisedDetector(Detector):
    """Base of the detectors that are classifiers of features: SVM, DNN, DFeat and QFeat.

    They read the penultimate features unless a subclass measures others.
    """

    def measure(self, features: Features) -> Tensor:
        """The penultimate features, ``(N, C)``."""
        self._check(features)
        return features.penultimate

    def require(self, fitted: str) -> None:
        """Refuse to classify before a classifier has been fitted.

        Args:
            fitted: Name of a buffer that ``fit_classifier`` stores.

        Raises:
            ValueError: There is no such buffer yet.
        """
        if fitted not in self._buffers:
            raise ValueError(f"{type(self).__name__} has seen no adversarial images yet: fit it on some first")
