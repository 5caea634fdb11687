"""DeepFool: step to the nearest class boundary of the linearised victim until it is crossed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from medrobust.attacks.active_batch import ActiveBatch, each
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import check_steps
from medrobust.attacks.class_gradients import check_classes, check_logits, class_gradients
from medrobust.networks.victims import Victim
from medrobust.objectives.cross_entropy import logit_gap


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """DeepFool, the nearest boundary of a victim taken for linear (Moosavi-Dezfooli et al., CVPR 2016, alg. 2).

    Each step goes to the nearest of the boundaries between the true class and its rivals, at distance ``|f| / ||w||_q``
    with the gap f of the logits and its gradient w (q dual to the norm), and ``overshoot`` times that further, so
    that the sum of the steps is prolonged by that share. Pixels that are black or white and would have to leave
    [0, 1] are left out of w: the others make up for them, and the overshoot, of which clipping would otherwise have
    taken its part, shrinks by that part down to a quarter. An image that fools the victim takes no further step; one
    that never does comes back clean, and so does one that did from the start. Towards a goal, the only boundary is
    that between the goal and the class that leads.

    Args:
        steps: Largest number of steps. Each costs one forward, and one backward for each rival.
        overshoot: Share by which the perturbation is prolonged, >= 0.
        distance: ``l2`` or ``linf``, the norm that is kept small.
        candidates: Number of classes that are looked at, the true one and those that rank highest on the clean image;
            at least 2, None for all. A targeted attack has no use for it.
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Not used; nothing is drawn.

    Raises:
        ValueError: A field is out of its range; says what was expected and what came.
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
        if self.candidates is not None and (not isinstance(self.candidates, int) or self.candidates < 2):
            raise ValueError(f"candidates counts classes and is at least 2, or None for all, got {self.candidates}")

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """Norm that is kept small."""
        return self.distance

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Step on an ever smaller batch; what an image does not need itself is not counted as its own."""
        check_classes(targets)
        batch = _Batch(images, targets, ids)
        index, counted = 0, -1
        while index <= self.steps and len(batch.rows):
            looked_at = batch.current.detach().requires_grad_(index < self.steps)
            outputs = victim(looked_at)
            if counted < 0:
                check_logits(outputs, targets)
                batch.rivals = self._rivals(outputs.detach(), targets)
            if index > counted:
                batch.forwards[batch.rows] += 1
                counted = index
            reached = self.reached(victim, outputs, batch.targets)
            ended = torch.where(each(reached), batch.current, batch.clean)
            staying = batch.leave(ended, reached | batch.stuck)
            if index == self.steps:
                return batch.finish(ended)
            if staying is not None and 2 * len(staying) < len(reached):
                # a new forward of the few that stay costs less than a backward through the many that leave
                batch.keep(staying)
                continue
            gaps = self._gaps(outputs, batch.targets, batch.rivals)
            gradients, gaps = class_gradients(gaps, looked_at), gaps.detach()
            if staying is not None:
                gradients, gaps = gradients[:, staying], gaps[staying]
                batch.keep(staying)
            batch.backwards[batch.rows] += gradients.shape[0]
            batch.zeros[batch.rows] += (~gradients.flatten(2).any(2)).sum(0)
            moved = self._move(batch.current, gaps, gradients)
            update = moved - batch.current
            batch.directions.follow(update, batch.rows)
            batch.stuck = ~update.flatten(1).any(1)  # no boundary has a slope, or all pixels are at their bounds
            batch.current = moved
            index += 1
        return batch.finish(batch.current)

    def _rivals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Classes ``(N, R)`` whose boundaries with the true class are looked at, by rank on the clean image."""
        classes = outputs.shape[1]
        count = classes if self.candidates is None else min(self.candidates, classes)
        others = outputs.scatter(1, targets[:, None], float("-inf"))
        return others.topk(count - 1, dim=1).indices

    def _gaps(self, outputs: Tensor, targets: Tensor, rivals: Tensor) -> Tensor:
        """How far each rival is behind the true class, or the goal behind the leader, ``(N, R)``, R = 1 for a goal."""
        if self.targeted:
            return logit_gap(outputs, targets, soft=False).unsqueeze(1)
        return outputs.gather(1, targets[:, None]) - outputs.gather(1, rivals)

    def _move(self, current: Tensor, gaps: Tensor, gradients: Tensor) -> Tensor:
        """Cross the nearest boundary, against the gradient of its gap, and stay in [0, 1].

        A boundary without a gradient is infinitely far; without any the image stays where it is.
        """
        blocked = ((current <= 0) & (gradients > 0)) | ((current >= 1) & (gradients < 0))
        free = gradients.masked_fill(blocked, 0)
        largest = free.abs().amax((2, 3, 4), keepdim=True)  # taken out, so that squares neither overflow nor vanish
        largest = torch.where(largest > 0, largest, 1)
        free = free / largest
        pixels, rounding = current[0].numel(), torch.finfo(current.dtype).eps
        order, shortest, longest = (2, pixels**0.5, pixels**0.5) if self.distance == "l2" else (1, 1.0, 1.0)
        length = torch.linalg.vector_norm(free, order, (2, 3, 4))
        slope = length * largest.flatten(1)
        distances = torch.where(slope > 0, gaps.T.abs() / torch.where(slope > 0, slope, 1), float("inf"))
        nearest, places = distances.argmin(0), torch.arange(len(current), device=current.device)
        free, length, whole = (kept[nearest, places] for kept in (free, length, gradients / largest))
        length = torch.where(length > 0, length, 1)
        blocked_share = 1 - (length / torch.linalg.vector_norm(whole, order, (1, 2, 3)).clamp(min=length)) ** order
        # without its free pixels making up for the others, clipping would have used that much of the overshoot up
        overshoot = (self.overshoot - (1 + self.overshoot) * blocked_share).clamp(min=self.overshoot / 4)
        # a shorter step is lost in rounding, a longer one leaves the box
        step = (1 + overshoot) * distances[nearest, places].clamp(rounding * shortest, longest)
        direction = free / each(length) if self.distance == "l2" else free.sign()
        return (current - each(step) * direction).clamp_(0, 1)


class _Batch(ActiveBatch):
    """The images under attack; ``stuck`` are those that the last step did not move, so that no further one will."""

    def __init__(self, images: Tensor, targets: Tensor, ids: Sequence[str]) -> None:
        super().__init__(images, targets, ids)
        self.current = images
        self.rivals = torch.zeros((len(images), 0), dtype=torch.long, device=images.device)
        self.stuck = torch.zeros_like(self.rows, dtype=torch.bool)
