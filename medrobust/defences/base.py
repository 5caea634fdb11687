"""What a defence is: a loss that makes a victim robust while it is trained, made of images that an attack crafts."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from medrobust.attacks.base import Attack, describe
from medrobust.networks.batch_norm import running_statistics_kept, tracking_norms
from medrobust.networks.victims import Outputs, Targets, Victim
from medrobust.objectives.base import Objective
from medrobust.objectives.clean_features import patterns_wanted
from medrobust.objectives.logit_gap import class_logits
from medrobust.objectives.plain_numbers import PlainNumbers, plain


@runtime_checkable
class TrainedVictim(Victim, Protocol):
    """A victim that is being trained."""

    def training_loss(self, images: Tensor, targets: Targets, outputs: Outputs | None = None) -> Tensor:
        """What its training lowers on a batch, ``()``; ``outputs`` are those for the images, where they are known."""


@dataclass(frozen=True)
class TrainingLoss:
    """The loss of a batch, and what it cost.

    Args:
        loss: The loss, ``()``.
        forwards: Forward passes of all images together, those of the crafting included, int64 ``()``.
        backwards: Backward passes, those of the training step included, int64 ``()``.
    """

    loss: Tensor
    forwards: Tensor
    backwards: Tensor


@dataclass(frozen=True, kw_only=True)
class Defence(PlainNumbers, ABC):
    """A way to train a victim against an attack. It holds no model; its fields are its parameters.

    The attack crafts on the victim as it would be evaluated: in eval mode and in float32, so that crafting neither
    uses nor changes the statistics of a batch. In the loss, clean and adversarial images pass BatchNorm in separate
    batches, each normalised by its own statistics.

    Args:
        attack: The attack inside the training step, at full radius.
        warm_up: Number of epochs at the beginning that train at smaller radii: epoch e, counted from 0, at
            (e + 1) / (warm_up + 1) of the radius and of the length of a step.
        running_statistics: Whose statistics BatchNorm keeps for evaluations: those of ``all`` images that the loss
            passes, as the methods' authors have it, or those of the ``clean`` images alone, for which a loss without
            them makes one more forward pass. Clean ones can leave a victim without defence: its training normalises
            adversarial images by their own statistics, its evaluation by those of clean images, and where the two
            differ it learns what it is not asked (docs/results/defences.md has an example).

    Raises:
        ValueError: A field is out of its range, or the attack cannot be used in training.
    """

    reads_logits: ClassVar[bool] = False

    attack: Attack
    warm_up: int = 0
    running_statistics: Literal["clean", "all"] = "all"

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        if not isinstance(self.attack, Attack):
            raise ValueError(f"attack is an Attack such as PGD, got {self.attack!r}")
        if not isinstance(plain(self.warm_up), int) or self.warm_up < 0:
            raise ValueError(f"warm_up counts epochs and is a whole number of at least 0, got {self.warm_up}")
        if self.running_statistics not in ("clean", "all"):
            raise ValueError(f"running_statistics is 'clean' or 'all', got {self.running_statistics!r}")
        if self.attack.targeted:
            raise ValueError("a victim is trained on attacks that leave the truth, and this one is targeted")
        if patterns_wanted(self.attack):
            raise ValueError(
                f"the objective of {type(self.attack).__name__} has to be fitted to clean features, which change with "
                "each step of a training: take another objective"
            )
        if self.warm_up and not isinstance(vars(self.attack).get("epsilon"), int | float):
            raise ValueError(f"warm_up scales the radius of the attack, and {type(self.attack).__name__} has none")

    def parameters(self) -> dict[str, Any]:
        """All fields as plain values, nested objects with their class's name."""
        described = describe(self)
        assert isinstance(described, dict)
        return described

    def at(self, epoch: int) -> Attack:
        """The attack of an epoch, counted from 0."""
        attack = self.crafting()
        share = min(1.0, (epoch + 1) / (self.warm_up + 1))
        if share == 1:
            return attack
        lengths = ("epsilon", "step_size") if "step_size" in vars(attack) else ("epsilon",)
        changed: dict[str, Any] = {
            name: share * float(vars(attack)[name]) for name in lengths if vars(attack)[name] is not None
        }
        return replace(attack, **changed)

    def crafting(self) -> Attack:
        """The attack that crafts the training images, at full radius; ``attack`` itself unless the method says else."""
        return self.attack

    def craft(
        self, victim: Victim, images: Tensor, targets: Targets, ids: Sequence[str], epoch: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Adversarial images of a batch and the passes that all of them took: forwards and backwards, int64 ``()``.

        An image draws its random numbers from its id and the epoch, whatever the batch.
        """
        with torch.autocast(images.device.type, enabled=False):
            crafted = self.at(epoch).craft(victim, images.float(), targets, streams(ids, epoch))
        return crafted.images.to(images.dtype), crafted.forwards.sum(), crafted.backwards.sum()

    def __call__(
        self, victim: TrainedVictim, images: Tensor, targets: Targets, ids: Sequence[str], epoch: int
    ) -> TrainingLoss:
        """The loss of a batch, with a graph to the victim's weights.

        Args:
            victim: The victim, in the mode in which it is trained.
            images: Clean images, ``(N, C, H, W)`` in [0, 1].
            targets: Their targets.
            ids: One name per image.
            epoch: Number of the epoch, from 0.

        Raises:
            ValueError: The victim or its targets do not fit the method, or its outputs are not finite.
        """
        adversarial, forwards, backwards = self.craft(victim, images, targets, ids, epoch)
        loss, passes = self.loss(victim, images, adversarial, targets)
        count = len(images)
        return TrainingLoss(loss, forwards + passes[0] * count, backwards + passes[1] * count)

    @abstractmethod
    def loss(
        self, victim: TrainedVictim, images: Tensor, adversarial: Tensor, targets: Targets
    ) -> tuple[Tensor, tuple[int, int]]:
        """The loss ``()`` of a batch and its adversarial images, and the forwards and backwards that it takes."""

    def outputs(self, victim: Victim, adversarial: Tensor) -> Outputs:
        """Outputs for adversarial images, which count in the running statistics or not as the setting says."""
        with self._counting(victim):
            return victim(adversarial)

    def _counting(self, victim: Victim) -> Any:
        """Keep the running statistics from adversarial images, unless they count too."""
        keeps = self.running_statistics == "clean" and isinstance(victim, nn.Module)
        return running_statistics_kept(victim) if keeps and isinstance(victim, nn.Module) else nullcontext()

    def show_clean(self, victim: Victim, images: Tensor) -> int:
        """Let the running statistics follow clean images that the loss does not pass; number of forwards."""
        if self.running_statistics == "all" or not isinstance(victim, nn.Module) or not tracking_norms(victim):
            return 0
        with torch.no_grad():
            victim(images)
        return 1


def streams(ids: Sequence[str], epoch: int) -> list[str]:
    """The names from which the images of a training batch draw their random numbers: one for each id and epoch.

    An image that stands in the batch more than once has another stream at each place.
    """
    seen: Counter[str] = Counter()
    names = []
    for id in map(str, ids):
        names.append(f"{id} in epoch {epoch}" + (f" ({seen[id]})" if seen[id] else ""))
        seen[id] += 1
    return names


def needed_logits(outputs: Outputs, targets: Targets, method: str) -> Tensor:
    """Outputs as logits of at least two classes for each target, ``(N, K, ...)``.

    Raises:
        ValueError: They are none.
    """
    logits = class_logits(outputs, targets)
    if logits is None:
        raise ValueError(f"{method} compares logits for classes, labels or masks, and the victim gives none")
    return logits


def started_at_random(attack: Attack, objective: Objective, method: str) -> Attack:
    """An attack whose own objective is replaced, if it takes one and none was configured.

    Raises:
        ValueError: It starts at the clean image, where the objective has no slope.
    """
    if attack.own_objective or "objective" not in vars(attack) or vars(attack)["objective"] is not None:
        return attack
    if attack.starts_clean or vars(attack).get("random_start") is False:
        remedy = "an objective, such as CrossEntropy" if attack.starts_clean else "random_start: true"
        raise ValueError(
            f"{method} raises the divergence from the clean outputs, which has no slope at the clean image: give "
            f"{type(attack).__name__} {remedy}"
        )
    changed: dict[str, Any] = {"objective": objective}
    return replace(attack, **changed)
