"""Fast adaptive boundary attack: small perturbations in the maximum norm by projections onto linearised boundaries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from medrobust.attacks.active_batch import ActiveBatch, each, no_slope
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import Fraction, check_radius, check_steps
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
from medrobust.random_streams import per_image_uniform

NUDGE = 1e-5  # least distance beyond a boundary to aim at: an image on the boundary would not move, nor fool anyone
MARGIN = 1e-3  # share by which the final search stays beyond its estimate, as another batch size rounds differently


def onto_hyperplane(points: Tensor, normals: Tensor, gaps: Tensor) -> Tensor:
    """Smallest move, in the maximum norm, from points of the unit cube onto a hyperplane and inside the cube.

    Minimises max|d| subject to <normal, d> = -gap and 0 <= point + d <= 1, exactly. Within radius t a coordinate can
    close the gap by |w_i| min(t, r_i), where r_i is its room up to the wall that it moves towards. The sum of these is
    piecewise linear in t with kinks at the r_i, so sorting them finds the piece, and one division finds t.

    Args:
        points: ``(N, D)`` in [0, 1].
        normals: ``(N, D)``.
        gaps: Value of the linear function at the points, ``(N,)``; 0 on the hyperplane.

    Returns:
        The moves, ``(N, D)``; where the hyperplane misses the cube, the move to the corner closest to it.
    """
    slopes = torch.where(gaps <= 0, 1.0, -1.0).to(normals)[:, None] * normals
    rooms = torch.where(slopes > 0, 1 - points, points)
    walls, order = rooms.sort(1)
    weights = slopes.abs().gather(1, order)
    free = weights.flip(1).cumsum(1).flip(1)  # weight of the coordinates whose wall is this one or further
    spent = (weights * walls).cumsum(1) - weights * walls  # closed by the coordinates whose walls are nearer
    place = (spent + walls * free < gaps.abs()[:, None]).sum(1, keepdim=True)
    missed = place == walls.shape[1]
    place = place.clamp(max=walls.shape[1] - 1)
    remaining, free = gaps.abs()[:, None] - spent.gather(1, place), free.gather(1, place)
    radius = torch.where(missed, 1.0, remaining / torch.where(free > 0, free, 1.0))
    return slopes.sign() * torch.minimum(rooms, radius)


@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """Fast adaptive boundary attack (Croce & Hein, ICML 2020, arXiv:1907.02044, Algorithm 1), in the maximum norm.

    At each step the boundary to the nearest of the other classes (or of the labels, if these do not exclude each other,
    that at which the nearest one turns) is linearised; d and d_0 are the smallest moves onto
    it, inside [0, 1], from the current and from the clean image, and with a = |d| / (|d| + |d_0|) <= ``alpha_max``

        x <- (1 - a) (x + eta d) + a (x_0 + eta d_0)

    An image that fools the victim is kept if it is the nearest so far, and the next step begins at ``beta`` of the way
    from the clean image to it. At the end the secant method looks for the boundary on the line to the clean image.

    A step costs two forwards, and one backward per rival class: a single one with two classes, or if targeted. The
    clean image costs one forward, and so does each step of the final search where a fooling image was found.

    Args:
        epsilon: Radius within which an image has to fool the victim, in units of the [0, 1] image range. None accepts
            any distance, so that every image ought to succeed. Where nothing is found, the clean image is returned.
        steps: Number of steps of a run.
        restarts: Number of runs: the first from the clean image, the others from random points within half of the
            smallest perturbation so far.
        goals: Number of other classes towards the boundary of each of which ``restarts`` runs are made, those with the
            largest clean logits first (FAB-T); at most all. A step then costs a single backward, and an image is still
            broken when it is taken for any class but the true one. 0 goes to the nearest boundary at each step. Not
            used by a targeted attack.
        alpha_max: Largest weight of the move from the clean image, in [0, 1].
        eta: Overshoot of both moves, at least 1.
        beta: Share of the way from the clean image to a fooling one at which the next step begins, in (0, 1).
        candidates: Number of classes that compete, the true one and those that rank highest on the clean image; at
            least 2, None for all. Not used by a targeted attack.
        search_steps: Forwards of the final search; 0 leaves it out.
        stop_when_fooled: Let an image leave at the first perturbation within epsilon, not the smallest one.
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Seed of the per-image random streams.

    Raises:
        ValueError: A field is out of its range, or (when called) the targets or outputs are not those of classes.
    """

    of_classes: ClassVar[bool] = True

    epsilon: Fraction | float | None = None
    steps: int = 100
    restarts: int = 1
    goals: int = 0
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    candidates: int | None = 10
    search_steps: int = 3
    stop_when_fooled: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        if self.epsilon is not None:
            check_radius("epsilon", self.epsilon, zero=True)
        check_steps(self.steps)
        for name, least in (("restarts", 1), ("goals", 0), ("search_steps", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} is a whole number of at least {least}, got {value}")
        check_candidates(self.candidates)
        if not 0 <= self.alpha_max <= 1:
            raise ValueError(f"alpha_max is a weight and lies in [0, 1], got {self.alpha_max}")
        if not 1 <= self.eta < torch.inf:
            raise ValueError(f"eta is an overshoot and at least 1, got {self.eta}")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta is a share of the way back and lies in (0, 1), got {self.beta}")

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Walk along the boundary, then search the line back; images that already fool the victim stay clean."""
        check_classes(targets)
        walk = _Walk(images, targets, ids)
        if not walk.ids:
            return walk.finish(images)
        with torch.no_grad():
            outputs = victim(images)
            check_logits(outputs, targets)
            walk.rivals = rival_classes(outputs, targets, self.goals + 1 if self.goals else self.candidates)
            walk.inner_lead = self._lead(outputs, walk)
        walk.forwards += 1
        walk.keep(walk.leave(images, self.reached(victim, outputs, targets)))
        towards = walk.rivals.shape[1] if self.goals and not self.targeted else 0
        for restart in range(self.restarts):
            for goal in range(max(towards, 1)):
                if goal or restart:
                    self._scatter(walk, restart, goal)
                walk.crossed = walk.rivals[:, goal : goal + 1] if towards else walk.rivals
                self._run(victim, walk)
        walk.keep(walk.leave(walk.clean, walk.norm.isinf()))
        for _ in range(self.search_steps if walk.ids else 0):
            image, share = walk.secant()
            with torch.no_grad():
                outputs = victim(image)
            walk.forwards[walk.rows] += 1
            walk.narrow(image, share, self._lead(outputs, walk), self.reached(victim, outputs, walk.targets))
        return walk.finish(torch.where(each(walk.norm <= self._limit()), walk.best, walk.clean))

    def _scatter(self, walk: "_Walk", restart: int, goal: int) -> None:
        """Begin another run: the first towards each goal at the clean image, the others at random points."""
        if not restart:
            walk.begin(walk.clean)
        elif walk.ids:
            stream = f"{type(self).__name__}:{restart}" + (f":{goal}" if goal else "")
            noise = per_image_uniform(walk.ids, walk.clean.shape[1:], self.seed, stream, walk.clean)
            walk.scatter(noise, 1.0 if self.epsilon is None else float(self.epsilon))

    def _limit(self) -> float:
        """Largest accepted norm of a perturbation."""
        return torch.finfo(torch.float32).max if self.epsilon is None else float(self.epsilon)

    def _run(self, victim: Victim, walk: "_Walk") -> None:
        """Make the steps of one run."""
        for _ in range(self.steps):
            if not walk.ids:
                return
            leaf = walk.current.detach().requires_grad_()
            outputs = victim(leaf)
            leads = class_leads(outputs, walk.targets, walk.crossed, self.targeted)
            gradients, broken = mended(class_gradients(leads, leaf), leading=2)
            note_broken(victim, walk.ids, broken)
            normal, lead = _nearest(leads.detach(), gradients)
            lost = torch.where(no_slope(normal), leads.shape[1], broken.sum(1))
            lost = lost * leads.isfinite().any(1) * ~self.reached(victim, outputs.detach(), walk.targets)
            moved = self._moved(walk, normal, lead)
            with torch.no_grad():
                outputs = victim(moved)
            fooled = self.reached(victim, outputs, walk.targets)
            walk.forwards[walk.rows] += 2
            walk.backwards[walk.rows] += leads.shape[1]
            walk.zeros[walk.rows] += lost
            walk.cosines.follow(moved - walk.current, walk.rows)
            walk.note(moved, self._lead(outputs, walk), fooled)
            walk.current = torch.where(each(fooled), walk.clean + self.beta * (moved - walk.clean), moved)
            if self.stop_when_fooled:
                walk.keep(walk.leave(walk.best, walk.norm <= self._limit()))

    def _lead(self, outputs: Tensor, walk: "_Walk") -> Tensor:
        """Largest of the attack's leads, ``(N,)``: above 0 where the image fools the victim."""
        return class_leads(outputs, walk.targets, walk.rivals, self.targeted).amax(1)

    def _moved(self, walk: "_Walk", normal: Tensor, lead: Tensor) -> Tensor:
        """The next image, which mixes the moves from the current and from the clean image onto the hyperplane."""
        both = torch.cat([walk.current, walk.clean])
        clean_lead = lead + (normal * (walk.clean - walk.current)).flatten(1).sum(1)
        normals, leads = torch.cat([normal, normal]).flatten(1), torch.cat([lead, clean_lead])
        moves = onto_hyperplane(both.flatten(1), normals, leads).view_as(both)
        length, clean_length = moves.flatten(1).abs().amax(1).chunk(2)
        total = length + clean_length
        weight = (length / torch.where(total > 0, total, 1.0)).clamp(max=self.alpha_max)
        ahead, clean_ahead = (both + self.eta * moves).chunk(2)
        return torch.lerp(ahead, clean_ahead, each(weight)).clamp_(0, 1)


