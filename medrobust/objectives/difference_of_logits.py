"""The difference-of-logits ratio: a margin that neither a shift nor a scale of the logits can hide."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medrobust.objectives.base import Objective, Step
from medrobust.objectives.logit_gap import image_mean, logit_gap, own_loss, step_logits
from medrobust.objectives.smoothed import Smoothed


@dataclass(frozen=True)
class DifferenceOfLogits(Objective):
    """Difference-of-logits ratio, DLR (Croce & Hein, ICML 2020, arXiv:2003.01690, eq. 6 and 7).

    With the logits in falling order z_(1) >= z_(2) >= ..., and away from class y:

        -(z_y - max_{j != y} z_j) / (z_(1) - z_(3))

    and towards class t, where the paper's true class is the strongest class other than t:

        -(max_{j != t} z_j - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)

    Both are positive where the attack has won, and neither changes when a number is added to all logits or all are
    multiplied by a positive one. With three classes there is no z_(4), and z_(1) - z_(3) would make the last class's
    ratio a constant -1 without a gradient: the targeted form divides by z_(1) - (z_(2) + z_(3)) / 2.

    With two classes every number that ignores shift and scale is a function of the margin's sign, and its gradient
    is zero. There the margin itself is raised, max_{j != y} z_j - z_y: its value follows the scale, but a signed
    step and the order of an image's values, which is all that ``APGD`` reads, do not. The same holds for a single
    logit, for one logit per label, and for a place at which the divisor is 0.

    The signs of the margin's gradient are then those of cross-entropy's: two attacks that differ in this objective
    alone make the same steps. ``two_classes="smoothed"`` raises the margin of noisy copies instead (``Smoothed``).

    Masks and labels take the mean over an image's labelled entries. For anything else, such as boxes, it is the
    victim's own loss.

    Args:
        two_classes: What is raised where there are two classes: the ``margin``, or the ``smoothed`` margin.

    Raises:
        ValueError: ``two_classes`` is neither.
    """

    two_classes: Literal["margin", "smoothed"] = "margin"

    def __post_init__(self) -> None:
        """Refuse an unknown choice."""
        if self.two_classes not in ("margin", "smoothed"):
            raise ValueError(f"two_classes is 'margin' or 'smoothed', got {self.two_classes!r}")

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``."""
        logits = step_logits(step)
        if logits is None:
            return own_loss(step)
        classes = logits.shape[1]
        if classes == 2 and self.two_classes == "smoothed":
            return Smoothed()(step)
        gap = logit_gap(logits, step.targets, soft=False)
        if classes > 2:
            ranked = logits.topk(min(4, classes), dim=1).values.unbind(1)
            spread = ranked[0] - ((ranked[-2] + ranked[-1]) / 2 if step.targeted else ranked[2])
            gap = gap / torch.where(spread > 0, spread, 1.0)
        return image_mean(-gap if step.targeted else gap, step.targets)
