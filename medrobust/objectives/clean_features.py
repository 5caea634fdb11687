"""What an objective may be fitted to: features of clean training images, known to the attacker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from medrobust.networks.freezing import frozen
from medrobust.objectives.base import Objective

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Reference:
    """Features of M clean training images.

    Args:
        layers: Activations averaged over space, ``(M, C)`` by layer, in the network's order; the last is the
            penultimate layer.
        labels: True classes, ``(M,)`` int64.
        ids: The images' ids.
        named: Names of the layers that each tuple of patterns stands for, as ``victim.layers_named`` gives them.
        key: What decides the features, such as hashes of the victim's weights and of the images.
        folder: Where fitted mixtures are kept under that key; None keeps none.

    Raises:
        ValueError: The numbers of images differ, or there is none.
    """

    layers: Mapping[str, Tensor]
    labels: Tensor
    ids: Sequence[str]
    named: Mapping[tuple[str, ...], tuple[str, ...]]
    key: str = ""
    folder: Path | None = None

    def __post_init__(self) -> None:
        """Refuse tensors that do not belong together."""
        counts = {len(values) for values in self.layers.values()} | {len(self.labels), len(self.ids)}
        if self.folder is not None and not self.key:
            raise ValueError("a folder for fitted mixtures needs a key that says what they are fitted to")
        if len(counts) > 1 or not len(self.labels):
            raise ValueError(f"a reference needs features, labels and ids of the same images, got {sorted(counts)}")

    def chosen(self, patterns: Sequence[str]) -> dict[str, Tensor]:
        """Features of the layers that some patterns stand for."""
        return {name: self.layers[name] for name in self.named[tuple(patterns)]}

    @classmethod
    def of(
        cls, victim: Any, images: Tensor, labels: Tensor, patterns: Sequence[str], batch_size: int = 64
    ) -> "Reference":
        """Extract the features of images that are at hand, ``(M, C, H, W)`` in [0, 1]."""
        names = victim.layers_named(patterns)
        with torch.no_grad(), frozen(victim):
            parts = [victim.features(batch, names)[1] for batch in images.split(batch_size)]
        layers = {name: torch.cat([part[name] for part in parts]) for name in names}
        return cls(layers, labels, [str(place) for place in range(len(images))], {tuple(patterns): names})


def patterns_wanted(value: Any) -> list[tuple[str, ...]]:
    """Patterns of the layers that objectives within an attack are fitted to, also those of attacks within it."""
    own = [value.fitted_to] if isinstance(value, Objective) and value.fitted_to else []
    if isinstance(value, list | tuple):
        return [patterns for inner in value for patterns in patterns_wanted(inner)]
    if is_dataclass(value) and not isinstance(value, type):
        return own + [patterns for field in fields(value) for patterns in patterns_wanted(getattr(value, field.name))]
    return own


def fit_objectives(value: T, reference: Reference) -> T:
    """An attack, or an objective, whose objectives are fitted to a reference; the same one if none needs it."""
    if isinstance(value, Objective) and value.fitted_to:
        fitted: Any = value.fit(reference)
        return fitted
    if isinstance(value, list | tuple):
        members: Any = type(value)([fit_objectives(inner, reference) for inner in value])
        return members if patterns_wanted(value) else value
    if is_dataclass(value) and not isinstance(value, type) and patterns_wanted(value):
        changed = {
            field.name: fit_objectives(getattr(value, field.name), reference)
            for field in fields(value)
            if field.init and patterns_wanted(getattr(value, field.name))
        }
        renewed: Any = replace(value, **changed)
        return renewed
    return value
