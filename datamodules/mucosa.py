"""Phantom mucosa as an endoscope sees it: folds around a lumen, vessels, pits, polyps, and the light of its lamp."""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from datamodules.painting import Array, smooth_noise, soft_edge, tint, walk

Colour = tuple[float, float, float]
Field = Literal["round", "octagon", "full"]


@dataclass(frozen=True)
class Organ:
    """What all frames of a video share.

    Args:
        colour: Red, green and blue of the mucosa, in [0, 1].
        vessels: How many vessels shine through, in [0, 1].
        pits: How coarse the pits of the surface are, in cells along the height.
        folds: How many folds stand behind one another.
        field: Shape of the field of view.
        aspect: Width of a frame over its height.
        text: What the processor writes into a corner; empty for nothing.
    """

    colour: Colour
    vessels: float
    pits: int
    folds: float
    field: Field
    aspect: float
    text: str


def draw_organ(random: np.random.Generator) -> Organ:
    """A random organ under a random endoscope."""
    red, green = random.uniform(0.66, 0.84), random.uniform(0.44, 0.62)
    fields: tuple[Field, ...] = ("round", "octagon", "octagon", "full")
    return Organ(
        colour=(red, red * green, red * green * random.uniform(0.72, 1.02)),
        vessels=random.uniform(0.2, 1.0),
        pits=int(random.integers(34, 54)),
        folds=random.uniform(1.2, 2.8),
        field=fields[int(random.integers(len(fields)))],
        aspect=float(random.choice((1.0, 1.0, 1.25))),
        text=f"{random.integers(10, 60)}:{random.integers(10, 60)}" if random.random() < 0.3 else "",
    )


@dataclass(frozen=True)
class View:
    """A frame before anything lies on it.

    Args:
        image: ``(H, W, 3)`` float32, red first, about in [0, 1].
        field: Whether a pixel is inside the field of view, ``(H, W)``.
        x: Of each pixel, in halves of the height from the middle, ``(H, W)``.
        y: The same, downwards.
        lumen: x and y of the lumen, which may lie outside.
    """

    image: Array
    field: Array
    x: Array
    y: Array
    lumen: tuple[float, float]


def draw_view(organ: Organ, random: np.random.Generator, side: int) -> View:
    """A frame of an organ, of `side` pixels height."""
    shape = (side, round(side * organ.aspect))
    axes = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / side - size / side for size in shape[::-1])
    x, y = np.meshgrid(*axes)
    angle, away = random.uniform(0, 2 * np.pi), random.uniform(0.1, 1.5)
    lumen = away * math.cos(angle), away * math.sin(angle)
    image: Array = np.asarray(organ.colour, np.float32) * np.ones((*shape, 1), np.float32)
    blush = 0.08 * smooth_noise(random, shape, (3, 6))
    image = image * (1 + blush[..., None] * np.array([0.4, 1.0, 1.0], np.float32))
    image = _vessels(image, organ, random)
    pits = smooth_noise(random, shape, (organ.pits,))
    image = image * (1 + random.uniform(0.045, 0.075) * pits[..., None])
    image = image * _folds(organ, random, x - lumen[0], y - lumen[1])[..., None]
    for _ in range(int(random.random() < 0.4) + int(random.random() < 0.15)):
        image = _polyp(image, organ, random, x, y)
    image = image * _light(random, x, y)[..., None]
    return View(_sheen(image, random), _field(organ, x, y), x, y, lumen)


def photograph(view: View, image: Array, organ: Organ, random: np.random.Generator) -> Array:
    """From what is seen to a picture: the field of view, white balance, sharpness, noise and writing.

    Returns:
        uint8 ``(H, W, 3)``, red first.
    """
    side = len(image)
    image = cv2.GaussianBlur(image, (0, 0), side * random.uniform(0.0015, 0.0035))
    image = image * random.uniform(0.96, 1.04, 3).astype(np.float32)
    image = image + random.uniform(0.004, 0.03) * random.standard_normal(image.shape, np.float32)
    image = np.where(view.field[..., None], image, np.float32(0.02))
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if organ.text:
        scale = side / 420
        cv2.putText(pixels, organ.text, (2, round(24 * scale)), cv2.FONT_HERSHEY_SIMPLEX, scale, (190,) * 3, 1)
    return np.asarray(pixels)


def _vessels(image: Array, organ: Organ, random: np.random.Generator) -> Array:
    """Branching vessels that shine through, most of them fine."""
    side = len(image)
    canvas = np.zeros(image.shape[:2], np.float32)
    for _ in range(round(organ.vessels * random.uniform(4, 10))):
        _vessel(canvas, random, random.uniform(0, 1, 2) * canvas.shape[::-1], random.uniform(0, 2 * np.pi), 0.014, 2)
    shade = np.clip(cv2.GaussianBlur(canvas, (0, 0), 0.003 * side), 0, 1)
    return tint(image, random.uniform(0.35, 0.6) * shade, (0.52, 0.13, 0.15))


