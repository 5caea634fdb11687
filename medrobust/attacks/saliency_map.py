"""The saliency-map attack JSMA: move a few pixel values far, those on which the victim's outputs depend most."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from medrobust.attacks.active_batch import ActiveBatch, each
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import Fraction, check_radius, check_steps
from medrobust.attacks.class_boundaries import (
    check_classes,
    check_logits,
    drawn_labels,
    logits_of_classes,
    rival_classes,
    rival_goals,
)
from medrobust.networks.finite import mended
from medrobust.networks.victims import Victim
from medrobust.networks.watched_victim import note_broken
from medrobust.objectives.logit_gap import logit_gap
from medrobust.random_streams import image_generator

CROWD = 256  # points that are compared in pairs without first asking again which of them matter
ROUNDING = 1e-5  # share of a gradient that is attributed to rounding: a sum that cancels to less has no sign


@dataclass(frozen=True, kw_only=True)
class JSMA(Attack):
    """Jacobian saliency map attack (Papernot et al., EuroS&P 2016, arXiv:1511.07528, algorithm 3; as in SBF20).

    With a, the gradient of the goal's output, and b, that of the sum of all others, each step moves the pixel value p
    of the largest saliency -a_p b_p, where a_p > 0 > b_p (eq. 8), or the pair of the largest -(a_p + a_q)(b_p + b_q),
    where a_p + a_q > 0 > b_p + b_q (eq. 10). Each channel's value is a feature of its own. An image stops when it has
    reached its goal, when no move helps any more, or after ``steps``. Where it failed it is returned clean, and so is
    an image that is taken for its goal already. A step costs one forward and two backwards (one in ``probabilities``),
    and the last look at an image one more forward.

    Of labels that do not exclude each other, an untargeted goal is to turn one of them. What the labels that are not at
    their goals lack takes the place of the goal's output, a is its gradient, and b = -a.

    Args:
        step_size: Amount theta by which a chosen value moves, in units of the [0, 1] image range.
        changes: Largest number of moves of one pixel value; one that has made them, or has reached 0 or 1, stays.
        steps: Largest number of steps per image.
        pixels: Number of values that are moved in each step, 1 or 2.
        direction: ``increase`` and ``decrease`` move values one way only, as the paper does; ``both`` moves each value
            the way that helps, as SBF20's library does.
        goals: Goals of the untargeted form, which stops at any wrong class: ``random`` draws one other class for each
            image, ``every`` tries all others in turn, the likeliest first, and keeps the fewest changed values.
        space: Outputs that a and b are gradients of. In ``probabilities`` b = -a, and both are divided by p (1 - p) of
            the goal, without which they would vanish where the victim is certain.
        strict: Stop an image none of whose values has a positive saliency. Otherwise those of its values move that
            raise the goal most above the mean of the others, by a_p - b_p / (K - 1) for K classes.
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Seed of the per-image random streams.

    Raises:
        ValueError: A field is out of its range, or (when called) the targets or outputs are not those of classes, or a
            target is none of the victim's classes.
    """

    of_classes: ClassVar[bool] = True

    step_size: Fraction | float = 0.1
    changes: int = 7
    steps: int = 2000
    pixels: Literal[1, 2] = 2
    direction: Literal["increase", "decrease", "both"] = "both"
    goals: Literal["every", "random"] = "random"
    space: Literal["logits", "probabilities"] = "logits"
    strict: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        check_radius("step_size", self.step_size)
        check_steps(self.steps)
        if not isinstance(self.changes, int) or self.changes < 1:
            raise ValueError(f"changes counts moves of a value and is a whole number of at least 1, got {self.changes}")
        if self.pixels not in (1, 2):
            raise ValueError(f"pixels is 1 or 2, got {self.pixels}")
        if self.direction not in ("increase", "decrease", "both"):
            raise ValueError(f"direction is 'increase', 'decrease' or 'both', got {self.direction!r}")
        if self.goals not in ("every", "random"):
            raise ValueError(f"goals is 'every' or 'random', got {self.goals!r}")
        if self.space not in ("logits", "probabilities"):
            raise ValueError(f"space is 'logits' or 'probabilities', got {self.space!r}")

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """Number of changed values."""
        return "l0"

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Aim at one goal, or at every other class in turn."""
        check_classes(targets)
        crafted, least, others = self._turn(victim, images, targets, ids, 0)
        for turn in range(1, others if self.goals == "every" and not self.targeted else 1):
            other, changed, _ = self._turn(victim, images, targets, ids, turn)
            better = changed < least
            least = torch.minimum(least, changed)
            crafted = replace(
                crafted,
                images=torch.where(better[:, None, None, None], other.images, crafted.images),
                forwards=crafted.forwards + other.forwards,
                backwards=crafted.backwards + other.backwards,
                zero_gradients=crafted.zero_gradients + other.zero_gradients,
                measures={
                    name: torch.where(better, other.measures[name], crafted.measures[name]) for name in other.measures
                },
            )
        return crafted

    def _turn(
        self, victim: Victim, images: Tensor, targets: Tensor, ids: Sequence[str], turn: int
    ) -> tuple[Crafted, Tensor, int]:
        """Move each image towards one goal, on an ever smaller batch.

        Returns:
            What was made; the number of changed values of each image, ``(N,)``, or one more than an image has where the
            attack failed; and the number of other classes, or of labels.
        """
        batch, others = _Batch(images, targets, ids), 1
        ended = images
        for index in range(self.steps + 1 if len(images) else 0):
            variable = batch.images.detach().requires_grad_()
            outputs = victim(variable)
            batch.forwards[batch.rows] += 1
            if index == 0:
                check_logits(outputs, targets)
                batch.goals = self._goals(outputs.detach(), targets, ids, turn)
                batch.classes = 2 if targets.ndim == 2 else max(outputs.shape[1], 2)
                others = targets.shape[1] if targets.ndim == 2 else batch.classes - 1
            reached = self.reached(victim, outputs, batch.targets)
            batch.success[batch.rows] = reached
            ended = torch.where(each(reached), batch.images, batch.clean)
            staying = batch.leave(ended, reached | batch.stuck)
            if index == self.steps or (staying is not None and not len(staying)):
                break
            slopes = torch.stack(self._slopes(*_towards(outputs, batch.goals), variable), 1)
            slopes, broken = batch.keep(staying, *mended(slopes, leading=2))
            note_broken(victim, batch.ids, broken)
            goal_slopes, other_slopes = slopes.flatten(2).unbind(1)
            passes = 1 if self.space == "probabilities" else 2
            batch.backwards[batch.rows] += passes
            batch.zeros[batch.rows] += passes * (broken.any(1) | ~(goal_slopes.any(1) | other_slopes.any(1)))
            self._move(goal_slopes, other_slopes, batch)
        crafted = batch.finish(ended)
        changed = (crafted.images != images).flatten(1).sum(1)
        return crafted, torch.where(batch.success, changed, images[:1].numel() + 1), others

    def _goals(self, outputs: Tensor, targets: Tensor, ids: Sequence[str], turn: int) -> Tensor:
        """Class that each image is to be taken for, ``(N,)``, or what its labels are to become, ``(N, L)``."""
        if self.targeted:
            return targets.long()
        if self.goals == "every":
            return rival_goals(targets, rival_classes(outputs, targets)[:, turn])
        streams = [image_generator(self.seed, f"{type(self).__name__}:goals", id) for id in ids]
        if targets.ndim == 2:
            return rival_goals(targets, drawn_labels(targets, streams))
        others = max(outputs.shape[1], 2) - 1
        draws = torch.cat([torch.randint(others, (1,), generator=stream) for stream in streams])
        draws = draws.to(outputs.device, non_blocking=True)
        return draws + (draws >= targets)

    def _slopes(self, outputs: Tensor, goals: Tensor, variable: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the goal's output and of the sum of the others, ``(N, C, H, W)`` each."""
        if self.space == "probabilities":  # grad p = p (1 - p) grad (z - logsumexp of the others)
            (goal_slopes,) = torch.autograd.grad(-logit_gap(outputs, goals, soft=True).sum(), variable)
            return goal_slopes, -goal_slopes
        goal = outputs.gather(1, goals[:, None]).sum()
        (goal_slopes,) = torch.autograd.grad(goal, variable, retain_graph=True)
        (other_slopes,) = torch.autograd.grad(outputs.sum() - goal, variable)
        return goal_slopes, other_slopes

    def _move(self, goal_slopes: Tensor, other_slopes: Tensor, batch: "_Batch") -> None:
        """Choose each image's values by the gradients ``(N, D)`` and move them."""
        flat, slack = batch.images.flatten(1), 1e-3 * self.step_size  # ten steps of 0.1 may end at 0.9999999
        unused = batch.used < self.changes
        ways = {"increase": (1,), "decrease": (-1,), "both": (1, -1)}[self.direction]
        open_ = torch.cat([unused & (flat < 1 - slack if way > 0 else flat > slack) for way in ways], 1)
        # a value that can move both ways counts as two moves, of which at most one helps
        goal, rest = (torch.cat([way * slopes for way in ways], 1) for slopes in (goal_slopes, -other_slopes))
        count = min(self.pixels, flat.shape[1])
        chosen, found = self._salient(goal, rest, open_, count)
        found = found[:, None].expand(-1, count)
        if not self.strict:
            gaps, leading = (goal + rest / (batch.classes - 1)).masked_fill(~open_, float("-inf")).topk(count)
            chosen, found = torch.where(found, chosen, leading), found | (gaps > 0)
        sign = torch.where(chosen < flat.shape[1], ways[0], -ways[0]).to(flat)
        places = chosen % flat.shape[1]
        moved = flat.scatter_add(1, places, self.step_size * sign * found).clamp_(0, 1).view_as(batch.images)
        batch.used.scatter_add_(1, places, found.to(batch.used.dtype))
        batch.cosines.follow(moved - batch.images, batch.rows)
        batch.images, batch.stuck = moved, ~found.any(1)

    def _salient(self, goal: Tensor, rest: Tensor, open_: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Moves of the largest saliency ``(N, count)``, and whether it is positive ``(N,)``."""
        # only the order counts; products of scaled numbers do not underflow
        scaled = [slopes / slopes.abs().amax(1, keepdim=True).clamp(min=1e-30) for slopes in (goal, rest)]
        first, second = ((slopes - ROUNDING * slopes.abs()).masked_fill(~open_, float("-inf")) for slopes in scaled)
        if count == 1:
            value, place = torch.where((first > 0) & (second > 0), first * second, 0).max(1, keepdim=True)
            return place, value.squeeze(1) > 0
        if self.space == "probabilities":  # both sums are equal, and largest for the two largest values
            values, places = first.topk(2)
            return places, values.sum(1) > 0
        places, value = best_pair(first, second)
        return places, value > 0


def _towards(outputs: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of classes, and the class to reach.

    Goals of labels become a class of their own: its logit is the sum of what the labels that are not at their goals
    lack, and the other class's logit is the negative of that.
    """
    if goals.ndim == 1:
        return logits_of_classes(outputs), goals
    lead = -logit_gap(outputs, goals, soft=False)
    lacking = torch.where((lead > 0) | (goals < 0), 0.0, lead).sum(1)
    return torch.stack([-lacking, lacking], 1), torch.ones_like(goals[:, 0])


def best_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Pair p != q of the largest (first_p + first_q)(second_p + second_q) with both sums positive.

    The product grows with either sum. So if two points u and v are at least as large as p in both coordinates, the one
    of them that is not q can replace p in a pair (p, q) at no loss. Therefore some best pair consists of points that
    are dominated by fewer than two others; with the points sorted by ``first`` (ties by place) these are the ones
    whose ``second`` exceeds the second largest before them, which takes a sort and two running maxima. Few are left,
    about 2 ln D of D independent points. They are compared in pairs, in blocks of at most D pairs per image, so that
    memory grows as D and not as D^2. The pair is exact unless more than 4096 points are left after a bound on the
    product, which takes a correlation beyond -0.999999; then the 4096 with the largest potential compete.

    Args:
        first: ``(N, D)``; -inf excludes a point.
        second: ``(N, D)``; -inf excludes a point.

    Returns:
        Places ``(N, 2)``, meaningless where there is no such pair, and the product ``(N,)``, 0 there.
    """
    order = first.argsort(dim=1, descending=True, stable=True)
    first, second = first.gather(1, order), second.gather(1, order)
    before = _before(second.cummax(1).values)
    runner_up = _before(torch.minimum(second, before).cummax(1).values)
    # both sums of a pair being positive, so is any weighted sum of them; this one (enlarged a little for rounding)
    # shows at once that nothing can be found where all points lie on a falling line
    finite = second.isfinite()
    sizes = [torch.where(finite, values.abs(), 0).sum(1, keepdim=True).clamp(min=1e-30) for values in (first, second)]
    shares = [torch.where(finite, values, 0) / size for values, size in zip((first, second), sizes, strict=True)]
    along = shares[0] + shares[1] + 1e-6 * (shares[0].abs() + shares[1].abs())
    reach = along.masked_fill(~finite, float("-inf")).amax(1, keepdim=True)
    eligible = (second > runner_up) & (along + reach > 0)

    width = int(eligible.sum(1).amax())  # the host waits here
    if width > CROWD:
        # 2 sqrt(xy) <= x + y: points that cannot reach twice the root of a product known to be attained are dropped
        leaders = along.masked_fill(~eligible, float("-inf")).topk(CROWD).indices.sort(1).values
        _, least = _compared(first, second, leaders, eligible.gather(1, leaders))
        root = (least[:, None] / sizes[0] / sizes[1]).sqrt()
        eligible &= along + reach >= 2 * (1 - 1e-5) * root
        width = min(int(eligible.sum(1).amax()), 16 * CROWD)
    width = min(max(width, 2), first.shape[1])
    places = along.masked_fill(~eligible, float("-inf")).topk(width).indices.sort(1).values
    pair, best = _compared(first, second, places, eligible.gather(1, places))
    return order.gather(1, pair), best


def _compared(first: Tensor, second: Tensor, places: Tensor, eligible: Tensor) -> tuple[Tensor, Tensor]:
    """Best pair among the points at ``places (N, M)`` that are ``eligible (N, M)``, in blocks of at most D pairs."""
    width = places.shape[1]
    rows_at_once = max(first.shape[1] // width, 1)
    first, second = (values.gather(1, places).masked_fill(~eligible, float("-inf")) for values in (first, second))
    best, pair = first.new_zeros(len(first)), places[:, :2]
    columns = torch.arange(width, device=first.device)
    for start in range(0, width, rows_at_once):
        rows = columns[start : start + rows_at_once]
        sums = [values[:, rows, None] + values[:, None, :] for values in (first, second)]
        positive = (sums[0] > 0) & (sums[1] > 0) & (rows[:, None] < columns)
        value, place = torch.where(positive, sums[0] * sums[1], 0).flatten(1).max(1)
        better = value > best
        found = places.gather(1, torch.stack([start + place // width, place % width], 1))
        best, pair = torch.where(better, value, best), torch.where(better[:, None], found, pair)
    return pair, best


def _before(running: Tensor) -> Tensor:
    """Running maxima shifted by one place, so that each covers what stands before it; -inf at the first place."""
    return torch.cat([torch.full_like(running[:, :1], float("-inf")), running[:, :-1]], 1)


class _Batch(ActiveBatch):
    """Each image's current values, its goal, how often each value was moved, and whether the goal was reached."""

    WHOLE = ActiveBatch.WHOLE | {"success"}

    def __init__(self, images: Tensor, targets: Tensor, ids: Sequence[str]) -> None:
        super().__init__(images, targets, ids)
        self.images, self.goals, self.classes = images, targets, 2
        self.used = torch.zeros_like(images, dtype=torch.int32).flatten(1)
        self.success, self.stuck = (torch.zeros_like(self.rows, dtype=torch.bool) for _ in range(2))
