"""Overlays: masks and boxes drawn onto pictures, in colours that readers with any colour vision tell apart."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Colour = tuple[int, int, int]

# Okabe & Ito (2008), without black, the most different ones first
COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
SIDE = 288  # pixels that the longer side of a picture is brought near to, so that lines and words can be read
FILLED = 0.35  # share of a class's colour inside its region
FONT = 11  # pixels


class Found(NamedTuple):
    """A box in an image, true or found.

    Args:
        label: Its class, from 0.
        corners: x1, y1, x2, y2 in pixels of the image.
        score: How sure the victim is; None for a true box.
    """

    label: int
    corners: tuple[float, float, float, float]
    score: float | None = None


def colour_of(number: int) -> Colour:
    """Colour of a class, from 0; after seven they come round again."""
    return COLOURS[number % len(COLOURS)]


def hexadecimal(colour: Colour) -> str:
    """A colour as web pages write it.

    >>> hexadecimal((230, 159, 0))
    '#e69f00'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)


def magnification_of(height: int, width: int) -> int:
    """How many times a picture is enlarged so that its longer side comes near to `SIDE` pixels, at least 1.

    >>> magnification_of(64, 48), magnification_of(224, 224), magnification_of(512, 512)
    (4, 1, 1)
    """
    return max(1, round(SIDE / max(height, width)))


def enlarged(picture: Tensor, times: int) -> NDArray[np.uint8]:
    """Colours ``(H, W, 3)`` of a picture ``(C, H, W)`` in [0, 1], each pixel repeated."""
    values = (picture.clamp(0, 1) * 255).round().to(torch.uint8)
    colours = values[:1].expand(3, -1, -1) if values.shape[0] < 3 else values[:3]
    return np.asarray(colours.permute(1, 2, 0).contiguous().numpy()).repeat(times, 0).repeat(times, 1)


def draw_masks(picture: Tensor, labels: Tensor, truth: Tensor) -> Image.Image:
    """A picture with a mask in translucent colours and solid contours, and the true mask's contours in white.

    Pixels whose true label is negative are darkened and show no label.

    Args:
        picture: ``(C, H, W)`` in [0, 1].
        labels: The mask to draw, ``(H, W)``; 0 is the background.
        truth: The true mask, ``(H, W)``; its contours are left out where it is the very mask to draw.
    """
    times = magnification_of(*truth.shape)
    colours = enlarged(picture, times).astype(np.float64)
    known = np.asarray((truth >= 0).numpy())
    shown, true = (np.where(known, np.asarray(mask.numpy()), 0) for mask in (labels, truth))
    known, shown, true = (mask.repeat(times, 0).repeat(times, 1) for mask in (known, shown, true))
    colours[~known] *= 0.4
    thick = max(1, max(colours.shape) // 140)
    for label in np.unique(shown[shown > 0]).tolist():
        colour, region = np.array(colour_of(label - 1), np.float64), shown == label
        colours[region] = (1 - FILLED) * colours[region] + FILLED * colour
        colours[rim(region, thick)] = colour
    if not np.array_equal(shown, true):
        for label in np.unique(true[true > 0]).tolist():
            colours[rim(true == label, thick + 1)] = BLACK  # on which white can be seen against any tissue
            colours[rim(true == label, thick)] = WHITE
    return Image.fromarray(colours.round().astype(np.uint8))


def rim(region: NDArray[np.bool_], thick: int) -> NDArray[np.bool_]:
    """The pixels of a region ``(H, W)`` that lie at most ``thick`` steps from its outside.

    >>> rim(np.ones((3, 4), bool), 1).astype(int)
    array([[1, 1, 1, 1],
           [1, 0, 0, 1],
           [1, 1, 1, 1]])
    """
    inside = region
    for _ in range(thick):
        around = np.pad(inside, 1)
        inside = inside & around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return region & ~inside


def draw_boxes(picture: Tensor, boxes: Sequence[Found], truth: Sequence[Found], names: Sequence[str]) -> Image.Image:
    """A picture with boxes in the colours of their classes, with class and score where they fit, over white true ones.

    Args:
        picture: ``(C, H, W)`` in [0, 1].
        boxes: The boxes to draw, the most certain first, whose words come first.
        truth: True boxes, drawn below them; none where these are the very boxes to draw.
        names: Names of the classes.
    """
    times = magnification_of(*picture.shape[1:])
    image = Image.fromarray(enlarged(picture, times))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT)
    for box in truth:
        _frame(draw, box, times, WHITE, 1)
    for box in reversed(boxes):
        _frame(draw, box, times, colour_of(box.label), 2)
    taken: list[tuple[float, float, float, float]] = []
    for box in boxes:
        name = names[box.label] if box.label < len(names) else str(box.label)
        words = name if box.score is None else f"{name} {box.score:.2f}"
        wide, high = draw.textlength(words, font=font) + 4, FONT + 3
        x1, y1, _, y2 = (times * corner for corner in box.corners)
        left = min(max(x1, 0.0), image.width - wide)
        for top in (y1 - high, y1 + 2, y2):  # above the box, inside it, below it
            place = left, top, left + wide, top + high
            if left >= 0 and 0 <= top <= image.height - high and not any(_overlap(place, other) for other in taken):
                draw.rectangle(place, fill=colour_of(box.label))
                draw.text((left + 2, top), words, fill=BLACK, font=font)
                taken.append(place)
                break
    return image


def _frame(draw: ImageDraw.ImageDraw, box: Found, times: int, colour: Colour, width: int) -> None:
    """A box's outline inside its corners, with a dark line on either side of it."""
    x1, y1, x2, y2 = (round(times * corner) for corner in box.corners)
    x2, y2 = max(x1, x2 - 1), max(y1, y2 - 1)
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=BLACK, width=width + 2)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=width)


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
