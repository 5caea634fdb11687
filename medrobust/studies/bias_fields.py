"""Bias fields as they lie over their images, bounded and free (SBF20 Fig. 2)."""

import math
from dataclasses import dataclass

from torch import Tensor

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.networks.victims import EvaluatedVictim
from medrobust.studies.base import Study


@dataclass(frozen=True, kw_only=True)
class BiasFields(Study):
    """The fields of attacks and controls that make one, over their images, and what bounding them costs.

    Its figures are some images with their fields as contours, and success, SSIM and BRISQUE against the bound.

    Args:
        images: Number of images, chosen evenly over the classes; None for all.
        attacks: Names of the attacks whose images it looks at; empty for all, those that make no field aside.
    """

    images: int | None = 4

    sees_controls = True

    def of_attack(self, victim: EvaluatedVictim, batch: AdversarialBatch) -> dict[str, Tensor]:
        """The clean and the changed image, and the field in photographic stops, ``(N, H, W)``."""
        field = batch.pictures.get("bias_field")
        if field is None:
            return {}
        return {"clean": batch.clean.half(), "changed": batch.adversarial.half(), "stops": field[:, 0] / math.log(2)}
