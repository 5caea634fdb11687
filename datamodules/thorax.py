"""Phantom chest X-rays: thorax, lungs, ribs, heart and opacities drawn from random geometry."""

from dataclasses import dataclass

import cv2
import numpy as np

Array = np.ndarray

_LETTERS = {"L": ((0, 0), (0, 2), (1, 2)), "R": ((0, 2), (0, 0), (1, 0), (1, 1), (0, 1), (1, 2))}


@dataclass(frozen=True)
class Anatomy:
    """A patient's chest, which all images of that patient share.

    Positions are in units of half the image's side: x grows to the right, y downward, and the centre is at 0.

    Args:
        width: Half width of each lung.
        apex: Height of the lungs' tops.
        base: Height of the right and the left diaphragm dome.
        dome: Height of the domes above the costophrenic angles.
        heart: Centre x, centre y, half length, half width of the heart, and the angle of its axis, in radians.
        mediastinum: Half width of the shadow between the lungs.
        ribs: Spacing, slope, curvature, thickness and strength of the ribs.
        clavicle: Height and slope of the clavicles.
        vessels: Seed of the vessel trees.
        breast: Strength of the soft tissue over the lower lungs.
    """

    width: float
    apex: float
    base: tuple[float, float]
    dome: float
    heart: tuple[float, float, float, float, float]
    mediastinum: float
    ribs: tuple[float, float, float, float, float]
    clavicle: tuple[float, float]
    vessels: int
    breast: float


def draw_anatomy(random: np.random.Generator) -> Anatomy:
    """A random chest."""
    base = random.uniform(0.42, 0.58)
    return Anatomy(
        width=random.uniform(0.31, 0.38),
        apex=random.uniform(-0.80, -0.68),
        base=(base, base + random.uniform(0.01, 0.08)),
        dome=random.uniform(0.14, 0.26),
        heart=(
            random.uniform(0.08, 0.14),
            random.uniform(0.20, 0.30),
            random.uniform(0.34, 0.46),
            random.uniform(0.24, 0.31),
            random.uniform(0.55, 0.95),
        ),
        mediastinum=random.uniform(0.10, 0.15),
        ribs=(
            random.uniform(0.155, 0.185),
            random.uniform(0.05, 0.20),
            random.uniform(0.45, 0.75),
            random.uniform(0.24, 0.32),
            random.uniform(0.06, 0.14),
        ),
        clavicle=(random.uniform(-0.70, -0.60), random.uniform(0.10, 0.24)),
        vessels=int(random.integers(2**31)),
        breast=random.uniform(0.0, 0.08) if random.random() < 0.5 else 0.0,
    )


def render(anatomy: Anatomy, random: np.random.Generator, side: int, opacities: bool) -> Array:
    """An X-ray of a chest, uint8 ``(side, side)``.

    Args:
        anatomy: The patient.
        random: Draws the view: pose, exposure, blur, noise, confounders and opacities.
        side: Side of the image in pixels, at least 32.
        opacities: Whether the lungs hold consolidations, as in pneumonia.
    """
    x, y = _grid(random, side)
    lungs, right = _lungs(anatomy, x, y)
    image = _body(anatomy, x, y)
    image -= lungs * random.uniform(0.36, 0.46)
    image += 0.07 * _inside(_from_heart(anatomy, x, y), 0.12)
    image += _bones(anatomy, x, y)
    image += lungs * _vessels(anatomy, random, x, y)
    image += lungs * 0.027 * _noise(random, side, (6, 12, 24))
    image += _confounders(anatomy, random, x, y, lungs)
    if opacities:
        image += _opacities(random, x, y, lungs, right)
    return _expose(image, random, side)


