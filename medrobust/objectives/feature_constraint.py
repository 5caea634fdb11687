"""The hierarchical feature constraint, HFC (Yao et al., MICCAI 2021): hide among another class's clean features."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medrobust.objectives.base import Step
from medrobust.objectives.clean_features import CleanFeatures
from medrobust.objectives.fitted import FittedState, HidingObjective, by_width, images_by_class, moved_to
from medrobust.objectives.gaussian_mixture import Mixture, fit_mixture, joined, mean_variance, stacked
from medrobust.objectives.mixture_files import LayerMixtures, load_or_fit

LEAST_IMAGES = 2  # per component


@dataclass(frozen=True, eq=False)
class Constraint:
    """The mixtures of all classes at layers that have equally many channels.

    Args:
        names: The L layers.
        mixture: Components of all classes, one class after the other; each tensor has a leading dimension L.
        classes: Class of each component, ``(K,)`` int64.
    """

    names: tuple[str, ...]
    mixture: Mixture
    classes: Tensor

    def likeliest(self, features: Tensor, goals: Tensor, single: bool) -> Tensor:
        """Component of each image's class under which its features are likeliest, ``(L, N)`` (HFC21 eq. 6).

        Args:
            features: ``(L, N, C)``.
            goals: Class of each image, ``(N,)``.
            single: Whether each class has a single component, which needs no densities.
        """
        if single:
            return goals.expand(len(features), -1)
        with torch.no_grad():
            densities = self.mixture.log_densities(features)
            return densities.masked_fill(self.classes != goals.unsqueeze(1), float("-inf")).argmax(-1)


@dataclass(frozen=True, eq=False)
class FeatureConstraint(HidingObjective):
    """Minus HFC's sum over layers of (f - mu)^T Sigma^-1 (f - mu) / (2 C), of the class to resemble (HFC21 eq. 5-7).

    A Gaussian mixture describes each class's clean features at each layer. Of its components the one counts under
    which the current features are likeliest, chosen anew at every step and without gradient. For f = (3, 1),
    mu = (1, 1) and Sigma = I the value is -1.

    The 1/2 is that of eq. 7, which the authors' released code leaves out: weight 2 here is weight 1 there. Their attack
    adds it to cross-entropy *towards* the class: a targeted attack on ``CrossEntropy() + 2.0 * FeatureConstraint()``.
    ``TypicalMargin() + 4.0 * FeatureConstraint()`` lets go of an image in the same way, and needs no goal.

    Args:
        taps: Patterns of the layers.
        components: Number K of Gaussians per class, >= 1; HFC21 takes 64 for fundus images and 1 for chest X-rays. A
            class with too few images gets fewer, with a warning.
        shrinkage: Share of the mean variance in each covariance, in [0, 1]; see ``fit_mixture``.
        max_channels: Leave out layers with more channels; the authors' code has 512. None keeps all.
        seed: Seed of the mixtures' first centres.

    Raises:
        ValueError: A field is out of its range; or, when fitted, a class has fewer than two images.
    """

    components: int = 1
    shrinkage: float = 0.1
    max_channels: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        super().__post_init__()
        if not isinstance(self.components, int) or self.components < 1:
            raise ValueError(f"components counts Gaussians and is at least 1, got {self.components}")
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage is a share and lies in [0, 1], got {self.shrinkage}")
        if self.max_channels is not None and self.max_channels < 1:
            raise ValueError(f"max_channels is at least 1, or None for no limit, got {self.max_channels}")

    def fit_state(self, clean_features: CleanFeatures) -> FittedState:
        """Fit a mixture to each class's features at each layer."""
        labels = clean_features.labels
        numbers = [self._affordable(label, count) for label, count in enumerate(images_by_class(labels))]
        named = clean_features.matching(self.taps)
        if self.max_channels is not None:
            named = {name: features for name, features in named.items() if features.shape[1] <= self.max_channels}
        classes = {name: _by_class(features, labels, len(numbers)) for name, features in named.items()}
        constant = [name for name, parts in classes.items() if not all(map(mean_variance, parts))]
        if constant:
            warnings.warn(
                f"no Gaussian describes layers whose features are constant: {', '.join(constant)}", stacklevel=4
            )
        varying = {name: features for name, features in named.items() if name not in constant}
        if not varying:
            limit = "" if self.max_channels is None else f" of at most {self.max_channels} channels"
            raise ValueError(
                f"the feature constraint needs a layer whose features vary, got none from {self.taps}{limit}"
            )

        def fit() -> LayerMixtures:
            return {
                name: [
                    fit_mixture(features, number, self.shrinkage, self.seed)
                    for features, number in zip(classes[name], numbers, strict=True)
                ]
                for name in varying
            }

        identity = [1, clean_features.key, list(varying), numbers, self.shrinkage, self.seed]
        mixtures = load_or_fit(clean_features.folder, identity, fit)
        return mixture_state(mixtures, next(iter(varying.values())))

    def _affordable(self, label: int, images: int) -> int:
        """Number of Gaussians that a class gets."""
        if images < 2:
            raise ValueError(f"a Gaussian needs at least 2 clean images of its class, got 1 of class {label}")
        used = min(self.components, images // LEAST_IMAGES)
        if used < self.components:
            warnings.warn(
                f"class {label} has {images} clean images: {used} Gaussians at each layer instead of "
                f"{self.components}, so that each has {LEAST_IMAGES}",
                stacklevel=6,
            )
        return used

    def value(self, step: Step, goals: Tensor, parts: Sequence[Any]) -> Tensor:
        """Value of each image, ``(N,)``."""
        single = all(part.classes.shape[0] == step.outputs.shape[1] for part in parts)
        value = torch.zeros_like(goals, dtype=step.outputs.dtype)
        for part in parts:
            features = torch.stack([step.features[name] for name in part.names]).to(part.mixture.means)
            white = part.mixture.whitened(features, part.likeliest(features, goals, single))
            value = value - white.square().sum((0, 2)) / (2 * white.shape[2])
        return value


def mixture_state(mixtures: LayerMixtures, like: Tensor) -> FittedState:
    """A fitted state made of mixtures, on the device and in the precision of a tensor."""
    widths = by_width({name: parts[0].means for name, parts in mixtures.items()})
    numbers = torch.tensor([len(mixture.means) for mixture in next(iter(mixtures.values()))])
    classes = torch.repeat_interleave(torch.arange(len(numbers)), numbers)
    parts = tuple(
        moved_to(Constraint(tuple(names), stacked([joined(mixtures[name]) for name in names]), classes), like)
        for names in widths
    )
    return FittedState(tuple(mixtures), len(numbers), parts)


def _by_class(features: Tensor, labels: Tensor, classes: int) -> list[Tensor]:
    """Features of each class."""
    return [features[labels == label] for label in range(classes)]
