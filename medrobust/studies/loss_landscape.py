"""The loss landscape: loss and margin around an image, in the plane of two directions of signs (Ma20 Fig. 7)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medrobust.attacks.budgets import Fraction, check_radius
from medrobust.networks.defended_victim import drawn_by
from medrobust.networks.victims import EvaluatedVictim, Targets, Victim
from medrobust.objectives.base import Objective, Step
from medrobust.objectives.cross_entropy import CrossEntropy
from medrobust.objectives.margin import Margin
from medrobust.random_streams import per_image_uniform
from medrobust.studies.base import Study

NUMBERS_AT_ONCE = 2**21  # of the images of one forward: 13 of 3 x 224 x 224


@dataclass(frozen=True, kw_only=True)
class LossLandscape(Study):
    """Loss and margin at clip(x + epsilon_1 g + epsilon_2 d, 0, 1), g the sign of the loss's gradient (Ma20 Fig. 7).

    d is the sign of the gradient that surrogates have at x, trained separately for the same task, as in the paper, or
    random signs. The loss is the cross-entropy, and the margin max_{j != y} z_j - z_y of the logits, which is above 0
    where the victim is wrong. Where the gradient of the loss has vanished, g is the sign of the margin's, and the image
    is counted.

    Args:
        images: Number of images, chosen evenly over the classes; None for all.
        attacks: Not used: only clean images are looked at.
        epsilon: Largest epsilon_1 and epsilon_2, in units of the [0, 1] image range.
        points: Number of values of either, evenly from 0 to ``epsilon``; an image costs ``points`` squared forwards.
        surrogates: Runs or checkpoints of other victims of the same task: the mean of their gradients, each divided by
            its L1 norm, gives d; without any, d is drawn.
        seed: Seed of random signs, drawn for each image.

    Raises:
        ValueError: A number is out of its range; or (later) a surrogate does not exist or does not fit the victim, or
            the data have no single class per image.
    """

    images: int | None = 32
    epsilon: Fraction | float = Fraction("8/255")
    points: int = 17
    surrogates: tuple[str, ...] = ()
    seed: int = 0

    sees_controls = True
    of_classes = True

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        super().__post_init__()
        object.__setattr__(self, "surrogates", tuple(self.surrogates))
        check_radius("epsilon", self.epsilon)
        if self.points < 2:
            raise ValueError(f"points counts values of epsilon from 0 on and is at least 2, got {self.points}")

    @property
    def beside(self) -> tuple[str, ...]:
        """The surrogates."""
        return self.surrogates

    def of_clean(
        self, victim: EvaluatedVictim, images: Tensor, targets: Targets, ids: Sequence[str]
    ) -> dict[str, Tensor]:
        """The image; loss and margin ``(N, P, P)`` at epsilon_1, epsilon_2; the cosine of g and d; lost gradients."""
        gradient, lost = self._gradient(victim, images, targets, ids)
        first, second = gradient.sign(), self._second(images, targets, ids)
        loss, margin = self._values(victim, images, targets, ids, first, second)
        cosine = torch.cosine_similarity(first.flatten(1), second.flatten(1))
        return {"image": images.half(), "loss": loss, "margin": margin, "cosine": cosine, "lost": lost}

    def _gradient(self, victim: Victim, images: Tensor, targets: Tensor, ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Gradient of the loss, ``(N, C, H, W)``, and whether the margin's stands in for it, bool ``(N,)``."""
        seen = images.detach().clone().requires_grad_()
        step = Step(victim, seen, images, targets, ids)
        (gradient,) = torch.autograd.grad(CrossEntropy()(step).sum(), seen)
        return gradient, torch.zeros_like(targets, dtype=torch.bool) if step.vanished is None else step.vanished

    def _second(self, images: Tensor, targets: Tensor, ids: Sequence[str]) -> Tensor:
        """The second direction: signs ``(N, C, H, W)``."""
        if len(self.others) != len(self.surrogates):
            raise ValueError("the surrogates of a loss landscape are read by the listener Studies: evaluate with it")
        if not self.others:
            drawn = per_image_uniform(ids, images.shape[1:], self.seed, "LossLandscape", images)
            return torch.where(drawn >= 0, 1.0, -1.0).to(images.dtype)
        found = [self._gradient(other, images, targets, ids)[0] for other in self.others]
        lengths = [gradient.abs().sum((1, 2, 3), keepdim=True) for gradient in found]
        shares = [gradient / length.where(length > 0, 1.0) for gradient, length in zip(found, lengths, strict=True)]
        return torch.stack(shares).sum(0).sign()

    def _values(
        self,
        victim: EvaluatedVictim,
        images: Tensor,
        targets: Tensor,
        ids: Sequence[str],
        first: Tensor,
        second: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Loss and margin, ``(N, P, P)``, of as many points at once as memory is meant to hold."""
        radii = torch.linspace(0, float(self.epsilon), self.points, dtype=images.dtype, device=images.device)
        count = self.points**2
        places = torch.arange(len(images) * count)
        measures: tuple[Objective, Objective] = (CrossEntropy(saturated="keep"), Margin(torch.inf))
        found = []
        with torch.no_grad():
            for some in places.split(max(NUMBERS_AT_ONCE // images[0].numel(), 1)):
                rows, cells = some // count, some % count
                lengths = (radii[cells // self.points], radii[cells % self.points])
                moves = [
                    length.view(-1, 1, 1, 1) * direction[rows]
                    for length, direction in zip(lengths, (first, second), strict=True)
                ]
                moved = (images[rows] + moves[0] + moves[1]).clamp(0, 1)
                names = [ids[row] for row in rows.tolist()]
                with drawn_by(victim, names):
                    step = Step(victim, moved, images[rows], targets[rows], names)
                    found.append(torch.stack([measure(step) for measure in measures]))
        loss, margin = torch.cat(found, 1).view(2, len(images), self.points, self.points)
        return loss, margin
