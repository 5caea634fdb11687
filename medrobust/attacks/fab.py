"""Fast adaptive boundary attack: small perturbations in the maximum norm by projections onto linearised boundaries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medrobust.attacks.active_batch import ActiveBatch, each, no_slope
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import Fraction, check_radius, check_steps
from medrobust.attacks.class_gradients import check_classes, check_logits, class_gradients
from medrobust.networks.victims import Victim
from medrobust.objectives.cross_entropy import logit_gap
from medrobust.random_streams import per_image_uniform

NUDGE = 1e-5  # least distance beyond a boundary that is aimed at: on it nothing would move and nobody be fooled
MARGIN = 1e-3  # share by which the final search stays outside its estimate: another batch size rounds differently


def onto_hyperplane(points: Tensor, normals: Tensor, gaps: Tensor) -> Tensor:
    """Smallest move, in the maximum norm, from points of the unit cube onto a hyperplane and inside the cube.

    Minimises max|d| subject to <normal, d> = -gap and 0 <= point + d <= 1, exactly. Within radius t a coordinate can
    close the gap by |w_i| min(t, r_i), where r_i is its room up to the wall that its sign leads to; the sum grows
    with t in straight pieces that end at the r_i, so the piece is found by sorting them and t by one division.

    Args:
        points: ``(N, D)`` in [0, 1].
        normals: ``(N, D)``.
        gaps: Value of the linear function at the points, ``(N,)``: 0 on the hyperplane.

    Returns:
        The moves, ``(N, D)``; where the hyperplane misses the cube, the move to the corner that comes closest.
    """
    slopes = torch.where(gaps <= 0, 1.0, -1.0).to(normals)[:, None] * normals
    rooms = torch.where(slopes > 0, 1 - points, points)
    walls, order = rooms.sort(1)
    weights = slopes.abs().gather(1, order)
    free = weights.flip(1).cumsum(1).flip(1)  # weight of the coordinates whose wall is this one or further
    spent = (weights * walls).cumsum(1) - weights * walls  # closed by those whose walls are nearer
    place = (spent + walls * free < gaps.abs()[:, None]).sum(1, keepdim=True)
    missed = place == walls.shape[1]
    place = place.clamp(max=walls.shape[1] - 1)
    left, free = gaps.abs()[:, None] - spent.gather(1, place), free.gather(1, place)
    radius = torch.where(missed, 1.0, left / torch.where(free > 0, free, 1.0))
    return slopes.sign() * torch.minimum(rooms, radius)


@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """Fast adaptive boundary attack (Croce & Hein, ICML 2020, arXiv:1907.02044, Algorithm 1), in the maximum norm.

    At each step the boundary to the nearest of the other classes is linearised; d and d_0 are the smallest moves onto
    it, inside [0, 1], from the current and from the clean image, and with a = |d| / (|d| + |d_0|) <= ``alpha_max``

        x <- (1 - a) (x + eta d) + a (x_0 + eta d_0)

    An image that fools the victim is noted if it is the nearest so far, and the next step begins at ``beta`` of the
    way from the clean image to it. At the end secants along the line to the clean image look for the boundary.

    A step costs two forwards and one backward for each candidate class: one in all with two classes, or if targeted.
    The clean image costs one forward, and each step of the final search another, for the images that are fooled.

    Args:
        epsilon: Radius within which an image has to fool the victim, in units of the [0, 1] image range. None takes
            any: then every image ought to fool it. Where none is found, the clean image comes back.
        steps: Number of steps of a run.
        restarts: Number of runs: the first from the clean image, the others from random points within half of the
            smallest perturbation so far.
        alpha_max: Largest weight of the move from the clean image, in [0, 1].
        eta: Overshoot of both moves, at least 1.
        beta: Share of the way from the clean image to a fooling one at which the next step begins, in (0, 1).
        candidates: Number of classes that are looked at, the true one and those that rank highest on the clean image;
            at least 2, None for all. A targeted attack has no use for it.
        search_steps: Forwards of the final search; 0 leaves it out.
        stop_when_fooled: Let an image leave at the first perturbation within epsilon instead of the smallest.
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Seed of the per-image random streams.

    Raises:
        ValueError: A field is out of its range, or (when called) the targets are not classes.
    """

    epsilon: Fraction | float | None = None
    steps: int = 100
    restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    candidates: int | None = 10
    search_steps: int = 3
    stop_when_fooled: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        if self.epsilon is not None:
            check_radius("epsilon", self.epsilon)
        check_steps(self.steps)
        for name, least in (("restarts", 1), ("search_steps", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is a whole number of at least {least}, got {value}")
        if self.candidates is not None and (not isinstance(self.candidates, int) or self.candidates < 2):
            raise ValueError(f"candidates counts classes and is at least 2, or None for all, got {self.candidates}")
        if not 0 <= self.alpha_max <= 1:
            raise ValueError(f"alpha_max is a weight and lies in [0, 1], got {self.alpha_max}")
        if not 1 <= self.eta < torch.inf:
            raise ValueError(f"eta is an overshoot and at least 1, got {self.eta}")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta is a share of the way back and lies in (0, 1), got {self.beta}")

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Walk along the boundary, then search the line back; images that fool the victim already stay clean."""
        check_classes(targets)
        walk = _Walk(images, targets, ids)
        if not walk.ids:
            return walk.finish(images)
        with torch.no_grad():
            outputs = victim(images)
            check_logits(outputs, targets)
            walk.rivals = self._rivals(outputs, targets)
            walk.inner_lead = self._lead(outputs, walk)
        walk.forwards += 1
        walk.keep(walk.leave(images, self.reached(victim, outputs, targets)))
        for restart in range(self.restarts):
            if restart and walk.ids:
                stream = f"{type(self).__name__}:{restart}"
                noise = per_image_uniform(walk.ids, images.shape[1:], self.seed, stream, images)
                walk.scatter(noise, 1.0 if self.epsilon is None else float(self.epsilon))
            self._run(victim, walk)
        walk.keep(walk.leave(walk.clean, walk.norm.isinf()))
        for _ in range(self.search_steps if walk.ids else 0):
            image, share = walk.secant()
            with torch.no_grad():
                outputs = victim(image)
            walk.forwards[walk.rows] += 1
            walk.narrow(image, share, self._lead(outputs, walk), self.reached(victim, outputs, walk.targets))
        return walk.finish(torch.where(each(walk.norm <= self._limit()), walk.best, walk.clean))

    def _limit(self) -> float:
        """Largest norm that is accepted."""
        return torch.finfo(torch.float32).max if self.epsilon is None else float(self.epsilon)

    def _run(self, victim: Victim, walk: "_Walk") -> None:
        """Make the steps of one run."""
        for _ in range(self.steps):
            if not walk.ids:
                return
            leaf = walk.current.detach().requires_grad_()
            outputs = victim(leaf)
            leads = self._leads(outputs, walk)
            normal, lead = _nearest(leads, leaf)
            vanished = no_slope(normal) & ~self.reached(victim, outputs.detach(), walk.targets)
            moved = self._moved(walk, normal, lead)
            with torch.no_grad():
                outputs = victim(moved)
            fooled = self.reached(victim, outputs, walk.targets)
            walk.forwards[walk.rows] += 2
            walk.backwards[walk.rows] += leads.shape[1]
            walk.zeros[walk.rows] += leads.shape[1] * vanished
            walk.directions.follow(moved - walk.current, walk.rows)
            walk.note(moved, self._lead(outputs, walk), fooled)
            walk.current = torch.where(each(fooled), walk.clean + self.beta * (moved - walk.clean), moved)
            if self.stop_when_fooled:
                walk.keep(walk.leave(walk.best, walk.norm <= self._limit()))

    def _rivals(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Classes ``(N, R)`` whose boundaries with the true class are looked at, by rank on the clean image."""
        count = outputs.shape[1] if self.candidates is None else min(self.candidates, outputs.shape[1])
        return outputs.scatter(1, targets[:, None], float("-inf")).topk(count - 1, dim=1).indices

    def _leads(self, outputs: Tensor, walk: "_Walk") -> Tensor:
        """By how much the attack leads: each rival over the truth, ``(N, R)``, or the goal over all, ``(N, 1)``."""
        if self.targeted:
            return -logit_gap(outputs, walk.targets, soft=False).unsqueeze(1)
        return outputs.gather(1, walk.rivals) - outputs.gather(1, walk.targets[:, None])

    def _lead(self, outputs: Tensor, walk: "_Walk") -> Tensor:
        """Largest of the leads, ``(N,)``: above 0 where the image fools the victim."""
        return self._leads(outputs, walk).amax(1)

    def _moved(self, walk: "_Walk", normal: Tensor, lead: Tensor) -> Tensor:
        """Next image: the moves from the current and the clean image onto the hyperplane, mixed."""
        both = torch.cat([walk.current, walk.clean])
        clean_lead = lead + (normal * (walk.clean - walk.current)).flatten(1).sum(1)
        normals, leads = torch.cat([normal, normal]).flatten(1), torch.cat([lead, clean_lead])
        moves = onto_hyperplane(both.flatten(1), normals, leads).view_as(both)
        length, clean_length = moves.flatten(1).abs().amax(1).chunk(2)
        total = length + clean_length
        weight = (length / torch.where(total > 0, total, 1.0)).clamp(max=self.alpha_max)
        ahead, clean_ahead = (both + self.eta * moves).chunk(2)
        return torch.lerp(ahead, clean_ahead, each(weight)).clamp_(0, 1)


def _nearest(leads: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and value of each image's lead whose linearised boundary is nearest.

    A gradient that is zero, or no number, has no boundary; where no lead has one the gradient is zero.
    """
    gradients, leads = class_gradients(leads, images), leads.detach().T
    slopes = gradients.abs().sum((2, 3, 4))
    usable = (slopes > 0) & slopes.isfinite()
    distances, nearest = torch.where(usable, leads.abs() / slopes, torch.inf).min(0)
    places = torch.arange(len(images), device=images.device)
    lead, slope, found = leads[nearest, places], slopes[nearest, places], distances.isfinite()
    lead = torch.where(lead <= 0, torch.minimum(lead, -NUDGE * slope), lead)
    return torch.where(each(found), gradients[nearest, places], 0), torch.where(found, lead, 0)


class _Walk(ActiveBatch):
    """Where each image stands, its nearest fooling image so far, and the bracket of the final search."""

    def __init__(self, images: Tensor, targets: Any, ids: Sequence[str]) -> None:
        super().__init__(images, targets, ids)
        self.current = self.best = images
        self.norm = images.new_full((len(images),), torch.inf)  # of the best perturbation
        self.inner_lead = self.outer_lead = torch.zeros_like(self.norm)
        self.rivals = torch.zeros_like(self.rows)[:, None]  # classes, from the clean image's look on
        self.inner, self.outer = torch.zeros_like(self.norm), torch.ones_like(self.norm)  # shares of the best one

    def scatter(self, noise: Tensor, radius: float) -> None:
        """Begin a further run at a random point, within half of the best norm or, without one, of the radius."""
        self.current = (self.clean + each(self.norm.clamp(max=radius) / 2) * noise).clamp_(0, 1)
        self.directions.follow(torch.zeros_like(noise), self.rows)  # no cosine between two runs

    def note(self, images: Tensor, leads: Tensor, fooled: Tensor) -> None:
        """Keep the images that fool the victim from nearer than before."""
        norms = (images - self.clean).flatten(1).abs().amax(1)
        nearer = fooled & (norms < self.norm)
        self.best = torch.where(each(nearer), images, self.best)
        self.norm = torch.where(nearer, norms, self.norm)
        self.outer_lead = torch.where(nearer, leads, self.outer_lead)

    def secant(self) -> tuple[Tensor, Tensor]:
        """Image at which the line through both ends' leads crosses 0, a little outside, and its share of the way."""
        span = self.outer_lead - self.inner_lead
        crossing = torch.where(span > 0, -self.inner_lead / torch.where(span > 0, span, 1.0), 0.5).clamp(0, 1)
        share = torch.minimum((self.inner + (self.outer - self.inner) * crossing) * (1 + MARGIN), self.outer)
        along = (self.best - self.clean) * each(share / self.outer)  # the best image stands at the outer end
        return (self.clean + along).clamp_(0, 1), share

    def narrow(self, images: Tensor, shares: Tensor, leads: Tensor, fooled: Tensor) -> None:
        """Put the image at the outer end of the bracket where it fools the victim, else at the inner end."""
        self.note(images, leads, fooled)
        self.outer_lead = torch.where(fooled, leads, self.outer_lead)
        self.outer = torch.where(fooled, shares, self.outer)
        self.inner_lead = torch.where(fooled, self.inner_lead, leads)
        self.inner = torch.where(fooled, self.inner, shares)
