"""Bayesian uncertainty: a victim with dropout is less certain of its answers to adversarial images."""

import torch
from torch import Tensor

from medrobust.detectors.features import Features, Views
from medrobust.detectors.kernel_density import KernelDensity
from medrobust.detectors.weighted_measurements import WeightedMeasurements


def uncertainty(features: Features) -> Tensor:
    """Variance of the class probabilities over the passes, averaged over the classes, float64 ``(N,)``.

    It is the population variance, the mean squared deviation from the mean of the T passes.

    Args:
        features: Features with ``draws``, ``(N, T, K)``.

    Raises:
        ValueError: There are no draws, there are fewer than 2 passes, or the draws are not finite.
    """
    draws = features.draws
    if draws is None:
        raise ValueError("uncertainty needs passes with dropout, so a victim that has dropout, and there are none")
    if draws.ndim != 3 or draws.shape[1] < 2:
        raise ValueError(f"uncertainty needs draws (N, T, K) of at least T = 2 passes, got {tuple(draws.shape)}")
    non_finite = ~draws.isfinite().flatten(1).all(1)
    if bool(non_finite.any()):
        raise ValueError(f"the draws are not finite for {int(non_finite.sum())} of {len(non_finite)} images")
    return draws.double().var(1, correction=0).mean(1)


def check_dropout(features: Features) -> None:
    """Refuse passes that are all the same, as they are with a dropout probability of 0.

    Args:
        features: Features with ``draws``, ``(N, T, K)``.

    Raises:
        ValueError: The passes are all the same, or the uncertainty of these features is not defined.
    """
    uncertainty(features)
    draws = features.draws
    if draws is not None and bool((draws == draws[:, :1]).all()):
        raise ValueError(
            f"the {draws.shape[1]} passes are the same for all {len(draws)} reference images: the victim's dropout "
            "needs a probability above 0"
        )


class BayesianUncertainty(WeightedMeasurements):
    """BU, the variance of the softmax over passes with dropout, averaged over classes (Feinman et al., 2017, sec. 4.3).

    It is the population variance: the sum of squared deviations is divided by the number of passes. The victim needs
    dropout. By definition a larger variance is more adversarial. That can be wrong for an attack that pushes an image
    far behind the boundary, where the victim is more certain than of clean images: the area under the ROC curve is then
    below 50 %, which says that the detector does not find this attack.

    Args:
        raw: Score by the variance itself (HFC21), also after fitting on adversarial images. With False a regression
            (Feinman et al.) scales it, and may turn it round: ``wrong_signs`` says whether it did.
    """

    needs_class: bool = True

    def __init__(self, raw: bool = True) -> None:
        super().__init__()
        self.raw = raw

    @property
    def views(self) -> Views:
        """Several passes with dropout."""
        return Views(draws=True)

    def measurement_names(self) -> list[str]:
        """The only column is the uncertainty."""
        return ["uncertainty"]

    def fit_reference(self, clean: Features, labels: Tensor) -> None:
        """Check that there is dropout; nothing is learnt from clean images.

        Args:
            clean: Clean training images, with draws.
            labels: True classes of the images, ``(N,)``.

        Raises:
            ValueError: There are no draws, or they do not differ.
        """
        super().fit_reference(clean, labels)
        check_dropout(clean)

    def measure(self, features: Features) -> Tensor:
        """Mean variance, float64 ``(N, 1)``, between 0 and 1/4; larger = more suspicious."""
        self._check(features)
        return uncertainty(features).unsqueeze(1)


class KernelDensityUncertainty(KernelDensity):
    """KD and BU together, weighted by one regression (Feinman et al., 2017, sec. 5.3).

    By definition a lower density and a larger variance are more adversarial; ``wrong_signs`` names the one that the
    regression takes the other way round.

    Args:
        bandwidth: Bandwidth of the density, as for ``KernelDensity``.
        max_references: Largest number of reference images, as for ``KernelDensity``.
    """

    def __init__(self, bandwidth: float | None = None, max_references: int | None = None) -> None:
        super().__init__(bandwidth, max_references, raw=False)

    @property
    def views(self) -> Views:
        """Several passes with dropout."""
        return Views(draws=True)

    def measurement_names(self) -> list[str]:
        """The columns are the density and the uncertainty."""
        return ["density", "uncertainty"]

    def fit_reference(self, clean: Features, labels: Tensor) -> None:
        """Fit the density, and check that there is dropout.

        Args:
            clean: Clean training images, with draws.
            labels: True classes of the images, ``(N,)``.

        Raises:
            ValueError: The density cannot be fitted, there are no draws, or they do not differ.
        """
        super().fit_reference(clean, labels)
        check_dropout(clean)

    def measure(self, features: Features) -> Tensor:
        """Minus the log density and the mean variance, float64 ``(N, 2)``; both larger = more suspicious."""
        return torch.cat([super().measure(features), uncertainty(features).unsqueeze(1)], 1)
