"""The adversarial-smooth bias field: an image multiplied by one smooth field, as uneven exposure would."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medrobust.attacks.active_batch import ActiveBatch, no_slope, staying_places
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import check_radius, check_steps
from medrobust.attacks.thin_plate import coordinates, folded, warp_matrix
from medrobust.networks.victims import Victim
from medrobust.networks.watched_victim import note_broken
from medrobust.objectives.base import Objective, Step
from medrobust.objectives.margin import Margin

IMAGES_AT_ONCE, PIXELS_AT_ONCE = 16, 2**14  # of a field in one piece: tensors of at most 12 MB at degree 10
STOP = math.log(2)  # a photographic stop, in units of the natural logarithm: twice the light
ROUNDING = 1e-4  # share of its two parts below which a difference of slopes is taken for none
LARGEST = 80.0  # exp(89) is infinite in float32, and a black pixel times infinity is NaN


def roughness(field: Tensor) -> Tensor:
    """Root mean square of a field's discrete Laplacian, per image.

    The Laplacian is the sum of a pixel's four neighbours less four times the pixel; border pixels have none. For an
    image that was multiplied, pass the logarithm of the factor.

    Args:
        field: ``(N, C, H, W)``

    Returns:
        ``(N,)`` in units of the field per squared pixel, 0 for a plane; NaN where a side is below 3.

    >>> x = torch.arange(5.0).expand(1, 1, 5, 5)
    >>> roughness(x), roughness(x**2)
    (tensor([0.]), tensor([2.]))
    """
    inner, across, down = field[..., 1:-1, 1:-1], field[..., 1:-1, :], field[..., :, 1:-1]
    neighbours = across[..., :-2] + across[..., 2:] + down[..., :-2, :] + down[..., 2:, :]
    return (neighbours - 4 * inner).square().mean((1, 2, 3)).sqrt()


def bounded(field: Tensor, max_stops: float | None) -> Tensor:
    """Fields scaled down where they are larger than a bound, so that they are as smooth as before and reach it.

    The scale is the same for all pixels of an image and has no gradient. Rounding never carries a value beyond the
    bound.

    Args:
        field: ``(N, 1, H, W)``, logarithms of factors.
        max_stops: Largest absolute value, in photographic stops of ln 2; None for no bound.

    >>> bounded(torch.tensor([0.1, 1.0, -2.0]).view(3, 1, 1, 1), 1.0).flatten()
    tensor([ 0.1000,  0.6931, -0.6931])
    """
    return field if max_stops is None else field * _scale(field, max_stops).view(-1, 1, 1, 1)


def _scale(field: Tensor, max_stops: float) -> Tensor:
    """What each field is multiplied by to stay within a bound, ``(N,)``, without a gradient: 1 within it."""
    limit, rounding = max_stops * STOP, 8 * torch.finfo(field.dtype).eps
    largest = field.detach().flatten(1).abs().amax(1) * (1 + rounding)
    return limit / largest.clamp(min=limit)


def check_family(degree: int, lowest_degree: int, gridsize: int) -> None:
    """Refuse what is no family of polynomials.

    Raises:
        ValueError: No term is left, or there are too few control points.
    """
    if not 0 <= 2 * lowest_degree <= degree:
        raise ValueError(
            f"lowest_degree lies in [0, degree / 2], or no term is left, got {lowest_degree} for degree {degree}"
        )
    if gridsize < 2:
        raise ValueError(f"gridsize counts control points per side and is at least 2, got {gridsize}")


def check_stops(max_stops: float | None) -> None:
    """Refuse what is no bound.

    Raises:
        ValueError: The bound is not a finite number above 0.
    """
    if max_stops is not None and not 0 < max_stops < math.inf:
        raise ValueError(f"max_stops bounds the change in photographic stops and is positive, got {max_stops}")


class Polynomials:
    """Bias fields of one image size: polynomials of coordinates warped by a thin-plate spline (SBF20 eq. 4).

    B(p) = sum_{t=D0..D} sum_{l=D0..D-t} a_{t,l} x'(p)^t y'(p)^l with (x', y') = T_theta(p), limited to [-1, 1].

    Args:
        degree: D.
        lowest: D0, at most D / 2.
        gridsize: Control points of the warp per side.
        like: Images, ``(N, C, H, W)``, of the required size, device and dtype.
    """

    def __init__(self, degree: int, lowest: int, gridsize: int, like: Tensor) -> None:
        self.lowest, self.gridsize = lowest, gridsize
        self.height, self.width = like.shape[-2:]
        self.matrix = warp_matrix(self.height, self.width, gridsize, like.device, like.dtype)
        self.pixels = coordinates(self.height, self.width, like.device, like.dtype)
        count = degree - 2 * lowest + 1  # powers that occur, from D0 to D - D0
        self.terms = torch.ones((count, count), dtype=like.dtype, device=like.device).tril().flip(0)

    def start(self, count: int) -> tuple[Tensor, Tensor]:
        """Zeros for the coefficients a_{t,l}, ``(N, K, K)`` at [t - D0, l - D0], and the moves of the control points.

        The moves are ``(N, 2, gridsize^2)``.
        """
        return self.terms.new_zeros((count, *self.terms.shape)), self.terms.new_zeros((count, 2, self.gridsize**2))

    def warped(self, moves: Tensor) -> Tensor:
        """Coordinates that the warp gives the pixels, ``(N, 2, H * W)``, not limited."""
        return self.pixels + torch.nn.functional.linear(moves, self.matrix)

    def field(self, coefficients: Tensor, warped: Tensor) -> Tensor:
        """Bias field, the logarithm of the factor, ``(N, 1, H, W)``.

        Its powers take some ten tensors of K numbers per pixel. Of more than one piece they are made piece by piece,
        and made again for the gradient, so that they take the memory of one piece however large the images are.
        """
        groups = zip(coefficients.split(IMAGES_AT_ONCE), warped.split(IMAGES_AT_ONCE), strict=True)
        pieces = [[(some, places) for places in moved.split(PIXELS_AT_ONCE, 2)] for some, moved in groups]
        if len(pieces) == len(pieces[0]) == 1:
            return self._piece(coefficients, warped).view(-1, 1, self.height, self.width)
        rows = [torch.cat([self._piece_again(*piece) for piece in row], 1) for row in pieces]
        return torch.cat(rows).view(-1, 1, self.height, self.width)

    def _piece_again(self, coefficients: Tensor, places: Tensor) -> Tensor:
        """Field whose intermediate values are not kept for the gradient."""
        piece: Tensor = checkpoint(self._piece, coefficients, places, use_reentrant=False, preserve_rng_state=False)
        return piece

    def _piece(self, coefficients: Tensor, places: Tensor) -> Tensor:
        """Field ``(N, P)`` at warped coordinates ``(N, 2, P)``."""
        # not clamp: its gradient is zero at its bound, which is where the pixels of the border start
        inside = torch.where(places.abs() > 1, places.detach().sign(), places)
        x, y = (self._powers(axis) for axis in inside.unbind(1))
        return (((coefficients * self.terms) @ y) * x).sum(1)

    def _powers(self, base: Tensor) -> Tensor:
        """Powers D0 to D - D0, ``(N, K, P)``, of ``base (N, P)``."""
        powers = [base.pow(self.lowest)]
        for _ in self.terms[1:]:
            powers.append(powers[-1] * base)
        return torch.stack(powers, 1)


@dataclass(frozen=True, kw_only=True)
class AdvSBF(Attack):
    """Adversarial-smooth bias field, x_a = clip(x exp(B(a, theta)), 0, 1), one B for all channels (SBF20 eq. 2-7).

    B is a polynomial with coefficients a of coordinates warped by a thin-plate spline with control points theta. From
    a = 0 and the identity both move by signed gradients of J - lambda_a |a|_1 - lambda_theta |theta - theta_0|_1.

    The paper takes steps of 0.06 for both, and cross-entropy. The latter's gradient is lost on confident images (use
    ``CrossEntropy(saturated="keep")`` to measure that) or too small beside the penalties, so the default is the
    margin; and steps of 0.06 let the warp of a 16 x 16 grid fold, so the default of ``step_size_warp`` is 0.02.

    Measures: ``field_largest``, max |B|; ``field_roughness`` (see ``roughness``); ``warp_folds`` (see ``folded``); and
    the cosines of consecutive changes of B. Picture: ``bias_field``, B as ``(N, 1, H, W)``.

    Args:
        degree: D, highest degree of a term x^t y^l.
        lowest_degree: D0, lowest power t and l, at most D / 2; the sums have (m + 1)(m + 2) / 2 terms, m = D - 2 D0.
        gridsize: Control points of the warp per side, at least 2.
        steps: Number of steps; each costs one forward and one backward.
        step_size_coefficients: Length of one signed step of a, in units of the natural logarithm of an image.
        step_size_warp: Length of one signed step of theta, in units of coordinates that run from -1 to 1.
        penalty_coefficients: lambda_a, in units of the objective; of a bounded field its scaled coefficients count.
        penalty_warp: lambda_theta, in units of the objective.
        max_stops: Largest |B| in photographic stops of ln 2, so that no value is multiplied by more than 2^max_stops or
            less than 2^-max_stops; a larger B is scaled down as a whole. None for no bound, as in the paper, whose
            fields reach 40 times and more.
        objective: J, what is raised; None means the margin on logits without an upper bound.
        stop_when_fooled: Let an image leave the batch as soon as it fools the victim (judged on the image itself).
            With False every image runs all its steps.
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Not used; nothing is drawn.

    Raises:
        ValueError: A field is out of its range.
    """

    starts_clean: ClassVar[bool] = True

    degree: int = 10
    lowest_degree: int = 1
    gridsize: int = 16
    steps: int = 10
    step_size_coefficients: float = 0.06
    step_size_warp: float = 0.02
    penalty_coefficients: float = 0.01
    penalty_warp: float = 0.01
    max_stops: float | None = None
    objective: Objective | None = None
    stop_when_fooled: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        check_steps(self.steps)
        check_family(self.degree, self.lowest_degree, self.gridsize)
        check_stops(self.max_stops)
        check_radius("step_size_coefficients", self.step_size_coefficients, "the natural logarithm of an image")
        check_radius("step_size_warp", self.step_size_warp, "coordinates that run from -1 to 1")
        for name in ("penalty_coefficients", "penalty_warp"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} weighs what is subtracted and is finite and not negative, got {value}")

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """No norm is bounded: the field is smooth instead."""
        return "none"

    def raised(self) -> Objective:
        """Objective that is raised: ``objective``, or the margin without an upper bound where it is None."""
        return Margin(math.inf) if self.objective is None else self.objective

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Run the loop; with ``stop_when_fooled`` on an ever smaller batch."""
        objective, batch = self.raised(), ActiveBatch(images, targets, ids)
        polynomials = Polynomials(self.degree, self.lowest_degree, self.gridsize, images)
        # counted in steps, so that a value that returns to its start is exactly there, where its penalty has no slope
        counts = polynomials.start(len(images))
        before: Tensor | None = None

        for index in range(self.steps):
            if not batch.ids:
                break
            variables = [value.requires_grad_() for value in self._values(counts, batch.rows)]
            free = polynomials.field(variables[0], polynomials.warped(variables[1]))
            field = bounded(free, self.max_stops)
            if before is not None:
                batch.cosines.follow(field - before, batch.rows)
            before = field.detach()
            truths = batch.targets
            seen = multiplied(batch.clean, field)
            step = Step(victim, seen, batch.clean, truths, batch.ids, self.targeted, objective.layers, index)
            values = objective(step)
            looks = self.stop_when_fooled or step.has_outputs
            fooled = self.reached(victim, step.outputs, truths) if looks else None
            batch.forwards[batch.rows] += step.forwards
            staying = staying_places(fooled) if self.stop_when_fooled and fooled is not None else None
            if staying is not None and not len(staying):
                batch.keep(staying)
                break
            kept = self.max_stops is not None  # the graph of the field
            slopes = list(torch.autograd.grad(values.sum(), variables, retain_graph=kept, materialize_grads=True))
            vanished = no_slope(slopes[0]) & no_slope(slopes[1])
            vanished = vanished if step.vanished is None else vanished | step.vanished
            vanished = vanished if fooled is None else vanished & ~fooled
            signs = [slope.sign() for slope in self._penalised(slopes, variables, free)]
            before, vanished, broken, *signs = batch.keep(staying, before, vanished, step.broken, *signs)
            note_broken(victim, batch.ids, broken)
            batch.backwards[batch.rows] += step.backwards
            batch.zeros[batch.rows] += step.backwards * vanished
            for count, sign in zip(counts, signs, strict=True):
                count.index_add_(0, batch.rows, sign)

        coefficients, moves = self._values(counts)
        warped = polynomials.warped(moves)
        field = bounded(polynomials.field(coefficients, warped), self.max_stops)
        if before is not None and batch.ids:
            batch.cosines.follow(field[batch.rows] - before, batch.rows)
        measures = {
            "field_largest": field.flatten(1).abs().amax(1),
            "field_roughness": roughness(field),
            "warp_folds": folded(warped.view(-1, 2, *images.shape[-2:])),
        } | batch.cosines.measures()
        made = multiplied(images, field)
        return Crafted(made, batch.forwards, batch.backwards, batch.zeros, measures, {"bias_field": field})

    def _penalised(self, slopes: Sequence[Tensor], variables: Sequence[Tensor], free: Tensor) -> list[Tensor]:
        """Slopes of the objective less the penalties; with a bound that of the coefficients of the bounded field."""
        taken = [
            penalty * value.detach().sign()
            for penalty, value in zip((self.penalty_coefficients, self.penalty_warp), variables, strict=True)
        ]
        if self.max_stops is not None:
            taken[0] = taken[0] * _scale(free, self.max_stops).view(-1, 1, 1)
        left = [slope - part for slope, part in zip(slopes, taken, strict=True)]
        return left if self.max_stops is None else _along_bound(left, variables, free, self.max_stops)

    def _values(self, counts: tuple[Tensor, Tensor], rows: Tensor | None = None) -> list[Tensor]:
        """Coefficients and moves of the control points after the given numbers of steps."""
        lengths = (self.step_size_coefficients, self.step_size_warp)
        chosen = counts if rows is None else tuple(count[rows] for count in counts)
        return [count * length for count, length in zip(chosen, lengths, strict=True)]


