"""The margin of the label that decides: the one that turns most easily, or the one that is furthest from its goal."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medrobust.objectives.base import Objective, Step
from medrobust.objectives.logit_gap import image_lead, own_loss, step_logits
from medrobust.objectives.margin import Margin


@dataclass(frozen=True)
class WeakestLabel(Objective):
    """Margin of an image's label that decides, max over the labels of (1 - 2 y) z; targeted: min of (2 t - 1) z.

    An attack on several labels that do not exclude each other has succeeded once any of them has turned, and a targeted
    one once all labels that its goals name are as they say. ``CrossEntropy`` and ``Margin`` take the mean over all
    labels, which may turn none where two labels pull the image to opposite sides; this goes where one is nearest, or
    for goals to the label that lacks most. Negative labels are ignored. Classes have the margin that ``Margin`` raises.
    Masks are refused. For anything else, such as boxes, it is the victim's own loss.

    Args:
        kappa: Confidence at which it stops growing, in units of logits, >= 0.

    Raises:
        ValueError: ``kappa`` is negative, or (when called) the targets are masks.
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
        if step.targets.ndim > 2:
            raise ValueError(f"the weakest label is one of labels (N, L), got targets {tuple(step.targets.shape)}")
        lead = image_lead(step.outputs, step.targets, step.targeted)
        # an image without any known label has nothing to raise; not clamp, as in Margin
        lead = torch.where(lead.isinf(), 0.0, lead)
        return torch.where(lead > self.kappa, self.kappa, lead)


def deciding_margin(targets: Any) -> Margin | WeakestLabel:
    """The margin that says how close an attempt that failed has come: the closer, the larger, and never above 0.

    Of several labels it is ``WeakestLabel``: an attempt that brings one label to its turning and another one away from
    it is closer to turning any than one that brings both halfway, and closer to turning both is the one whose furthest
    label lacks less. Of all other targets it is ``Margin``.

    Args:
        targets: The targets of a batch.
    """
    return WeakestLabel() if isinstance(targets, Tensor) and targets.ndim == 2 else Margin()
