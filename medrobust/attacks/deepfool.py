"""DeepFool: step to the nearest class boundary of the linearised victim until it is crossed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from medrobust.attacks.active_batch import ActiveBatch, each
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import check_steps
from medrobust.attacks.class_boundaries import (
    check_candidates,
    check_classes,
    check_logits,
    class_gradients,
    class_leads,
    rival_classes,
)
from medrobust.networks.finite import mended
from medrobust.networks.victims import Victim
from medrobust.networks.watched_victim import note_broken
from medrobust.objectives.logit_gap import image_lead

CLIPPED_STEPS = 3  # steps that let clipping shorten them; later ones make up for the pixels that cannot move
ROUNDING = 500  # least lead at the end, in epsilons of the largest logit; a folded MobileNetV2 differed by up to 115


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """DeepFool: cross the nearest boundary of the linearised victim (Moosavi-Dezfooli et al., CVPR 2016, alg. 2).

    Each step goes to the nearest of the boundaries between the true class and its rivals, at distance ``|f| / ||w||_q``
    with the gap f of the logits and its gradient w (q dual to the norm), and ``overshoot`` times that distance beyond
    it, so that the sum of the steps is prolonged by that share. The image is clipped to [0, 1] after each step. A step
    that loses much by clipping falls short of the boundary, and the next one linearises anew from where it ended. From
    the fourth step on (or the last, if there are fewer), black and white pixels that would have to leave [0, 1] are
    left out of w, so that the others make up for them: otherwise the image could approach the boundary for ever
    without crossing it. Doing so from the first step would take long steps through a victim that is not linear; on
    digits it made perturbations 4 to 8 % longer.

    The image has to stand on the far side by more than rounding, or another kernel, batch size or folded copy of the
    victim would judge it otherwise: it ends once the attack leads by ``ROUNDING`` machine epsilons of the largest
    logit, and f includes twice that lead. An image that has it takes no further step; one that never does is
    returned clean, and so is one that has it from the start. Towards a goal, the only boundary is that between the
    goal and the class that leads.

    Of labels that do not exclude each other, the boundaries are those at which one of them turns. Towards several
    goals each step crosses the boundary of the label that is furthest from its own, until all are beyond theirs; the
    perturbation is then small, but not the smallest.

    Args:
        steps: Largest number of steps; each costs one forward, and one backward per rival.
        overshoot: Share by which the perturbation is prolonged, >= 0.
        distance: ``l2`` or ``linf``, the norm that is kept small.
        candidates: Number of classes that compete, the true one and those that rank highest on the clean image; at
            least 2, None for all. Not used by a targeted attack.
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Not used; nothing is drawn.

    Raises:
        ValueError: A field is out of its range, or (when called) the targets or outputs are not those of classes.
    """

    minimal: ClassVar[bool] = True
    of_classes: ClassVar[bool] = True

    steps: int = 50
    overshoot: float = 0.02
    distance: Literal["l2", "linf"] = "l2"
    candidates: int | None = 10

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        check_steps(self.steps)
        if not 0 <= self.overshoot < float("inf"):
            raise ValueError(f"overshoot is a share of the perturbation and is not negative, got {self.overshoot}")
        if self.distance not in ("l2", "linf"):
            raise ValueError(f"distance is 'l2' or 'linf', got {self.distance!r}")
        check_candidates(self.candidates)

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """Norm that is kept small."""
        return self.distance

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Step on an ever smaller batch; each image is charged only the passes that it needs itself."""
        check_classes(targets)
        batch = _Batch(images, targets, ids)
        index = 0
        while index <= self.steps and len(batch.rows):
            looked_at = batch.current.detach().requires_grad_(index < self.steps)
            outputs = victim(looked_at)
            if batch.rivals is None:
                check_logits(outputs, targets)
                batch.rivals = rival_classes(outputs.detach(), targets, self.candidates)
            batch.count_look(1)
            seen = outputs.detach()
            least = ROUNDING * torch.finfo(seen.dtype).eps * seen.abs().amax(1)
            lead = image_lead(seen, batch.targets, self.targeted)  # over all classes, candidates or not
            reached = self.reached(victim, seen, batch.targets) & (lead >= least)
            ended = torch.where(each(reached), batch.current, batch.clean)
            if index == self.steps:
                return batch.finish(ended)
            staying = batch.leave(ended, reached | batch.stuck)
            if batch.looks_again(staying):
                continue
            leads = class_leads(outputs, batch.targets, batch.rivals, self.targeted)
            gaps = (2 * least[:, None] - leads.detach()).clamp(min=0)
            gradients, broken = mended(class_gradients(leads, looked_at), leading=2)
            gradients, broken, gaps, known = batch.keep(staying, gradients, broken, gaps, leads.isfinite())
            note_broken(victim, batch.ids, broken)
            batch.backwards[batch.rows] += known.sum(1)  # all of them, except labels of which the truth is not known
            batch.zeros[batch.rows] += (known & (broken | ~gradients.flatten(2).any(2))).sum(1)
            moved = self._move(batch.current, gaps, gradients, index >= min(CLIPPED_STEPS, self.steps - 1))
            update = moved - batch.current
            batch.cosines.follow(update, batch.rows)
            batch.stuck = ~update.flatten(1).any(1)  # no boundary has a slope, or all pixels are at their bounds
            batch.current = moved
            index += 1
        return batch.finish(batch.current)

    def _move(self, current: Tensor, gaps: Tensor, gradients: Tensor, makes_up: bool) -> Tensor:
        """Cross the nearest boundary, along the gradient of its lead, and stay in [0, 1].

        A boundary that no pixel can approach is infinitely far away; an image with no other boundary stays where it is.

        Args:
            current: Images, ``(N, C, H, W)``.
            gaps: What the leads lack, ``(N, R)``.
            gradients: The leads' gradients, ``(N, R, C, H, W)``.
            makes_up: Whether pixels that cannot move are made up for by the others.
        """
        pixels = current.unsqueeze(1)
        blocked = ((pixels <= 0) & (gradients < 0)) | ((pixels >= 1) & (gradients > 0))
        free = gradients.masked_fill(blocked, 0)
        used = free if makes_up else gradients
        largest = used.abs().amax((2, 3, 4), keepdim=True)  # divided out, so that squares neither overflow nor vanish
        used = used / torch.where(largest > 0, largest, 1)
        diagonal, rounding = current[0].numel() ** 0.5, torch.finfo(current.dtype).eps  # of the unit cube
        order, longest = (2, diagonal) if self.distance == "l2" else (1, 1.0)
        length = torch.linalg.vector_norm(used, order, (2, 3, 4))
        slope = torch.where(free.flatten(2).any(2), length * largest.flatten(1), 0)
        distances = torch.where(slope > 0, gaps / torch.where(slope > 0, slope, 1), float("inf"))
        nearest, places = distances.argmin(1), torch.arange(len(current), device=current.device)
        used, length, distance = (values[places, nearest] for values in (used, length, distances))
        # a shorter step would be lost in rounding, a longer one would leave the cube
        step = (1 + self.overshoot) * distance.clamp(rounding * longest, longest)
        direction = used / each(torch.where(length > 0, length, 1)) if self.distance == "l2" else used.sign()
        return (current + each(step) * direction).clamp_(0, 1)


class _Batch(ActiveBatch):
    """The images under attack; those that are ``stuck`` did not move in the last step, and never will again."""

    def __init__(self, images: Tensor, targets: Tensor, ids: Sequence[str]) -> None:
        super().__init__(images, targets, ids)
        self.current = images
        self.rivals: Tensor | None = None  # classes, from the first look on
        self.stuck = torch.zeros_like(self.rows, dtype=torch.bool)
