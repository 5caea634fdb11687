"""Input diversity (Xie et al., CVPR 2019, arXiv:1803.06978): random resize and zero padding, drawn for each image."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medrobust.random_streams import image_generator


def draw_places(
    ids: Sequence[str], steps: int, side: tuple[int, int], probability: float, smallest: float, seed: int, stream: str
) -> Tensor:
    """Draw each image's resized height, width, top and left for every step, ``(steps, N, 4)`` int64.

    With probability 1 - ``probability`` an image stays as it is, at full size and (0, 0). Otherwise both sides shrink
    by the same factor, between ``smallest`` and 1.
    """
    draws = torch.stack(
        [torch.rand((steps, 4), generator=image_generator(seed, stream, id), dtype=torch.float64) for id in ids], 1
    )
    full = torch.tensor(side)
    least = (full * smallest).ceil()
    sizes = (least + (draws[..., :1] * (full - least + 1)).floor()).long()
    sizes = torch.where(draws[..., 3:] < probability, sizes, full)
    corners = (draws[..., 1:3] * (full - sizes + 1)).floor().long()
    return torch.cat([sizes, corners], -1)


def resize_matrix(size: Tensor, start: Tensor, side: int, dtype: torch.dtype) -> Tensor:
    """Bilinear resize of a line of ``side`` pixels to ``size``, placed at ``start`` among zeros: ``(N, side, side)``.

    Row i holds the weights of output pixel i, a hat function around its source coordinate, so that two differentiable
    products ``rows @ image @ columns^T`` resize a whole batch, each image to its own size.
    """
    places = torch.arange(side, device=size.device)
    inside = places - start[:, None]
    source = ((inside.to(dtype) + 0.5) * (side / size[:, None].to(dtype)) - 0.5).clamp(0, side - 1)
    weights = (1 - (source[:, :, None] - places).abs()).clamp(min=0)
    return weights * ((inside >= 0) & (inside < size[:, None]))[:, :, None]


def diversify(images: Tensor, targets: Any, places: Tensor) -> tuple[Tensor, Any]:
    """Resize and pad each image; masks, label maps and boxes move along.

    Args:
        images: ``(N, C, H, W)``.
        targets: Classes ``(N,)`` and labels ``(N, L)`` stay; masks ``(N, H, W)`` and label maps ``(N, L, H, W)`` take
            the nearest label, and -1 (ignored) in the padding; boxes are scaled and shifted.
        places: Height, width, top and left of each image, ``(N, 4)``.
    """
    height, width = images.shape[-2:]
    rows = resize_matrix(places[:, 0], places[:, 2], height, images.dtype)
    columns = resize_matrix(places[:, 1], places[:, 3], width, images.dtype)
    moved = rows[:, None] @ images @ columns[:, None].mT
    if not isinstance(targets, Tensor):
        return moved, [_move_boxes(target, place, height, width) for target, place in zip(targets, places, strict=True)]
    return moved, _move_maps(targets, rows, columns) if targets.ndim > 2 else targets


def _move_maps(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Give each place of the maps ``(N, ..., H, W)`` the label of its nearest source pixel, int64."""
    layers = maps.long().view(len(maps), -1, *maps.shape[-2:])  # int64, as bool and uint8 cannot hold -1
    across = columns.argmax(2)[:, None, None, :].expand_as(layers)
    down = rows.argmax(2)[:, None, :, None].expand_as(layers)
    labels = layers.gather(3, across).gather(2, down)
    inside = (rows.amax(2) > 0)[:, None, :, None] & (columns.amax(2) > 0)[:, None, None, :]
    return torch.where(inside, labels, -1).view_as(maps)


def _move_boxes(target: dict[str, Tensor], place: Tensor, height: int, width: int) -> dict[str, Tensor]:
    """Scale and shift one image's boxes (x1, y1, x2, y2) in pixels."""
    new_height, new_width, top, left = place.unbind()
    scale = torch.stack([new_width / width, new_height / height]).repeat(2)
    return {**target, "boxes": target["boxes"] * scale + torch.stack([left, top]).repeat(2)}
