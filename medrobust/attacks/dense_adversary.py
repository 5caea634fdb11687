"""Dense adversary generation, DAG (Xie et al., ICCV 2017, arXiv:1703.08603): all pixels or proposals at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from medrobust.attacks.active_batch import ActiveBatch, each, no_slope
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import Fraction, check_radius, check_steps
from medrobust.attacks.dense_targets import DenseTargets, PlaceTargets, ProposalTargets
from medrobust.networks.victims import Victim
from medrobust.networks.watched_victim import note_broken
from medrobust.objectives.base import Step


@dataclass(frozen=True, kw_only=True)
class DAG(Attack):
    """Dense adversary generation (Xie et al., ICCV 2017, Algorithm 1; the baseline of SMIA21 for masks and boxes).

    Every target of an image gets a wrong label, drawn once. Each step sums z_true - z_wrong over the targets that are
    still predicted as what they are, divides the gradient by its largest absolute value, and moves by ``step_size``
    against it. An image leaves when no target is left.

    Targets are the labelled pixels of a mask (of classes the image itself, of labels each label). Of boxes they are
    the proposals of the clean image, chosen from among more than the victim itself looks at: those that overlap a true
    box by an IoU above ``least_iou`` and take it for its class with a probability above ``least_score``, each for the
    box that it overlaps most of these. Their wrong labels are other classes of objects, so that objects are relabelled;
    with one class alone it is the background.

    If ``targeted``, the label of every target is the goal's, and a target is left until it is predicted so; what is
    lowered is its strongest other label. Of boxes these targets are the proposals that overlap a goal's box by an IoU
    above one half, with its label, and those that are found as anything with a probability above ``least_score``, whose
    label is the background. The goal's boxes themselves are proposals, too.

    A run of n steps costs n backwards and n + 1 forwards: the last step is looked at, too. Choosing proposals costs two
    more forwards.

    Args:
        epsilon: Radius in the maximum norm, in units of the [0, 1] image range; None, as in the paper, for none.
        steps: Largest number of steps.
        step_size: Length of one step in the maximum norm, the paper's gamma, in the units of ``epsilon``; None for
            ``epsilon / steps``.
        overlap: IoU with a likelier proposal above which one is dropped, in (0, 1).
        least_iou: Smallest IoU of a proposal that is a target with its true box, in [0, 1).
        least_score: Smallest probability of that box's class, in [0, 1).
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Seed of the per-image random streams.

    Raises:
        ValueError: A field is out of its range.
    """

    own_objective: ClassVar[bool] = True
    starts_clean: ClassVar[bool] = True

    epsilon: Fraction | float | None = None
    steps: int = 150
    step_size: Fraction | float | None = Fraction("0.5/255")
    overlap: float = 0.9
    least_iou: float = 0.1
    least_score: float = 0.1

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        if self.epsilon is not None:
            check_radius("epsilon", self.epsilon, zero=True)
        if self.step_size is not None:
            check_radius("step_size", self.step_size)
        check_steps(self.steps)
        if self.epsilon is None and self.step_size is None:
            raise ValueError("step_size is epsilon / steps where it is None, and there is no epsilon: give one of them")
        if not 0 < self.overlap < 1:
            raise ValueError(f"overlap is an IoU and lies in (0, 1), got {self.overlap}")
        for name, least in (("least_iou", self.least_iou), ("least_score", self.least_score)):
            if not 0 <= least < 1:
                raise ValueError(f"{name} lies in [0, 1), got {least}")

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """The maximum norm, if there is a radius."""
        return "none" if self.epsilon is None else "linf"

    def step_length(self) -> float:
        """Length of one step: ``step_size``, or epsilon / steps where it is None."""
        if self.step_size is not None:
            return float(self.step_size)
        assert self.epsilon is not None
        return float(self.epsilon) / self.steps

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Run the loop on an ever smaller batch."""
        batch = _Dense(images, targets, ids, self.epsilon)
        batch.dense = self._targets(victim, batch)
        index = 0
        while batch.ids:
            leaf = batch.current.detach().requires_grad_()
            last = index == self.steps
            with torch.set_grad_enabled(not last):
                step = Step(victim, leaf, batch.clean, batch.targets, batch.ids, self.targeted, index=index)
                logits = batch.dense.logits(step)
            left = batch.dense.left(logits)
            batch.count_look(1)
            staying = batch.leave(batch.current, batch.note_left(left) == 0)
            if batch.looks_again(staying):
                continue
            if last:
                break
            (gradient,) = torch.autograd.grad(batch.dense.lead(logits, left).sum(), leaf)
            gradient, broken = batch.keep(staying, gradient, step.broken)
            if not batch.ids:
                break
            note_broken(victim, batch.ids, broken)
            batch.backwards[batch.rows] += 1
            batch.zeros[batch.rows] += (broken | no_slope(gradient)).long()
            batch.move(gradient, self.step_length(), follow=self.steps > 1)
            index += 1
        crafted = batch.finish(batch.current)
        measures = {"targets": batch.first_left, "targets_left": batch.last_left}
        return replace(crafted, measures={**crafted.measures, **{k: v.to(images) for k, v in measures.items()}})

    def _targets(self, victim: Victim, batch: "_Dense") -> DenseTargets:
        """Pixels, or the proposals that are to be turned."""
        if isinstance(batch.targets, Tensor):
            return PlaceTargets(batch.targets, batch.ids, self.seed, self.targeted)
        batch.forwards += 2
        least = (self.overlap, self.least_iou, self.least_score)
        return ProposalTargets.chosen(victim, batch.clean, batch.targets, batch.ids, self.seed, self.targeted, least)


class _Dense(ActiveBatch):
    """Each image's current point, its targets, and how many of these are left."""

    WHOLE = ActiveBatch.WHOLE | {"first_left", "last_left"}
    dense: DenseTargets

    def __init__(self, images: Tensor, targets: Any, ids: Sequence[str], epsilon: float | None) -> None:
        super().__init__(images, targets, ids)
        self.current = images
        radius = 1.0 if epsilon is None else float(epsilon)
        self.lower, self.upper = (images - radius).clamp_(min=0), (images + radius).clamp_(max=1)
        self.last_left = torch.zeros_like(self.rows)
        self.first_left = torch.full_like(self.rows, -1)

    def note_left(self, left: Tensor) -> Tensor:
        """Number of targets of each image that are left, ``(n,)``; the first one is kept."""
        count = left.flatten(1).sum(1) if left.ndim > 1 else left.long()
        self.last_left[self.rows] = count
        known = self.first_left[self.rows]
        self.first_left[self.rows] = torch.where(known < 0, count, known)
        return count

    def move(self, gradient: Tensor, length: float, follow: bool) -> None:
        """Go along the gradient, divided by its largest absolute value."""
        largest = gradient.flatten(1).abs().amax(1).clamp(min=torch.finfo(gradient.dtype).tiny)
        moved = torch.addcdiv(self.current, gradient, each(largest), value=length)
        moved = torch.clamp(moved, self.lower, self.upper)
        if follow:
            self.cosines.follow(moved - self.current, self.rows)
        self.current = moved

    def keep(self, places: Tensor | None, *values: Tensor) -> tuple[Tensor, ...]:
        """Go on with the images at these places and with their targets; None keeps all."""
        if places is not None:
            self.dense.keep(places)
        return super().keep(places, *values)
