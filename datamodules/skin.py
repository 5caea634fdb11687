"""Phantom dermoscopy: skin with hairs, and lesions whose border, symmetry, colours and structures make their class."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.painting import Array, smooth_noise, soft_edge

Colour = tuple[float, float, float]
REACH = 2.2  # a lesion is painted up to this many of its radii

# what pigments let through of red, green and blue
TAN: Colour = (0.84, 0.66, 0.50)
BROWN: Colour = (0.62, 0.40, 0.29)
DARK: Colour = (0.38, 0.24, 0.20)
BLACK: Colour = (0.20, 0.17, 0.19)
BLUE: Colour = (0.50, 0.55, 0.66)
PINK: Colour = (1.00, 0.74, 0.72)
RED: Colour = (0.92, 0.42, 0.44)
MAROON: Colour = (0.52, 0.20, 0.30)
YELLOW: Colour = (1.05, 0.98, 0.72)
WHITE: Colour = (1.12, 1.18, 1.22)


@dataclass(frozen=True)
class Lesion:
    """A lesion, which all images of it share.

    Args:
        kind: Its diagnosis, one of `KINDS`.
        radius: Mean radius, in halves of the image's height.
        density: Mean optical density of its inside, the natural logarithm, as far as its kind allows.
        skin: Red, green and blue of the skin around it, in [0, 1].
        hairs: How hairy the skin is, in [0, 1].
        seed: Of its outline and structures.
    """

    kind: str
    radius: float
    density: float
    skin: Colour
    hairs: float
    seed: int


def draw_lesion(random: np.random.Generator, kind: str) -> Lesion:
    """A random lesion of a kind, on skin that does not depend on the kind."""
    red, green = random.uniform(0.74, 0.92), random.uniform(0.70, 0.84)
    return Lesion(
        kind=kind,
        radius=random.uniform(0.36, 0.66),
        density=random.uniform(0.28, 0.62),
        skin=(red, red * green, red * green * random.uniform(0.84, 1.02)),
        hairs=random.uniform(0, 1) if random.random() < 0.5 else 0.0,
        seed=int(random.integers(2**31)),
    )


def render_skin(lesion: Lesion, random: np.random.Generator, side: int) -> tuple[Array, Array]:
    """A dermoscopic image of a lesion and the lesion's mask.

    Args:
        lesion: The lesion.
        random: Draws the view: pose, light, hairs, gel, sharpness and noise.
        side: Height of the image in pixels, at least 32; its width is four thirds of it.

    Returns:
        uint8 ``(side, round(4 / 3 * side), 3)``, red first, and uint8 ``(side, round(4 / 3 * side))`` of 0 and 255.
    """
    shape = (side, round(side * 4 / 3))
    frame = _Frame.of(lesion, round(1.4 * side))
    passed = _as_dense(KINDS[lesion.kind](frame), frame.inside(0.02), lesion.density)
    pose = _pose(lesion, random, shape, len(frame.u))
    passed = cv2.warpAffine(passed, pose, shape[::-1], flags=cv2.INTER_LINEAR, borderValue=(1, 1, 1))
    inside = cv2.warpAffine(frame.inside(0.02), pose, shape[::-1], flags=cv2.INTER_LINEAR)
    image = _bare_skin(lesion, random, shape) * passed
    image = _hairs(image, lesion, random)
    return _photograph(image, random), np.where(inside > 0.5, 255, 0).astype(np.uint8)


@dataclass(frozen=True)
class _Frame:
    """A lesion's own frame: coordinates in radii, and how far outside the outline they lie."""

    u: Array
    v: Array
    outside: Array  # 0 on the outline, -1 in the middle
    random: np.random.Generator

    @staticmethod
    def of(lesion: Lesion, pixels: int) -> "_Frame":
        """The outline of a lesion, uneven and ragged as its kind is."""
        random = np.random.default_rng(lesion.seed)
        axis = np.linspace(-REACH, REACH, pixels, dtype=np.float32)
        u, v = np.meshgrid(axis, axis)
        uneven, ragged = OUTLINES[lesion.kind]
        stretch = np.float32(random.uniform(0.85, 1.18))
        angle = np.arctan2(v * stretch, u / stretch)
        border = np.ones_like(u)
        for number in range(2, 13):
            size = (uneven if number < 5 else ragged) * random.normal() / np.sqrt(number)
            border += np.float32(size) * np.cos(number * angle + np.float32(random.uniform(0, 2 * np.pi)))
        radius = np.hypot(u / stretch, v * stretch)
        return _Frame(u, v, radius / np.clip(border, 0.45, 1.5) - 1, random)

    def inside(self, soft: float) -> Array:
        """1 inside the outline, 0 outside, with a soft edge."""
        return soft_edge(self.outside, soft)

    def noise(self, *cells: int) -> Array:
        """Smooth noise of about unit variance."""
        return smooth_noise(self.random, self.u.shape, cells)

    def place(self, farthest: float = 0.8) -> tuple[float, float]:
        """A place inside the outline."""
        angle, radius = self.random.uniform(0, 2 * np.pi), farthest * np.sqrt(self.random.random())
        return float(radius * np.cos(angle)), float(radius * np.sin(angle))

    def spots(self, count: int, least: float, most: float, soft: float = 0.25, farthest: float = 0.8) -> Array:
        """Round spots in [0, 1]."""
        canvas = np.zeros_like(self.u)
        for _ in range(count):
            (x, y), size = self.place(farthest), self.random.uniform(least, most)
            canvas = np.maximum(canvas, soft_edge(np.hypot(self.u - x, self.v - y) / np.float32(size) - 1, soft))
        return canvas

    def network(self, spacing: float, disorder: float) -> Array:
        """A net of lines in [0, 1] around holes on a honeycomb, which disorder distorts."""
        du, dv = disorder * spacing * self.noise(6, 9), disorder * spacing * self.noise(6, 9)
        turn = self.random.uniform(0, np.pi)
        waves = np.zeros_like(self.u)
        for third in range(3):
            angle = turn + third * np.pi / 3
            waves += np.cos(
                np.float32(2 * np.pi / spacing) * ((self.u + du) * np.cos(angle) + (self.v + dv) * np.sin(angle))
            )
        return soft_edge(waves - 0.2, 0.35)

    def lines(self, count: int, width: float, branching: int, sway: float) -> Array:
        """Branching curves in [0, 1], as vessels."""
        canvas, unit = np.zeros_like(self.u), len(self.u) / (2 * REACH)
        for _ in range(count):
            self._line(
                canvas, unit, np.array(self.place(0.85)), self.random.uniform(0, 2 * np.pi), width, branching, sway
            )
        return np.clip(cv2.GaussianBlur(canvas, (0, 0), 0.6), 0, 1)

    def _line(
        self, canvas: Array, unit: float, begin: Array, angle: float, width: float, branching: int, sway: float
    ) -> None:
        turns = angle + np.cumsum(self.random.normal(0, sway, 14))
        path = begin + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1) * 0.055, axis=0)
        wide = width * unit
        pixels = np.round((path + REACH) * unit * 16).astype(np.int32)
        cv2.polylines(canvas, [pixels], False, min(1.0, wide), max(1, round(wide)), cv2.LINE_AA, 4)
        if branching:
            for at in self.random.integers(2, 12, 2):
                aside = turns[at] + self.random.choice([-1, 1]) * self.random.uniform(0.5, 1.0)
                self._line(canvas, unit, path[at], aside, 0.65 * width, branching - 1, sway)


