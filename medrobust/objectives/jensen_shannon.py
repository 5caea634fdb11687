"""The Jensen-Shannon divergence from the truth: a loss of masks that stops counting what is wrong already."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.objectives.base import Objective, Step
from medrobust.objectives.logit_gap import image_mean, logit_gap, step_logits
from medrobust.objectives.masked_cross_entropy import NO_LOGITS


@dataclass(frozen=True)
class JensenShannon(Objective):
    """Jensen-Shannon divergence of the probabilities from the one-hot truth (Croce, Singh & Hein, ECCV 2024).

    With p the probability of the true class it is (p ln p - (1 + p) ln((1 + p) / 2) + (1 - p) ln 2) / 2,
    that is (p ln p - (1 + p) ln(1 + p)) / 2 + ln 2: between 0, where p = 1, and ln 2, where p = 0. Its slope with
    respect to the logits vanishes at both ends, so that pixels that are wrong for good stop counting by themselves, and
    nothing has to be masked. Masks and labels take the mean over an image's labelled places; its negative if targeted.

    Raises:
        ValueError: (When called) the victim has no logits for the targets.
    """

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``."""
        logits = step_logits(step)
        if logits is None:
            raise ValueError(f"{type(self).__name__} {NO_LOGITS}")
        values = image_mean(divergence_from_truth(logits, step.targets), step.targets)
        return -values if step.targeted else values


def divergence_from_truth(logits: Tensor, targets: Tensor) -> Tensor:
    """Jensen-Shannon divergence at each place, ``(N, ...)`` in [0, ln 2], for logits ``(N, K, ...)``.

    >>> divergence_from_truth(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
    tensor([0.2158])
    """
    log_p = functional.logsigmoid(-logit_gap(logits, targets, soft=True))
    p = log_p.exp()
    return (p * log_p - (1 + p) * torch.log1p(p)) / 2 + math.log(2)
