"""MART: adversarial training that weighs the images by how uncertain the victim is of the clean ones."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.defences.base import Defence, TrainedVictim, needed_logits
from medrobust.networks.victims import Targets
from medrobust.objectives.logit_gap import image_mean

LEAST = 1e-4  # of 1 minus a probability whose logarithm is taken


@dataclass(frozen=True, kw_only=True)
class Mart(Defence):
    """Misclassification-aware adversarial training (Wang et al., ICLR 2020, eq. 11).

    L(x') - log(1 - max_{k != y} p_k(x')) + weight KL(p(x) || p(x')) (1 - p_y(x)), the last two as means over the
    images: the boosted cross-entropy, and a divergence that counts most where the clean image is misclassified.

    Args:
        weight: Weight lambda of the divergence, positive; 5 in the paper.
        attack: As ``Defence``.
        warm_up: As ``Defence``.
        running_statistics: As ``Defence``.

    Raises:
        ValueError: A field is out of its range, or the attack cannot be used in training.
    """

    reads_logits: ClassVar[bool] = True

    weight: float = 5.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight is a positive number, got {self.weight}")

    def loss(
        self, victim: TrainedVictim, images: Tensor, adversarial: Tensor, targets: Targets
    ) -> tuple[Tensor, tuple[int, int]]:
        """The loss ``()`` of a batch and its adversarial images, and the forwards and backwards that it takes."""
        name = type(self).__name__
        clean = needed_logits(victim(images), targets, name)
        outputs = self.outputs(victim, adversarial)
        attacked = needed_logits(outputs, targets, name)
        truths = targets.long().clamp(min=0).unsqueeze(1)
        before, after = functional.log_softmax(clean, 1), functional.log_softmax(attacked, 1)
        rival = after.scatter(1, truths, -math.inf).amax(1).exp()
        boosted = -torch.log(1 + LEAST - rival)
        doubt = 1 - before.gather(1, truths).squeeze(1).exp()
        moved = (before.exp() * (before - after)).sum(1) * doubt
        further = image_mean(boosted + self.weight * moved, targets).mean()
        return victim.training_loss(adversarial, targets, outputs) + further, (2, 2)
