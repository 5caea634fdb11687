"""What an attack is: a configured pure function from a victim and images to adversarial images."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.batches import check_batch, without_inference
from attacks.victims import Victim, frozen


@dataclass(frozen=True)
class Crafted:
    """What an attack made of a batch, before it is judged.

    Args:
        images: Adversarial images, ``(N, C, H, W)`` in [0, 1].
        forwards: Forward passes that each image needed, ``(N,)`` int64: what it would cost in a batch of its own.
        backwards: Backward passes, likewise.
        zero_gradients: Backward passes of each image whose gradient vanished although the image did not fool the
            victim yet, ``(N,)`` int64. Where cross-entropy saturates, the margin on logits stepped in.
        measures: Further numbers about each image, ``(N,)`` floating point by name, NaN where undefined; each becomes
            a column of the records.
        pictures: What else the attack made and is worth a look, such as a bias field, ``(N, C, H, W)`` by name.
    """

    images: Tensor
    forwards: Tensor
    backwards: Tensor
    zero_gradients: Tensor
    measures: Mapping[str, Tensor] = field(default_factory=dict)
    pictures: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Attacked(Crafted):
    """What an attack made of a batch, judged by one further forward (counted in ``forwards``).

    Args:
        success: Whether the returned image fools the victim (targeted: is taken for the goal), bool ``(N,)``.
    """

    success: Tensor = field(kw_only=True)


class Step:
    """One look at the victim: an objective asks it for what it needs, and all objectives share one forward.

    Args:
        victim: The victim, frozen.
        images: Current images, ``(N, C, H, W)``, part of the graph that is differentiated.
        clean: The images that the attack started from, ``(N, C, H, W)``.
        targets: True targets, or goals if ``targeted``.
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
        """Keep what is given; nothing is computed before it is asked for."""
        self.victim, self.images, self.clean, self.targets, self.ids = victim, images, clean, targets, ids
        self.targeted, self.layers, self.index = targeted, tuple(layers), index
        self.forwards, self.backwards = 0, 1
        self.has_outputs = False
        self.vanished: Tensor | None = None

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
        """The victim's own loss of each image, ``(N,)``: for victims whose outputs alone do not give it."""
        self.forwards += 1
        return self.victim.loss(self.images, self.targets)

    def count(self, forwards: int, backwards: int) -> None:
        """Note passes of an objective's own, beyond the shared forward and its backward."""
        self.forwards += forwards
        self.backwards += backwards

    def report_vanished(self, images: Tensor) -> None:
        """Note the images, bool ``(N,)``, whose objective has lost its gradient."""
        self.vanished = images if self.vanished is None else self.vanished | images


class Objective(ABC):
    """What an attacker raises: a value for each image, ``(N,)``. Objectives add, subtract and scale.

    ``CrossEntropy() + 0.5 * Margin()`` is an objective again; in YAML it is written as a ``WeightedSum``.
    """

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that it reads; all objectives of a sum share one forward."""
        return ()

    @property
    def fitted_to(self) -> tuple[str, ...]:
        """Patterns of the layers whose clean features it has to be fitted to before it is used; () for none."""
        return ()

    def fit(self, reference: Any) -> "Objective":
        """An objective that knows the clean features of an ``attacks.reference.Reference``; by default itself."""
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
        """Turn round."""
        return self * -1.0


@dataclass(frozen=True)
class WeightedSum(Objective):
    """Sum of objectives, each with its weight.

    Args:
        terms: The objectives.
        weights: One number for each.

    Raises:
        ValueError: There is no term, or another number of weights than of terms.
    """

    terms: tuple[Objective, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse lists that do not match; keep tuples, so that an attack can be hashed."""
        object.__setattr__(self, "terms", tuple(self.terms))
        object.__setattr__(self, "weights", tuple(self.weights))
        if not self.terms or len(self.terms) != len(self.weights):
            raise ValueError(f"expected one weight for each term, got {len(self.terms)} and {len(self.weights)}")

    @property
    def layers(self) -> tuple[str, ...]:
        """Every term's layers, each once."""
        return tuple(dict.fromkeys(layer for term in self.terms for layer in term.layers))

    def __call__(self, step: Step) -> Tensor:
        """Weighted sum of the terms, ``(N,)``."""
        values = [weight * term(step) for weight, term in zip(self.weights, self.terms, strict=True)]
        return torch.stack(values).sum(0)


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A way to make adversarial images. Its fields are all that it depends on; it holds no model and no device.

    Args:
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Seed of the per-image random streams, drawn from (seed, method, image id).
    """

    minimal: ClassVar[bool] = False  # looks for the smallest perturbation that fools, and ought to fool every image

    targeted: bool = False
    seed: int = 0

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """Norm that ``epsilon`` bounds or that is kept small; ``log`` is the maximum norm of log-images."""
        return "linf"

    def __call__(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str] | None = None) -> Attacked:
        """Craft adversarial images and judge them.

        Args:
            victim: The victim; it is attacked in eval mode and left exactly as it was.
            images: Clean images, ``(N, C, H, W)`` in [0, 1]; left alone.
            targets: Classes ``(N,)``, masks ``(N, H, W)`` or a list of N boxes' dicts: true ones, or goals.
            ids: One name an image, from which its randomness comes; default its place in the batch.

        Raises:
            ValueError: Images outside [0, 1] or not finite, or lengths that differ.
        """
        crafted = self.craft(victim, images, targets, ids)
        with torch.inference_mode(False), torch.no_grad(), frozen(victim):
            targets = without_inference(targets)
            success = self.reached(victim, victim(crafted.images), targets)
        passes = {"forwards": crafted.forwards + 1, "success": success}
        return Attacked(**{name.name: getattr(crafted, name.name) for name in fields(crafted)} | passes)

    def craft(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str] | None = None) -> Crafted:
        """Craft adversarial images without judging them; arguments as in ``__call__``."""
        ids = [str(place) for place in range(len(images))] if ids is None else list(ids)
        check_batch(images, targets, ids)
        with torch.inference_mode(False), torch.enable_grad(), frozen(victim):
            return self.perturb(victim, without_inference(images).detach(), without_inference(targets), ids)

    @abstractmethod
    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Do the work on a checked batch, with the victim frozen and gradients enabled."""

    def reached(self, victim: Victim, outputs: Any, targets: Any) -> Tensor:
        """Whether outputs are what the attack wants, bool ``(N,)``."""
        wrong = victim.fooled(outputs, targets)
        return ~wrong if self.targeted else wrong

    def parameters(self) -> dict[str, Any]:
        """All fields as plain values, nested objects with their class's name: what identifies the attack."""
        described = describe(self)
        assert isinstance(described, dict)
        return described


def describe(value: Any) -> Any:
    """Turn a parameter into JSON's types; dataclasses become dicts with the class's name under ``class``."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"class": type(value).__name__} | {
            field.name: describe(getattr(value, field.name)) for field in fields(value)
        }
    if isinstance(value, dict):
        return {str(key): describe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [describe(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)  # JSON has no infinity
    return value if value is None or isinstance(value, bool | int | str) else str(value)
