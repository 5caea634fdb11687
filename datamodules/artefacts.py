"""Artefacts of phantom endoscopy: specular spots, saturation, fringes and debris, blur, darkness, bubbles, tools."""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from datamodules.endoscopy import ARTEFACTS
from datamodules.mucosa import View
from datamodules.painting import Array, smooth_noise, soft_edge, tint

Box = tuple[int, float, float, float, float]  # class index and x1, y1, x2, y2 in pixels
# where an artefact is, in [0, 1] for each pixel, and what paints it onto a frame
Artefact = tuple[Array, Callable[[Array], Array]]

FREQUENCY = (0.27, 0.12, 0.13, 0.11, 0.11, 0.16, 0.10)  # of each class among the artefacts, as in `ARTEFACTS`
MOST = 7  # artefacts of a frame
TRIES = 12  # places that are tried for an artefact before it is left out
VISIBLE = 0.5  # an artefact is where it has at least so much of its strength
WHOLE = 0.85  # share of an artefact that has to lie inside the field of view
SHARED = 0.3  # largest share of an artefact's box that another one's may cover
LEAST = 0.035  # sides of the smallest box, in heights of the frame


def draw_artefacts(view: View, random: np.random.Generator) -> tuple[Array, list[Box]]:
    """A frame with artefacts, and their boxes.

    Args:
        view: The frame before.
        random: Draws them.

    Returns:
        The frame, ``(H, W, 3)`` float32, and the smallest box around the visible part of each artefact.
    """
    # the large ones first: what lies behind an instrument or in the dark could not be seen
    kinds = sorted(random.choice(len(ARTEFACTS), 1 + random.integers(MOST), p=FREQUENCY), key=_ORDER.index)
    image, boxes = view.image, list[Box]()
    for kind in kinds:
        draw = _KINDS[ARTEFACTS[kind]]
        for _ in range(TRIES):
            where, paint = draw(view, random)
            box = _box_of(where, view.field)
            if box is not None and not _covered(box, boxes):
                image = paint(image)
                boxes.append((int(kind), *box))
                break
    return image, boxes


def _box_of(where: Array, field: Array) -> tuple[float, float, float, float] | None:
    """The smallest box around an artefact inside the field of view; None if too little of it is there."""
    artefact = where >= VISIBLE
    seen = artefact & field
    if not seen.any() or seen.sum() < WHOLE * artefact.sum():
        return None
    rows, columns = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    x1, y1, x2, y2 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    return (x1, y1, x2, y2) if min(x2 - x1, y2 - y1) >= LEAST * len(where) else None


def _covered(box: Sequence[float], others: Sequence[Box]) -> bool:
    """Whether a box and another one share too much of either."""
    for _, *other in others:
        wide, high = (min(box[2 + a], other[2 + a]) - max(box[a], other[a]) for a in (0, 1))
        least = min((one[2] - one[0]) * (one[3] - one[1]) for one in (box, other))
        if min(wide, high) > 0 and wide * high > SHARED * least:
            return True
    return False


def _place(view: View, random: np.random.Generator, reach: float = 0.95) -> tuple[float, float]:
    """A place of the frame, in halves of its height from the middle."""
    height, width = view.x.shape
    return random.uniform(-reach, reach) * width / height, random.uniform(-reach, reach)


def _ellipse(view: View, random: np.random.Generator, least: float, most: float, uneven: float) -> Array:
    """How far outside an uneven ellipse each pixel is, in its radii: -1 in the middle, 0 on the outline.

    The mean radius lies between `least` and `most`, in halves of the frame's height.
    """
    (left, top), turn = _place(view, random), random.uniform(0, math.pi)
    size, stretch = random.uniform(least, most), random.uniform(0.75, 1.35)
    dx, dy = view.x - left, view.y - top
    u = (dx * math.cos(turn) + dy * math.sin(turn)) / (size * stretch)
    v = (dy * math.cos(turn) - dx * math.sin(turn)) / (size / stretch)
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    border = np.ones_like(radius)
    for number in (2, 3, 4):
        border += uneven * random.normal() / number * np.cos(number * angle + random.uniform(0, 2 * math.pi))
    return np.asarray(radius / np.clip(border, 0.6, 1.4) - 1)


