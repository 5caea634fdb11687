"""Corruptions by storage: JPEG's compression, and too few pixels."""

import io
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medrobust.attacks.corruptions.draws import Draws

Pixels: TypeAlias = NDArray[np.uint8]


def jpeg(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """The image after JPEG's compression of a quality from 1 to 100, in 8 bits; Pillow compresses on the host.

    Three channels are taken for colour, any other number for as many grey images.
    """
    bytes_ = (images.detach().cpu() * 255).round().to(torch.uint8)
    stored = [_stored(one.permute(1, 2, 0).numpy(), round(strength)) for one in bytes_]
    if not stored:
        return images.clone()
    return (torch.from_numpy(np.stack(stored)).permute(0, 3, 1, 2).to(images) / 255).contiguous()


def _stored(image: Pixels, quality: int) -> Pixels:
    """What is left of an image ``(H, W, C)``."""
    parts = [image] if image.shape[2] == 3 else [image[..., channel] for channel in range(image.shape[2])]
    kept = []
    for part in parts:
        buffer = io.BytesIO()
        Image.fromarray(part).save(buffer, "JPEG", quality=quality)
        kept.append(np.asarray(Image.open(buffer)).reshape(*part.shape[:2], -1))
    return np.concatenate(kept, 2)


def pixelation(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """The image at a share of its pixels per side, each the mean of what it covers, shown at the old size.

    >>> pixelation(torch.tensor([[[[0.0, 0.2], [0.4, 0.6]]]]), 0.5, Draws(["a"], 0, "", torch.zeros(1)))
    tensor([[[[0.3000, 0.3000],
              [0.3000, 0.3000]]]])
    """
    height, width = images.shape[-2:]
    (down, rows), (across, columns) = (_cells(side, max(1, round(strength * side)), images) for side in (height, width))
    return (down @ images @ across.T)[..., rows[:, None], columns].clamp(0, 1)


def _cells(pixels: int, cells: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Means over cells of a side of pixels as a matrix ``(cells, pixels)``, and the cell that shows each pixel."""
    edges = torch.linspace(0, pixels, cells + 1, dtype=torch.float64)[:, None]
    starts = torch.arange(pixels, dtype=torch.float64)
    covered = (torch.minimum(edges[1:], starts + 1) - torch.maximum(edges[:-1], starts)).clamp(min=0)
    shown = ((starts + 0.5) * cells / pixels).long()
    return (covered * cells / pixels).to(like), shown.to(like.device)
