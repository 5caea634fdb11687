"""Objectives fitted to clean images, which make an image resemble those of another class (HFC21 section 4)."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from medrobust.objectives.base import Objective, Step
from medrobust.objectives.clean_features import CleanFeatures


def resembled_class(step: Step) -> Tensor:
    """Class that each image is to resemble, ``(N,)``: the goal, or else the likeliest class other than the true one.

    Of two classes that is the other one; of more, the one whose logit is largest at present, without gradient.

    Raises:
        ValueError: The targets are not classes, or the outputs not their logits.
    """
    targets = step.targets
    if not isinstance(targets, Tensor) or targets.ndim != 1 or step.outputs.ndim != 2 or step.outputs.shape[1] < 2:
        raise ValueError(
            "an image resembles clean images of a class: classes (N,) and logits (N, K), K >= 2, are needed"
        )
    if step.targeted:
        return targets.long()
    return step.outputs.detach().scatter(1, targets.long().unsqueeze(1), float("-inf")).argmax(1)


def images_by_class(labels: Tensor) -> list[int]:
    """Number of images of each class, from 0 to the largest label.

    Raises:
        ValueError: A class in between has no image.
    """
    counts: list[int] = torch.bincount(labels).tolist()
    if 0 in counts:
        missing = counts.index(0)
        raise ValueError(f"clean images of every class are needed, the clean features have none of class {missing}")
    return counts


def by_width(layers: Mapping[str, Tensor]) -> list[list[str]]:
    """Names of the layers ``(M, C)``, grouped by their number of channels so that a group can be stacked."""
    groups: dict[int, list[str]] = {}
    for name, values in layers.items():
        groups.setdefault(values.shape[1], []).append(name)
    return list(groups.values())


def moved_to(part: Any, like: Tensor) -> Any:
    """A tensor, or a dataclass of tensors, on the device of another tensor and in its precision, at least float32.

    Inference tensors are cloned, so that a backward may save them.
    """
    if isinstance(part, Tensor):
        usable = part.clone() if part.is_inference() else part
        precision = torch.promote_types(like.dtype, torch.float32)
        return usable.to(like.device, precision) if usable.is_floating_point() else usable.to(like.device)
    if is_dataclass(part) and not isinstance(part, type):
        changed = {item.name: moved_to(getattr(part, item.name), like) for item in fields(part)}
        return replace(part, **changed)
    return part


@dataclass(frozen=True, eq=False)
class FittedState:
    """What an objective has learnt from clean images.

    Args:
        layers: Names of the layers that the objective reads.
        classes: Number of classes of the clean images.
        parts: Tensors, or dataclasses of them; their meaning is up to the objective.
    """

    layers: tuple[str, ...]
    classes: int
    parts: tuple[Any, ...]
    _moved_parts: dict[Any, tuple[Any, ...]] = field(default_factory=dict, init=False, repr=False)

    def parts_for(self, like: Tensor) -> tuple[Any, ...]:
        """The parts on a tensor's device and in its precision; they are moved once and kept."""
        where = (like.device, like.dtype)
        if where not in self._moved_parts:
            self._moved_parts[where] = tuple(moved_to(part, like) for part in self.parts)
        return self._moved_parts[where]


_STATES: WeakKeyDictionary[CleanFeatures, dict[Any, FittedState]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class FittedObjective(Objective):
    """An objective that is fitted to clean training images before it is used.

    Fitting returns a copy with the same parameters and a fitted state. Another objective with the same parameters that
    is fitted to the same clean features shares the state. ``dataclasses.replace`` returns an unfitted objective.
    """

    @property
    def state(self) -> FittedState | None:
        """What it has learnt; None before it is fitted."""
        return self.__dict__.get("_state")

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that it reads; none before it is fitted."""
        return self.state.layers if self.state else ()

    @property
    def needs_fitting(self) -> bool:
        """Whether it has not been fitted yet."""
        return self.state is None

    def fit(self, clean_features: CleanFeatures) -> Self:
        """A copy that is fitted to clean features."""
        key = (type(self), *self._settings())
        states = _STATES.setdefault(clean_features, {})
        if key not in states:
            with torch.inference_mode(False), torch.no_grad():
                states[key] = self.fit_state(clean_features)
        return self.with_state(states[key])

    def with_state(self, state: FittedState) -> Self:
        """A copy with a state that has been fitted before."""
        fitted = replace(self)
        fitted.__dict__["_state"] = state
        return fitted

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``.

        Raises:
            ValueError: It is not fitted, or the victim does not have the clean images' classes.
        """
        name = type(self).__name__
        if self.state is None:
            raise ValueError(
                f"{name} is fitted to clean training images first, by its fit or by medrobust.objectives.fit_objectives"
            )
        goals = resembled_class(step)
        if step.outputs.shape[1] != self.state.classes:
            available = f"the clean images it was fitted to are of {self.state.classes}"
            raise ValueError(
                f"{name} needs clean images of each of the victim's {step.outputs.shape[1]} classes, {available}"
            )
        like = step.features[self.layers[-1]] if self.layers else step.outputs
        return self.value(step, goals, self.state.parts_for(like))

    @abstractmethod
    def fit_state(self, clean_features: CleanFeatures) -> FittedState:
        """Learn what it needs from the clean features."""

    @abstractmethod
    def value(self, step: Step, goals: Tensor, parts: Sequence[Any]) -> Tensor:
        """Value of each image, ``(N,)``.

        Args:
            step: The step.
            goals: Class that each image is to resemble, ``(N,)``.
            parts: The state's parts, on the device of the step's features, or of its outputs if it reads no layer.
        """

    def _settings(self) -> tuple[Any, ...]:
        return tuple(getattr(self, item.name) for item in fields(self))

    def __eq__(self, other: object) -> bool:
        """Whether both have equal settings and share their state, or are both unfitted."""
        if type(other) is not type(self) or not isinstance(other, FittedObjective):
            return NotImplemented
        return self._settings() == other._settings() and self.state is other.state

    def __hash__(self) -> int:
        """Hash of what ``__eq__`` compares."""
        return hash((type(self), self._settings(), id(self.state)))


@dataclass(frozen=True, eq=False)
class HidingObjective(FittedObjective):
    """An objective that makes an image's features resemble those of clean images of another class.

    It is added to one that fools. Let that one stop once the image is taken for the class: ``CrossEntropy`` of a
    targeted attack, or a ``TypicalMargin``. Untargeted cross-entropy does the reverse. Its slope is 1 - p_y, next to
    nothing for a confident victim and almost 1 once it is fooled, so that it fights the hiding to the end. So does a
    ``Margin`` whose kappa is out of reach.

    Args:
        taps: Patterns of the layers whose features it is fitted to, as ``networks.features.layers_named`` reads them.

    Raises:
        ValueError: ``taps`` holds no pattern.
    """

    taps: tuple[str, ...] = ("activations",)

    def __post_init__(self) -> None:
        """Turn ``taps`` into a tuple, so that the objective can be hashed."""
        if isinstance(self.taps, str) or not self.taps:
            raise ValueError(f"taps is a list of at least one pattern of layers, got {self.taps!r}")
        object.__setattr__(self, "taps", tuple(self.taps))

    @property
    def fitted_to(self) -> tuple[str, ...]:
        """``taps``, or () once it is fitted."""
        return () if self.state else self.taps
