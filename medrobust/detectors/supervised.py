"""Detectors that know nothing before they have seen adversarial images."""

from torch import Tensor

from medrobust.detectors.base import Detector, Features


class SupervisedDetector(Detector):
    """Base of the detectors that are classifiers themselves: SVM, DNN, DFeat and QFeat.

    They read the penultimate features unless they say otherwise.
    """

    def measure(self, features: Features) -> Tensor:
        """The penultimate features, ``(N, C)``."""
        self._check(features)
        return features.penultimate

    def require(self, fitted: str) -> None:
        """Refuse to classify before there is a classifier.

        Args:
            fitted: Name of a buffer that fitting it makes.

        Raises:
            ValueError: There is none.
        """
        if fitted not in self._buffers:
            raise ValueError(f"{type(self).__name__} has seen no adversarial image yet: fit it on some first")