def _mixed(passed: Array, amount: Array, colour: Colour) -> Array:
    """Mix a pigment in, `amount` in [0, 1] for each pixel."""
    return np.asarray(passed + amount[..., None] * (np.asarray(colour, np.float32) - passed))


def _clear(frame: _Frame) -> Array:
    return np.ones((*frame.u.shape, 3), np.float32)


def _nevus(frame: _Frame) -> Array:
    """Melanocytic nevus: symmetric, evenly brown, with a regular network or regular globules."""
    inside = frame.inside(0.10)
    passed = _mixed(_clear(frame), 0.85 * inside, TAN)
    passed = _mixed(passed, 0.75 * soft_edge(frame.outside + 0.30, 0.22), BROWN)
    if frame.random.random() < 0.6:
        net = frame.network(frame.random.uniform(0.15, 0.20), 0.25)
        return _mixed(passed, 0.50 * net * soft_edge(frame.outside + 0.08, 0.10), DARK)
    globules = 1 - frame.network(frame.random.uniform(0.17, 0.23), 0.4)
    return _mixed(passed, 0.55 * globules * soft_edge(frame.outside + 0.10, 0.08), DARK)


def _melanoma(frame: _Frame) -> Array:
    """Melanoma: asymmetric, notched, of several colours, with a broken network, dots and a blue-white veil."""
    inside = frame.inside(0.06)
    passed = _mixed(_clear(frame), 0.9 * inside, TAN)
    lean = frame.random.uniform(0, 2 * np.pi)
    side = frame.u * np.float32(np.cos(lean)) + frame.v * np.float32(np.sin(lean))
    passed = _mixed(passed, 0.85 * inside * soft_edge(0.1 - side + 0.35 * frame.noise(5, 9), 0.12), DARK)
    passed = _mixed(passed, 0.80 * inside * soft_edge(0.75 + 0.4 * frame.noise(4, 8), 0.15), BLACK)
    passed = _mixed(passed, 0.75 * inside * soft_edge(0.55 + side + 0.4 * frame.noise(4, 7), 0.15), BLUE)
    if frame.random.random() < 0.6:
        passed = _mixed(passed, 0.6 * inside * soft_edge(0.95 + 0.4 * frame.noise(4, 7), 0.15), RED)
    net = frame.network(frame.random.uniform(0.19, 0.28), 0.9)
    passed = _mixed(passed, 0.55 * net * inside * soft_edge(frame.noise(4, 6), 0.3), DARK)
    return _mixed(passed, 0.85 * frame.spots(int(frame.random.integers(5, 14)), 0.02, 0.07, farthest=1.0), BLACK)