def _specularity(view: View, random: np.random.Generator) -> Artefact:
    """A small white mirror image of the lamp, with a hard edge and a faint halo."""
    outside = _ellipse(view, random, 0.035, 0.13, 0.35)
    spot = soft_edge(outside, 0.05)
    halo = random.uniform(0.1, 0.4) * np.exp(-3 * np.clip(outside, 0, 10))
    return spot, lambda image: tint(tint(image, halo, (1.0, 0.9, 0.88)), spot, (1.06, 1.06, 1.04))


def _saturation(view: View, random: np.random.Generator) -> Artefact:
    """A large region with too much light, white in the middle and fading at its soft edge."""
    glare = soft_edge(_ellipse(view, random, 0.2, 0.48, 0.35), 0.13)
    power = random.uniform(0.45, 1.0)
    added = glare[..., None] * np.array([0.62 * power, 0.66 * power, 0.58 * power], np.float32)
    return glare, lambda image: image * (1 + 0.5 * glare[..., None]) + added


def _artifact(view: View, random: np.random.Generator) -> Artefact:
    """Colour fringes of a fast movement, or a flake of debris."""
    outside = _ellipse(view, random, 0.09, 0.24, 0.35)
    patch = soft_edge(outside, 0.05)
    if random.random() < 0.3:
        speckle = np.clip(1 + 0.25 * smooth_noise(random, outside.shape, (40,)), 0.4, 1.4)
        green, blue = random.uniform(0.42, 0.62), random.uniform(0.14, 0.30)
        flake = np.array([random.uniform(0.5, 0.7), green, blue], np.float32) * speckle[..., None]
        rim = 0.6 * patch * soft_edge(np.abs(outside + 0.08) - 0.05, 0.05)
        return patch, lambda image: tint(image + patch[..., None] * (flake - image), rim, (0.24, 0.20, 0.06))
    turn, count, strength = random.uniform(0, math.pi), random.uniform(6, 9), random.uniform(0.35, 0.7)
    phase = 2 * math.pi * count * (view.x * math.cos(turn) + view.y * math.sin(turn))
    first, second = (strength * patch * (0.5 + 0.5 * np.cos(phase + shift)) ** 3 for shift in (0, math.pi))

    def paint(image: Array) -> Array:
        image = tint(image, 0.4 * strength * patch, (0.6, 0.55, 0.6))
        return tint(tint(image, first, (0.35, 1.0, 0.45)), second, (0.95, 0.35, 0.95))

    return patch, paint


