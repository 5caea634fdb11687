"""What an objective is: a value per image that an attack raises, computed from one shared look at the victim."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
from torch import Tensor

from medrobust.networks.finite import mended
from medrobust.networks.victims import Victim, box_victim
from medrobust.objectives.plain_numbers import PlainNumbers

if TYPE_CHECKING:
    from medrobust.objectives.clean_features import CleanFeatures  # which imports this module


class Step:
    """One look at the victim: objectives ask it for what they need, and all of them share one forward.

    A gradient that arrives at the images with entries that are not finite goes on as ``mended`` gives it; the image is
    then marked in ``broken``, bool ``(N,)``, and counts as vanished.

    Args:
        victim: The victim, frozen.
        images: Current images, ``(N, C, H, W)``, part of the graph that is differentiated.
        clean: The images that the attack started from, ``(N, C, H, W)``.
        targets: True targets, or goals if ``targeted``, as ``Attack.__call__`` describes them.
        ids: The images' ids.
        targeted: Whether the attack aims at ``targets`` instead of away from them.
        layers: Names of the layers that the objective reads.
        index: Number of the step, from 0.
    """

    def __init__(
        self,
        victim: Victim,
        images: Tensor,
        clean: Tensor,
        targets: Any,
        ids: Sequence[str],
        targeted: bool = False,
        layers: Sequence[str] = (),
        index: int = 0,
    ) -> None:
        """Store the arguments; nothing is computed before it is asked for."""
        self.victim, self.images, self.clean, self.targets, self.ids = victim, images, clean, targets, ids
        self.targeted, self.layers, self.index = targeted, tuple(layers), index
        self.forwards, self.backwards = 0, 1
        self.has_outputs = False
        self.vanished: Tensor | None = None
        self._asked_by: ref[Step] | None = None
        self._others: list[Step] = []  # kept until the backward, which tells them what is broken
        self.broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        if images.requires_grad:
            itself = ref(self)  # a hook that held the step would keep its graph alive until the garbage is collected
            images.register_hook(lambda gradients: _finite(itself(), gradients))

    @cached_property
    def _seen(self) -> tuple[Any, dict[str, Tensor]]:
        self.forwards += 1
        self.has_outputs = True
        return self.victim.features(self.images, self.layers) if self.layers else (self.victim(self.images), {})

    @property
    def outputs(self) -> Any:
        """The victim's outputs for the current images."""
        return self._seen[0]

    @property
    def features(self) -> dict[str, Tensor]:
        """The named layers' activations, ``(N, C)`` each, from the same forward as the outputs."""
        return self._seen[1]

    @cached_property
    def loss(self) -> Tensor:
        """The victim's own loss of each image, ``(N,)``, for victims whose loss cannot be computed from the outputs."""
        self.forwards += 1
        loss = self.victim.loss(self.images, self.targets)
        if not isinstance(loss, Tensor) or loss.shape != (len(self.images),):
            received = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(
                f"a victim's loss is expected to be one number per image, ({len(self.images)},), got {received}"
            )
        if self.images.requires_grad and torch.is_grad_enabled() and not loss.requires_grad:
            raise ValueError("a victim's loss is expected to depend on the images, and this one has no gradient")
        return loss

    def loss_parts(self, targets: Any, asking: str) -> dict[str, Tensor]:
        """The parts of a box victim's loss for some targets, as ``BoxVictim`` names them; it costs a forward.

        Args:
            targets: True boxes, goals or others, one dict for each image.
            asking: Who asks, for the message.

        Raises:
            ValueError: The victim does not find boxes in two stages.
        """
        self.forwards += 1
        return box_victim(self.victim, asking).loss_parts(self.images, targets)

    def at(self, images: Tensor, layers: Sequence[str] = ()) -> "Step":
        """A look at other images ``(N, C, H, W)``, made of these; what vanishes or breaks there is noted here, too.

        Its passes are not counted here: see ``count``.
        """
        other = Step(self.victim, images, self.clean, self.targets, self.ids, self.targeted, layers, self.index)
        other._asked_by = ref(self)
        self._others.append(other)
        return other

    def count(self, forwards: int, backwards: int) -> None:
        """Count passes that an objective makes beyond the shared forward and its backward."""
        self.forwards += forwards
        self.backwards += backwards

    def report_vanished(self, images: Tensor) -> None:
        """Note the images whose objective has lost its gradient, bool ``(N,)``."""
        self.vanished = images if self.vanished is None else self.vanished | images
        if self._asked_by is not None and (asking := self._asked_by()) is not None:
            asking.report_vanished(images)

    def report_broken(self, images: Tensor) -> None:
        """Note the images whose gradients were not finite, bool ``(N,)``; these count as vanished."""
        self.broken = self.broken | images
        if self._asked_by is not None and (asking := self._asked_by()) is not None:
            asking.report_broken(images)
        else:
            self.report_vanished(images)


