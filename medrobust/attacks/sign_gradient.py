"""The stepper of the sign-gradient family: one loop, of which FGSM, BIM, PGD, MIM and the others are settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from medrobust.attacks.active_batch import ActiveBatch, no_slope
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import Fraction, check_radius, check_steps
from medrobust.attacks.diversity import diversify, draw_places
from medrobust.networks.victims import Victim
from medrobust.networks.watched_victim import note_broken
from medrobust.objectives.base import Objective, Step
from medrobust.objectives.cross_entropy import CrossEntropy
from medrobust.objectives.stabilization import smoothed
from medrobust.random_streams import per_image_uniform


@dataclass(frozen=True, kw_only=True)
class SignGradient(Attack):
    """Sign-gradient ascent, x <- Proj(x + step_size * sign(g)), g from grad_x J (Ma20 eq. 4-8).

    Proj keeps the image within ``epsilon`` of the clean one in the maximum norm and inside [0, 1].

    Args:
        epsilon: Radius, in units of the [0, 1] image range (log domain: of the natural logarithm of an image).
        steps: Number of steps; each costs one forward and one backward.
        step_size: Length of one signed step, in the units of ``epsilon``; None means the method's rule, here
            ``epsilon / steps``.
        objective: What is raised; None means the method's own, here cross-entropy.
        random_start: Start at a uniformly random point of the ball instead of at the clean image.
        stop_when_fooled: Let an image leave the batch as soon as it fools the victim (judged on the image itself).
            With False every image runs all its steps and ends with high confidence.
        momentum: Decay mu of the accumulated gradient, to which each gradient is added after division by its L1 norm
            (Dong et al., CVPR 2018, eq. 6); 0 uses the plain gradient.
        diversity: Probability with which an image is resized and padded before each step (Xie et al., CVPR 2019).
        smallest_side: Smallest side of the resized image, as a share of the original side, in (0, 1].
        smoothing: Side in pixels of the Gaussian kernel that the gradient is convolved with, odd (Dong et al., CVPR
            2019, eq. 8); 0 leaves the gradient as it is.
        smoothing_deviations: Number of standard deviations that half the kernel spans.
        domain: ``pixel`` adds to the image; ``log`` multiplies it, x_a = clip(x exp(B)), |B| <= epsilon (SBF20 eq. 3).
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Seed of the per-image random streams.

    Raises:
        ValueError: A field is out of its range.
    """

    epsilon: Fraction | float = Fraction("8/255")
    steps: int = 10
    step_size: Fraction | float | None = None
    objective: Objective | None = None
    random_start: bool = False
    stop_when_fooled: bool = False
    momentum: float = 0.0
    diversity: float = 0.0
    smallest_side: float = 0.9
    smoothing: int = 0
    smoothing_deviations: float = 3.0
    domain: Literal["pixel", "log"] = "pixel"

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        if self.domain not in ("pixel", "log"):
            raise ValueError(f"domain is 'pixel' or 'log', got {self.domain!r}")
        unit = "the [0, 1] image range" if self.domain == "pixel" else "the natural logarithm of an image"
        check_radius("epsilon", self.epsilon, unit, zero=True)
        if self.step_size is not None:
            check_radius("step_size", self.step_size, unit)
        check_steps(self.steps)
        if not self.momentum >= 0:
            raise ValueError(f"momentum is a decay factor and is not negative, got {self.momentum}")
        if not 0 <= self.diversity <= 1:
            raise ValueError(f"diversity is a probability and lies in [0, 1], got {self.diversity}")
        if not 0 < self.smallest_side <= 1:
            raise ValueError(f"smallest_side is a share of the side and lies in (0, 1], got {self.smallest_side}")
        if self.smoothing < 0 or (self.smoothing > 0 and self.smoothing % 2 == 0):
            raise ValueError(f"smoothing is the side of a kernel, odd, or 0 for none, got {self.smoothing}")
        if not self.smoothing_deviations > 0:
            raise ValueError(f"smoothing_deviations is positive, got {self.smoothing_deviations}")

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """Maximum norm, of images or of their logarithms."""
        return "log" if self.domain == "log" else "linf"

    def step_length(self) -> float:
        """Length of one step: ``step_size``, or the method's rule where it is None."""
        return float(self.epsilon) / self.steps if self.step_size is None else float(self.step_size)

    def raised(self) -> Objective:
        """Objective that is raised: ``objective``, or the method's own where it is None."""
        return CrossEntropy() if self.objective is None else self.objective

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Run the loop; with ``stop_when_fooled`` on an ever smaller batch."""
        objective, length = self.raised(), self.step_length()
        batch = _Batch(images, targets, ids)
        batch.lower, batch.upper = self._bounds(images)
        batch.variable = self._start(batch)
        batch.velocity = torch.zeros_like(images) if self.momentum else None
        places = self._places(batch)
        # the step's own outputs decide who leaves, unless they are those of a resized image, or there are none because
        # the victim finds boxes and its loss does not come with outputs: then a forward without gradients asks first
        asks_first = self.stop_when_fooled and (places is not None or not isinstance(targets, Tensor))

        index = 0
        while index < self.steps and batch.ids:
            if asks_first:
                with torch.no_grad():
                    image = self._image(batch.variable, batch.clean)
                    fooled = self.reached(victim, victim(image), batch.targets)
                batch.forwards[batch.rows] += 1
                batch.keep(batch.leave(image, fooled))
                if not batch.ids:
                    break
            variable = batch.variable.detach().requires_grad_()
            seen, truths = self._image(variable, batch.clean, straight_through=True), batch.targets
            if places is not None:
                seen, truths = diversify(seen, truths, places[index, batch.rows])
            step = Step(victim, seen, batch.clean, truths, batch.ids, self.targeted, objective.layers, index)
            values = objective(step)
            looks = not asks_first and (self.stop_when_fooled or step.has_outputs)
            fooled_now = self.reached(victim, step.outputs, truths) if looks else None
            batch.count_look(step.forwards)
            staying = None
            if self.stop_when_fooled and fooled_now is not None:
                staying = batch.leave(self._image(batch.variable, batch.clean), fooled_now)
                if batch.looks_again(staying):
                    continue
            (gradient,) = torch.autograd.grad(values.sum(), variable)
            vanished = no_slope(gradient)
            vanished = vanished if step.vanished is None else vanished | step.vanished
            vanished = vanished if fooled_now is None else vanished & ~fooled_now
            gradient, vanished, broken = batch.keep(staying, gradient, vanished, step.broken)
            note_broken(victim, batch.ids, broken)
            batch.backwards[batch.rows] += step.backwards
            batch.zeros[batch.rows] += step.backwards * vanished
            moved = torch.add(batch.variable, self._direction(gradient, batch), alpha=length)
            moved = moved.clamp_(batch.lower, batch.upper)
            if self.steps > 1:
                batch.cosines.follow(moved - batch.variable, batch.rows)
            batch.variable = moved
            index += 1

        return batch.finish(self._image(batch.variable, batch.clean))

    def _direction(self, gradient: Tensor, batch: "_Batch") -> Tensor:
        """Sign of the gradient, smoothed and accumulated as configured."""
        if self.smoothing > 1:
            gradient = smoothed(gradient, self.smoothing, self.smoothing // 2 / self.smoothing_deviations)
        if batch.velocity is not None:
            norms = gradient.abs().sum((1, 2, 3), keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
            gradient = batch.velocity = self.momentum * batch.velocity + gradient / norms
        return gradient.sign()

    def _bounds(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest allowed value of the variable that is moved, shaped like the images."""
        if self.domain == "log":
            return torch.full_like(clean, -self.epsilon), torch.full_like(clean, self.epsilon)
        return (clean - self.epsilon).clamp_(min=0), (clean + self.epsilon).clamp_(max=1)

    def _start(self, batch: "_Batch") -> Tensor:
        """Where the variable starts: no change, or a random point of the ball."""
        start = torch.zeros_like(batch.clean) if self.domain == "log" else batch.clean
        if not self.random_start:
            return start
        noise = per_image_uniform(batch.ids, start.shape[1:], self.seed, type(self).__name__, start)
        return torch.clamp(start + self.epsilon * noise, batch.lower, batch.upper)

    def _image(self, variable: Tensor, clean: Tensor, straight_through: bool = False) -> Tensor:
        """Image that the variable stands for.

        The clip has no gradient, so that a pixel pushed to white or beyond could never come back; with
        ``straight_through`` it keeps the gradient of the unclipped image.
        """
        if self.domain == "pixel":
            return variable
        image = clean * variable.exp()
        clipped = image.clamp(0, 1)
        return image + (clipped - image).detach() if straight_through else clipped

    def _places(self, batch: "_Batch") -> Tensor | None:
        """Each image's resizing at each step, drawn in advance, ``(steps, N, 4)``; None without diversity."""
        if not self.diversity or not batch.ids:
            return None
        side = (batch.clean.shape[-2], batch.clean.shape[-1])
        stream = f"{type(self).__name__}:diversity"
        drawn = draw_places(batch.ids, self.steps, side, self.diversity, self.smallest_side, self.seed, stream)
        return drawn.to(batch.clean.device, non_blocking=True)


class _Batch(ActiveBatch):
    """Each image's variable, its bounds, and the gradient that it has accumulated."""

    def __init__(self, images: Tensor, targets: Any, ids: Sequence[str]) -> None:
        super().__init__(images, targets, ids)
        self.variable = self.lower = self.upper = images
        self.velocity: Tensor | None = None
