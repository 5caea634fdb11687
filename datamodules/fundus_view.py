"""An eye's retina, and how a fundus camera sees it."""

from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.painting import Array, soft_edge

FINE = 2  # vessels and lesions are drawn at this many times the resolution


@dataclass(frozen=True)
class Retina:
    """An eye's retina and the camera that it is seen by, which all images of that eye share.

    Positions are in units of the radius of the field of view: x grows to the right, y downward, and its centre is 0.

    Args:
        nasal: 1 if the nose lies on the right of the image, as for a right eye, or -1.
        disc: Centre x, centre y, radius and height over width of the optic disc.
        cup: Radius of the bright cup over that of the disc.
        macula: Centre x and y.
        ground: Red, green and blue of the fundus, in [0, 1].
        tigroid: Strength of the choroid's pattern.
        arcades: Half heights of the upper and the lower arcade.
        vessels: Seed of the vessel tree.
        width: Width of the vessels at the disc.
    """

    nasal: int
    disc: tuple[float, float, float, float]
    cup: float
    macula: tuple[float, float]
    ground: tuple[float, float, float]
    tigroid: float
    arcades: tuple[float, float]
    vessels: int
    width: float


def draw_retina(random: np.random.Generator, nasal: int, pair: np.random.Generator) -> Retina:
    """A random retina.

    Args:
        random: Draws what belongs to the eye.
        nasal: 1 for a right eye, -1 for a left one.
        pair: Draws what both eyes of a patient share: pigment and calibre.
    """
    centred = pair.random() < 0.5  # on the macula, or between macula and disc as a screening photograph
    macula_x = -nasal * (random.uniform(0.0, 0.08) if centred else random.uniform(0.18, 0.32))
    macula_y = random.normal(0.02, 0.04)
    distance = random.uniform(0.56, 0.64)
    red, green, blue = pair.uniform(0.66, 0.84), pair.uniform(0.27, 0.43), pair.uniform(0.08, 0.20)
    radius = random.uniform(0.115, 0.145)
    return Retina(
        nasal=nasal,
        disc=(macula_x + nasal * distance, macula_y - random.uniform(0.02, 0.09), radius, random.uniform(1.0, 1.15)),
        cup=random.uniform(0.30, 0.55),
        macula=(macula_x, macula_y),
        ground=(red, green, min(blue, 0.6 * green)),
        tigroid=pair.uniform(0.0, 0.05),
        arcades=(random.uniform(0.46, 0.60), random.uniform(0.46, 0.60)),
        vessels=int(random.integers(2**31)),
        width=pair.uniform(0.020, 0.027),
    )


@dataclass(frozen=True)
class FundusView:
    """The pixels of an image: their coordinates, and the way from coordinates to pixels."""

    x: Array
    y: Array
    unit: float  # pixels of a radius
    turn: float  # angle of the camera, in radians
    centre: tuple[float, float]  # of the field, in pixels

    @staticmethod
    def of(random: np.random.Generator, side: int, aspect: float, scale: float) -> "FundusView":
        """A camera that is turned and moved a little at random."""
        rows, columns = FINE * side, FINE * round(side * aspect)
        unit = scale * rows / 2 if scale > 0.95 else rows / 2 / scale
        turn = float(random.normal(0, 0.06))
        centre = (columns / 2 + random.normal(0, 0.01) * rows, rows / 2 + random.normal(0, 0.01) * rows)
        x, y = np.meshgrid(np.arange(columns, dtype=np.float32) + 0.5, np.arange(rows, dtype=np.float32) + 0.5)
        x, y = (x - np.float32(centre[0])) / np.float32(unit), (y - np.float32(centre[1])) / np.float32(unit)
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        return FundusView(x * cos + y * sin, y * cos - x * sin, unit, turn, centre)

    def blank(self) -> Array:
        """A canvas of zeros."""
        return np.zeros(self.x.shape, np.float32)

    def pixels(self, points: Array) -> Array:
        """Points ``(N, 2)`` in sixteenths of a pixel, as OpenCV draws them."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        turned = points @ np.array([[cos, sin], [-sin, cos]])
        return np.rint((turned * self.unit + self.centre) * 16).astype(np.int32)

    def stroke(self, canvas: Array, points: Array, width: float, shade: float) -> None:
        """Draw a curve, `width` of a radius wide; below a pixel it becomes fainter instead of thinner."""
        self.line(canvas, self.pixels(points), width, shade)

    def line(self, canvas: Array, pixels: Array, width: float, shade: float) -> None:
        """Draw a curve whose points are `pixels`."""
        wide = width * self.unit
        cv2.polylines(canvas, [pixels], False, shade * min(1.0, wide), max(1, round(wide)), cv2.LINE_AA, 4)

    def spot(
        self,
        canvas: Array,
        place: Array,
        radius: float,
        strength: float = 1.0,
        *,
        stretch: float = 1.0,
        angle: float = 0.0,
        rough: Array | float = 0.0,
        soft: float,
    ) -> None:
        """Raise a canvas to `strength` in a soft-edged spot with a rough edge."""
        (x, y), reach = (
            self.pixels(place[None])[0] / 16,
            self.unit * radius * max(stretch, 1 / stretch) * (2 + 5 * soft),
        )
        rows, columns = (slice(max(0, int(at - reach)), max(0, int(at + reach) + 2)) for at in (y, x))
        dx, dy = self.x[rows, columns] - np.float32(place[0]), self.y[rows, columns] - np.float32(place[1])
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        edge = rough[rows, columns] if isinstance(rough, np.ndarray) else rough
        inside = soft_edge(np.hypot(along / (radius * stretch), across * stretch / radius) - 1 + edge, soft)
        np.maximum(canvas[rows, columns], np.float32(strength) * inside, out=canvas[rows, columns])


def place_off_disc(random: np.random.Generator, retina: Retina, farthest: float = 0.86) -> Array:
    """A place in the field of view, off the disc."""
    while True:
        place = random.uniform(-farthest, farthest, 2)
        if np.hypot(*place) < farthest and np.hypot(*(place - retina.disc[:2])) > 1.7 * retina.disc[2]:
            return place
