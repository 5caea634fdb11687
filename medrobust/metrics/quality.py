"""How well an image's quality survives a perturbation: PSNR, SSIM, and the Gaussian window that SSIM needs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # the window of 11 pixels of Wang et al.
PART = {"cpu": 2**18}  # values of images processed at a time: what fits into a processor's cache
PART_ELSEWHERE = 2**24  # bounds the memory on an accelerator to a few GB


def psnr(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, ``-10 log10(mean squared difference)`` for a peak of 1.

    Args:
        clean: Images ``(N, C, H, W)`` in [0, 1].
        adversarial: Images of the same shape.

    Returns:
        Decibels, float64 ``(N,)``; NaN for an unchanged image, whose ratio is infinite.

    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.1))
    tensor([20.0000], dtype=torch.float64)
    """
    errors = (clean.double() - adversarial.double()).square().flatten(1).mean(1)
    return -10 * errors.where(errors > 0, math.nan).log10()


def ssim(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al., IEEE TIP 2004, eq. 13), with K1 = 0.01 and K2 = 0.03.

    It is the mean over the channels and over all Gaussian windows (11 x 11, sigma 1.5) that lie inside the image.

    Args:
        clean: Images ``(N, C, H, W)`` in [0, 1].
        adversarial: Images of the same shape.

    Returns:
        Similarities, float64 ``(N,)``, 1 for equal images; NaN if no window fits into the images.
    """
    if min(clean.shape[-2:]) <= 2 * SSIM_RADIUS:
        return torch.full((len(clean),), math.nan, dtype=torch.float64, device=clean.device)
    return in_parts(_ssim, clean, adversarial)


def gaussian_filter(images: Tensor, sigma: float, radius: int) -> Tensor:
    """Weighted mean over a Gaussian window ``2 radius + 1`` pixels wide, at every place where the window fits.

    Args:
        images: Images ``(..., H, W)``.
        sigma: Standard deviation of the window, in pixels.
        radius: Number of pixels on each side of the central one.

    Returns:
        Means ``(..., H - 2 radius, W - 2 radius)``.
    """
    taps = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-radius, radius + 1)]
    for axis in (-1, -2):
        length = images.shape[axis] - 2 * radius
        means = images.narrow(axis, 0, length) * (taps[0] / sum(taps))
        for start, tap in enumerate(taps[1:], 1):  # 5 times as fast as a float64 convolution on a processor
            means.add_(images.narrow(axis, start, length), alpha=tap / sum(taps))
        images = means
    return images


def in_parts(score: Callable[..., Tensor], *images: Tensor) -> Tensor:
    """Score a batch in parts that fit into memory.

    Args:
        score: Maps images ``(n, C, H, W)`` to values ``(n, ...)``, each image by itself.
        images: One or more batches ``(N, C, H, W)``, N at least 1.

    Returns:
        Values ``(N, ...)``, the same as for the whole batch at once.
    """
    pixels = PART.get(images[0].device.type, PART_ELSEWHERE)
    count = max(1, pixels // images[0][0].numel())
    return torch.cat([score(*part) for part in zip(*(batch.split(count) for batch in images), strict=True)])


def _ssim(clean: Tensor, adversarial: Tensor) -> Tensor:
    # float64: variances are differences of squares, which in float32 are off by a tenth of K2's term for equal images
    x, y = clean.double(), adversarial.double()
    moments = gaussian_filter(torch.stack([x, y, x * x, y * y, x * y]), SSIM_SIGMA, SSIM_RADIUS)
    mean_x, mean_y, square_x, square_y, product = moments.unbind()
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    variances = (square_x - mean_x**2) + (square_y - mean_y**2)
    structure = (2 * (product - mean_x * mean_y) + c2) / (variances + c2)
    return (luminance * structure).flatten(1).mean(1)
