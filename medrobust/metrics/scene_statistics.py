"""Natural scene statistics: the 36 features by which BRISQUE tells natural images from distorted ones."""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.metrics.quality import gaussian_filter

FEATURES = 36
SMALLEST = 16  # pixels on a side: a window of 7 must fit at the second scale, which has half as many
GREY = (0.298936021293775, 0.587043074451121, 0.114020904255103)  # MATLAB's rgb2gray; they sum to 1
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (-1, 1))
FLAT = 1e-3  # in grey levels of 255: a smaller range of values is rounding


def natural_scene_statistics(images: Tensor) -> Tensor:
    """Statistics of images normalised by local mean and contrast, at two scales (Mittal et al. 2012, section III).

    At each scale these are the shape and variance of a generalised Gaussian fitted to the normalised values and, for
    each of four directions, the shape, mean, left and right variance of an asymmetric one fitted to the products of
    neighbouring values. Where the paper and LIVE's release differ, they follow the release: zeros beyond the edges of
    the image, neighbours that wrap around, shapes on a grid of 0.001. Grey values run to 255. Those of RGB images are
    MATLAB's rgb2gray, which rounds to whole numbers (without rounding, the release's second test image scores 33.0
    instead of 32.0); those of grey images are not rounded, so that a perturbation below half a grey level counts.

    Args:
        images: Images ``(N, C, H, W)`` in [0, 1], grey (C = 1) or RGB (C = 3).

    Returns:
        Features, float64 ``(N, 36)``. All are NaN for images smaller than 16 pixels on a side, and some are NaN for
        images that have a single grey value or neighbours whose products all have the same sign.

    Raises:
        ValueError: The images have neither one channel nor three.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"BRISQUE takes images (N, C, H, W), grey (C = 1) or RGB (C = 3), got {list(images.shape)}")
    if min(images.shape[-2:]) < SMALLEST:
        return torch.full((len(images), FEATURES), math.nan, dtype=torch.float64, device=images.device)
    channels = (255 * images.double()).unbind(1)  # float32 loses the contrast of bright regions
    grey = channels[0]
    if len(channels) == 3:
        grey = (GREY[0] * channels[0] + GREY[1] * channels[1] + GREY[2] * channels[2] + 0.5).floor()
    return torch.cat([_statistics(grey), _statistics(halve(grey))], 1)


def halve(images: Tensor) -> Tensor:
    """Halve the size of images as MATLAB's ``imresize(images, 0.5)`` does, by a cubic kernel of twice its usual width.

    The width keeps fine structure from aliasing into coarse structure; without it BRISQUE is wrong by 25 points.

    Args:
        images: Images ``(..., H, W)``; they are mirrored beyond their edges.

    Returns:
        Images ``(..., ceil(H / 2), ceil(W / 2))``.
    """
    weights = [_cubic((tap - 3.5) / 2) / 2 for tap in range(8)]
    for _ in ("columns", "rows"):
        side = images.shape[-1]
        length = (side + 1) // 2
        places = torch.arange(-3, 2 * length + 5, device=images.device) % (2 * side)
        mirrored = images[..., torch.minimum(places, 2 * side - 1 - places)]
        halved = weights[0] * mirrored[..., : 2 * length : 2]
        for tap in range(1, 8):
            halved.add_(mirrored[..., tap : tap + 2 * length : 2], alpha=weights[tap])
        images = halved.transpose(-1, -2)
    return images


def gaussian_shape(values: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a generalised Gaussian of mean zero by its moments (Sharifi and Leon-Garcia, IEEE TCSVT 1995).

    Args:
        values: Samples ``(N, D)``; each row is fitted by itself.

    Returns:
        Shape in [0.2, 10] (1 for a Laplace distribution, 2 for a Gaussian) and variance, ``(N,)`` each.
    """
    variance = values.square().mean(1)
    shapes, ratios = _table(values.device)
    found = _nearest(-1 / ratios, -variance / values.abs().mean(1).square())  # the table has to ascend
    return shapes[found], variance


def asymmetric_shape(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit an asymmetric generalised Gaussian by its moments (Lasmar et al., ICIP 2009).

    Args:
        values: Samples ``(N, D)``; each row is fitted by itself.

    Returns:
        Shape in [0.2, 10], mean as in the paper's eq. 11, left and right variance, ``(N,)`` each. For a row
        whose samples all have the same sign, the mean and the variance of the empty side are NaN.
    """
    below, above = values.clamp(max=0), values.clamp(min=0)
    squares_below, squares_above = below.square().sum(1), above.square().sum(1)
    left, right = squares_below / (values < 0).count_nonzero(1), squares_above / (values > 0).count_nonzero(1)
    skew = (left / right).sqrt()
    ratio = (above.sum(1) - below.sum(1)).square() / (squares_below + squares_above) / values.shape[1]
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shapes, ratios = _table(values.device)
    shape = shapes[_nearest(ratios, ratio)]
    spread = (torch.lgamma(2 / shape) - (torch.lgamma(1 / shape) + torch.lgamma(3 / shape)) / 2).exp()
    return shape, (right.sqrt() - left.sqrt()) * spread, left, right


def _statistics(grey: Tensor) -> Tensor:
    """The 18 features of one scale of grey values ``(N, H, W)``."""
    padded = functional.pad(grey, (3, 3, 3, 3))
    mean, square = gaussian_filter(torch.stack([padded, padded * padded]), 7 / 6, 3)
    normalised = (grey - mean) / ((square - mean * mean).abs().sqrt() + 1)
    # the zeros beyond the edges would give a constant image statistics
    varied = grey.amax((1, 2)) - grey.amin((1, 2)) > FLAT
    normalised = normalised.where(varied[:, None, None], math.nan)
    features = [*gaussian_shape(normalised.flatten(1))]
    for shift in NEIGHBOURS:
        features += asymmetric_shape((normalised * normalised.roll(shift, (1, 2))).flatten(1))
    return torch.stack(features, 1)


@cache
def _table(device: torch.device) -> tuple[Tensor, Tensor]:
    """Shapes from 0.2 to 10, and the ratio of squared mean absolute value to variance for each, which ascends."""
    shapes = torch.linspace(0.2, 10, 9801, dtype=torch.float64, device=device)
    return shapes, (2 * torch.lgamma(2 / shapes) - torch.lgamma(1 / shapes) - torch.lgamma(3 / shapes)).exp()


def _nearest(ascending: Tensor, values: Tensor) -> Tensor:
    """Index of the entry of a table that is nearest to each value."""
    above = torch.searchsorted(ascending, values).clamp(1, len(ascending) - 1)
    return above - (values - ascending[above - 1] <= ascending[above] - values).long()


def _cubic(distance: float) -> float:
    """Cubic convolution kernel with a = -1/2 (Keys, IEEE TASSP 1981), as in MATLAB."""
    x = abs(distance)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0