def _basal_cell_carcinoma(frame: _Frame) -> Array:
    """Basal cell carcinoma: pearly pink, with tree-like vessels and blue-grey nests."""
    inside = frame.inside(0.14)
    passed = _mixed(_clear(frame), 0.75 * inside, PINK)
    passed = _mixed(passed, 0.30 * inside * soft_edge(0.3 * frame.noise(5, 9), 0.3), RED)
    passed = _mixed(passed, 0.4 * inside * soft_edge(0.8 + 0.5 * frame.noise(6, 10), 0.2), WHITE)
    nests = frame.spots(int(frame.random.integers(4, 10)), 0.06, 0.19, soft=0.22, farthest=0.85)
    passed = _mixed(passed, 0.85 * nests, BLUE)
    passed = _mixed(passed, 0.45 * nests * soft_edge(0.1 + 0.5 * frame.noise(12, 20), 0.3), DARK)
    vessels = frame.lines(int(frame.random.integers(3, 6)), 0.030, 2, 0.22)
    return _mixed(passed, 0.85 * vessels, (0.80, 0.22, 0.26))


def _actinic_keratosis(frame: _Frame) -> Array:
    """Actinic keratosis and Bowen's disease: an ill-defined red net around pale follicles, and scales."""
    inside = frame.inside(0.18)
    passed = _mixed(_clear(frame), 0.75 * inside, (0.96, 0.60, 0.54))
    passed = _mixed(passed, 0.5 * inside * soft_edge(0.3 + 0.5 * frame.noise(6, 10), 0.2), BROWN)
    net = frame.network(frame.random.uniform(0.20, 0.28), 0.45)
    passed = _mixed(passed, 0.40 * inside * net, RED)
    passed = _mixed(passed, 0.75 * inside * (1 - net) ** 2, YELLOW)
    scales = soft_edge(0.9 + 0.6 * frame.noise(14, 26), 0.12)
    return _mixed(passed, 0.7 * scales * inside, WHITE)


def _keratosis(frame: _Frame) -> Array:
    """Seborrhoeic keratosis: stuck on, sharply bordered, with ridges, pale milia and dark plugs."""
    inside = frame.inside(0.025)
    passed = _mixed(_clear(frame), 0.9 * inside, (0.68, 0.52, 0.42))
    ridges = 0.5 + 0.5 * np.sin(np.float32(7.0) * frame.noise(5, 8))
    passed = _mixed(passed, 0.55 * inside * ridges, (0.46, 0.33, 0.29))
    plugs = frame.spots(int(frame.random.integers(5, 12)), 0.04, 0.09, soft=0.2)
    passed = _mixed(passed, 0.8 * plugs * inside, DARK)
    milia = frame.spots(int(frame.random.integers(8, 18)), 0.03, 0.065, soft=0.2)
    return _mixed(passed, 0.9 * milia * inside, YELLOW)