def _grid(random: np.random.Generator, side: int) -> tuple[Array, Array]:
    """Coordinates of the pixels in the patient's frame: tilted, shifted, scaled and slightly rotated."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1
    x, y = np.meshgrid(axis, axis)
    angle, scale = np.float32(random.normal(0, 0.035)), np.float32(random.uniform(0.92, 1.08))
    dx, dy = random.normal(0, 0.035, 2).astype(np.float32)
    x, y = (x * np.cos(angle) - y * np.sin(angle)) * scale + dx, (x * np.sin(angle) + y * np.cos(angle)) * scale + dy
    turn = np.float32(random.normal(0, 0.05))  # a patient turned about the long axis shows one lung wider
    return x + turn * (1 - x * x), y


def _inside(distance: Array, softness: float) -> Array:
    """1 where a distance is well below 0, 0 where it is well above, and a soft edge between."""
    return 1 / (1 + np.exp(np.clip(distance / softness, -30, 30)))


def _body(anatomy: Anatomy, x: Array, y: Array) -> Array:
    """Soft tissue: neck, shoulders and trunk, thicker in the middle and below the diaphragm."""
    shoulder = 0.24 + 0.72 * _inside(-(y + 0.80), 0.05) + 0.06 * y
    body = _inside(np.abs(x) - shoulder, 0.03)
    thickness = 0.60 + 0.10 * np.exp(-((x / 0.3) ** 2)) - 0.16 * x * x
    spine = _inside(np.abs(x) - 0.085, 0.02) * (0.07 + 0.03 * np.cos(2 * np.pi * y / 0.16))
    trachea = 0.12 * _inside(np.abs(x - 0.01) - 0.045, 0.015) * _inside(y + 0.30, 0.06)
    belly = 0.10 * _inside(min(anatomy.base) - y, 0.08)
    return np.asarray(body * (thickness + spine - trachea + belly))


def _lungs(anatomy: Anatomy, x: Array, y: Array) -> tuple[Array, Array]:
    """Masks in [0, 1] of both lungs, and of the right lung, which is on the left of the image."""
    masks = []
    for sign, base in zip((-1, 1), anatomy.base, strict=True):
        lateral = sign * x  # grows from the spine outward
        centre = anatomy.mediastinum + anatomy.width
        middle, half = (anatomy.apex + base + 0.25) / 2, (base + 0.25 - anatomy.apex) / 2
        lean = centre - 0.05 + 0.10 * (y - middle)
        ellipse = np.abs((lateral - lean) / anatomy.width) ** 2.4 + np.abs((y - middle) / half) ** 2.6
        surface = base + 1.6 * anatomy.dome * np.clip((lateral - centre + 0.10) / 0.40, -1, 1.3) ** 2
        mask = _inside(ellipse - 1, 0.07) * _inside(y - surface, 0.012)
        mask = mask * _inside(anatomy.mediastinum - lateral, 0.02)
        masks.append(mask.astype(np.float32))
    heart = _inside(_from_heart(anatomy, x, y), 0.05)
    knob = _inside(np.hypot(x - anatomy.mediastinum, y + 0.30) - 0.10, 0.02)
    free = (1 - 0.88 * heart) * (1 - 0.8 * knob)
    return (masks[0] + masks[1]) * free, masks[0] * free


def _from_heart(anatomy: Anatomy, x: Array, y: Array) -> Array:
    """Distance from the heart's border, negative inside: an ellipse whose tip points down and to the patient's left."""
    x0, y0, long, short, tilt = anatomy.heart
    along = (x - x0) * np.cos(tilt) + (y - y0) * np.sin(tilt)
    across = (y - y0) * np.cos(tilt) - (x - x0) * np.sin(tilt)
    return np.asarray(np.sqrt((along / long) ** 2 + (across / short) ** 2) - 1)


def _bones(anatomy: Anatomy, x: Array, y: Array) -> Array:
    """Posterior and anterior ribs, and clavicles."""
    spacing, slope, curvature, thickness, strength = anatomy.ribs
    u = np.abs(x)
    cage = _inside(u / 0.90 - 0.78 - 0.22 * np.clip(y + 0.9, 0, 1), 0.03)
    cage = cage * _inside(-0.82 - y + 0.3 * u, 0.02) * _inside(y - 0.75, 0.05)
    back = (y + slope * u - curvature * u * u) / spacing
    front = (y - 0.55 * (u - 0.9) + 0.25 * u * u) / (1.15 * spacing)
    bones = strength * _band(back, thickness) * _inside(0.06 - u, 0.02)
    bones = bones + 0.5 * strength * _band(front, thickness) * _inside(0.32 - u, 0.05) * _inside(y - 0.45, 0.06)
    bones = bones * cage
    height, tilt = anatomy.clavicle
    line = y - (height - tilt * u + 0.05 * np.sin(5 * u))
    clavicle = np.exp(-((line / 0.035) ** 4)) * _inside(0.08 - u, 0.02) * _inside(u - 0.78, 0.03)
    return np.asarray(bones + 0.14 * clavicle)


def _band(phase: Array, thickness: float) -> Array:
    """Stripes at whole phases, `thickness` periods wide, with bright edges like those of cortical bone."""
    distance = np.abs(phase - np.round(phase)) / (thickness / 2)
    return np.asarray(np.exp(-(distance**6)) * (0.7 + 0.3 * np.clip(distance, 0, 1) ** 2))


def _vessels(anatomy: Anatomy, random: np.random.Generator, x: Array, y: Array) -> Array:
    """Branching vessels from both hila outward."""
    tree = np.random.default_rng(anatomy.vessels)
    side = x.shape[0]
    canvas = np.zeros((side, side), np.float32)
    for sign in (-1, 1):
        hilum = np.array([sign * 0.17, 0.0])
        for _ in range(11):
            angle = tree.uniform(-1.25, 1.35)
            point, length = hilum + tree.normal(0, 0.03, 2), tree.uniform(0.10, 0.16)
            for level in range(4):
                step = np.array([sign * np.cos(angle), np.sin(angle)]) * length
                ends = np.round(((np.stack([point, point + step]) + 1) / 2) * side * 16).astype(int)
                width = max(1, round(side * (0.022 - 0.005 * level)))
                shade = 0.16 * 0.72**level
                cv2.line(canvas, ends[0].tolist(), ends[1].tolist(), shade, width, cv2.LINE_AA, 4)
                point, angle, length = point + step, angle + tree.normal(0, 0.35), length * 0.9
    for sign in (-1, 1):
        canvas += 0.10 * np.exp(-(((x - sign * 0.19) / 0.08) ** 2) - ((y - 0.02) / 0.15) ** 2)
    blurred = cv2.GaussianBlur(canvas, (0, 0), side * random.uniform(0.006, 0.012))
    return np.asarray(blurred * random.uniform(0.7, 1.2))


def _noise(random: np.random.Generator, side: int, cells: tuple[int, ...]) -> Array:
    """Smooth noise of about unit variance: one octave per number of cells along a side."""
    total = np.zeros((side, side), np.float32)
    for number in cells:
        coarse = random.standard_normal((number, number)).astype(np.float32)
        total += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return total / np.sqrt(len(cells))


def _confounders(anatomy: Anatomy, random: np.random.Generator, x: Array, y: Array, lungs: Array) -> Array:
    """What images of both classes may show: breast shadows, shoulder blades, haze, nipple-like spots."""
    u = np.abs(x)
    extra = anatomy.breast * _inside(np.hypot((u - 0.45) / 0.36, (y - 0.30) / 0.36) - 1, 0.10)
    if random.random() < 0.6:
        edge = u - random.uniform(0.58, 0.70) - 0.35 * (y + 0.2)
        extra = extra + random.uniform(0.03, 0.09) * _inside(-edge, 0.03) * _inside(y - 0.1, 0.08) * (u < 0.95)
    if random.random() < 0.5:
        direction = random.uniform(0, 2 * np.pi)
        ramp = 0.5 + 0.5 * (x * np.cos(direction) + y * np.sin(direction))
        extra = extra + lungs * random.uniform(0.03, 0.14) * ramp
    if random.random() < 0.25:
        spot = np.hypot(u - random.uniform(0.40, 0.55), y - random.uniform(0.15, 0.35)) - random.uniform(0.02, 0.035)
        extra = extra + 0.07 * _inside(spot, 0.01)
    return np.asarray(extra)


def _opacities(random: np.random.Generator, x: Array, y: Array, lungs: Array, right: Array) -> Array:
    """One to three consolidations: soft-edged and textured, random in place, size and density."""
    side = x.shape[0]
    total = np.zeros((side, side), np.float32)
    for _ in range(1 + random.binomial(2, 0.4)):
        lung = right if random.random() < 0.5 else lungs - right
        weight = np.where(lung > 0.6, lung, 0).ravel()
        place = int(np.searchsorted(np.cumsum(weight), random.random() * weight.sum()))
        x0, y0 = x.flat[min(place, x.size - 1)], y.flat[min(place, y.size - 1)]
        a, b = random.uniform(0.16, 0.34, 2)
        ragged = 0.30 * _noise(random, side, (8, 16))
        blob = _inside(np.hypot((x - x0) / a, (y - y0) / b) - 1 + ragged, random.uniform(0.12, 0.30))
        texture = np.clip(1 + 0.2 * _noise(random, side, (16, 32)), 0, 2)
        total = np.maximum(total, random.uniform(0.25, 0.45) * blob * texture * np.clip(lung, 0, 1))
    return total


def _expose(image: Array, random: np.random.Generator, side: int) -> Array:
    """From attenuation to a film: sharpness, gamma, contrast, collimation, noise and a side marker."""
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), side * random.uniform(0.003, 0.009))
    image = np.clip(image, 0, 1) ** random.uniform(0.75, 1.30)
    image = image * random.uniform(0.95, 1.25) + random.uniform(-0.04, 0.06)
    if random.random() < 0.3:
        border = int(side * random.uniform(0.01, 0.05))
        image[:, :border] *= 0.1
        image[:, side - border :] *= 0.1
    if random.random() < 0.5:
        corner = np.array([random.choice([0.06, 0.88]), 0.06])
        strokes = np.array(_LETTERS["LR"[int(random.integers(2))]]) * 0.035
        points = np.round((corner + strokes) * side * 16).astype(np.int32)
        cv2.polylines(image, [points], False, 0.95, max(1, side // 90), cv2.LINE_AA, 4)
    grain = random.standard_normal((side, side)).astype(np.float32)
    image = image + random.uniform(0.008, 0.025) * np.sqrt(np.clip(image, 0.05, 1)) * grain
    return np.asarray(np.clip(np.rint(image * 255), 0, 255).astype(np.uint8))
