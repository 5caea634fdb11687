"""How far an image's outputs have moved from those of the clean image: what TRADES raises."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.networks.watched_victim import WatchedVictim
from medrobust.objectives.base import Objective, Step
from medrobust.objectives.logit_gap import class_logits, image_mean, step_logits

# logits of the clean images by their ids, for as long as an attack on their batch lasts
_clean_logits: WeakKeyDictionary[WatchedVictim, dict[str, Tensor]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Divergence(Objective):
    """Kullback-Leibler divergence of the outputs from the clean ones, KL(p(x) || p(x')) (Zhang et al., ICML 2019).

    It knows no target: it rises as the outputs leave those of the clean image, whether these are right or not. At the
    clean image itself its slope is 0, so that an attack has to start elsewhere (``random_start``). For labels that do
    not exclude each other it is the mean over the labels of the divergence of two classes, for masks the mean over
    the pixels; negative entries of the targets are left out.

    The clean images cost one forward for each batch.

    Raises:
        ValueError: (When called) the victim has no logits for the targets.
    """

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``."""
        logits = step_logits(step)
        if logits is None:
            raise ValueError("Divergence compares logits for classes, labels or masks, and the victim gives none")
        return divergence(self._clean(step), logits, step.targets)

    def _clean(self, step: Step) -> Tensor:
        known = _clean_logits.setdefault(step.victim, {}) if isinstance(step.victim, WatchedVictim) else {}
        if not all(id in known for id in step.ids):
            with torch.no_grad():
                looked = step.at(step.clean)
                logits = class_logits(looked.outputs, step.targets)
            assert logits is not None
            step.count(looked.forwards, 0)
            known.update(zip(step.ids, logits.detach(), strict=True))
        return torch.stack([known[id] for id in step.ids])


def divergence(clean: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(p || q) of each image, ``(N,)``, its mean over labels or pixels.

    Args:
        clean: Logits of p, ``(N, K, ...)``.
        logits: Logits of q, of the same shape.
        targets: Targets ``(N, ...)``, of which only the sign counts: negative entries are left out.

    >>> divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0986123]]), torch.tensor([0]))
    tensor([0.1438])
    """
    before, after = functional.log_softmax(clean, 1), functional.log_softmax(logits, 1)
    return image_mean((before.exp() * (before - after)).sum(1), targets)