def _dermatofibroma(frame: _Frame) -> Array:
    """Dermatofibroma: a pale, scar-like centre within a faint, delicate network."""
    inside = frame.inside(0.22)
    passed = _mixed(_clear(frame), 0.75 * inside, TAN)
    passed = _mixed(passed, 0.45 * inside * soft_edge(frame.outside + 0.3, 0.2), (0.78, 0.48, 0.42))
    net = frame.network(frame.random.uniform(0.12, 0.15), 0.3)
    passed = _mixed(passed, 0.40 * inside * net, BROWN)
    x, y = frame.place(0.15)
    distance = np.hypot(frame.u - x, frame.v - y) / frame.random.uniform(0.38, 0.55) - 1
    scar = soft_edge(distance + 0.25 * frame.noise(8, 14), 0.16)
    passed = _mixed(passed, 0.85 * scar, WHITE)
    return _mixed(passed, 0.35 * scar * frame.lines(5, 0.02, 0, 0.1), PINK)


def _vascular(frame: _Frame) -> Array:
    """Vascular lesion: sharply bounded red to purple lakes, some of them clotted."""
    inside = frame.inside(0.10)
    passed = _mixed(_clear(frame), 0.7 * inside, (0.95, 0.56, 0.62))
    lakes = frame.spots(int(frame.random.integers(10, 20)), 0.13, 0.28, soft=0.10, farthest=0.78)
    passed = _mixed(passed, 0.85 * lakes * inside, (0.80, 0.26, 0.38))
    deep = frame.spots(int(frame.random.integers(4, 10)), 0.10, 0.22, soft=0.10, farthest=0.75)
    passed = _mixed(passed, 0.85 * deep * inside, MAROON)
    if frame.random.random() < 0.4:
        passed = _mixed(passed, 0.85 * frame.spots(2, 0.12, 0.22, soft=0.12, farthest=0.5), BLACK)
    return _mixed(passed, 0.25 * inside * soft_edge(0.9 + 0.5 * frame.noise(6, 10), 0.2), WHITE)


KINDS: dict[str, Callable[[_Frame], Array]] = {
    "akiec": _actinic_keratosis,
    "bcc": _basal_cell_carcinoma,
    "bkl": _keratosis,
    "df": _dermatofibroma,
    "mel": _melanoma,
    "nv": _nevus,
    "vasc": _vascular,
}
# how uneven an outline is on the large scale, and how ragged on the small one
OUTLINES = {
    "akiec": (0.12, 0.08),
    "bcc": (0.10, 0.06),
    "bkl": (0.08, 0.04),
    "df": (0.05, 0.03),
    "mel": (0.20, 0.10),
    "nv": (0.05, 0.03),
    "vasc": (0.08, 0.05),
}


def _as_dense(passed: Array, inside: Array, density: float) -> Array:
    """Make a lesion as dark as its density says, so that darkness does not tell its kind."""
    own = -float((np.log(passed.mean(2)) * inside).sum() / inside.sum())
    return np.asarray(passed ** np.float32(np.clip(density / max(own, 0.05), 0.5, 1.8)))


def _pose(lesion: Lesion, random: np.random.Generator, shape: tuple[int, int], pixels: int) -> Array:
    """From the lesion's frame to the image: rotation, zoom and shift."""
    zoom = lesion.radius * random.uniform(0.9, 1.1) * shape[0] / 2 * 2 * REACH / (pixels - 1)
    angle = random.uniform(0, 2 * np.pi)
    turned = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([shape[1] / 2, shape[0] / 2]) + random.normal(0, 0.05, 2) * shape[0]
    return np.column_stack([turned, centre - turned @ np.full(2, (pixels - 1) / 2)])


