"""TRADES: the loss on clean images, and how far an attack moves the outputs away from theirs."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from medrobust.attacks.base import Attack
from medrobust.defences.base import Defence, TrainedVictim, needed_logits, started_at_random
from medrobust.networks.victims import Targets
from medrobust.objectives.divergence import Divergence, divergence


@dataclass(frozen=True, kw_only=True)
class Trades(Defence):
    """Trades accuracy for robustness, L(x) + weight KL(p(x) || p(x')) (Zhang et al., ICML 2019).

    The attack raises the same divergence, if it takes an objective and none is configured; one that has an objective of
    its own, such as SMIA, raises that. The divergence is the mean over the images of the batch; class weights apply to
    the loss on clean images alone.

    Args:
        weight: Weight of the divergence, positive; the paper's 1/lambda, from 1 (accurate) to 6 (robust).
        attack: As ``Defence``; with ``random_start`` where it takes an objective.
        warm_up: As ``Defence``.
        running_statistics: As ``Defence``.

    Raises:
        ValueError: A field is out of its range, or the attack cannot be used in training.
    """

    reads_logits: ClassVar[bool] = True

    weight: float = 6.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight is a positive number, got {self.weight}")
        self.crafting()

    def crafting(self) -> Attack:
        """The attack, with the divergence as its objective unless it has one of its own."""
        return started_at_random(self.attack, Divergence(), type(self).__name__)

    def loss(
        self, victim: TrainedVictim, images: Tensor, adversarial: Tensor, targets: Targets
    ) -> tuple[Tensor, tuple[int, int]]:
        """The loss ``()`` of a batch and its adversarial images, and the forwards and backwards that it takes."""
        outputs = victim(images)
        clean = needed_logits(outputs, targets, type(self).__name__)
        attacked = needed_logits(self.outputs(victim, adversarial), targets, type(self).__name__)
        moved = divergence(clean, attacked, targets).mean()
        return victim.training_loss(images, targets, outputs) + self.weight * moved, (2, 2)
