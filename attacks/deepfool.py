"""DeepFool: step to the nearest class boundary of the linearised victim until it is crossed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.active import ActiveBatch, each
from attacks.base import Attack, Crafted
from attacks.budgets import check_steps
from attacks.class_gradients import check_classes, check_logits, class_gradients
from attacks.objectives import logit_gap
from attacks.victims import Victim


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """DeepFool, the nearest boundary of a victim taken for linear (Moosavi-Dezfooli et al., CVPR 2016, alg. 2).

    Each step goes to the nearest of the boundaries between the true class and its rivals, at distance
    ``|f| / ||w||_q`` with the gap f of the logits and its gradient w (q dual to the norm), and adds up:
    ``x = clip(x_0 + (1 + overshoot) r)``. Pixels that are black or white and would have to leave [0, 1] are left out
    of w, so that the others make up for them. An image that fools the victim takes no further step; one that never
    does comes back clean, and so does one that did from the start. Towards a goal, the only boundary is that between
    the goal and the class that leads.

    Args:
        steps: Largest number of steps. Each costs one forward, and one backward for each rival.
        overshoot: Share by which the accumulated perturbation is prolonged, >= 0.
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
            batch.zeros[batch.rows] += ~gradients.flatten(2).any(2).any(0)
            batch.total = self._accumulate(batch, gaps, gradients)
            moved = (batch.clean + (1 + self.overshoot) * batch.total).clamp_(0, 1)
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

    def _accumulate(self, batch: "_Batch", gaps: Tensor, gradients: Tensor) -> Tensor:
        """Add the step to the nearest boundary, against the gradient of its gap, and keep ``clean + total`` in [0, 1].

        A boundary without a gradient is infinitely far; without any the image stays where it is.
        """
        current = batch.current
        blocked = ((current <= 0) & (gradients > 0)) | ((current >= 1) & (gradients < 0))
        free = gradients.masked_fill(blocked, 0)
        largest = free.abs().amax((2, 3, 4))  # taken out, so that squares neither overflow nor vanish
        scaled = free / torch.where(largest > 0, largest, 1)[:, :, None, None, None]
        pixels = current[0].numel()
        rounding = torch.finfo(current.dtype).eps
        if self.distance == "l2":
            length = torch.linalg.vector_norm(scaled, dim=(2, 3, 4))
            shortest, longest = rounding * pixels**0.5, pixels**0.5
        else:
            length = scaled.abs().sum((2, 3, 4))
            shortest, longest = rounding, 1.0
        dual = length * largest
        distances = torch.where(dual > 0, gaps.T.abs() / torch.where(dual > 0, dual, 1), float("inf"))
        nearest = distances.argmin(0)
        places = torch.arange(len(current), device=current.device)
        chosen, norm = scaled[nearest, places], length[nearest, places]
        # a shorter step is lost in rounding, a longer one leaves the box
        step = each(distances[nearest, places].clamp(shortest, longest))
        unit = chosen / each(torch.where(norm > 0, norm, 1)) if self.distance == "l2" else chosen.sign()
        return (batch.clean + batch.total - step * unit).clamp_(0, 1) - batch.clean


class _Batch(ActiveBatch):
    """The images under attack with ``total``, their perturbation without its overshoot.

    ``stuck`` are those that the last step did not move, so that no further one will.
    """

    def __init__(self, images: Tensor, targets: Tensor, ids: Sequence[str]) -> None:
        super().__init__(images, targets, ids)
        self.current, self.total = images, torch.zeros_like(images)
        self.rivals = torch.zeros((len(images), 0), dtype=torch.long, device=images.device)
        self.stuck = torch.zeros_like(self.rows, dtype=torch.bool)
