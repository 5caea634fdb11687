"""Basin hopping: ascents from the best image so far, some of whose values have been kicked to their other bound."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from medrobust.attacks.active_batch import ActiveBatch, each, no_slope
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import Fraction, check_radius, check_steps
from medrobust.networks.victims import Victim
from medrobust.networks.watched_victim import note_broken
from medrobust.objectives.base import Objective, Step
from medrobust.objectives.margin import Margin
from medrobust.objectives.weakest_label import deciding_margin
from medrobust.random_streams import per_image_uniform

MOMENTUM = 0.75  # share of the last direction in the next one
FIRST, LAST = 1 / 6, 1 / 600  # length of the steps of an ascent at its begin and end, in radii
AGAIN = 30  # steps after which an ascent goes back to its best point


@dataclass(frozen=True, kw_only=True)
class BasinHopping(Attack):
    """Iterated local search in the maximum norm (basin hopping: Wales & Doye, J. Phys. Chem. A 1997, 101, 5111).

    Gradients lead to a local maximum, and a victim with many kinks has many. An attack that starts anew at random
    finds maxima of the same height again; near the best one there are often better ones. Each hop is an ascent,

        d_{k+1} = 0.75 d_k + g_k / ||g_k||_1,    x_{k+1} = Proj(x_k + eta_k sign(d_{k+1})),

    whose step length eta_k falls geometrically from epsilon / 6 to epsilon / 600, and which goes back to its best point
    every 30 steps. The first one begins at a random point of the ball, or in a ``WorstCase`` at the best attempt of the
    attacks before it. Each of the others begins at the best image of all hops, in which every value has gone to its
    other bound (x - epsilon or x + epsilon, clipped to [0, 1]; the one that is further away) with probability ``kick``.

    An image leaves with the first look that fools the victim; a hop of n steps costs n backwards and n + 1 forwards,
    with one more forward a look for box victims.

    Args:
        epsilon: Radius, in units of the [0, 1] image range.
        hops: Number of ascents, at least 1.
        steps: Number of steps of each.
        kick: Probability with which a value is kicked, in (0, 1).
        objective: What is raised; None means the margin, and of labels that are to be left that of the one that turns
            most easily (``WeakestLabel``). Goals of labels take the mean of what each lacks.
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Seed of the per-image random streams.

    Raises:
        ValueError: A field is out of its range.
    """

    epsilon: Fraction | float = Fraction("8/255")
    hops: int = 100
    steps: int = 50
    kick: float = 0.025
    objective: Objective | None = None

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        check_radius("epsilon", self.epsilon, zero=True)
        check_steps(self.steps)
        if not isinstance(self.hops, int) or self.hops < 1:
            raise ValueError(f"hops counts ascents and is a whole number of at least 1, got {self.hops}")
        if not 0 < self.kick < 1:
            raise ValueError(f"kick is a probability and lies in (0, 1), got {self.kick}")

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Begin at a random point of the ball."""
        noise = per_image_uniform(ids, images.shape[1:], self.seed, type(self).__name__, images)
        return self.perturb_from(victim, images, targets, ids, images + float(self.epsilon) * noise)

    def perturb_from(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str], starts: Tensor) -> Crafted:
        """Begin at other images, ``(N, C, H, W)``, or at the points of the ball that are nearest to them."""
        search = _Search(images, targets, ids, float(self.epsilon))
        search.point = torch.clamp(starts, search.lower, search.upper)
        for hop in range(self.hops):
            if hop and search.ids:
                stream = f"{type(self).__name__}:{hop}"
                noise = per_image_uniform(search.ids, images.shape[1:], self.seed, stream, images)
                search.kick(noise < 2 * self.kick - 1)
            self._ascend(victim, search)
        return replace(search.finish(search.top), measures={})  # kicks have no direction

    def _ascend(self, victim: Victim, search: "_Search") -> None:
        """Make one hop, on an ever smaller batch; the host waits once a step, to see who leaves."""
        objective = self.objective
        if objective is None:
            objective = Margin() if self.targeted else deciding_margin(search.targets)
        index = 0
        while search.ids:
            leaf = search.point.detach().requires_grad_()
            step = Step(victim, leaf, search.clean, search.targets, search.ids, self.targeted, objective.layers, index)
            values = objective(step)
            with torch.no_grad():
                outputs = step.outputs
                fooled = self.reached(victim, outputs, search.targets)
            search.count_look(step.forwards)
            staying = search.leave(search.point, fooled)
            if search.looks_again(staying):
                continue
            last = index == self.steps
            gradient = torch.zeros_like(leaf) if last else torch.autograd.grad(values.sum(), leaf)[0]
            vanished = torch.zeros_like(fooled) if step.vanished is None else step.vanished
            values, vanished, broken, gradient = search.keep(staying, values.detach(), vanished, step.broken, gradient)
            search.note(values)
            if last:
                return
            note_broken(victim, search.ids, broken)
            search.backwards[search.rows] += step.backwards
            search.zeros[search.rows] += step.backwards * (vanished | no_slope(gradient))
            search.move(gradient, FIRST * (LAST / FIRST) ** (index / self.steps), index % AGAIN == AGAIN - 1)
            index += 1


class _Search(ActiveBatch):
    """Each image's current point, the best point of its hop, and the best of all hops (``top``)."""

    def __init__(self, images: Tensor, targets: Any, ids: Sequence[str], epsilon: float) -> None:
        super().__init__(images, targets, ids)
        self.epsilon = epsilon
        self.lower, self.upper = (images - epsilon).clamp_(min=0), (images + epsilon).clamp_(max=1)
        self.point = self.best = self.top = images
        self.direction = torch.zeros_like(images)
        self.best_value = self.top_value = images.new_full((len(images),), -torch.inf)

    def kick(self, kicked: Tensor) -> None:
        """Begin a hop at the best of all points, with these values, bool ``(n, C, H, W)``, at their further bound."""
        further = torch.where(self.top - self.lower > self.upper - self.top, self.lower, self.upper)
        self.point = self.best = torch.where(kicked, further, self.top)
        self.direction = torch.zeros_like(self.top)
        self.best_value = torch.full_like(self.top_value, -torch.inf)

    def note(self, values: Tensor) -> None:
        """Note the objective at the current point."""
        values = values.nan_to_num(-torch.inf, torch.inf, -torch.inf)  # NaN is never the best value
        better, ahead = values > self.best_value, values > self.top_value
        self.best = torch.where(each(better), self.point, self.best)
        self.best_value = torch.where(better, values, self.best_value)
        self.top = torch.where(each(ahead), self.point, self.top)
        self.top_value = torch.where(ahead, values, self.top_value)

    def move(self, gradient: Tensor, length: float, again: bool) -> None:
        """Make one step of a length in radii, or go back to the best point of the hop."""
        size = torch.linalg.vector_norm(gradient.flatten(1), ord=1, dim=1)
        unit = gradient / each(size.clamp(min=torch.finfo(size.dtype).tiny))
        self.direction = MOMENTUM * self.direction + unit
        moved = self.point + length * self.epsilon * self.direction.sign()
        self.point = self.best if again else torch.clamp(moved, self.lower, self.upper)
