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


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """DeepFool: cross the nearest boundary of the linearised victim (Moosavi-Dezfooli et al., CVPR 2016, alg. 2).

    Each step goes to the nearest of the boundaries between the true class and its rivals, at distance ``|f| / ||w||_q``
    with the gap f of the logits and its gradient w (q dual to the norm), and ``overshoot`` times that distance beyond
    it, so that the sum of the steps is prolonged by that share. Black and white pixels that would have to leave
    [0, 1] are left out of w. The others make up for them; clipping would have taken its part of the overshoot, which
    therefore shrinks by as much, down to a quarter. An image that fools the victim takes no further step; one that
    never does is returned clean, and so is one that did from the start. Towards a goal, the only boundary is that
    between the goal and the class that leads.

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
            reached = self.reached(victim, outputs, batch.targets)
            ended = torch.where(each(reached), batch.current, batch.clean)
            if index == self.steps:
                return batch.finish(ended)
            staying = batch.leave(ended, reached | batch.stuck)
            if batch.looks_again(staying):
                continue
            leads = class_leads(outputs, batch.targets, batch.rivals, self.targeted)
            gradients, broken = mended(class_gradients(leads, looked_at), leading=2)
            gradients, broken, leads = batch.keep(staying, gradients, broken, leads.detach())
            note_broken(victim, batch.ids, broken)
            batch.backwards[batch.rows] += gradients.shape[1]
            batch.zeros[batch.rows] += (broken | ~gradients.flatten(2).any(2)).sum(1)
            moved = self._move(batch.current, leads, gradients)
            update = moved - batch.current
            batch.cosines.follow(update, batch.rows)
            batch.stuck = ~update.flatten(1).any(1)  # no boundary has a slope, or all pixels are at their bounds
            batch.current = moved
            index += 1
        return batch.finish(batch.current)

    def _move(self, current: Tensor, leads: Tensor, gradients: Tensor) -> Tensor:
        """Cross the nearest boundary, along the gradient of its lead, and stay in [0, 1].

        A boundary without a gradient is infinitely far away; an image with no other boundary stays where it is.

        Args:
            current: Images, ``(N, C, H, W)``.
            leads: Leads of the attack, ``(N, R)``.
            gradients: Their gradients, ``(N, R, C, H, W)``.
        """
        pixels = current.unsqueeze(1)
        blocked = ((pixels <= 0) & (gradients < 0)) | ((pixels >= 1) & (gradients > 0))
        free = gradients.masked_fill(blocked, 0)
        largest = free.abs().amax((2, 3, 4), keepdim=True)  # divided out, so that squares neither overflow nor vanish
        largest = torch.where(largest > 0, largest, 1)
        free = free / largest
        diagonal, rounding = current[0].numel() ** 0.5, torch.finfo(current.dtype).eps  # of the unit cube
        order, longest = (2, diagonal) if self.distance == "l2" else (1, 1.0)
        length = torch.linalg.vector_norm(free, order, (2, 3, 4))
        slope = length * largest.flatten(1)
        distances = torch.where(slope > 0, leads.abs() / torch.where(slope > 0, slope, 1), float("inf"))
        nearest, places = distances.argmin(1), torch.arange(len(current), device=current.device)
        free, length, whole = (values[places, nearest] for values in (free, length, gradients / largest))
        length = torch.where(length > 0, length, 1)
        blocked_share = 1 - (length / torch.linalg.vector_norm(whole, order, (1, 2, 3)).clamp(min=length)) ** order
        # had the free pixels not made up for the blocked ones, clipping would have used up that much of the overshoot
        overshoot = (self.overshoot - (1 + self.overshoot) * blocked_share).clamp(min=self.overshoot / 4)
        # a shorter step would be lost in rounding, a longer one would leave the cube
        step = (1 + overshoot) * distances[places, nearest].clamp(rounding * longest, longest)
        direction = free / each(length) if self.distance == "l2" else free.sign()
        return (current + each(step) * direction).clamp_(0, 1)


class _Batch(ActiveBatch):
    """The images under attack; those that are ``stuck`` did not move in the last step, and never will again."""

    def __init__(self, images: Tensor, targets: Tensor, ids: Sequence[str]) -> None:
        super().__init__(images, targets, ids)
        self.current = images
        self.rivals: Tensor | None = None  # classes, from the first look on
        self.stuck = torch.zeros_like(self.rows, dtype=torch.bool)
