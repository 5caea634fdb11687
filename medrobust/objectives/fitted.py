"""What objectives share that make an image resemble clean images of another class (HFC21 section 4)."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from medrobust.objectives.base import Objective, Step
from medrobust.objectives.clean_features import Reference


def resembled_class(step: Step) -> Tensor:
    """Class c that each image is to resemble, ``(N,)``: the goal, or else the likeliest class but the true one.

    Of two classes that is the other one; of more, the one with the largest logit at present, without gradient.

    Raises:
        ValueError: The targets are no classes.
    """
    if not isinstance(step.targets, Tensor) or step.targets.ndim != 1 or step.outputs.ndim != 2:
        raise ValueError("an image can resemble clean images of a class: logits (N, K) and classes (N,) are needed")
    if step.targeted:
        return step.targets
    return step.outputs.detach().scatter(1, step.targets.unsqueeze(1), float("-inf")).argmax(1)


def images_by_class(labels: Tensor) -> list[int]:
    """Number of images of each class, from 0 to the largest label.

    Raises:
        ValueError: A class in between has no image.
    """
    counts: list[int] = torch.bincount(labels).tolist()
    if 0 in counts:
        raise ValueError(f"clean images of every class are needed, the reference has none of class {counts.index(0)}")
    return counts


def by_width(layers: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of the layers ``(M, C)`` that have equally many channels, so that they can be computed with at once."""
    groups: dict[int, list[str]] = {}
    for name, values in layers.items():
        groups.setdefault(values.shape[1], []).append(name)
    return list(groups.values())


def moved(part: Any, like: Tensor) -> Any:
    """Tensors, also those of a dataclass within, on the device of another one and in its precision, float32 at least.

    A backward may save them, also those that were made in inference mode.
    """
    if isinstance(part, Tensor):
        kept = part.clone() if part.is_inference() else part
        precision = torch.promote_types(like.dtype, torch.float32)
        return kept.to(like.device, precision) if kept.is_floating_point() else kept.to(like.device)
    if is_dataclass(part) and not isinstance(part, type):
        changed = {item.name: moved(getattr(part, item.name), like) for item in fields(part)}
        return replace(part, **changed)
    return part


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What an objective knows of clean images.

    Args:
        layers: Names of the layers that it reads.
        classes: Number of classes that the clean images are of.
        parts: Tensors, or dataclasses of them.
    """

    layers: tuple[str, ...]
    classes: int
    parts: tuple[Any, ...]
    _elsewhere: dict[Any, tuple[Any, ...]] = field(default_factory=dict, init=False, repr=False)

    def near(self, like: Tensor) -> tuple[Any, ...]:
        """The parts on a tensor's device and in its precision; moved once."""
        where = (like.device, like.dtype)
        if where not in self._elsewhere:
            self._elsewhere[where] = tuple(moved(part, like) for part in self.parts)
        return self._elsewhere[where]


_KNOWN: WeakKeyDictionary[Reference, dict[Any, Knowledge]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Resembling(Objective):
    """An objective that is fitted to clean training images before it is used.

    Fitting gives a copy with the same parameters that also knows the clean images; another one with the same
    parameters, fitted to the same reference, shares that knowledge. ``dataclasses.replace`` gives an unfitted one.

    Args:
        taps: Patterns of the layers whose features it knows, as ``networks.features.layers_named`` reads them.

    Raises:
        ValueError: ``taps`` names nothing.
    """

    taps: tuple[str, ...] = ("activations",)

    def __post_init__(self) -> None:
        """Keep a tuple, so that it can be hashed."""
        if isinstance(self.taps, str) or not self.taps:
            raise ValueError(f"taps is a list of at least one pattern of layers, got {self.taps!r}")
        object.__setattr__(self, "taps", tuple(self.taps))

    @property
    def knowledge(self) -> Knowledge | None:
        """What it has been fitted to; None before."""
        return self.__dict__.get("_knowledge")

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that it reads; none before it is fitted."""
        return self.knowledge.layers if self.knowledge else ()

    @property
    def fitted_to(self) -> tuple[str, ...]:
        """``taps``, or () once it is fitted."""
        return () if self.knowledge else self.taps

    def fit(self, reference: Reference) -> Self:
        """A copy that knows the clean features of a reference."""
        key = (type(self), *self._settings())
        known = _KNOWN.setdefault(reference, {})
        if key not in known:
            with torch.inference_mode(False), torch.no_grad():
                known[key] = self.learn(reference)
        return self.knowing(known[key])

    def knowing(self, knowledge: Knowledge) -> Self:
        """A copy that knows what has been learnt before."""
        fitted = replace(self)
        fitted.__dict__["_knowledge"] = knowledge
        return fitted

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``.

        Raises:
            ValueError: It is not fitted, or the victim has other classes than the clean images.
        """
        name = type(self).__name__
        if self.knowledge is None:
            raise ValueError(
                f"{name} is fitted to clean training images first: attacks.reference.fit_objectives, or its own fit"
            )
        goals = resembled_class(step)
        if step.outputs.shape[1] != self.knowledge.classes:
            known = f"the clean images it was fitted to are of {self.knowledge.classes}"
            raise ValueError(
                f"{name} needs clean images of each of the victim's {step.outputs.shape[1]} classes, {known}"
            )
        return self.value(step, goals, self.knowledge.near(step.features[self.layers[-1]]))

    @abstractmethod
    def learn(self, reference: Reference) -> Knowledge:
        """What it needs to know of the clean images."""

    @abstractmethod
    def value(self, step: Step, goals: Tensor, parts: Sequence[Any]) -> Tensor:
        """Value of each image, ``(N,)``, given the class that it is to resemble ``(N,)`` and the knowledge's parts."""

    def _settings(self) -> tuple[Any, ...]:
        return tuple(getattr(self, item.name) for item in fields(self))

    def __eq__(self, other: object) -> bool:
        """Equal settings, fitted to the same images or not fitted both."""
        if type(other) is not type(self) or not isinstance(other, Resembling):
            return NotImplemented
        return self._settings() == other._settings() and self.knowledge is other.knowledge

    def __hash__(self) -> int:
        """Hash of what makes it equal."""
        return hash((type(self), self._settings(), id(self.knowledge)))
