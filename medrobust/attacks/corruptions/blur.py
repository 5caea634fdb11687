"""Corruptions by blur: of the focus, of the optics, and of motion."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.attacks.corruptions.draws import Draws

SIDE = 224  # the side of an image for which strengths are given in pixels
POINTS = 64  # of a motion, at which it is held


def gaussian_blur(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """The mean over a Gaussian of a standard deviation in pixels of an image of 224 x 224 pixels."""
    sigma = strength * _pixel(images)
    places = torch.arange(-_reach(4 * sigma), _reach(4 * sigma) + 1, dtype=torch.float64)
    line = (-0.5 * (places / sigma) ** 2).exp()
    return _filtered(images, (line[:, None] * line)[None].to(images))


def defocus_blur(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """The mean over a disc of a radius in pixels of an image of 224 x 224 pixels."""
    steps = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    radius, angle = steps.sqrt()[:, None], 2 * math.pi * steps
    points = strength * _pixel(images) * torch.stack([radius * angle.cos(), radius * angle.sin()])
    return _filtered(images, _splatted(points.flatten(1)[None], strength * _pixel(images)).to(images))


def motion_blur(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """The mean along a line of a length in pixels of an image of 224 x 224 pixels, in a direction of each image's own.

    >>> seen = torch.zeros(1, 1, 5, 5)
    >>> seen[..., 2, 2] = 1  # a point becomes a line, which crosses a pixel more or less
    >>> motion_blur(seen, 2 * 224 / 5, Draws(["a"], 0, "motion", seen)).sum()
    tensor(1.)
    """
    length = strength * _pixel(images)
    angle = math.pi / 2 * draws.uniform(1)  # a line has no sense, so that half a turn holds all directions
    places = length * ((torch.arange(POINTS, dtype=images.dtype, device=images.device) + 0.5) / POINTS - 0.5)
    points = torch.stack([places * angle.cos(), places * angle.sin()], 1)
    return _filtered(images, _splatted(points, length / 2))


def _pixel(images: Tensor) -> float:
    """Size of a pixel of an image of 224 x 224 pixels, in pixels of these images."""
    return min(images.shape[-2:]) / SIDE


def _reach(size: float) -> int:
    return max(1, math.ceil(size))


def _splatted(points: Tensor, reach: float) -> Tensor:
    """Kernels ``(N, K, K)`` of points ``(N, 2, P)``, each of which is shared by the four pixels around it.

    Args:
        points: Places x and y, in pixels from the middle.
        reach: Largest distance of a point from the middle.
    """
    places = torch.arange(-_reach(reach), _reach(reach) + 1, dtype=points.dtype, device=points.device)
    x, y = ((1 - (axis[:, None] - places[:, None]).abs()).clamp(min=0) for axis in points.unbind(1))
    return y @ x.mT


def _filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Weighted means under kernels ``(N or 1, K, K)``; beyond its border an image goes on as it ends."""
    count, channels, height, width = images.shape
    if not count:
        return images.clone()
    kernels = (kernels / kernels.sum((1, 2), keepdim=True)).expand(count, -1, -1).repeat_interleave(channels, 0)
    reach = kernels.shape[-1] // 2
    padded = functional.pad(images, (reach,) * 4, mode="replicate").view(1, -1, height + 2 * reach, width + 2 * reach)
    return functional.conv2d(padded, kernels[:, None], groups=count * channels).view_as(images).clamp(0, 1)