def _vessel(canvas: Array, random: np.random.Generator, begin: Array, angle: float, width: float, levels: int) -> None:
    turns = angle + np.cumsum(random.normal(0, 0.28, 16))
    path = begin + walk(turns, 0.035 * len(canvas))
    wide = width * len(canvas)
    cv2.polylines(
        canvas, [np.round(path * 16).astype(np.int32)], False, min(1.0, wide), max(1, round(wide)), cv2.LINE_AA, 4
    )
    if levels:
        for at in random.integers(3, 15, 2):
            aside = turns[at] + random.choice([-1, 1]) * random.uniform(0.4, 1.1)
            _vessel(canvas, random, path[at], aside, 0.6 * width, levels - 1)


def _folds(organ: Organ, random: np.random.Generator, x: Array, y: Array) -> Array:
    """Brightness of folds around the lumen: each has a lit rim and a shadow behind; the lumen is dim."""
    radius, angle = np.hypot(x, y) + 0.02, np.arctan2(y, x)
    depth = -np.log(radius)
    corners = int(random.integers(2, 5))
    bend = random.uniform(0.15, 0.45) * np.cos(corners * angle + random.uniform(0, 2 * math.pi))
    bend += 0.12 * smooth_noise(random, x.shape, (4,))
    phase = organ.folds * (depth + bend) + random.uniform(0, 1)
    ramp = phase - np.floor(phase)  # rises from the shadow behind one fold to the rim of the next
    rim = soft_edge(np.abs(ramp - 0.86) - 0.07, 0.03)
    shadow = np.exp(-9 * ramp) * soft_edge(0.015 - ramp, 0.006)
    strength = random.uniform(0.4, 1.0)
    relief = 1 + strength * (0.24 * (ramp - 0.5) + 0.10 * rim - 0.28 * shadow)
    dim = 1 - random.uniform(0.4, 0.7) * soft_edge(radius - random.uniform(0.12, 0.3), 0.12)
    return np.asarray(relief * dim, np.float32)


def _polyp(image: Array, organ: Organ, random: np.random.Generator, x: Array, y: Array) -> Array:
    """A bulge, lit from the lamp's side: no artefact."""
    size, left, top = random.uniform(0.10, 0.28), random.uniform(-0.7, 0.7), random.uniform(-0.7, 0.7)
    stretch, turn = random.uniform(0.75, 1.0), random.uniform(0, math.pi)
    dx, dy = x - left, y - top
    u = (dx * math.cos(turn) + dy * math.sin(turn)) / size
    v = (dy * math.cos(turn) - dx * math.sin(turn)) / (size * stretch)
    radius = np.hypot(u, v)
    inside = soft_edge(radius - 1, 0.06)
    light = 0.82 + 0.28 * np.sqrt(np.clip(1 - radius**2, 0, 1)) - 0.35 * (dx * left + dy * top) / size
    redder = tint(image, 0.35 * inside, (organ.colour[0], 0.7 * organ.colour[1], 0.7 * organ.colour[2]))
    rim = 1 - 0.22 * soft_edge(np.abs(radius - 1.04) - 0.05, 0.06)
    return np.asarray(redder * (1 + inside * (np.clip(light, 0.6, 1.25) - 1))[..., None] * rim[..., None])


def _light(random: np.random.Generator, x: Array, y: Array) -> Array:
    """The lamp's light: brightest where it points, darker towards the edges."""
    left, top = random.normal(0, 0.25), random.normal(0, 0.25)
    far = (x - left) ** 2 + (y - top) ** 2
    return np.asarray(random.uniform(0.85, 1.1) / (1 + random.uniform(0.15, 0.4) * far))


def _sheen(image: Array, random: np.random.Generator) -> Array:
    """Pale, soft reflections of a wet surface, which are no artefacts."""
    wet = soft_edge(1.6 - smooth_noise(random, image.shape, (9, 16)), 0.12)
    return tint(image, random.uniform(0.05, 0.45) * wet, (0.95, 0.85, 0.82))


def _field(organ: Organ, x: Array, y: Array) -> Array:
    """Where the endoscope shows something."""
    if organ.field == "full":
        return np.ones(x.shape, bool)
    if organ.field == "round":
        return np.asarray(np.hypot(x / organ.aspect, y) < 1.02)
    return np.asarray(np.abs(x) + np.abs(y) < organ.aspect + 0.68)