def _finite(step: Step | None, gradients: Tensor) -> Tensor:
    """The gradients of a step's images, mended; the step marks those that were broken."""
    gradients, broken = mended(gradients)
    if step is not None:
        step.report_broken(broken)
    return gradients


class Objective(PlainNumbers, ABC):
    """What an attacker raises: one value per image, ``(N,)``. Objectives add, subtract and scale.

    ``CrossEntropy() + 0.5 * Margin()`` is an objective, too; in YAML it is written as a ``WeightedSum``.
    """

    __array_ufunc__ = None  # so that a NumPy number on the left leaves the multiplication to this class

    @property
    def title(self) -> str:
        """What records call it: its class, and what tells it from others of its class."""
        return type(self).__name__

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that it reads; all objectives of a sum share one forward."""
        return ()

    @property
    def fitted_to(self) -> tuple[str, ...]:
        """Patterns of the layers to whose clean features it has to be fitted before it is used; () for none."""
        return ()

    @property
    def needs_fitting(self) -> bool:
        """Whether it has to be fitted to ``CleanFeatures`` before it is used."""
        return bool(self.fitted_to)

    def fit(self, clean_features: "CleanFeatures") -> "Objective":
        """This objective, fitted to ``CleanFeatures``; by default unchanged, since most need no fitting."""
        return self

    @abstractmethod
    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``; the attack moves uphill."""

    def __add__(self, other: "Objective") -> "WeightedSum":
        """Add another objective."""
        return WeightedSum((self, other), (1.0, 1.0))

    def __sub__(self, other: "Objective") -> "WeightedSum":
        """Subtract another objective."""
        return WeightedSum((self, other), (1.0, -1.0))

    def __mul__(self, weight: float) -> "WeightedSum":
        """Scale by a number."""
        return WeightedSum((self,), (float(weight),))

    __rmul__ = __mul__

    def __radd__(self, other: object) -> "Objective":
        """Let ``sum(objectives)`` start from 0."""
        return self if other == 0 else NotImplemented

    def __neg__(self) -> "WeightedSum":
        """Negate."""
        return self * -1.0


@dataclass(frozen=True)
class WeightedSum(Objective):
    """Sum of objectives, each with its weight.

    Args:
        terms: The objectives.
        weights: One number per term.

    Raises:
        ValueError: There is no term, or the numbers of terms and weights differ.
    """

    terms: tuple[Objective, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse lists that do not match, and turn them into tuples, so that an attack can be hashed."""
        object.__setattr__(self, "terms", tuple(self.terms))
        object.__setattr__(self, "weights", tuple(self.weights))
        if not self.terms or len(self.terms) != len(self.weights):
            raise ValueError(f"expected one weight for each term, got {len(self.terms)} and {len(self.weights)}")

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of all terms, without repetition."""
        return tuple(dict.fromkeys(layer for term in self.terms for layer in term.layers))

    def __call__(self, step: Step) -> Tensor:
        """Weighted sum of the terms, ``(N,)``."""
        values = [weight * term(step) for weight, term in zip(self.weights, self.terms, strict=True)]
        return torch.stack(values).sum(0)
