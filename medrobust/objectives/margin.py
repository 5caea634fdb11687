"""Carlini and Wagner's margin on logits as an objective."""

from dataclasses import dataclass

import torch
from torch import Tensor

from medrobust.objectives.base import Objective, Step
from medrobust.objectives.logit_gap import image_mean, logit_gap, own_loss, step_logits


@dataclass(frozen=True)
class Margin(Objective):
    """Carlini and Wagner's margin, -max(z_y - max_{j != y} z_j, -kappa) (Ma20 eq. 8; targeted: HFC21 eq. 3).

    It stops growing, and its gradient is zero, once the victim is fooled by ``kappa``. Masks take the mean over an
    image's labelled pixels. A single logit z, whose sign decides between y = 0 and 1, stands for the logits (0, z);
    with one logit per label the mean is taken over an image's labelled entries. Negative entries of masks and labels
    are ignored. For anything else, such as boxes, it is the victim's own loss.

    Args:
        kappa: Confidence by which the victim is to be fooled, in units of logits, >= 0.
    """

    kappa: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a negative confidence."""
        if not self.kappa >= 0:
            raise ValueError(f"kappa is a confidence in units of logits and is not negative, got {self.kappa}")

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``."""
        logits = step_logits(step)
        if logits is None:
            return own_loss(step)
        gap = logit_gap(logits, step.targets, soft=False)
        lead = -gap if step.targeted else gap
        # not clamp: its gradient is zero at the bound, where a tie with kappa = 0 would stay for ever
        return image_mean(torch.where(lead > self.kappa, self.kappa, lead), step.targets)
