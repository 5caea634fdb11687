"""Phantom fundus photographs: an eye's disc, vessels and macula, what it shows of a disease, and the camera."""

import cv2
import numpy as np

from datamodules.fundus_view import FINE, FundusView, Retina, place_off_disc
from datamodules.painting import Array, smooth_noise, soft_edge, tint, walk
from datamodules.retinopathy import Lesions, add_lesions


def render_fundus(
    retina: Retina, lesions: Lesions, random: np.random.Generator, side: int, aspect: float = 1.0
) -> Array:
    """A colour photograph of a fundus, uint8 ``(side, round(side * aspect), 3)``, red first.

    Args:
        retina: The eye.
        lesions: What it shows of the disease.
        random: Draws the view: pose, illumination, sharpness, noise, artefacts and the places of the lesions.
        side: Height of the image in pixels, at least 32.
        aspect: Width over height, at least 1.
    """
    scale = random.uniform(0.96, 1.0) if random.random() < 0.6 else random.uniform(0.84, 0.92)  # or cut above and below
    view = FundusView.of(random, side, aspect, scale)
    image = _ground(retina, view, random)
    image = _vessels(image, retina, view, lesions.beading)
    image = _harmless(image, retina, view, random)
    image = add_lesions(image, retina, view, lesions, random)
    return _photograph(image, view, random)


def _ground(retina: Retina, view: FundusView, random: np.random.Generator) -> Array:
    """Pigment, choroid, macula and disc."""
    shape = view.x.shape
    tree = np.random.default_rng(retina.vessels)
    choroid = retina.tigroid * smooth_noise(tree, shape, (9, 18, 36)) + 0.02 * smooth_noise(tree, shape, (3, 5))
    image = np.asarray(retina.ground, np.float32) * (1 + choroid[..., None] * np.array([0.6, 1.2, 1.0], np.float32))
    from_macula = np.hypot(view.x - retina.macula[0], view.y - retina.macula[1])
    dark = 0.30 * np.exp(-((from_macula / 0.17) ** 2)) + 0.12 * np.exp(-((from_macula / 0.05) ** 2))
    image = image * (1 - dark[..., None] * np.array([0.7, 1.0, 1.0], np.float32))
    x0, y0, radius, tall = retina.disc
    from_disc = np.hypot((view.x - x0) / radius, (view.y - y0) / (radius * tall))
    halo = 0.14 * np.exp(-(((from_disc - 1) / 0.5) ** 2))
    image = image * (1 + halo[..., None])
    red, green, _ = retina.ground
    rim = (min(1.0, red + 0.16), min(0.95, green + 0.30), min(0.7, green + 0.06))
    image = tint(image, 0.88 * soft_edge(from_disc - 1, 0.06), rim)
    inner = np.hypot((view.x - x0 - 0.1 * retina.nasal * -radius) / radius, (view.y - y0) / (radius * tall))
    return tint(image, 0.75 * soft_edge(inner - retina.cup, 0.10), (1.0, 0.92, 0.72))


