"""Objectives that read the victim's decision: cross-entropy and the margin on logits."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.objectives.base import Objective, Step

SATURATED = -50.0  # softplus'(-50) = 2e-22: sixteen decades above what float32 still carries through a network


def logit_gap(logits: Tensor, targets: Tensor, soft: bool) -> Tensor:
    """By how much the other classes lead the target's logit: ``max_{j != y} z_j - z_y``, or with logsumexp if soft.

    The target is masked with -inf, not with 0, so that any shift of the logits is harmless.

    Args:
        logits: ``(N, K)`` or ``(N, K, H, W)``, K >= 2.
        targets: ``(N,)`` or ``(N, H, W)``; negative labels give a gap of the first class, to be ignored.
        soft: Logsumexp of the others instead of their maximum.

    Returns:
        ``(N,)`` or ``(N, H, W)``; positive where the target has lost.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"a margin needs at least two logits, got outputs of shape {tuple(logits.shape)}")
    index = targets.clamp(min=0).unsqueeze(1)
    others = logits.scatter(1, index, float("-inf"))
    lead = others.logsumexp(1) if soft else others.amax(1)
    return lead - logits.gather(1, index).squeeze(1)


def image_mean(values: Tensor, targets: Tensor) -> Tensor:
    """Mean over each image's labelled places, ``(N,)``; a class label is its image's only place."""
    counted = (targets >= 0).to(values.dtype)
    return (values * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1) if values.ndim > 1 else values


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy of the target, J(x, y) (Goodfellow et al., ICLR 2015; Ma20 eq. 4); its negative if targeted.

    Written as softplus of the soft margin m = logsumexp_{j != y} z_j - z_y, which is the same number and whose
    gradient sigmoid(m) dm does not round to zero at 1 - p_y < 6e-8. Where even that gradient is lost (m < -50 at all
    of an image's places), the image is reported and m itself is raised: the same direction without the lost factor.
    For box victims it is the victim's own loss.

    Args:
        saturated: ``margin`` as above; ``keep`` stays with the vanishing gradient (to measure what it costs).
    """

    saturated: Literal["margin", "keep"] = "margin"

    def __post_init__(self) -> None:
        """Refuse a choice that there is not."""
        if self.saturated not in ("margin", "keep"):
            raise ValueError(f"saturated is 'margin' or 'keep', got {self.saturated!r}")

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``."""
        if not isinstance(step.targets, Tensor):
            return -step.loss if step.targeted else step.loss
        gap = logit_gap(step.outputs, step.targets, soft=True)
        values = image_mean(functional.softplus(gap, threshold=80.0), step.targets)
        if step.targeted:
            return -values
        if self.saturated == "keep":
            return values
        lost = (gap.detach() < SATURATED) | (step.targets < 0)
        lost = lost.flatten(1).all(1) if lost.ndim > 1 else lost
        step.report_vanished(lost)
        return torch.where(lost, image_mean(gap, step.targets), values)


@dataclass(frozen=True)
class Margin(Objective):
    """Carlini and Wagner's margin, -max(z_y - max_{j != y} z_j, -kappa) (Ma20 eq. 8; targeted: HFC21 eq. 3).

    It stops growing, and its gradient is zero, once the victim is fooled by ``kappa``. For box victims, which have
    no such margin, it is the victim's own loss.

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
        if not isinstance(step.targets, Tensor):
            return -step.loss if step.targeted else step.loss
        gap = logit_gap(step.outputs, step.targets, soft=False)
        lead = -gap if step.targeted else gap
        # not clamp: its gradient is zero at the bound, where a tie with kappa = 0 would stay for ever
        return image_mean(torch.where(lead > self.kappa, self.kappa, lead), step.targets)
