"""What an attack is: a configured pure function from a victim and images to adversarial images."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from medrobust.attacks.batch_checks import check_batch, without_inference
from medrobust.networks.freezing import frozen
from medrobust.networks.victims import Outputs, Targets, Victim


@dataclass(frozen=True)
class Crafted:
    """What an attack made of a batch, before it is judged.

    Args:
        images: Adversarial images, ``(N, C, H, W)`` in [0, 1].
        forwards: Number of forward passes of each image, ``(N,)`` int64: what it would cost in a batch of its own.
        backwards: Number of backward passes of each image, ``(N,)`` int64.
        zero_gradients: Number of each image's backward passes whose gradient vanished although the image did not fool
            the victim yet, ``(N,)`` int64. Where cross-entropy saturated, the margin on logits stepped in.
        measures: Further numbers about each image, ``(N,)`` floating point by name, NaN where undefined; each becomes
            a column of the records.
        pictures: Further results that are worth a look, such as a bias field, ``(N, C, H, W)`` by name.
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


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A way to make adversarial images. Its results depend only on its fields and arguments; it holds no model.

    Args:
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Seed of the per-image random streams, drawn from (seed, method, image id).
    """

    minimal: ClassVar[bool] = False  # looks for the smallest perturbation that fools; it ought to fool every image

    targeted: bool = False
    seed: int = 0

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """Norm that ``epsilon`` bounds or that is kept small; ``log`` is the maximum norm of an image's logarithm."""
        return "linf"

    def __call__(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str] | None = None) -> Attacked:
        """Craft adversarial images and judge them.

        Args:
            victim: The victim; it is attacked in eval mode and left exactly as it was.
            images: Clean images, ``(N, C, H, W)`` in [0, 1]; they are not modified.
            targets: The true targets, or the goals if ``targeted``. Whole numbers or bool: classes ``(N,)``, counted
                from 0; labels that do not exclude each other ``(N, L)``, each 0 or 1; masks ``(N, H, W)``; label maps
                ``(N, L, H, W)``. Negative entries of labels, masks and maps are ignored. Or, for box victims, a list of
                N dicts of boxes. Any other shape with one entry per image is left to the victim's own loss.
            ids: One name per image, which decides its random numbers; by default its place in the batch.

        Raises:
            ValueError: Images are not finite or not in [0, 1], targets are none of these, or the lengths differ.
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
        """Craft adversarial images for a checked batch, with the victim frozen and gradients enabled."""

    def reached(self, victim: Victim, outputs: Outputs, targets: Targets) -> Tensor:
        """Whether outputs are what the attack wants, bool ``(N,)``: not the truth, or the goal if ``targeted``."""
        right = victim.outcome(outputs, targets).right
        return right if self.targeted else ~right

    def recorded(self, measures: Mapping[str, Tensor]) -> Mapping[str, "Tensor | list[str | None]"]:
        """An attack's measures as records hold them: numbers, or words where these say more."""
        return measures

    def parameters(self) -> dict[str, Any]:
        """All fields as plain values, nested objects with their class's name: what identifies the attack."""
        described = describe(self)
        assert isinstance(described, dict)
        return described


def describe(value: Any) -> Any:
    """Turn a parameter into JSON's types; a dataclass becomes a dict with the class's name under ``class``."""
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