def _along_bound(slopes: Sequence[Tensor], variables: Sequence[Tensor], free: Tensor, max_stops: float) -> list[Tensor]:
    """Slopes of the objective along the bound, for the fields that it scales and whose objective rises outwards.

    A larger multiple of the same coefficients gives the same bounded field. So the slope r / |B| n is taken away, where
    r is the slope along the coefficients themselves, |B| the field's largest absolute value and n its gradient: what
    is left is the gradient of the bounded field, whose scale depends on the coefficients. A field that had better be
    smaller than the bound keeps its slopes and comes back inside.

    Args:
        slopes: Of the objective, with the field's scale held.
        variables: Coefficients and moves of the control points.
        free: The field before it was bounded.
        max_stops: The bound.
    """
    largest = free.flatten(1).abs().amax(1)
    normals = torch.autograd.grad(largest.sum(), variables, materialize_grads=True)
    outwards = (slopes[0] * variables[0].detach()).flatten(1).sum(1)
    beyond = (largest.detach() > max_stops * STOP) & (outwards > 0)
    share = torch.where(beyond, outwards / largest.detach(), 0).view(-1, 1, 1)
    taken = [share * normal for normal in normals]
    left = [slope - part for slope, part in zip(slopes, taken, strict=True)]
    return [rest.masked_fill(rest.abs() <= ROUNDING * part.abs(), 0) for rest, part in zip(left, taken, strict=True)]


def multiplied(clean: Tensor, field: Tensor) -> Tensor:
    """Image under a bias field, clip(x exp(B), 0, 1).

    The clip has no gradient, so that a white pixel could never come back. Here it keeps the slope dx_a / dB = x_a that
    it has at the bound; with the unclipped image's slope, x exp(B), pixels far beyond white would drown all others.
    """
    held = field.detach()
    image = (clean * held.clamp(max=LARGEST).exp()).clamp(0, 1)
    return image * (1 + (field - held)) if field.requires_grad else image
