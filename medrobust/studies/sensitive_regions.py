"""Sensitive regions: where an adversarial image has to differ from the clean one to fool (SBF20 eq. 8, Fig. 4)."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.networks.defended_victim import drawn_by
from medrobust.networks.victims import EvaluatedVictim
from medrobust.studies.base import Study

Score = Literal["probability", "logit"]
Norms = Literal["mean", "sum"]
DECAYS = (0.9, 0.9)  # of Adam's moments (Kingma & Ba, ICLR 2015); at its 0.999 the first gradients would rule all steps


class Found(NamedTuple):
    """The masks of some images.

    Args:
        masks: ``(N, 1, H, W)`` in [0, 1].
        values: Eq. 8 at these masks, ``(N,)``.
        scores: The true class's score behind these masks, ``(N,)``.
    """

    masks: Tensor
    values: Tensor
    scores: Tensor


@dataclass(frozen=True, kw_only=True)
class SensitiveRegions(Study):
    """The mask M that minimises DNN_y(M X_a + (1 - M) X) + lambda_1 |M|_1 + lambda_2 TV(M) (SBF20 eq. 8, Fig. 4).

    X is a clean and X_a an adversarial image that fools, DNN_y the score of the true class: the smallest and smoothest
    region in which the change has to be made. It is found for images that the attack turned from right to wrong; their
    mean is the map of all.

    The paper gives lambda_1, lambda_2 and the number of iterations. The rest is read as in the method that it cites
    (Fong & Vedaldi, ICCV 2017): DNN_y is a probability, and the steps are Adam's. They start at M = 1, since at M = 0
    a confident victim has no gradient, their length falls linearly to 0, M is kept in [0, 1], and the best of all M
    counts. TV(M) sums the absolute differences of neighbours, across and down. Both norms are divided by the number of
    pixels: a sum would make a mask of more than 1 / lambda_1 = 20 pixels dearer than any probability, so that M = 0
    were the minimum for every image that needs more.

    Adam's memory of squared gradients is shorter than usual (0.9 instead of 0.999), or the steep first steps would slow
    down all others: on 8 chest X-rays of 96 x 96 that a bias field fooled the mean of eq. 8 was 0.0056 after the 150
    iterations instead of 0.022; with 0.999 it was 0.0046 after 600.

    Args:
        images: Number of images, chosen evenly over the classes; None for all.
        attacks: Names of the attacks whose images it looks at; empty for all, without controls.
        iterations: Number of steps; each costs a forward and a backward.
        sparsity: lambda_1.
        smoothness: lambda_2.
        step_size: Length of the first of Adam's steps, in units of M.
        score: ``probability`` by softmax, or ``logit``.
        norms: ``mean`` divides both norms by the number of pixels; ``sum`` does not.

    Raises:
        ValueError: A number is out of its range, or a choice is unknown; or (later) the data have no single class per
            image.
    """

    images: int | None = 240
    iterations: int = 150
    sparsity: float = 0.05
    smoothness: float = 0.2
    step_size: float = 0.3
    score: Score = "probability"
    norms: Norms = "mean"

    of_classes = True

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError(f"iterations counts steps and is at least 1, got {self.iterations}")
        for name in ("sparsity", "smoothness"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} weighs a norm and is finite and not negative, got {getattr(self, name)}")
        if not 0 < self.step_size <= 1:
            raise ValueError(f"step_size is in units of a mask in [0, 1] and lies in (0, 1], got {self.step_size}")
        for name, choices in (("score", get_args(Score)), ("norms", get_args(Norms))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}, got {getattr(self, name)!r}")

    def of_attack(self, victim: EvaluatedVictim, batch: AdversarialBatch) -> dict[str, Tensor]:
        """Both images, the mask ``(N, H, W)``, NaN where the attack did not fool, and the true class's scores."""
        fooled = (batch.before.right & ~batch.after.right).nonzero().flatten()
        masks = torch.full_like(batch.clean[:, 0], torch.nan)
        behind = torch.full_like(masks[:, 0, 0], torch.nan)
        if len(fooled):
            with drawn_by(victim, [batch.ids[row] for row in fooled.tolist()]):
                found = self.found(victim, batch.clean[fooled], batch.adversarial[fooled], batch.targets[fooled])
            masks[fooled], behind[fooled] = found.masks.squeeze(1), found.scores
        scores = {"score_clean": batch.clean_outputs, "score_adversarial": batch.adversarial_outputs}
        return {
            "image": batch.clean.half(),
            "adversarial": batch.adversarial.half(),
            "mask": masks.half(),
            "score_masked": behind,
            **{name: self._scores(outputs, batch.targets) for name, outputs in scores.items()},
        }

    def found(self, victim: EvaluatedVictim, clean: Tensor, adversarial: Tensor, targets: Tensor) -> Found:
        """The masks of images, each for itself; the host never waits for the device.

        Args:
            victim: The victim, frozen; its outputs are logits ``(N, K)``.
            clean: X, ``(N, C, H, W)`` in [0, 1].
            adversarial: X_a, the same shape.
            targets: True classes y, ``(N,)``.
        """
        change = adversarial - clean
        masks = torch.ones_like(clean[:, :1])
        slow, fast = torch.zeros_like(masks), torch.zeros_like(masks)
        best = Found(masks, torch.full_like(masks[:, 0, 0, 0], torch.inf), masks[:, 0, 0, 0])
        for index in range(self.iterations + 1):
            variable = masks.detach().requires_grad_()
            scores = self._scores(victim(clean + variable * change), targets)
            values = scores + self._penalty(variable)
            better = values.detach() < best.values
            picked = (masks, values.detach(), scores.detach())
            best = Found(
                *(
                    torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)
                    for new, old in zip(picked, best, strict=True)
                )
            )
            if index == self.iterations:
                break
            (gradient,) = torch.autograd.grad(values.sum(), variable)
            slow = DECAYS[0] * slow + (1 - DECAYS[0]) * gradient
            fast = DECAYS[1] * fast + (1 - DECAYS[1]) * gradient.square()
            corrections = [1 - decay ** (index + 1) for decay in DECAYS]
            direction = (slow / corrections[0]) / ((fast / corrections[1]).sqrt() + torch.finfo(fast.dtype).tiny)
            masks = (masks - self.step_size * (1 - index / self.iterations) * direction).clamp(0, 1)
        return best

    def _scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Score of the true class, ``(N,)``."""
        scores = logits.softmax(1) if self.score == "probability" else logits
        return scores.gather(1, targets.long()[:, None]).squeeze(1)

    def _penalty(self, masks: Tensor) -> Tensor:
        """What the masks' size and roughness cost, ``(N,)``."""
        size = masks.sum((1, 2, 3))
        total_variation = sum(masks.diff(dim=axis).abs().sum((1, 2, 3)) for axis in (2, 3))
        cost = self.sparsity * size + self.smoothness * total_variation
        return cost / masks[0].numel() if self.norms == "mean" else cost
