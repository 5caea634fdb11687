"""What an attack is: a configured pure function from a victim and images to adversarial images."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from medrobust.attacks.batch_checks import check_batch, without_inference
from medrobust.attacks.last_check import LEAST_IMAGES, acceptable, doubts, first_failing
from medrobust.networks.defended_victim import under_attack
from medrobust.networks.finite import finite_outputs
from medrobust.networks.freezing import frozen
from medrobust.networks.victims import Outputs, Targets, Victim, attackable, check_box_labels, check_known
from medrobust.networks.watched_victim import WatchedVictim
from medrobust.objectives.opposition import warn_of_opposition
from medrobust.objectives.plain_numbers import PlainNumbers, plain
from medrobust.random_streams import content_ids


@dataclass(frozen=True)
class Crafted:
    """What an attack made of a batch, before it is judged.

    Args:
        images: Adversarial images, ``(N, C, H, W)`` in [0, 1].
        forwards: Number of forward passes of each image, ``(N,)`` int64: what it would cost in a batch of its own.
        backwards: Number of backward passes of each image, ``(N,)`` int64.
        zero_gradients: Number of each image's backward passes whose gradient vanished although the image did not fool
            the victim yet, ``(N,)`` int64. Where cross-entropy saturated, the margin on logits stepped in; where a
            gradient was not finite, its entries were replaced (``networks.finite.mended``).
        measures: Further numbers about each image, ``(N,)`` floating point by name, NaN where undefined; each becomes
            a column of the records. Whatever the attack, ``broken_gradients`` is the number of backward passes whose
            gradient was not finite, and ``refused`` is 1 where the attack made an image that was not finite or not
            in [0, 1] and the ball, so that the clean image came back; each is there only if an image has it, and NaN
            where the number is 0.
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
class Attack(PlainNumbers, ABC):
    """A way to make adversarial images. Its results depend only on its fields and arguments; it holds no model.

    Where ``epsilon`` is 0 the clean images come back, without a pass.

    Args:
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Seed of the per-image random streams, drawn from (seed, method, image id).
    """

    minimal: ClassVar[bool] = False  # looks for the smallest perturbation that fools; it ought to fool every image
    sees_through: ClassVar[bool] = True  # asks the victim behind its input defence, if there is one
    starts_clean: ClassVar[bool] = False  # begins at the clean image, and has no field that changes that
    of_classes: ClassVar[bool] = False  # moves between classes or labels, and takes no masks and no boxes
    natural: ClassVar[bool] = False  # happens without an enemy: a control beside the attacks
    own_objective: ClassVar[bool] = False  # raises what its other fields say, and refuses an objective

    targeted: bool = False
    seed: int = 0

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """Norm that ``epsilon`` bounds or that is kept small; ``log`` is the maximum norm of an image's logarithm."""
        return "linf"

    def __call__(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str] | None = None) -> Attacked:
        """Craft adversarial images and judge them.

        It warns of a victim that returns probabilities or seems to guess, and of numbers that are not finite.

        Args:
            victim: The victim; it is attacked in eval mode and left exactly as it was.
            images: Clean images, ``(N, C, H, W)`` in [0, 1]; they are not modified, whatever the victim does.
            targets: The true targets, or the goals if ``targeted``. Whole numbers or bool: classes ``(N,)``, counted
                from 0; labels that do not exclude each other ``(N, L)``, each 0 or 1; masks ``(N, H, W)``; label maps
                ``(N, L, H, W)``. Negative entries of labels, masks and maps are ignored. Or, for box victims, a list of
                N dicts of boxes. Any other shape with one entry per image is left to the victim's own loss.
            ids: One name per image, none twice, which decides its random numbers; by default they follow from the
                image itself.

        Raises:
            ValueError: The victim is none; images are not finite or not in [0, 1], targets are none of these, the
                lengths differ, or two ids are equal; or the victim's outputs or losses are not finite for an image.
        """
        warn_of_opposition(self, type(self).__name__)
        crafted, watch = self._crafted(victim, images, targets, ids)
        names = [str(place) for place in range(len(images))] if ids is None else ids
        with torch.inference_mode(False), torch.no_grad(), frozen(victim):
            outputs = finite_outputs(victim(crafted.images.clone()), names, f"on the images of {type(self).__name__}")
            check_known(targets, outputs)
            success = self.reached(victim, outputs, without_inference(targets))
            if not self.targeted and len(images) >= LEAST_IMAGES:
                watch.see_clean(names)  # one further forward, which is not the attack's and is not counted
        for doubt in doubts(watch, crafted.measures, self.targeted):
            warnings.warn(doubt, stacklevel=2)
        passes = {"forwards": crafted.forwards + 1, "success": success}
        return Attacked(**{name.name: getattr(crafted, name.name) for name in fields(crafted)} | passes)

    def craft(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str] | None = None) -> Crafted:
        """Craft adversarial images without judging them; arguments as in ``__call__``.

        Raises:
            ValueError: As in ``__call__``.
        """
        return self._crafted(victim, images, targets, ids)[0]

    @abstractmethod
    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Craft adversarial images for a checked batch, with the victim frozen and gradients enabled.

        The victim is watched: it gets copies of the images, and outputs and losses that are not finite are refused when
        this returns. A ``Step`` mends the gradients of its images, others go through ``mended``; ``note_broken`` tells
        the victim which were broken.
        """

    def attempt(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """What ``perturb`` makes, for an attack that runs this one: the clean image where it may not be returned."""
        crafted = self.perturb(victim, images, targets, ids)
        fine = acceptable(crafted.images, images, getattr(self, "epsilon", None), self.norm)
        return replace(crafted, images=torch.where(fine.view(-1, 1, 1, 1), crafted.images, images))

    def _crafted(
        self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str] | None
    ) -> tuple[Crafted, WatchedVictim]:
        """What was crafted, and the victim as the attack saw it."""
        attackable(victim)
        check_batch(images, targets, ids)
        check_box_labels(targets, victim)
        with torch.inference_mode(False), torch.enable_grad(), frozen(victim):
            images, targets = without_inference(images).detach(), without_inference(targets)
            watch = WatchedVictim(under_attack(victim), images, targets)
            if getattr(self, "epsilon", None) == 0:
                none = torch.zeros(len(images), dtype=torch.long, device=images.device)
                return Crafted(images.clone(), none, none.clone(), none.clone()), watch
            streams = content_ids(images) if ids is None else list(ids)
            try:
                crafted = self.perturb(watch, images, targets, streams)
            except Exception as error:
                if watch.is_sound():
                    raise
                raise self._unsound(victim, images, targets, streams, ids) from error
            fine = acceptable(crafted.images, images, getattr(self, "epsilon", None), self.norm)
            # the only point at which the host waits for the device, once for all of them
            looks = (watch.finite_outputs, watch.finite_losses, fine.all(), watch.any_broken)
            sound, sound_losses, accepted, broken = torch.stack(looks).tolist()
            if not (sound and sound_losses):
                raise self._unsound(victim, images, targets, streams, ids)
            if self.sees_through and (samples := getattr(watch.victim, "samples", 1)) > 1:
                crafted = _with_passes(crafted, samples)
            if not accepted:
                crafted = _with_clean(crafted, images, fine)
            if broken:
                measures = {**crafted.measures, "broken_gradients": watch.broken_passes(streams).to(images)}
                crafted = replace(crafted, measures=measures)
        return crafted, watch

    def _unsound(
        self, victim: Victim, images: Tensor, targets: Any, streams: Sequence[str], ids: Sequence[str] | None
    ) -> ValueError:
        """What to say of outputs that are not finite: it names the image, found by attacking parts of the batch."""
        names = [str(place) for place in range(len(images))] if ids is None else list(ids)
        with torch.no_grad():
            finite_outputs(victim(images.clone()), names, "clean")
        kind = partial(self._not_finite, victim, images, targets, streams)
        place = first_failing(lambda places: kind(places) is not None, len(images))
        which = kind(range(len(images)) if place is None else [place]) or "outputs"
        whose = f"one of {len(images)} images" if place is None else f"the image {names[place]!r}"
        return ValueError(f"the victim's {which} are not finite at a step of {type(self).__name__} for {whose}")

    def _not_finite(
        self, victim: Victim, images: Tensor, targets: Any, streams: Sequence[str], places: Sequence[int]
    ) -> Literal["outputs", "losses"] | None:
        """What of the victim is not finite when the images at some places are attacked without the others."""
        rows = list(places)
        part = targets[rows] if isinstance(targets, Tensor) else [targets[row] for row in rows]
        watch = WatchedVictim(under_attack(victim), images[rows], part)
        try:
            self.perturb(watch, images[rows], part, [streams[row] for row in rows])
        except Exception:
            if watch.is_sound():
                raise
        if watch.is_sound():
            return None
        return "losses" if watch.finite_outputs else "outputs"

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


def _with_passes(crafted: Crafted, samples: int) -> Crafted:
    """Each pass counted as the several of which a victim's mean answer is made."""
    counts: dict[str, Any] = {
        name: samples * getattr(crafted, name) for name in ("forwards", "backwards", "zero_gradients")
    }
    return replace(crafted, **counts)


def _with_clean(crafted: Crafted, clean: Tensor, fine: Tensor) -> Crafted:
    """The clean image in place of each that may not be returned; nothing that was measured of the latter is kept."""
    kept = {
        name: torch.where(fine, values, torch.nan) if values.is_floating_point() else values
        for name, values in crafted.measures.items()
    }
    refused = torch.where(fine, torch.nan, 1.0).to(clean.dtype)
    images = torch.where(fine.view(-1, 1, 1, 1), crafted.images, clean)
    return replace(crafted, images=images, measures={**kept, "refused": refused})


def describe(value: Any) -> Any:
    """Turn a parameter into JSON's types; a dataclass becomes a dict with the class's name under ``class``."""
    value = plain(value)
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
