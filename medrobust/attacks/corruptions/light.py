"""Corruptions of light: exposure, gamma, contrast, and what makes a field of view unevenly bright."""

import torch
from torch import Tensor

from medrobust.attacks.bias_field import Polynomials, multiplied
from medrobust.attacks.corruptions.draws import Draws
from medrobust.attacks.random_bias_field import random_field

BIAS_DEGREE = 3
OFF_CENTRE = 0.1  # of the half sides, by which the brightest place may lie beside the middle


def exposure(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Every value times a factor: 2 is one photographic stop more.

    >>> exposure(torch.tensor([[[[0.2, 0.6]]]]), 2.0, Draws(["a"], 0, "", torch.zeros(1)))
    tensor([[[[0.4000, 1.0000]]]])
    """
    return (images * strength).clamp(max=1)


def gamma(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Every value to a power: above 1 the middle tones become darker, below 1 brighter."""
    return images**strength


def contrast(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Distances from the image's own mean times a factor.

    >>> contrast(torch.tensor([[[[0.2, 0.6]]]]), 0.5, Draws(["a"], 0, "", torch.zeros(1)))
    tensor([[[[0.3000, 0.5000]]]])
    """
    mean = images.mean((1, 2, 3), keepdim=True)
    return (mean + strength * (images - mean)).clamp(0, 1)


def vignetting(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Light that falls off towards the edges like (1 + (r / f)^2)^-2, Kang and Weiss's off-axis term (ECCV 2000).

    The distance r is 1 from the middle to a corner, and f is such that the corners lose as many photographic stops as
    the strength says; each image's centre lies a little beside its middle.
    """
    height, width = images.shape[-2:]
    y, x = (
        torch.linspace(-1, 1, side, dtype=images.dtype, device=images.device) if side > 1 else images.new_zeros(1)
        for side in (height, width)
    )
    centre = OFF_CENTRE * draws.uniform(2, 1, 1)
    longest = height**2 + width**2
    squares = ((x - centre[:, 0]) * width) ** 2 / longest + ((y[:, None] - centre[:, 1]) * height) ** 2 / longest
    return images * (1 + squares * (2 ** (strength / 2) - 1)).pow(-2)[:, None]


def bias_field(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """A random smooth field: a polynomial of degree 3, as inhomogeneous sensitivity is modelled (Van Leemput 1999).

    The brightest or darkest place is changed by as many photographic stops as the strength says.
    """
    polynomials = Polynomials(BIAS_DEGREE, 0, 2, images)
    warped = polynomials.warped(polynomials.start(len(images))[1])
    return multiplied(images, random_field(polynomials, warped, draws.ids, draws.seed, strength))