def _nearest(leads: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and value of each image's lead whose linearised boundary is nearest.

    A gradient that is zero has no boundary; where no lead has one, zeros are returned.

    Args:
        leads: ``(N, R)``.
        gradients: Their gradients, ``(N, R, C, H, W)``, finite.
    """
    slopes = gradients.abs().sum((2, 3, 4))
    usable = (slopes > 0) & slopes.isfinite()
    distances, nearest = torch.where(usable, leads.abs() / slopes, torch.inf).min(1)
    places = torch.arange(len(leads), device=leads.device)
    lead, slope, found = leads[places, nearest], slopes[places, nearest], distances.isfinite()
    lead = torch.where(lead <= 0, torch.minimum(lead, -NUDGE * slope), lead)
    return torch.where(each(found), gradients[places, nearest], 0), torch.where(found, lead, 0)


class _Walk(ActiveBatch):
    """Each image's current point, its nearest fooling point so far, and the bracket of its final search."""

    def __init__(self, images: Tensor, targets: Any, ids: Sequence[str]) -> None:
        super().__init__(images, targets, ids)
        self.current = self.best = images
        self.norm = images.new_full((len(images),), torch.inf)  # of the best perturbation
        self.inner_lead = self.outer_lead = torch.zeros_like(self.norm)
        self.rivals = torch.zeros_like(self.rows)[:, None]  # classes, once the clean images have been seen
        self.crossed = self.rivals  # those whose boundaries this run goes to
        self.inner, self.outer = torch.zeros_like(self.norm), torch.ones_like(self.norm)  # shares of the best one

    def scatter(self, noise: Tensor, radius: float) -> None:
        """Begin another run at a random point, within half of the best norm or, if there is none, of the radius."""
        self.begin((self.clean + each(self.norm.clamp(max=radius) / 2) * noise).clamp_(0, 1))

    def begin(self, images: Tensor) -> None:
        """Begin another run at these images."""
        self.current = images
        self.cosines.follow(torch.zeros_like(images), self.rows)  # no cosine between two runs

    def note(self, images: Tensor, leads: Tensor, fooled: Tensor) -> None:
        """Keep the images that fool the victim and are nearer than the best so far."""
        norms = (images - self.clean).flatten(1).abs().amax(1)
        nearer = fooled & (norms < self.norm)
        self.best = torch.where(each(nearer), images, self.best)
        self.norm = torch.where(nearer, norms, self.norm)
        self.outer_lead = torch.where(nearer, leads, self.outer_lead)

    def secant(self) -> tuple[Tensor, Tensor]:
        """Image just beyond the zero of the line through both ends' leads, and its share of the way to the best one."""
        span = self.outer_lead - self.inner_lead
        crossing = torch.where(span > 0, -self.inner_lead / torch.where(span > 0, span, 1.0), 0.5).clamp(0, 1)
        share = torch.minimum((self.inner + (self.outer - self.inner) * crossing) * (1 + MARGIN), self.outer)
        along = (self.best - self.clean) * each(share / self.outer)  # the best image stands at the outer end
        return (self.clean + along).clamp_(0, 1), share

    def narrow(self, images: Tensor, shares: Tensor, leads: Tensor, fooled: Tensor) -> None:
        """Make the image the outer end of the bracket where it fools the victim, the inner end where it does not."""
        self.note(images, leads, fooled)
        self.outer_lead = torch.where(fooled, leads, self.outer_lead)
        self.outer = torch.where(fooled, shares, self.outer)
        self.inner_lead = torch.where(fooled, self.inner_lead, leads)
        self.inner = torch.where(fooled, self.inner, shares)
