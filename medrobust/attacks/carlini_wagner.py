"""Carlini and Wagner's L2 attack: Adam in tanh space, and for each image a search for the weight of the margin."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from medrobust.attacks.active_batch import each, no_slope
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import check_steps
from medrobust.attacks.class_boundaries import check_classes, check_logits
from medrobust.attacks.update_cosines import UpdateCosines
from medrobust.networks.finite import mended
from medrobust.networks.victims import Victim
from medrobust.networks.watched_victim import note_broken
from medrobust.objectives.logit_gap import image_lead

# by how much tanh reaches beyond [0, 1] on either side: a black or white pixel starts exactly where it is, with a sixth
# of a grey pixel's slope; tanh onto [0, 1] has no slope there and could never move it
REACH = 0.05
LIMIT = math.atanh(1 / (1 + 2 * REACH))  # of w, where the image is black or white
FIRST_DECAY, SECOND_DECAY, STABILISER = 0.9, 0.999, 1e-8  # Adam's beta_1, beta_2 and epsilon
PROGRESS = 0.9999  # the loss must fall below this share of what it was, as in the authors' code
SHORTEST_WINDOW = 20  # steps, for about which Adam's momentum carries an image past its goal and back
LARGEST_CONSTANT = 1e10  # as in the authors' code
SHRINKAGE = 0.85  # factor on the learning rate for each constant that is tried once a fooling image was found


@dataclass(frozen=True, kw_only=True)
class CWL2(Attack):
    """Carlini and Wagner's L2 attack (IEEE S&P 2017, arXiv:1608.04644, sec. V-A and VI-A).

    Minimises ``||x - x_0||^2 + c max(z_y - max_{j != y} z_j + kappa, 0)`` (targeted: ``max_{j != t} z_j - z_t``) by
    Adam over w, where ``x = 1/2 + 0.55 tanh(w)`` and w is kept where x is in [0, 1], so that black and white pixels
    can move. The closest image that ever fools the victim by ``kappa`` is returned, or the clean image where there is
    none or where it already does so itself.

    Each image has its own c: it is multiplied by ten until it is large enough, or divided by ten while it is, and then
    bisected. Adam starts at the clean image, later at the closest fooling image found, each time a little slower. A
    constant is large enough if the victim was fooled in the last tenth of the steps, not merely before: Adam's first
    steps have the length of the learning rate, whatever c is, and often overshoot.

    Of labels that do not exclude each other, the margin is that of the label that turns most easily; towards several
    goals, that of the label that is furthest from its own.

    ``cos`` and ``positive_cosines`` are those of the images' updates in the last search step.

    Args:
        search_steps: Number of constants that are tried.
        steps: Largest number of Adam's steps for each constant; each costs one forward and, except the last, one
            backward.
        learning_rate: Adam's, as for ``x = 1/2 + tanh(w) / 2``: its first step moves a grey pixel by half of it.
        kappa: Confidence by which the victim is to be fooled, in units of logits, >= 0.
        initial_constant: First c, in units of a squared L2 distance per logit, > 0.
        abort_early: End an image's search step when its loss over a tenth of the steps, or 20 if that is more, has not
            fallen below that of the tenth before.
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Not used; nothing is drawn.

    Raises:
        ValueError: A field is out of its range, or (when called) the targets or outputs are not those of classes.
    """

    minimal: ClassVar[bool] = True
    of_classes: ClassVar[bool] = True

    search_steps: int = 9
    steps: int = 200
    learning_rate: float = 0.01
    kappa: float = 0.0
    initial_constant: float = 1e-3
    abort_early: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        check_steps(self.steps)
        if not isinstance(self.search_steps, int) or self.search_steps < 1:
            received = self.search_steps
            raise ValueError(f"search_steps counts constants and is a whole number of at least 1, got {received}")
        for name in ("learning_rate", "initial_constant"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is positive and finite, got {getattr(self, name)}")
        if not 0 <= self.kappa < math.inf:
            raise ValueError(f"kappa is a confidence in units of logits and is not negative, got {self.kappa}")

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """Euclidean norm."""
        return "l2"

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Try one constant after the other, for all images side by side."""
        check_classes(targets)
        made, cosines = images.clone(), UpdateCosines(images)
        spent = torch.zeros((3, len(images)), dtype=torch.long, device=images.device)
        search = self._open(victim, images, targets, ids, spent) if len(images) else None
        if search is not None and len(search.rows):
            for remaining in reversed(range(self.search_steps)):
                search.narrow(self._descend(victim, search, ids, spent, None if remaining else cosines))
            made[search.rows] = search.best
        forwards, backwards, zeros = spent.unbind()
        return Crafted(made, forwards, backwards, zeros, cosines.measures())

    def _open(
        self, victim: Victim, images: Tensor, targets: Tensor, ids: Sequence[str], spent: Tensor
    ) -> "_Search | None":
        """Look at the clean images; those that already fool the victim or have no gradient are left clean.

        The distance has no slope at the clean image, so the margin's slope alone serves every constant's first step.
        """
        leaf = images.detach().requires_grad_()
        outputs = victim(leaf)
        check_logits(outputs, targets)
        lead, found = self._judge(victim, outputs, targets)
        spent[0] += 1
        if bool(found.all()):
            return None
        gradient, broken = mended(torch.autograd.grad(lead.sum(), leaf)[0])
        note_broken(victim, ids, broken & ~found)
        flat = no_slope(gradient) & ~found
        spent[1] += ~found
        spent[2] += (flat | broken) & ~found
        rows = (~found & ~flat).nonzero().squeeze(1)
        return _Search(images[rows], targets[rows], rows, gradient[rows], self.initial_constant)

    def _judge(self, victim: Victim, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """By how many logits the attack leads, ``(N,)``, and whether it has what it wants, bool ``(N,)``."""
        lead = image_lead(outputs, targets, self.targeted)
        reached = self.reached(victim, outputs, targets)
        return lead, reached & (lead >= self.kappa) if self.kappa else reached

    def _descend(
        self, victim: Victim, search: "_Search", ids: Sequence[str], spent: Tensor, cosines: UpdateCosines | None
    ) -> Tensor:
        """Run Adam with each image's constant, on an ever smaller batch; return whose constant is large enough."""
        state, window = _Descent(search), max(math.ceil(self.steps / 10), SHORTEST_WINDOW)
        enough = torch.zeros_like(search.cold)
        for step in range(1, self.steps + 1):
            update = state.move(step, self.learning_rate)
            if cosines is not None:
                cosines.follow(update, state.rows)
            leaf = state.image.detach().requires_grad_(step < self.steps)
            outputs = victim(leaf)
            lead, found = self._judge(victim, outputs, state.targets)
            spent[0, state.rows] += 1
            state.note((self.kappa - lead.detach()).clamp(min=0), found)
            ends = (self.steps - step) % window == 0  # counted from the end, so that the last window is complete
            staying = None
            if step == self.steps:
                staying = state.places[:0]
            elif ends and self.abort_early:  # the host waits for the device here, and at no other step
                staying = (state.lowest < PROGRESS * state.before).nonzero().squeeze(1)
            if staying is not None and len(staying) < len(found):
                search.best[state.places], search.nearest[state.places] = state.best, state.nearest
                enough[state.places] = state.recently
                if not len(staying):
                    break
            slope, broken = mended(torch.autograd.grad(lead.sum(), leaf)[0])
            flat = (no_slope(slope) | broken) & ~found
            state.gradient = state.gradient.sub_(each(state.constant * ~found) * slope)
            if staying is not None and len(staying) < len(found):
                state.keep(staying)
                flat, broken = flat[staying], broken[staying]
                if cosines is not None:
                    cosines.keep(staying)
            note_broken(victim, ids, broken, state.rows)
            spent[1, state.rows] += 1
            spent[2, state.rows] += flat
            if ends:
                state.before, state.lowest = state.lowest, torch.full_like(state.lowest, math.inf)
                state.recently = torch.zeros_like(state.recently)
        return enough


class _Search:
    """What is kept from one constant to the next: each image's bounds on c, and its closest image that fools.

    ``rows`` holds the images' places in the original batch, ``slope`` the gradient of the lead at the clean image.
    """

    def __init__(self, clean: Tensor, targets: Tensor, rows: Tensor, slope: Tensor, constant: float) -> None:
        self.clean, self.targets, self.rows, self.slope = clean, targets, rows, slope
        self.best, self.nearest = clean.clone(), clean.new_full((len(clean),), math.inf)
        self.lower, self.upper = torch.zeros_like(self.nearest), self.nearest.clone()
        self.constant = torch.full_like(self.nearest, constant)
        self.cold = torch.ones_like(rows, dtype=torch.bool)
        self.pace = torch.ones_like(self.nearest)  # share of the learning rate

    def narrow(self, enough: Tensor) -> None:
        """Narrow the bounds by whether each constant was large enough, and choose the next constants.

        If the very first constant was large enough, Adam's overshoot may be the reason: it is tried again from the
        image that it found.
        """
        again = enough & self.cold
        self.pace = torch.where(self.nearest.isfinite(), SHRINKAGE * self.pace, self.pace)
        self.cold = torch.zeros_like(self.cold)
        self.upper = torch.where(enough & ~again, self.constant, self.upper)
        self.lower = torch.where(enough, self.lower, self.constant)
        between = torch.where(self.lower > 0, (self.lower + self.upper) / 2, self.upper / 10)
        chosen = torch.where(self.upper.isinf(), 10 * self.constant, between)
        self.constant = torch.where(again, self.constant, chosen).clamp(max=LARGEST_CONSTANT)


class _Descent:
    """Adam's state under one constant; every attribute is a tensor with one row per image that still moves."""

    def __init__(self, search: _Search) -> None:
        self.places = torch.arange(len(search.rows), device=search.rows.device)
        self.rows, self.clean, self.targets, self.constant = search.rows, search.clean, search.targets, search.constant
        self.image = self.best = search.best
        self.nearest, self.pace = search.nearest, search.pace
        self.variable = ((2 * self.image - 1) / (1 + 2 * REACH)).atanh_().clamp_(-LIMIT, LIMIT)
        self.first, self.second = torch.zeros_like(self.clean), torch.zeros_like(self.clean)
        # a fooling image has no margin to lose; where none was found, this is the clean image and has no distance
        unfound = search.nearest.isinf()
        self.gradient = 2 * (self.image - self.clean) - each(self.constant * unfound) * search.slope
        self.lowest = self.before = torch.full_like(self.nearest, math.inf)
        self.recently = torch.zeros_like(unfound)

    def move(self, step: int, learning_rate: float) -> Tensor:
        """Make one step of Adam, number ``step`` counted from 1, and return how the images changed."""
        slope = self.variable.tanh().square_().sub_(1).mul_(-(0.5 + REACH))  # of the image over w
        gradient = self.gradient * slope
        self.first.lerp_(gradient, 1 - FIRST_DECAY)
        self.second.mul_(SECOND_DECAY).addcmul_(gradient, gradient, value=1 - SECOND_DECAY)
        root = self.second.sqrt().div_(math.sqrt(1 - SECOND_DECAY**step)).add_(STABILISER)
        paced = each(self.pace) * self.first
        # the wider reach would otherwise make the steps longer than the paper's by the same factor
        length = learning_rate / (1 + 2 * REACH) / (1 - FIRST_DECAY**step)
        self.variable.addcdiv_(paced, root, value=-length)
        self.variable.clamp_(-LIMIT, LIMIT)
        before = self.image
        self.image = self.variable.tanh().mul_(0.5 + REACH).add_(0.5).clamp_(0, 1)
        return self.image - before

    def note(self, hinge: Tensor, found: Tensor) -> None:
        """Note what the victim made of the images: their loss, and the closest one that fools it."""
        offset = self.image - self.clean
        distance = torch.linalg.vector_norm(offset, dim=(1, 2, 3)).square()
        self.lowest = torch.minimum(self.lowest, distance + self.constant * hinge)
        self.recently = self.recently | found
        closer = found & (distance < self.nearest)
        self.best = torch.where(each(closer), self.image, self.best)
        self.nearest = torch.where(closer, distance, self.nearest)
        self.gradient = offset.mul_(2)  # of the distance; the margin's is added after the backward

    def keep(self, staying: Tensor) -> None:
        """Go on with the images at these places."""
        for name, tensor in list(vars(self).items()):
            setattr(self, name, tensor[staying])
