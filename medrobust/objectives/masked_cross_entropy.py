"""Cross-entropy of the places that are still right: what SEA raises on masks, with and without equal classes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.objectives.base import Objective, Step
from medrobust.objectives.logit_gap import image_mean, logit_gap, step_logits

NO_LOGITS = "compares logits with masks, labels or classes, and the victim gives none"


@dataclass(frozen=True)
class MaskedCrossEntropy(Objective):
    """Cross-entropy of the places that are still right (Croce, Singh & Hein, ECCV 2024, arXiv:2306.12941).

    A pixel that is wrong already counts 0: plain cross-entropy spends most of its slope on such pixels. So the value
    falls as pixels turn, and the highest one is not the worst image: ``APGD(keep="lowest_quality")``. Of a targeted
    attack, minus the cross-entropy of the places that are not yet what the goal says.

    The mean is taken over an image's labelled places; negative entries of the targets are ignored.

    Args:
        balanced: Give every class that an image's targets have the same total weight, as its mean Jaccard index does;
            a small organ then counts as much as the background. The authors weight by the pixels of the data set.

    Raises:
        ValueError: (When called) the victim has no logits for the targets.
    """

    balanced: bool = False

    @property
    def title(self) -> str:
        """What records call it."""
        return ("balanced " if self.balanced else "") + type(self).__name__

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``."""
        logits = step_logits(step)
        if logits is None:
            raise ValueError(f"{type(self).__name__} {NO_LOGITS}")
        entropies = functional.softplus(logit_gap(logits, step.targets, soft=True), threshold=80.0)
        right = logits.detach().max(1).indices == step.targets  # argmax is slow on a CPU
        counted = ~right if step.targeted else right
        values = torch.where(counted, entropies, 0.0)
        if self.balanced:
            values = values * class_weights(step.targets, logits.shape[1])
        mean = image_mean(values, step.targets)
        return -mean if step.targeted else mean


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """Weight of each place, shaped like the targets ``(N, ...)``: the same in total for every class that an image has.

    The weights of an image's labelled places have the mean 1; those of ignored ones are 0.

    >>> class_weights(torch.tensor([[[0, 0, 0, 1, -1]]]), 3)
    tensor([[[0.6667, 0.6667, 0.6667, 2.0000, 0.0000]]])
    """
    flat = targets.flatten(1) if targets.ndim > 1 else targets[:, None]
    shares = torch.stack([flat == label for label in range(classes)], 1).float()  # (N, K, places)
    counts = shares.sum(2)
    present = (counts > 0).sum(1, keepdim=True).clamp(min=1)
    weights = counts.sum(1, keepdim=True) / (present * counts.clamp(min=1))
    return (shares * weights[:, :, None]).sum(1).view(targets.shape)
