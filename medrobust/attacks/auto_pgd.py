"""Auto-PGD: projected gradient ascent that chooses each image's step size by itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from medrobust.attacks.active_batch import ActiveBatch, each, no_slope
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import Fraction, check_radius, check_steps
from medrobust.attacks.class_boundaries import check_classes, check_logits, rival_classes, rival_goals
from medrobust.attacks.kept_attempts import check_choice, closeness
from medrobust.networks.victims import Victim
from medrobust.networks.watched_victim import note_broken
from medrobust.objectives.base import Objective, Step
from medrobust.objectives.cross_entropy import CrossEntropy
from medrobust.random_streams import per_image_uniform


def checkpoints(steps: int) -> tuple[int, ...]:
    """Steps after which an image's step size may be halved: ceil(p_j steps), each once.

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06) (Croce & Hein 2020, section 3), computed in
    whole hundredths: in floating point 0.22 + 0.19 + 0.16 exceeds 0.57, and 100 times that would round up to 58.

    >>> checkpoints(100)
    (22, 41, 57, 70, 80, 87, 93, 99)
    """
    places, previous, current = [], 0, 22
    while current < 100:
        places.append(-(-current * steps // 100))
        previous, current = current, current + max(current - previous - 3, 6)
    return tuple(dict.fromkeys(places))


def stages(steps: int, radii: Sequence[float]) -> list[tuple[float, int]]:
    """Radii and the steps made at each: a share of 0.9 / R at each of R radii, and at the last one all that remain.

    >>> stages(300, (2.0, 1.5, 1.0))
    [(2.0, 90), (1.5, 90), (1.0, 120)]
    """
    before = [(radius, 9 * steps // (10 * len(radii))) for radius in radii[:-1]]
    laid_out = [*before, (radii[-1], steps - sum(count for _, count in before))]
    return [(radius, count) for radius, count in laid_out if count]


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD (Croce & Hein, ICML 2020, arXiv:2003.01690, Algorithm 1), in the maximum norm.

    From a random point of the ball, with a step size eta that starts at 2 epsilon:

        z_{k+1} = Proj(x_k + eta sign(g_k))
        x_{k+1} = Proj(x_k + momentum (z_{k+1} - x_k) + (1 - momentum) (x_k - x_{k-1}))

    At each of ``checkpoints(steps)`` an image's step size is halved, and the image goes back to its best point, if
    fewer than a share ``rho`` of its steps since the last checkpoint raised the objective, or if at the last one
    the step size stayed and its best value has not grown since.

    A run of n steps costs n backwards and n + 1 forwards: the look at a new point also gives the next gradient, and
    the last point is looked at too. With box victims, whose loss does not come with their outputs, a look costs two
    forwards.

    Args:
        epsilon: Radius, in units of the [0, 1] image range.
        steps: Number of steps of a run.
        restarts: Number of runs, each from its own random start; an image's best point over all of them counts.
        goals: Number of other classes towards each of which ``restarts`` runs are made, those with the largest clean
            logits first (APGD-T); at most all. An image is still broken when it is taken for any class but the true
            one. 0 makes runs away from the true class. Not used by a targeted attack. Of labels that do not exclude
            each other, each goal is to turn one of them.
        objective: What is raised; None means cross-entropy (APGD-CE), ``DifferenceOfLogits`` makes it APGD-DLR.
        radii: Factors of ``epsilon`` at which a run climbs one after the other, each time from the best point so far,
            brought into the ball, with a step size of its own; the last is 1. With (2, 1.5, 1) three tenths of the
            steps are made at 2 epsilon and as many at 1.5 epsilon: red-epsilon APGD (Croce, Singh & Hein, ECCV 2024).
            Points of the larger balls lead the way and are never returned. Each factor costs a forward more.
        keep: Which point an image ends as: the one that fools the victim with the ``highest_objective``, or the one of
            the ``lowest_quality``, whether it fools or not, such as the lowest Jaccard index of a mask (of a targeted
            attack, the highest with respect to its goals). The latter needs ``stop_when_fooled`` to be False.
        rho: Share of rising steps below which the step size is halved, in [0, 1].
        momentum: Share of the new step in a move, the paper's alpha, in (0, 1]; 1 ignores the previous move.
        stop_when_fooled: Let an image leave as soon as it fools the victim, as AutoAttack does, which only asks
            whether it can be done. With False every image makes all its runs and ends as ``keep`` says.
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Seed of the per-image random streams.

    Raises:
        ValueError: A field is out of its range.
    """

    epsilon: Fraction | float = Fraction("8/255")
    steps: int = 100
    restarts: int = 1
    goals: int = 0
    objective: Objective | None = None
    rho: float = 0.75
    momentum: float = 0.75
    stop_when_fooled: bool = True
    radii: tuple[float, ...] = (1.0,)
    keep: Literal["highest_objective", "lowest_quality"] = "highest_objective"

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        check_radius("epsilon", self.epsilon, zero=True)
        check_steps(self.steps)
        if not isinstance(self.restarts, int) or self.restarts < 1:
            raise ValueError(f"restarts counts runs and is a whole number of at least 1, got {self.restarts}")
        if not isinstance(self.goals, int) or self.goals < 0:
            raise ValueError(f"goals counts classes and is a whole number of at least 0, got {self.goals}")
        if not 0 <= self.rho <= 1:
            raise ValueError(f"rho is a share of the steps and lies in [0, 1], got {self.rho}")
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum is the new step's share of a move and lies in (0, 1], got {self.momentum}")
        object.__setattr__(self, "radii", tuple(float(factor) for factor in self.radii))
        falling = all(one > other for one, other in zip(self.radii, self.radii[1:], strict=False))
        if not self.radii or self.radii[-1] != 1 or not falling or not math.isfinite(self.radii[0]):
            raise ValueError(f"radii are factors of epsilon that fall to 1, such as [2, 1.5, 1], got {self.radii}")
        check_choice("keep", self.keep, ("highest_objective", "lowest_quality"))
        if self.keep == "lowest_quality" and self.stop_when_fooled:
            raise ValueError(
                "an image that leaves with its first success is not that of the lowest quality: set "
                "stop_when_fooled to False, or keep to 'highest_objective'"
            )

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Make the runs; with ``stop_when_fooled`` on an ever smaller batch."""
        climb = _Climb(images, targets, ids, float(self.epsilon), self.keep == "lowest_quality")
        towards = self._look_for_goals(victim, climb) if self.goals and not self.targeted else 0
        for restart in range(self.restarts):
            for goal in range(max(towards, 1)):
                if not climb.ids:
                    break
                if towards:
                    climb.goal = rival_goals(climb.targets, climb.ranked[:, goal])
                stream = f"{type(self).__name__}:{restart}" + (f":{goal}" if goal else "")
                noise = per_image_uniform(climb.ids, images.shape[1:], self.seed, stream, images)
                for stage, (factor, steps) in enumerate(stages(self.steps, self.radii)):
                    climb.start(factor, None if stage else noise)
                    self._run(victim, climb, steps)
                    if not climb.ids:
                        break
        return climb.finish(climb.top)

    def _look_for_goals(self, victim: Victim, climb: "_Climb") -> int:
        """Rank the other classes by the clean logits; return how many of them are goals.

        With ``stop_when_fooled``, images that fool the victim already leave as they are.
        """
        check_classes(climb.targets)
        if not climb.ids:
            return 0
        with torch.no_grad():
            outputs = victim(climb.clean)
        check_logits(outputs, climb.targets)
        climb.ranked = rival_classes(outputs, climb.targets, self.goals + 1)
        climb.forwards += 1
        if self.stop_when_fooled:
            climb.keep(climb.leave(climb.clean, self.reached(victim, outputs, climb.targets)))
        return climb.ranked.shape[1]

    def _run(self, victim: Victim, climb: "_Climb", steps: int) -> None:
        """Climb at one radius; all images still under attack are at the same step and share their checkpoints."""
        objective = CrossEntropy() if self.objective is None else self.objective
        marks, last_mark = checkpoints(steps), 0
        index = 0
        while climb.ids:
            leaf = climb.current.detach().requires_grad_()
            step = self._look(victim, climb, leaf, objective, index)
            values = objective(step)
            with torch.no_grad():
                outputs = step.outputs if step.has_outputs else victim(climb.current)
                outcome = victim.outcome(outputs, climb.targets)
                fooled = outcome.right if self.targeted else ~outcome.right
                close = closeness(outcome, self.targeted) if self.keep == "lowest_quality" else fooled
                close = close.to(values.dtype)
            climb.count_look(step.forwards + (not step.has_outputs))
            staying = climb.leave(climb.current, fooled) if self.stop_when_fooled and climb.counts else None
            if climb.looks_again(staying):
                continue
            last = index == steps
            gradient = torch.zeros_like(leaf) if last else torch.autograd.grad(values.sum(), leaf)[0]
            vanished = torch.zeros_like(fooled) if step.vanished is None else step.vanished
            values, close, fooled, vanished, broken, gradient = climb.keep(
                staying, values.detach(), close, fooled, vanished, step.broken, gradient
            )
            climb.note(values, close, gradient.sign())
            if last:
                return
            note_broken(victim, climb.ids, broken)
            climb.backwards[climb.rows] += step.backwards
            climb.zeros[climb.rows] += step.backwards * ((vanished | no_slope(gradient)) & ~fooled)
            if index == 0:
                climb.mark_value = climb.best_value
            elif index in marks:
                climb.halve(self.rho * (index - last_mark))
                last_mark = index
            climb.move(self.momentum if index else 1.0)
            index += 1

    def _look(self, victim: Victim, climb: "_Climb", images: Tensor, objective: Objective, index: int) -> Step:
        """A look at the images with the eyes of the objective: towards a goal, or as the attack itself aims."""
        goal = climb.goal
        aim, targeted = (climb.targets, self.targeted) if goal is None else (goal, True)
        return Step(victim, images, climb.clean, aim, climb.ids, targeted, objective.layers, index)


class _Climb(ActiveBatch):
    """Each image's current point, the best point of its run, and the best of all runs (``top``)."""

    def __init__(
        self, images: Tensor, targets: Any, ids: Sequence[str], epsilon: float, by_quality: bool = False
    ) -> None:
        super().__init__(images, targets, ids)
        self.epsilon, self.by_quality, self.counts = epsilon, by_quality, True
        self.lower = self.upper = self.peak = images
        self.goal: Tensor | None = None  # class that the objective aims at, though any other but the truth will do
        self.ranked = torch.zeros_like(self.rows)[:, None]  # the other classes, once the clean images have been seen
        self.top, self.top_value = images, images.new_full((len(images),), -torch.inf)
        self.top_close = self._farthest()

    def _farthest(self) -> Tensor:
        """Less close than any point that is looked at; of points that fool or not, as far as those that do not."""
        return torch.full_like(self.top_value, -torch.inf if self.by_quality else 0.0)

    def start(self, factor: float, noise: Tensor | None) -> None:
        """Begin to climb in the ball of a multiple of the radius.

        Args:
            factor: Multiple of the radius; the points of a larger ball do not count.
            noise: Where to begin, in [-1, 1]; None to go on from the best point of the ball before.
        """
        count, like, radius = len(self.clean), self.clean, factor * self.epsilon
        self.counts = factor == 1
        self.lower, self.upper = (like - radius).clamp_(min=0), (like + radius).clamp_(max=1)
        self.current = torch.clamp(self.peak if noise is None else like + radius * noise, self.lower, self.upper)
        self.peak, self.peak_value, self.peak_close = (
            self.current,
            torch.full_like(self.top_value, -torch.inf),
            self._farthest(),
        )
        self.previous = self.best = self.current
        self.sign = self.best_sign = torch.zeros_like(like)
        self.size = like.new_full((count,), 2 * radius)
        self.last = like.new_full((count,), torch.inf)  # so that the first look is not a rise
        self.best_value = self.mark_value = like.new_full((count,), -torch.inf)
        self.rises = torch.zeros_like(self.rows)
        self.halved = torch.zeros_like(self.rows, dtype=torch.bool)
        self.cosines.follow(torch.zeros_like(like), self.rows)  # no cosine between two runs

    def note(self, values: Tensor, close: Tensor, sign: Tensor) -> None:
        """Note the objective at the current point, how close it is, and the sign of the objective's gradient."""
        values = values.nan_to_num(-torch.inf, torch.inf, -torch.inf)  # NaN is never the best value
        self.rises += values > self.last
        self.last = values
        better = values > self.best_value
        self.best = torch.where(each(better), self.current, self.best)
        self.best_value = torch.where(better, values, self.best_value)
        self.sign, self.best_sign = sign, torch.where(each(better), sign, self.best_sign)
        kept = "top" if self.counts else "peak"
        best, best_value, best_close = (vars(self)[f"{kept}{what}"] for what in ("", "_value", "_close"))
        ahead = (close > best_close) | ((close == best_close) & (values > best_value))
        setattr(self, kept, torch.where(each(ahead), self.current, best))
        setattr(self, f"{kept}_value", torch.where(ahead, values, best_value))
        setattr(self, f"{kept}_close", torch.where(ahead, close, best_close))

    def halve(self, least: float) -> None:
        """At a checkpoint, halve the step size of images whose climb has stalled, and take them to their best point.

        Args:
            least: Number of rising steps since the last checkpoint below which a climb counts as stalled.
        """
        stuck = ~self.halved & (self.best_value <= self.mark_value)
        self.halved = (self.rises < least) | stuck
        self.size = torch.where(self.halved, self.size / 2, self.size)
        self.current = torch.where(each(self.halved), self.best, self.current)
        self.sign = torch.where(each(self.halved), self.best_sign, self.sign)
        self.last = torch.where(self.halved, self.best_value, self.last)
        self.mark_value, self.rises = self.best_value, torch.zeros_like(self.rises)

    def move(self, momentum: float) -> None:
        """Make one step and keep it in the ball and the range."""
        step = torch.clamp(self.current + each(self.size) * self.sign, self.lower, self.upper) - self.current
        moved = self.current + momentum * step + (1 - momentum) * (self.current - self.previous)
        moved = torch.clamp(moved, self.lower, self.upper)
        self.cosines.follow(moved - self.current, self.rows)
        self.previous, self.current = self.current, moved
