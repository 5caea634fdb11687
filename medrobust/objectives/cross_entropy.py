"""The cross-entropy objective, in a form that survives a saturated victim."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.objectives.base import Objective, Step
from medrobust.objectives.logit_gap import image_mean, logit_gap, own_loss, step_logits

SATURATED = -50.0  # softplus'(-50) = 2e-22: sixteen decades above what float32 still carries through a network


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy of the target, J(x, y) (Goodfellow et al., ICLR 2015; Ma20 eq. 4); its negative if targeted.

    Written as softplus of the soft margin m = logsumexp_{j != y} z_j - z_y, which is the same number and whose
    gradient sigmoid(m) dm does not round to zero at 1 - p_y < 6e-8. Where even that gradient is lost (m < -50 at all
    of an image's places), the image is reported and m itself is raised: the same direction without the lost factor.

    The victim's outputs and the targets decide what it is:

    - classes ``(N,)`` or masks ``(N, H, W)`` with K >= 2 logits: the cross-entropy, for masks its mean over the
      labelled pixels;
    - the same targets with a single logit, or labels ``(N, L)`` or ``(N, L, H, W)`` with one logit each: the binary
      cross-entropy, and its mean over the labelled entries;
    - anything else, such as boxes: the victim's own loss.

    Negative entries of masks and labels are ignored.

    Args:
        saturated: ``margin`` as above; ``keep`` stays with the vanishing gradient (to measure what it costs).
    """

    saturated: Literal["margin", "keep"] = "margin"

    def __post_init__(self) -> None:
        """Refuse an unknown choice."""
        if self.saturated not in ("margin", "keep"):
            raise ValueError(f"saturated is 'margin' or 'keep', got {self.saturated!r}")

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``."""
        logits = step_logits(step)
        if logits is None:
            return own_loss(step)
        gap = logit_gap(logits, step.targets, soft=True)
        values = image_mean(functional.softplus(gap, threshold=80.0), step.targets)
        if step.targeted:
            return -values
        if self.saturated == "keep":
            return values
        lost = (gap.detach() < SATURATED) | (step.targets < 0)
        lost = lost.flatten(1).all(1) if lost.ndim > 1 else lost
        step.report_vanished(lost)
        return torch.where(lost, image_mean(gap, step.targets), values)
