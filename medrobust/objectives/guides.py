"""Guides: move an image's features towards those of one clean image of another class (Sabour et al., ICLR 2016)."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from medrobust.objectives.base import Step
from medrobust.objectives.clean_features import CleanFeatures
from medrobust.objectives.fitted import FittedState, HidingObjective, images_by_class
from medrobust.random_streams import image_generator


@dataclass(frozen=True, eq=False)
class Guide(HidingObjective):
    """Minus the squared distance of an image's features to its guide's, summed over the layers (HFC21 Table 3).

    Each layer's squared distance is divided by its number of channels, as HFC weights its layers; otherwise only the
    widest layer would matter.

    Args:
        taps: Patterns of the layers whose features are compared; the last of these layers is the penultimate one.
    """

    def fit_state(self, clean_features: CleanFeatures) -> FittedState:
        """Keep the clean features, all layers of an image side by side and the images in the order of their classes."""
        counts = images_by_class(clean_features.labels)
        named = clean_features.matching(self.taps)
        order = clean_features.labels.argsort(stable=True)
        rows = torch.cat([_weighted(features) for features in named.values()], 1)[order]
        sizes = torch.tensor(counts, device=rows.device)
        return FittedState(tuple(named), len(counts), (rows, sizes, sizes.cumsum(0) - sizes))

    def value(self, step: Step, goals: Tensor, parts: Sequence[Any]) -> Tensor:
        """Value of each image, ``(N,)``."""
        rows: Tensor = parts[0]
        features = torch.cat([_weighted(step.features[name]) for name in self.layers], 1)
        return -(features - rows[self.guides(step, goals, *parts)]).square().sum(1)

    @abstractmethod
    def guides(self, step: Step, goals: Tensor, rows: Tensor, sizes: Tensor, firsts: Tensor) -> Tensor:
        """Row of each image's guide, ``(N,)``, which is a clean image of the class to resemble.

        Args:
            step: The step.
            goals: Class of each image's guide, ``(N,)``.
            rows: Weighted features of the clean images, ``(M, D)``.
            sizes: Number of clean images of each class, ``(K,)``.
            firsts: First row of each class, ``(K,)``.
        """


def _weighted(features: Tensor) -> Tensor:
    """Features scaled so that their squared distances are divided by the number of channels."""
    return features / features.shape[1] ** 0.5


@lru_cache(maxsize=1 << 16)
def _drawn(seed: int, id: str) -> float:
    """An image's random number in [0, 1), from its own stream."""
    return float(torch.rand((), generator=image_generator(seed, "RandomGuide", id), dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class RandomGuide(Guide):
    """Minus the squared distance to a random clean image of the class to resemble (HFC21 Table 3, "Random").

    Args:
        taps: Patterns of the layers whose features are compared.
        seed: Seed of the draw, which also depends on the image's id but not on the rest of its batch.
    """

    seed: int = 0

    def guides(self, step: Step, goals: Tensor, rows: Tensor, sizes: Tensor, firsts: Tensor) -> Tensor:
        """A guide drawn per image, the same at every step."""
        draws = torch.tensor([_drawn(self.seed, id) for id in step.ids], dtype=torch.float32)
        if rows.is_cuda:
            draws = draws.pin_memory().to(rows.device, non_blocking=True)
        places = (draws * sizes[goals]).long()
        return firsts[goals] + torch.minimum(places, sizes[goals] - 1)


# the tensor of clean images lives as long as the call of an attack, so that no choice outlives it
_CHOSEN: Any = WeakTensorKeyDictionary()


@dataclass(frozen=True, eq=False)
class ClosestGuide(Guide):
    """Minus the squared distance to the nearest clean image of the class to resemble (HFC21 Table 3).

    The guide is the one nearest to the clean image in the penultimate layer, as Sabour et al. choose it, and does not
    change; the one nearest to the current image would change on the way. The choice costs one forward without
    gradient at step 0. Whenever images leave the batch it is repeated for those that stay, which is a cost of the batch
    and not counted as theirs.

    Args:
        taps: Patterns of the layers whose features are compared; the last of these layers decides which is nearest.
    """

    def guides(self, step: Step, goals: Tensor, rows: Tensor, sizes: Tensor, firsts: Tensor) -> Tensor:
        """Nearest image of the class, searched once per tensor of clean images and forgotten with it."""
        chosen = _CHOSEN.setdefault(step.clean, {})
        if step.index == 0:
            step.count(forwards=1, backwards=0)
        if step.index == 0 or self.state not in chosen:
            chosen[self.state] = self._nearest(step, rows, sizes)
        nearest: Tensor = chosen[self.state].gather(1, goals.unsqueeze(1)).squeeze(1)
        return nearest

    def _nearest(self, step: Step, rows: Tensor, sizes: Tensor) -> Tensor:
        """Row of the nearest clean image of each class, ``(N, K)``."""
        with torch.no_grad():
            features = _weighted(step.victim.features(step.clean, self.layers[-1:])[1][self.layers[-1]])
            known = rows[:, -features.shape[1] :]
            centre = known.mean(0)
            distances = torch.cdist(features - centre, known - centre)
            labels = torch.repeat_interleave(torch.arange(len(sizes), device=rows.device), sizes, output_size=len(rows))
            other = labels != torch.arange(len(sizes), device=rows.device).unsqueeze(1)  # (K, M)
            return distances.unsqueeze(1).masked_fill(other, float("inf")).argmin(2)
