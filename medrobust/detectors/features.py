"""What detectors see of images: features of a network's layers, and the further views that some ask for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medrobust.detectors.patient_groups import Groups


@dataclass(frozen=True)
class Views:
    """The views of an image that a detector reads besides its plain features.

    Args:
        draws: Whether it reads ``Features.draws``, from several passes with dropout.
        step: Length, in units of the [0, 1] image range, of the signed gradient step that moves an image towards what
            each layer takes for clean; the detector reads ``Features.stepped``. 0 for none.
        maps: Longest side of the maps of the layers that it reads in ``Features.maps``. 0 for none.

    Raises:
        ValueError: The step or the side is out of range.
    """

    draws: bool = False
    step: float = 0.0
    maps: int = 0

    def __post_init__(self) -> None:
        """Refuse a step that is not a length in the image range, and a negative side."""
        if not 0 <= self.step < 1:
            raise ValueError(f"step is a length in the [0, 1] image range, at least 0 and below 1, got {self.step}")
        if self.maps < 0:
            raise ValueError(f"maps is the longest side of maps, or 0 for none, got {self.maps}")


@dataclass(frozen=True)
class Features:
    """What a victim makes of N images; detectors see nothing else of them.

    Args:
        layers: Activations averaged over space, ``(N, C)`` for each layer, in the network's order. The last one is the
            penultimate layer, from which the network reads the classes.
        predictions: Predicted classes, ``(N,)`` int64.
        draws: Class probabilities of T passes with dropout, ``(N, T, K)``; None if no detector asks for them.
        stepped: For each layer, its activations ``(N, C)`` for images moved by a signed gradient step towards what that
            layer takes for clean; None if no detector asks for them.
        groups: Numbers that tell to which patient an image belongs, ``(N,)`` int64, as ``patient_numbers`` makes them;
            all versions of an image share one. None if the patients are not known.
        maps: Activations of each layer that are not averaged over all of space, ``(N, C, H, W)``; None if no detector
            asks for them.

    Raises:
        ValueError: There are no layers, the tensors differ in their number of images, or a layer is not ``(N, C)``.
    """

    layers: Mapping[str, Tensor]
    predictions: Tensor
    draws: Tensor | None = None
    stepped: Mapping[str, Tensor] | None = None
    groups: Tensor | None = None
    maps: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        """Refuse tensors that do not belong together."""
        if not self.layers:
            raise ValueError("features need at least one layer, got none")
        counts = {name: len(values) for name, values in self._tensors().items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"all features are expected to be of the same number of images, got {counts}")
        shapes = {name: tuple(values.shape) for name, values in self.layers.items() if values.ndim != 2}
        if shapes:
            raise ValueError(f"the features of a layer are expected to be (N, C), got {shapes}")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.predictions)

    @property
    def penultimate(self) -> Tensor:
        """Activations of the last layer, ``(N, C)``."""
        return list(self.layers.values())[-1]

    def __getitem__(self, rows: Any) -> "Features":
        """Features of some of the images, chosen by anything that indexes the rows of a tensor."""
        return self._each(lambda values: values[rows])

    def to(self, device: torch.device | str) -> "Features":
        """The same features on another device."""
        return self._each(lambda values: values.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Features":
        return Features(
            {name: change(values) for name, values in self.layers.items()},
            change(self.predictions),
            None if self.draws is None else change(self.draws),
            None if self.stepped is None else {name: change(values) for name, values in self.stepped.items()},
            None if self.groups is None else change(self.groups),
            None if self.maps is None else {name: change(values) for name, values in self.maps.items()},
        )

    def _tensors(self) -> dict[str, Tensor]:
        named = {**self.layers, "predictions": self.predictions}
        named |= {} if self.draws is None else {"draws": self.draws}
        named |= {} if self.groups is None else {"groups": self.groups}
        named |= {f"maps of {name}": values for name, values in (self.maps or {}).items()}
        return named | {f"stepped {name}": values for name, values in (self.stepped or {}).items()}


def concatenate(parts: Sequence[Features]) -> Features:
    """Join the features of several sets of images, in order.

    Raises:
        ValueError: There are no parts, or they differ in their layers or views.
    """
    if not parts:
        raise ValueError("expected at least one part to concatenate, got none")
    names = list(parts[0].layers)
    if any(list(part.layers) != names for part in parts):
        raise ValueError("features of different layers cannot be concatenated")
    for view in ("draws", "stepped", "groups", "maps"):
        if len({getattr(part, view) is None for part in parts}) > 1:
            raise ValueError(f"features with and without {view} cannot be concatenated")
    draws = [part.draws for part in parts if part.draws is not None]
    stepped = [part.stepped for part in parts if part.stepped is not None]
    groups = [part.groups for part in parts if part.groups is not None]
    maps = [part.maps for part in parts if part.maps is not None]
    return Features(
        {name: torch.cat([part.layers[name] for part in parts]) for name in names},
        torch.cat([part.predictions for part in parts]),
        torch.cat(draws) if draws else None,
        {name: torch.cat([part[name] for part in stepped]) for name in names} if stepped else None,
        torch.cat(groups) if groups else None,
        {name: torch.cat([part[name] for part in maps]) for name in maps[0]} if maps else None,
    )


def groups_of(negative: Features, positive: Features) -> Groups | None:
    """Patients of the negatives and of the positives; None if they are not known.

    Raises:
        ValueError: They are known of one of both only.
    """
    if (negative.groups is None) != (positive.groups is None):
        raise ValueError("the groups (patients) are known of the negatives or of the positives only, expected of both")
    if negative.groups is None or positive.groups is None:
        return None
    return Groups(negative.groups.cpu(), positive.groups.cpu())
