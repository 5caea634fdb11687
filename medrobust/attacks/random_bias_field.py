"""Random smooth bias fields: the control of the adversarial one, of the same family and the same bound."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.bias_field import Polynomials, bounded, check_family, check_stops, multiplied, roughness
from medrobust.attacks.thin_plate import folded
from medrobust.networks.victims import Victim
from medrobust.random_streams import per_image_normal, per_image_uniform

STREAM = "RandomBiasField"


@dataclass(frozen=True, kw_only=True)
class RandomBiasField(Attack):
    """Random fields of the family of ``AdvSBF`` (SBF20 eq. 2-4), regardless of the victim: x_a = clip(x exp(B), 0, 1).

    Coefficients are uniform in [-1, 1], the control points' moves normal, and B is scaled so that its largest absolute
    value is the bound. It is a control: it stands beside the attacks in every table, and does not count in the worst
    case.

    Measures and picture are those of ``AdvSBF``, without cosines.

    Args:
        max_stops: Largest |B|, in photographic stops of ln 2, which every image reaches.
        degree: D, highest degree of a term x^t y^l.
        lowest_degree: D0, lowest power t and l, at most D / 2.
        gridsize: Control points of the warp per side, at least 2.
        warp: Standard deviation of the moves of the control points, in units of coordinates that run from -1 to 1; with
            0, as nature has it, the field is a polynomial of the coordinates themselves. Ten steps of 0.02 with random
            signs, as long as those of ``AdvSBF``, have a deviation of 0.063.
        targeted: Decides only what counts as success.
        seed: Seed of the per-image random streams.

    Raises:
        ValueError: A field is out of its range.
    """

    natural: ClassVar[bool] = True

    max_stops: float = 1.0
    degree: int = 10
    lowest_degree: int = 1
    gridsize: int = 16
    warp: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        check_family(self.degree, self.lowest_degree, self.gridsize)
        check_stops(self.max_stops)
        if not 0 <= self.warp < math.inf:
            raise ValueError(f"warp is a standard deviation of coordinates and is not negative, got {self.warp}")

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """No norm is bounded: the field is smooth instead."""
        return "none"

    @torch.no_grad()
    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Multiply each image by its field."""
        polynomials = Polynomials(self.degree, self.lowest_degree, self.gridsize if self.warp else 2, images)
        moves = polynomials.start(len(images))[1]
        if self.warp:
            moves = self.warp * per_image_normal(ids, moves.shape[1:], self.seed, f"{STREAM} warp", images)
        warped = polynomials.warped(moves)
        field = random_field(polynomials, warped, ids, self.seed, self.max_stops)
        measures = {
            "field_largest": field.flatten(1).abs().amax(1),
            "field_roughness": roughness(field),
            "warp_folds": folded(warped.view(-1, 2, *images.shape[-2:])),
        }
        none = torch.zeros(len(images), dtype=torch.long, device=images.device)
        made = multiplied(images, field)
        return Crafted(made, none, none.clone(), none.clone(), measures, {"bias_field": field})


def random_field(polynomials: Polynomials, warped: Tensor, ids: Sequence[str], seed: int, max_stops: float) -> Tensor:
    """Polynomials ``(N, 1, H, W)`` with coefficients uniform in [-1, 1], scaled so that each reaches the bound.

    Args:
        polynomials: The family.
        warped: Coordinates of the pixels, ``(N, 2, H * W)``.
        ids: Names of the images; each has a random stream of its own.
        seed: Seed of the streams.
        max_stops: Largest absolute value, in photographic stops.
    """
    coefficients = per_image_uniform(ids, polynomials.terms.shape, seed, STREAM, warped)
    field = polynomials.field(coefficients, warped)
    largest = field.flatten(1).abs().amax(1).clamp(min=torch.finfo(field.dtype).tiny)
    return bounded(field / largest.view(-1, 1, 1, 1) * (2 * max_stops), max_stops)
