"""Features of clean training images known to the attacker, to which objectives are fitted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from medrobust.networks.freezing import frozen
from medrobust.networks.victims import EvaluatedVictim
from medrobust.objectives.base import Objective

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class CleanFeatures:
    """Features of M clean training images, as one victim sees them.

    Args:
        layers: Activations averaged over space, ``(M, C)`` by layer, in the network's order; the last one is the
            penultimate layer.
        labels: True classes, ``(M,)`` int64.
        ids: The images' ids.
        named: Names of the layers that each tuple of patterns stands for, as ``victim.layers_named`` returns them.
        key: Text that identifies the features, such as hashes of the victim's weights and of the images.
        folder: Folder in which fitted mixtures are stored under that key; None stores none.
        logits: The victim's logits for the images, ``(M, K)``; None if no objective is fitted to them.

    Raises:
        ValueError: The numbers of images differ or are 0, or there is a folder but no key.
    """

    layers: Mapping[str, Tensor]
    labels: Tensor
    ids: Sequence[str]
    named: Mapping[tuple[str, ...], tuple[str, ...]]
    key: str = ""
    folder: Path | None = None
    logits: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse tensors that do not belong together."""
        counts = {len(values) for values in self.layers.values()} | {len(self.labels), len(self.ids)}
        counts |= set() if self.logits is None else {len(self.logits)}
        if self.folder is not None and not self.key:
            raise ValueError("a folder for fitted mixtures needs a key that says what they are fitted to")
        if len(counts) > 1 or not len(self.labels):
            raise ValueError(
                f"clean features need layers, labels, logits and ids of the same images, got {sorted(counts)}"
            )

    def matching(self, patterns: Sequence[str]) -> dict[str, Tensor]:
        """Features of the layers that match the patterns."""
        return {name: self.layers[name] for name in self.named[tuple(patterns)]}

    @classmethod
    def extract(
        cls, victim: EvaluatedVictim, images: Tensor, labels: Tensor, patterns: Sequence[str], batch_size: int = 64
    ) -> "CleanFeatures":
        """Extract the features of images in memory, ``(M, C, H, W)`` in [0, 1].

        Args:
            victim: A victim with ``layers_named``, such as ``as_victim`` makes.
            images: Clean images; they are not modified.
            labels: Their true classes, ``(M,)``.
            patterns: Patterns of the layers, the ``taps`` of the objectives that are to be fitted.
            batch_size: Number of images per forward.
        """
        names = victim.layers_named(patterns)
        with torch.no_grad(), frozen(victim):
            parts = [victim.features(batch, names) for batch in images.split(batch_size)]
        layers = {name: torch.cat([features[name] for _, features in parts]) for name in names}
        logits = torch.cat([outputs for outputs, _ in parts])
        ids = [str(place) for place in range(len(images))]
        return cls(layers, labels, ids, {tuple(patterns): names}, logits=logits)


def patterns_wanted(value: Any) -> list[tuple[str, ...]]:
    """Patterns of the layers to which the objectives within an attack are to be fitted, attacks within it included.

    One entry for each objective that has to be fitted; it is () for one that is fitted to the logits alone.
    """
    if isinstance(value, list | tuple):
        return [patterns for inner in value for patterns in patterns_wanted(inner)]
    wanted = [value.fitted_to] if isinstance(value, Objective) and value.needs_fitting else []
    if is_dataclass(value) and not isinstance(value, type):
        wanted += [patterns for field in fields(value) for patterns in patterns_wanted(getattr(value, field.name))]
    return wanted


def fit_objectives(value: T, clean_features: CleanFeatures) -> T:
    """An attack, or an objective, whose objectives are fitted to clean features; the same one if none has to be."""
    if isinstance(value, Objective) and value.needs_fitting:
        fitted: Any = value.fit(clean_features)
        return fitted
    if isinstance(value, list | tuple):
        members: Any = type(value)([fit_objectives(inner, clean_features) for inner in value])
        return members if patterns_wanted(value) else value
    if is_dataclass(value) and not isinstance(value, type) and patterns_wanted(value):
        changed = {
            field.name: fit_objectives(getattr(value, field.name), clean_features)
            for field in fields(value)
            if field.init and patterns_wanted(getattr(value, field.name))
        }
        renewed: Any = replace(value, **changed)
        return renewed
    return value