def _vessels(image: Array, retina: Retina, view: FundusView, beading: bool) -> Array:
    """Darken the vessels: arteries narrow and bright, veins wide and dark."""
    tree = np.random.default_rng(retina.vessels + 1)
    veins, arteries, reflex = (view.blank() for _ in range(3))
    for upward in (-1, 1):
        for temporal in (True, False):
            for canvas, width in ((veins, retina.width), (arteries, 0.72 * retina.width)):
                trunk = _trunk(retina, tree, upward, temporal)
                _branch(view, tree, canvas, trunk, width, beading and canvas is veins)
                if canvas is arteries:
                    view.stroke(reflex, trunk[: 2 * len(trunk) // 3], 0.25 * width, 1.0)
    soft = 0.0035 * view.unit
    for canvas, strength in ((veins, (0.34, 0.62, 0.55)), (arteries, (0.20, 0.46, 0.45))):
        shade = np.clip(cv2.GaussianBlur(canvas, (0, 0), soft), 0, 1)
        image = image * (1 - shade[..., None] * np.asarray(strength, np.float32))
    return tint(image, 0.12 * np.clip(cv2.GaussianBlur(reflex, (0, 0), soft), 0, 1), (1.0, 0.8, 0.6))


def _trunk(retina: Retina, tree: np.random.Generator, upward: int, temporal: bool) -> Array:
    """Points of a main vessel: an arcade around the macula, or a curve toward the nose."""
    x0, y0 = retina.disc[:2]
    start = np.array([x0, y0]) + tree.normal(0, 0.012, 2)
    if temporal:
        half = retina.arcades[(upward + 1) // 2] * tree.uniform(0.92, 1.08)
        long = abs(x0 - retina.macula[0]) * tree.uniform(0.96, 1.08)
        angle = np.linspace(0, tree.uniform(2.1, 2.7), 60)
        x = start[0] - retina.nasal * long * (1 - np.cos(angle))
        y = start[1] + upward * half * np.sin(angle) ** 0.8
    else:
        along = np.linspace(0, tree.uniform(0.8, 1.1), 40)
        slope, bend = tree.uniform(0.5, 1.3), tree.uniform(-0.5, 0.2)
        x = start[0] + retina.nasal * along * 0.75
        y = start[1] + upward * (slope * along + bend * along**2)
    sway = np.cumsum(tree.normal(0, 0.0035, (len(x), 2)), axis=0)
    return np.stack([x, y], 1) + sway


def _branch(
    view: FundusView,
    tree: np.random.Generator,
    canvas: Array,
    points: Array,
    width: float,
    beading: bool,
    level: int = 0,
) -> None:
    """Draw a vessel that tapers, and what branches off it."""
    count = len(points)
    pixels, step = view.pixels(points), 2 if beading else 5 if level < 2 else 13
    for index in range(0, count - 1, step):
        taper = width * (1 - 0.6 * index / count)
        if beading:
            taper *= 1 + 0.55 * np.sin(1.1 * index)
        view.line(canvas, pixels[index : index + step + 1], taper, 1.0)
    if level == 3:
        return
    for _ in range((6, 2, 1)[level]):
        at = int(tree.integers(count // 8, max(count // 8 + 1, count - 4)))
        heading = points[min(at + 2, count - 1)] - points[at]
        angle = np.arctan2(heading[1], heading[0]) + tree.choice([-1, 1]) * tree.uniform(0.4, 1.0)
        steps = int(tree.integers(10, 26))
        turns = angle + (tree.normal(0, 0.10, steps) + tree.normal(0, 0.4) / steps).cumsum()
        path = points[at] + walk(turns, 0.024)
        thinner = width * (1 - 0.6 * at / count) * tree.uniform(0.45, 0.65)
        _branch(view, tree, canvas, np.vstack([points[at], path]), thinner, False, level + 1)


def _harmless(image: Array, retina: Retina, view: FundusView, random: np.random.Generator) -> Array:
    """What eyes of every grade may show: drusen, a naevus, reflexes of a young retina."""
    if random.random() < 0.35:
        around, drusen = np.asarray(retina.macula) + random.normal(0, 0.08, 2), view.blank()
        for _ in range(int(random.integers(3, 14))):
            view.spot(drusen, around + random.normal(0, 0.15, 2), random.uniform(0.014, 0.03), soft=0.5)
        image = tint(image, 0.22 * drusen, (0.95, 0.75, 0.42))
    if random.random() < 0.15:
        rough = 0.2 * smooth_noise(random, view.x.shape, (10, 20))
        naevus, size, angle = view.blank(), random.uniform(0.08, 0.16), random.uniform(0, 3)
        view.spot(naevus, place_off_disc(random, retina), size, stretch=1.2, angle=angle, rough=rough, soft=0.25)
        image = image * (1 - 0.28 * naevus[..., None])
    if random.random() < 0.3:
        sheen = view.blank()
        for _ in range(int(random.integers(2, 7))):
            begin = place_off_disc(random, retina)
            turns = random.uniform(0, 2 * np.pi) + np.cumsum(random.normal(0, 0.15, 10))
            path = begin + walk(turns, 0.03)
            view.stroke(sheen, path, random.uniform(0.01, 0.04), 1.0)
        sheen = cv2.GaussianBlur(sheen, (0, 0), 0.02 * view.unit)
        image = tint(image, 0.25 * np.clip(sheen, 0, 1), (1.0, 0.85, 0.6))
    return image


def _photograph(image: Array, view: FundusView, random: np.random.Generator) -> Array:
    """From the retina to a picture: light, haze, sharpness, exposure, white balance, mask of the field and noise."""
    rows, columns = image.shape[0] // FINE, image.shape[1] // FINE
    from_centre = np.hypot(view.x, view.y)
    direction, tilt = random.uniform(0, 2 * np.pi), random.uniform(0.0, 0.22)
    light = 1 - random.uniform(0.10, 0.38) * from_centre**2
    light = light + tilt * (view.x * np.cos(direction) + view.y * np.sin(direction))
    image = image * np.clip(light, 0.15, 1.5)[..., None]
    if random.random() < 0.35:  # the pupil's rim, or an eyelash
        edge = random.uniform(0, 2 * np.pi)
        arc = np.exp(-(((view.x * np.cos(edge) + view.y * np.sin(edge) - 0.98) / random.uniform(0.08, 0.2)) ** 2))
        image = tint(image, random.uniform(0.15, 0.5) * arc, (0.75, 0.72, 0.85))
    image = tint(image, np.full(image.shape[:2], random.uniform(0, 0.16), np.float32), (0.62, 0.50, 0.40))
    image = image * soft_edge(from_centre - 1, 0.006)[..., None]
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), view.unit * random.uniform(0.002, 0.008))
    image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    image = np.clip(image, 0, 1) ** random.uniform(0.80, 1.30)
    image = image * random.uniform(0.75, 1.20) * random.uniform(0.93, 1.07, 3)
    grain = random.standard_normal((rows, columns, 3)).astype(np.float32)
    grain = 0.6 * grain + 0.8 * grain.mean(2, keepdims=True)
    image = image + random.uniform(0.004, 0.026) * np.sqrt(np.clip(image, 0.01, 1)) * grain
    for _ in range(int(random.integers(0, 4))):  # dust
        x, y, size = random.uniform(0, columns), random.uniform(0, rows), rows * random.uniform(0.004, 0.012)
        grid = np.hypot(np.arange(columns)[None] - x, np.arange(rows)[:, None] - y)
        image = image * (1 - 0.15 * np.exp(-((grid / (2 * size)) ** 4)))[..., None]
    return np.asarray(np.clip(np.rint(image * 255), 0, 255).astype(np.uint8))
