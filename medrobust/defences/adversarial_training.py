"""Adversarial training: the victim's own loss on the images of an attack."""

from dataclasses import dataclass

from torch import Tensor

from medrobust.defences.base import Defence, TrainedVictim
from medrobust.networks.victims import Targets


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Defence):
    """Trains on adversarial images, min_w E max_{|d| <= epsilon} L(x + d) (Madry et al., ICLR 2018, eq. 2.1).

    Args:
        weight: Share w of the adversarial images in the loss, w L(x') + (1 - w) L(x), above 0 and at most 1; 1 is
            Madry's, 1/2 that of Goodfellow et al. (ICLR 2015).
        attack: As ``Defence``.
        warm_up: As ``Defence``.
        running_statistics: As ``Defence``.

    Raises:
        ValueError: A field is out of its range, or the attack cannot be used in training.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight is a share above 0 and at most 1, got {self.weight}")

    def loss(
        self, victim: TrainedVictim, images: Tensor, adversarial: Tensor, targets: Targets
    ) -> tuple[Tensor, tuple[int, int]]:
        """The loss ``()`` of a batch and its adversarial images, and the forwards and backwards that it takes."""
        if self.weight == 1:
            forwards = self.show_clean(victim, images)
            with self._counting(victim):
                return victim.training_loss(adversarial, targets), (1 + forwards, 1)
        clean = victim.training_loss(images, targets)
        with self._counting(victim):
            attacked = victim.training_loss(adversarial, targets)
        return (1 - self.weight) * clean + self.weight * attacked, (2, 2)