def _blur(view: View, random: np.random.Generator) -> Artefact:
    """A region out of focus, or smeared by a movement, behind a haze."""
    patch = soft_edge(_ellipse(view, random, 0.28, 0.55, 0.2), 0.07)
    side, haze = len(patch), np.float32(random.uniform(0.06, 0.24))
    spread, turn = side * random.uniform(0.025, 0.045), random.uniform(0, 180)
    length = 2 * round(side * random.uniform(0.06, 0.1)) + 1 if random.random() < 0.5 else 0

    def paint(image: Array) -> Array:
        if length:
            line: Array = np.zeros((length, length), np.float32)
            line[length // 2] = 1
            turned = cv2.getRotationMatrix2D((length // 2, length // 2), turn, 1)
            line = cv2.warpAffine(line, turned, (length, length))
            smooth = cv2.filter2D(image, -1, line / line.sum(), borderType=cv2.BORDER_REFLECT)
        else:
            smooth = cv2.GaussianBlur(image, (0, 0), spread)
        hazy = tint(smooth, np.full(patch.shape, haze), (0.86, 0.76, 0.76))
        return np.asarray(image + patch[..., None] * (hazy - image))

    return patch, paint


def _contrast(view: View, random: np.random.Generator) -> Artefact:
    """A region that the lamp does not reach."""
    patch, left = soft_edge(_ellipse(view, random, 0.2, 0.5, 0.3), 0.15), random.uniform(0.08, 0.32)
    return patch, lambda image: np.asarray(image * (1 - (1 - left) * patch[..., None]))


def _bubbles(view: View, random: np.random.Generator) -> Artefact:
    """A group of bubbles: bright rims around clear insides, each with a reflection."""
    (left, top), spread, clear = _place(view, random), random.uniform(0.05, 0.2), random.uniform(0.5, 1.0)
    parts = []
    for _ in range(2 + round(45 * spread * random.uniform(0.6, 1.2))):
        size = random.uniform(0.035, 0.075)
        turn, far = random.uniform(0, 2 * math.pi), spread * math.sqrt(random.random())
        x, y = left + far * math.cos(turn), top + far * math.sin(turn)
        dx, dy = (view.x - x) / size, (view.y - y) / size
        parts.append((dx, dy, np.hypot(dx, dy)))
    where = soft_edge(np.min([radius for *_, radius in parts], axis=0) - 1, 0.08)

    def paint(image: Array) -> Array:
        for dx, dy, radius in parts:
            image = tint(image, 0.3 * soft_edge(radius - 1, 0.08), (0.55, 0.42, 0.40))
            rim = soft_edge(np.abs(radius - 0.88) - 0.12, 0.06) * np.clip(0.56 - 0.19 * dy, 0.3, 0.8)
            image = tint(image, clear * rim, (0.96, 0.93, 0.90))
            image = tint(image, soft_edge(np.hypot(dx + 0.3, dy + 0.35) - 0.22, 0.06), (1.05, 1.05, 1.05))
        return image

    return where, paint


def _instrument(view: View, random: np.random.Generator) -> Artefact:
    """A tool that comes in from an edge: a sheath of metal or plastic, and jaws."""
    height, width = view.x.shape
    turn = random.uniform(0, 2 * math.pi)
    cosine, sine = math.cos(turn), math.sin(turn)
    left, top = (share * random.uniform(-0.45, 0.45) for share in (width / height, 1.0))
    along, across = (view.x - left) * cosine + (view.y - top) * sine, (view.y - top) * cosine - (view.x - left) * sine
    half, soft, length = random.uniform(0.07, 0.15), 2.0 / height, random.uniform(0.12, 0.25)
    sheath = soft_edge(np.abs(across) - half, soft) * soft_edge(along, soft)
    opening = np.clip(along / length, 0, 1)
    jaws = soft_edge(np.abs(np.abs(across) - half * (0.3 + 0.8 * opening)) - 0.35 * half, soft)
    jaws = jaws * soft_edge(-along, soft) * soft_edge(along - length, soft)
    colours = ((0.62, 0.64, 0.68), (0.30, 0.42, 0.62), (0.82, 0.82, 0.78), (0.24, 0.24, 0.26))
    colour, spacing = colours[int(random.integers(len(colours)))], random.uniform(14, 26)

    def paint(image: Array) -> Array:
        bands = 1 - 0.35 * soft_edge(0.5 + np.sin(along * spacing), 0.2)
        shade = 0.35 + 0.85 * bands * np.sqrt(np.clip(1 - (across / half) ** 2, 0, 1))
        metal = np.asarray(colour, np.float32) * shade[..., None]
        gleam = soft_edge(np.abs(across + 0.35 * half) - 0.12 * half, 0.3 * soft + 0.004)
        metal = tint(metal, 0.6 * gleam, (0.98, 0.98, 0.98))
        steel = np.array([0.66, 0.67, 0.70], np.float32) * (0.75 + 0.3 * opening)[..., None]
        image = image + sheath[..., None] * (metal - image)
        return np.asarray(image + jaws[..., None] * (steel - image))

    return np.maximum(sheath, jaws), paint


_KINDS: dict[str, Callable[[View, np.random.Generator], Artefact]] = {
    "specularity": _specularity,
    "saturation": _saturation,
    "artifact": _artifact,
    "blur": _blur,
    "contrast": _contrast,
    "bubbles": _bubbles,
    "instrument": _instrument,
}
_ORDER = [ARTEFACTS.index(name) for name in ("blur", "contrast", "saturation", "instrument")]
_ORDER += [place for place in range(len(ARTEFACTS)) if place not in _ORDER]
