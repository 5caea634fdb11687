"""Saliency: where an image's loss depends on its pixels, and how few pixels these are (Ma20 Fig. 6)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medrobust.metrics.concentration import gini, top_energy
from medrobust.networks.victims import EvaluatedVictim, Targets
from medrobust.objectives.base import Objective, Step
from medrobust.studies.base import Study


@dataclass(frozen=True, kw_only=True)
class Saliency(Study):
    """The input gradient |dJ/dx| of clean images, the largest of their channels, and how concentrated it is (Fig. 6).

    Ma20 hold that networks attend to larger regions of medical images than of natural ones. Its figure beside that of a
    victim of natural images is made by ``python compare.py figures``.

    Args:
        images: Number of images, chosen evenly over the classes; None for all.
        attacks: Not used: only clean images are looked at.
        objective: J; None for the victim's own loss. Where the loss is saturated its gradient is zero, which the figure
            counts; the margin on logits is not.
    """

    images: int | None = 64
    objective: Objective | None = None

    sees_controls = True

    def of_clean(
        self, victim: EvaluatedVictim, images: Tensor, targets: Targets, ids: Sequence[str]
    ) -> dict[str, Tensor]:
        """The image, its map ``(N, H, W)``, and the Gini coefficient and the share of energy in 1 % of the pixels."""
        seen = images.detach().clone().requires_grad_()
        layers = () if self.objective is None else self.objective.layers
        step = Step(victim, seen, images, targets, ids, False, layers)
        values = step.loss if self.objective is None else self.objective(step)
        (gradients,) = torch.autograd.grad(values.sum(), seen)
        maps = gradients.abs().amax(1)
        concentration = {"gini": gini(maps), "top_energy": top_energy(maps)}
        return {"image": images.half(), "map": maps} | concentration
