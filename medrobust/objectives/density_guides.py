"""Rivals of HFC that aim at one detector each: kernel density and local intrinsic dimensionality (HFC21 Table 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medrobust.objectives.base import Step
from medrobust.objectives.clean_features import CleanFeatures
from medrobust.objectives.fitted import FittedState, HidingObjective, by_width, images_by_class

LEAST_DISTANCE = 1e-6  # share of the layer's mean distance below which images are taken to coincide: float32's rounding


@dataclass(frozen=True, eq=False)
class DensityGuide(HidingObjective):
    """Log kernel density of the penultimate features under the class to resemble (HFC21 Table 3, "KDE").

    ln(1/n sum_i exp(-|f - f_i|^2 / sigma^2)) over the class's n clean images (Ma20 eq. 9), up to a constant.

    Args:
        taps: Patterns of layers, the last one of which is read.
        bandwidth: sigma, in units of the features; None takes, for each class, the median distance of its clean images
            from their nearest neighbour in that class.

    Raises:
        ValueError: The bandwidth is not positive; or, when fitted, more than half of a class's images have a twin.
    """

    bandwidth: float | None = None

    def __post_init__(self) -> None:
        """Refuse a bandwidth that is not positive."""
        super().__post_init__()
        if self.bandwidth is not None and not self.bandwidth > 0:
            raise ValueError(f"bandwidth is a positive length in units of the features, got {self.bandwidth}")

    def fit_state(self, clean_features: CleanFeatures) -> FittedState:
        """Keep the last layer's features, centred, and each class's bandwidth."""
        labels = clean_features.labels
        counts = images_by_class(labels)
        name, features = list(clean_features.matching(self.taps).items())[-1]
        centre = features.mean(0)
        centred = features - centre
        widths = [
            self.bandwidth or _median_spacing(centred[labels == label].double(), label) for label in range(len(counts))
        ]
        parts = (centre, centred, labels, centred.new_tensor(widths), centred.new_tensor(counts).log())
        return FittedState((name,), len(counts), parts)

    def value(self, step: Step, goals: Tensor, parts: Sequence[Any]) -> Tensor:
        """Value of each image, ``(N,)``."""
        centre, known, labels, widths, log_counts = parts
        features = step.features[self.layers[0]] - centre
        squares = features.square().sum(1, keepdim=True) + known.square().sum(1) - 2 * features @ known.T
        exponents = -squares / widths[goals].square().unsqueeze(1)
        other = labels != goals.unsqueeze(1)
        return exponents.masked_fill(other, float("-inf")).logsumexp(1) - log_counts[goals]


def _median_spacing(features: Tensor, label: int) -> float:
    """Median distance of features ``(n, C)`` of one class from their nearest neighbour."""
    if len(features) < 2:
        raise ValueError(f"the bandwidth's rule needs 2 clean images of each class, got 1 of class {label}")
    between = torch.cdist(features, features).fill_diagonal_(float("inf"))
    spacing = float(between.amin(1).median())
    if not spacing > 0:
        raise ValueError(f"the clean images of class {label} coincide in the last layer: give a bandwidth")
    return spacing


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Clean features of layers that have equally many channels.

    Args:
        names: The L layers.
        centres: Mean of each layer, ``(L, 1, C)``.
        known: Features minus that mean, ``(L, M, C)``.
        least: Square of the distance below which images are taken to coincide, ``(L, 1, 1)``.
    """

    names: tuple[str, ...]
    centres: Tensor
    known: Tensor
    least: Tensor


@dataclass(frozen=True, eq=False)
class DimensionGuide(HidingObjective):
    """Minus the local intrinsic dimensionality, averaged over the layers (HFC21 Table 3, "LID").

    The maximum-likelihood estimate -(1/k sum_i ln(r_i / r_k))^-1 from the distances r_i to the k nearest of a fixed set
    of clean images of all classes (Ma et al., ICLR 2018, eq. 4). The nearest images are chosen anew at every step,
    without gradient. The attacked images should not be among the clean ones.

    Args:
        taps: Patterns of the layers.
        neighbours: Number of neighbours k, >= 2.
        max_references: Largest number of clean images that are kept; if there are more, a random subset.
        seed: Seed of that subset.

    Raises:
        ValueError: A field is out of its range; or, when fitted, there are fewer clean images than neighbours.
    """

    neighbours: int = 20
    max_references: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers from which no dimension can be estimated."""
        super().__post_init__()
        if not isinstance(self.neighbours, int) or self.neighbours < 2:
            raise ValueError(f"neighbours is at least 2, got {self.neighbours}")
        if self.max_references < self.neighbours:
            raise ValueError(f"max_references is at least neighbours ({self.neighbours}), got {self.max_references}")

    def fit_state(self, clean_features: CleanFeatures) -> FittedState:
        """Keep the clean features, or a subset of them."""
        counts, number = images_by_class(clean_features.labels), len(clean_features.labels)
        if number < self.neighbours:
            raise ValueError(f"{self.neighbours} neighbours need at least as many clean images, got {number}")
        generator = torch.Generator().manual_seed(self.seed)
        subset = torch.randperm(number, generator=generator)[: self.max_references].sort().values
        named = clean_features.matching(self.taps)
        parts = []
        for names in by_width(named):
            known = torch.stack([named[name][subset.to(named[name].device)] for name in names])
            centres = known.mean(1, keepdim=True)
            known = known - centres
            least = LEAST_DISTANCE**2 * known.square().sum(2, keepdim=True).mean(1, keepdim=True)
            parts.append(Neighbourhood(tuple(names), centres, known, least))
        return FittedState(tuple(named), len(counts), tuple(parts))

    def value(self, step: Step, goals: Tensor, parts: Sequence[Any]) -> Tensor:
        """Value of each image, ``(N,)``."""
        value = torch.zeros_like(goals, dtype=step.outputs.dtype)
        for part in parts:
            features = torch.stack([step.features[name] for name in part.names]) - part.centres  # (L, N, C)
            with torch.no_grad():
                nearest = torch.cdist(features, part.known).topk(self.neighbours, largest=False).indices
            layers = torch.arange(len(nearest), device=nearest.device)[:, None, None]
            squares = (features.unsqueeze(2) - part.known[layers, nearest]).square().sum(3)
            value = value - dimensionality(squares.clamp(min=part.least)).sum(0)
        return value / len(self.layers)


def dimensionality(squares: Tensor) -> Tensor:
    """Local intrinsic dimensionality from the squared distances to the k nearest points, ``(..., k)`` in any order.

    >>> dimensionality(torch.tensor([0.25, 1.0])).item()  # -1 / (ln(1/2) / 2)
    2.885390043258667
    """
    ratios = squares.log() - squares.amax(-1, keepdim=True).log()
    finest = torch.finfo(squares.dtype).eps
    return -1 / (ratios.mean(-1) / 2).clamp(max=-finest)