def _bare_skin(lesion: Lesion, random: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Skin with its furrows, capillaries and freckles."""
    furrows = np.abs(smooth_noise(random, shape, (18, 30)))
    blush = 0.035 * smooth_noise(random, shape, (3, 6))
    image = np.asarray(lesion.skin, np.float32) * (1 - random.uniform(0.0, 0.05) * furrows[..., None])
    image = image * (1 + blush[..., None] * np.array([0.3, 1.0, 1.0], np.float32))
    capillaries = np.abs(smooth_noise(random, shape, (8, 14)))
    fine = random.uniform(0, 0.08) * np.exp(-((capillaries / 0.08) ** 2))
    image = image * (1 - fine[..., None] * np.array([0.2, 1.0, 1.0], np.float32))
    if random.random() < 0.4:
        x, y = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
        for _ in range(int(random.integers(2, 14))):
            at, size = random.uniform(0, 1, 2) * shape[::-1], shape[0] * random.uniform(0.01, 0.04)
            freckle = random.uniform(0.1, 0.35) * soft_edge(np.hypot(x - at[0], y - at[1]) / np.float32(size) - 1, 0.3)
            image = image * (1 - freckle[..., None] * np.array([0.4, 0.8, 1.0], np.float32))
    return np.asarray(image)


def _hairs(image: Array, lesion: Lesion, random: np.random.Generator) -> Array:
    """Curved hairs across the field, as many as the skin has."""
    rows, columns = image.shape[:2]
    canvas = np.zeros((rows, columns), np.float32)
    comb, thick = random.uniform(0, np.pi), random.uniform(0.006, 0.014)
    for _ in range(round(lesion.hairs * random.uniform(4, 22))):
        turns = comb + random.normal(0, 0.5) + np.linspace(0, random.normal(0, 0.9), 30)
        length = rows * random.uniform(0.3, 1.3) / 30
        begin = random.uniform(-0.1, 1.0, 2) * (columns, rows)
        path = begin + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1) * length, axis=0)
        wide = thick * rows * random.uniform(0.6, 1.1)
        pixels = [np.round(path * 16).astype(np.int32)]
        cv2.polylines(canvas, pixels, False, min(1.0, wide), max(1, round(wide)), cv2.LINE_AA, 4)
    shade = 0.8 * np.clip(canvas, 0, 1)[..., None]
    return np.asarray(image + shade * (np.array([0.20, 0.14, 0.11], np.float32) - image))


def _photograph(image: Array, random: np.random.Generator) -> Array:
    """From skin to a picture: light, gel, ruler, field of view, sharpness, exposure, white balance and noise."""
    rows, columns = image.shape[:2]
    axes = (np.arange(size, dtype=np.float32) * 2 / rows - size / rows for size in (columns, rows))
    x, y = np.meshgrid(*axes)
    direction, tilt = random.uniform(0, 2 * np.pi), random.uniform(0, 0.10)
    light = 1 - random.uniform(0.0, 0.14) * (x * x + y * y) + tilt * (x * np.cos(direction) + y * np.sin(direction))
    image = image * light[..., None]
    for _ in range(int(random.integers(0, 5)) if random.random() < 0.4 else 0):  # bubbles in the gel
        radius, at = random.uniform(0.02, 0.10), random.uniform(-1, 1, 2) * (1.3, 1.0)
        ring = np.exp(-(((np.hypot(x - at[0], y - at[1]) - radius) / 0.012) ** 2))
        image = image + 0.22 * ring[..., None] * soft_edge(y - at[1], 0.03)[..., None]
    if random.random() < 0.12:
        ticks = ((x * 12) % 1 < 0.10) & (y > 0.93 - 0.06 * (np.floor(x * 12) % 5 == 0))
        image = image * (1 - 0.75 * ticks[..., None])
    if random.random() < 0.20:
        field = random.uniform(1.10, 1.45)
        image = image * (0.03 + 0.97 * soft_edge(np.hypot(x, y) - field, 0.02)[..., None])
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), rows * random.uniform(0.002, 0.008))
    image = np.clip(image, 0, 1.2) ** random.uniform(0.75, 1.35)
    image = image * random.uniform(0.78, 1.10) * random.uniform(0.92, 1.08, 3)
    grain = random.standard_normal((rows, columns, 3)).astype(np.float32)
    grain = 0.5 * grain + 0.85 * grain.mean(2, keepdims=True)
    image = image + random.uniform(0.004, 0.024) * grain
    return np.asarray(np.clip(np.rint(image * 255), 0, 255).astype(np.uint8))
