"""The penultimate features of clean, noisy, adversarial and hidden images (Ma20 Fig. 9, HFC21 Fig. 1 and 3a)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.evaluation.controls import changed, noise_of_length
from medrobust.evaluation.deployment import judging
from medrobust.networks.victims import EvaluatedVictim, Targets
from medrobust.studies.base import Study

MOST = 250  # images: t-SNE compares all points, six for each image


@dataclass(frozen=True, kw_only=True)
class Embedding(Study):
    """The penultimate features, of which planes by PCA and t-SNE are drawn (Ma20 Fig. 9; HFC21 Fig. 1 and 3a).

    Noisy images stand beside adversarial ones as in detection: the noise is as long as the image's own perturbation.
    Hidden images are those of an attack whose objective has a feature constraint. The features of each image are
    computed by themselves, so that they are the same whatever its batch mates are.

    Args:
        images: Number of images, chosen evenly over the classes; at most 250.
        attacks: Names of the attacks whose images it looks at; empty for all, without controls. Four are drawn.
        seed: Seed of the noise, that of detection.

    Raises:
        ValueError: A number is out of its range.
    """

    images: int | None = 100
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        super().__post_init__()
        if self.images is None or self.images > MOST:
            raise ValueError(f"images is at most {MOST}, because t-SNE compares all of them, got {self.images}")

    def of_clean(
        self, victim: EvaluatedVictim, images: Tensor, targets: Targets, ids: Sequence[str]
    ) -> dict[str, Tensor]:
        """The features ``(N, C)``."""
        return {"features": penultimate(victim, images, ids)}

    def of_attack(self, victim: EvaluatedVictim, batch: AdversarialBatch) -> dict[str, Tensor]:
        """The features of the adversarial image, and of the noisy one; NaN where the attack changed nothing."""
        noisy = noise_of_length(batch.clean, batch.adversarial, batch.ids, self.seed)
        moved = changed(batch.clean, batch.adversarial)[:, None]
        return {
            "features": penultimate(victim, batch.adversarial, batch.ids),
            "noisy": torch.where(moved, penultimate(victim, noisy, batch.ids), torch.nan),
        }


@torch.no_grad()
def penultimate(victim: EvaluatedVictim, images: Tensor, ids: Sequence[str]) -> Tensor:
    """The features that the classifier reads, ``(N, C)``, of one image at a time."""
    layer = victim.layers_named(["activations"])[-1]
    found = []
    for image, id in zip(images.split(1), ids, strict=True):
        with judging(victim, [id]):
            found.append(victim.features(image, [layer])[1][layer])
    return torch.cat(found).float()
