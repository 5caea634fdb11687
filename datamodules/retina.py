"""Phantom fundus photographs: an eye's disc, vessels and macula, and the lesions that define a grade of retinopathy."""

from dataclasses import dataclass

import cv2
import numpy as np

Array = np.ndarray
FINE = 2  # vessels and lesions are drawn at this many times the resolution
MANY = 20  # haemorrhages above this number are severe disease


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


@dataclass(frozen=True)
class Lesions:
    """What an eye shows of diabetic retinopathy, as numbers of lesions.

    Args:
        microaneurysms: Red dots.
        haemorrhages: Dark blots.
        flames: Haemorrhages along the nerve fibres.
        exudates: Clusters of hard exudates.
        wool: Cotton-wool spots.
        beading: Whether veins are beaded.
        new_vessels: Tangles of new vessels.
        preretinal: Boat-shaped haemorrhages before the retina.
    """

    microaneurysms: int = 0
    haemorrhages: int = 0
    flames: int = 0
    exudates: int = 0
    wool: int = 0
    beading: bool = False
    new_vessels: int = 0
    preretinal: int = 0


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


def draw_lesions(random: np.random.Generator, grade: int) -> Lesions:
    """The lesions of an eye of a grade by the international clinical scale (Wilkinson et al., Ophthalmology 2003).

    0: none. 1: microaneurysms alone. 2: more than these, less than 3. 3: more than twenty haemorrhages over all
    quadrants, with beaded veins. 4: new vessels or a preretinal haemorrhage.
    """
    if grade == 0:
        return Lesions()
    if grade == 1:
        return Lesions(microaneurysms=int(random.integers(4, 10)))
    some = int(random.integers(4, 12))
    exudates = int(random.integers(1, 4)) if random.random() < 0.7 else 0
    if grade == 2:
        few = int(random.integers(3, 8))
        return Lesions(some, few, int(random.integers(0, 2)), exudates, int(random.integers(0, 2)))
    wool = int(random.integers(0, 4))
    if grade == 3:
        return Lesions(
            some, int(random.integers(MANY + 1, MANY + 10)), int(random.integers(2, 6)), exudates, wool, beading=True
        )
    preretinal = int(random.random() < 0.35)
    tangles = int(random.integers(1, 4))
    beading = random.random() < 0.5
    return Lesions(
        some, int(random.integers(3, 14)), int(random.integers(0, 3)), exudates, wool, beading, tangles, preretinal
    )


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
    view = _View.of(random, side, aspect, scale)
    image = _ground(retina, view, random)
    image = _vessels(image, retina, view, lesions.beading)
    image = _harmless(image, retina, view, random)
    image = _diseased(image, retina, view, lesions, random)
    return _photograph(image, view, random)


@dataclass(frozen=True)
class _View:
    """The pixels of an image: their coordinates, and the way from coordinates to pixels."""

    x: Array
    y: Array
    unit: float  # pixels of a radius
    turn: float  # angle of the camera, in radians
    centre: tuple[float, float]  # of the field, in pixels

    @staticmethod
    def of(random: np.random.Generator, side: int, aspect: float, scale: float) -> "_View":
        """A camera that is turned and moved a little at random."""
        rows, columns = FINE * side, FINE * round(side * aspect)
        unit = scale * rows / 2 if scale > 0.95 else rows / 2 / scale
        turn = float(random.normal(0, 0.06))
        centre = (columns / 2 + random.normal(0, 0.01) * rows, rows / 2 + random.normal(0, 0.01) * rows)
        x, y = np.meshgrid(np.arange(columns, dtype=np.float32) + 0.5, np.arange(rows, dtype=np.float32) + 0.5)
        x, y = (x - np.float32(centre[0])) / np.float32(unit), (y - np.float32(centre[1])) / np.float32(unit)
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        return _View(x * cos + y * sin, y * cos - x * sin, unit, turn, centre)

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
        inside = _inside(np.hypot(along / (radius * stretch), across * stretch / radius) - 1 + edge, soft)
        np.maximum(canvas[rows, columns], np.float32(strength) * inside, out=canvas[rows, columns])


def _inside(distance: Array, softness: float) -> Array:
    """1 where a distance is well below 0, 0 where it is well above, and a soft edge between."""
    return np.asarray(1 / (1 + np.exp(np.clip(distance / softness, -30, 30))), np.float32)


def _walk(turns: Array, step: float) -> Array:
    """Places ``(N, 2)`` after each of N steps of this length in these directions."""
    return np.column_stack([np.cos(turns).cumsum(), np.sin(turns).cumsum()]) * step


def _noise(random: np.random.Generator, shape: tuple[int, ...], cells: tuple[int, ...]) -> Array:
    """Smooth noise of about unit variance: one octave per number of cells along the height."""
    total = np.zeros(shape[:2], np.float32)
    for number in cells:
        coarse = random.standard_normal((number, max(1, round(number * shape[1] / shape[0])))).astype(np.float32)
        total += cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_CUBIC)
    return total / np.float32(np.sqrt(len(cells)))


def _tint(image: Array, amount: Array, colour: tuple[float, float, float]) -> Array:
    """Mix a colour into an image, `amount` in [0, 1] for each pixel."""
    return np.asarray(image + amount[..., None] * (np.asarray(colour, np.float32) - image))


def _ground(retina: Retina, view: _View, random: np.random.Generator) -> Array:
    """Pigment, choroid, macula and disc."""
    shape = view.x.shape
    tree = np.random.default_rng(retina.vessels)
    choroid = retina.tigroid * _noise(tree, shape, (9, 18, 36)) + 0.02 * _noise(tree, shape, (3, 5))
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
    image = _tint(image, 0.88 * _inside(from_disc - 1, 0.06), rim)
    inner = np.hypot((view.x - x0 - 0.1 * retina.nasal * -radius) / radius, (view.y - y0) / (radius * tall))
    return _tint(image, 0.75 * _inside(inner - retina.cup, 0.10), (1.0, 0.92, 0.72))


def _vessels(image: Array, retina: Retina, view: _View, beading: bool) -> Array:
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
    return _tint(image, 0.12 * np.clip(cv2.GaussianBlur(reflex, (0, 0), soft), 0, 1), (1.0, 0.8, 0.6))


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
    view: _View, tree: np.random.Generator, canvas: Array, points: Array, width: float, beading: bool, level: int = 0
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
        path = points[at] + _walk(turns, 0.024)
        thinner = width * (1 - 0.6 * at / count) * tree.uniform(0.45, 0.65)
        _branch(view, tree, canvas, np.vstack([points[at], path]), thinner, False, level + 1)


def _place(random: np.random.Generator, retina: Retina, farthest: float = 0.86) -> Array:
    """A place in the field of view, off the disc."""
    while True:
        place = random.uniform(-farthest, farthest, 2)
        if np.hypot(*place) < farthest and np.hypot(*(place - retina.disc[:2])) > 1.7 * retina.disc[2]:
            return place


def _place_in(random: np.random.Generator, retina: Retina, quadrant: tuple[int, int]) -> Array:
    """A place in one quadrant of the field of view, off the disc."""
    while True:
        place = _place(random, retina)
        if (place * quadrant > 0).all():
            return place


def _harmless(image: Array, retina: Retina, view: _View, random: np.random.Generator) -> Array:
    """What eyes of every grade may show: drusen, a naevus, reflexes of a young retina."""
    if random.random() < 0.35:
        around, drusen = np.asarray(retina.macula) + random.normal(0, 0.08, 2), view.blank()
        for _ in range(int(random.integers(3, 14))):
            view.spot(drusen, around + random.normal(0, 0.15, 2), random.uniform(0.014, 0.03), soft=0.5)
        image = _tint(image, 0.22 * drusen, (0.95, 0.75, 0.42))
    if random.random() < 0.15:
        rough = 0.2 * _noise(random, view.x.shape, (10, 20))
        naevus, size, angle = view.blank(), random.uniform(0.08, 0.16), random.uniform(0, 3)
        view.spot(naevus, _place(random, retina), size, stretch=1.2, angle=angle, rough=rough, soft=0.25)
        image = image * (1 - 0.28 * naevus[..., None])
    if random.random() < 0.3:
        sheen = view.blank()
        for _ in range(int(random.integers(2, 7))):
            begin = _place(random, retina)
            turns = random.uniform(0, 2 * np.pi) + np.cumsum(random.normal(0, 0.15, 10))
            path = begin + _walk(turns, 0.03)
            view.stroke(sheen, path, random.uniform(0.01, 0.04), 1.0)
        sheen = cv2.GaussianBlur(sheen, (0, 0), 0.02 * view.unit)
        image = _tint(image, 0.25 * np.clip(sheen, 0, 1), (1.0, 0.85, 0.6))
    return image


def _diseased(image: Array, retina: Retina, view: _View, lesions: Lesions, random: np.random.Generator) -> Array:
    """Add the lesions of diabetic retinopathy."""
    rough = 0.25 * _noise(random, view.x.shape, (14, 28, 56))
    blood, wool = view.blank(), view.blank()
    for _ in range(lesions.microaneurysms):
        view.spot(blood, _place(random, retina), random.uniform(0.016, 0.022), 0.85, soft=0.2)
    for number in range(lesions.haemorrhages):
        size, stretch, angle = random.uniform(0.026, 0.055), random.uniform(0.85, 1.2), random.uniform(0, 3)
        place = _place(random, retina)
        if lesions.haemorrhages > MANY:  # dealt out to the quadrants, as in severe disease
            place = _place_in(random, retina, ((-1, 1)[number % 2], (-1, 1)[number // 2 % 2]))
        density = random.uniform(0.7, 0.95)
        view.spot(blood, place, size, density, stretch=stretch, angle=angle, rough=rough, soft=0.22)
    for _ in range(lesions.flames):
        place = _place(random, retina)
        toward = place - retina.disc[:2]
        angle = np.arctan2(toward[1], toward[0]) + random.normal(0, 0.2)
        view.spot(blood, place, random.uniform(0.035, 0.06), 0.8, stretch=1.7, angle=angle, rough=rough, soft=0.25)
    image = _tint(image, 0.88 * blood, (0.55 * retina.ground[0], 0.10, 0.06))
    for _ in range(lesions.wool):
        place, angle = _place(random, retina, 0.7), random.uniform(0, 3)
        view.spot(wool, place, random.uniform(0.04, 0.07), stretch=1.15, angle=angle, rough=rough, soft=0.4)
    image = _tint(image, 0.6 * wool, (0.98, 0.88, 0.68))
    image = _exudates(image, retina, view, lesions.exudates, random)
    return _proliferation(image, retina, view, lesions, random)


def _exudates(image: Array, retina: Retina, view: _View, clusters: int, random: np.random.Generator) -> Array:
    """Hard exudates: sharp yellow deposits in clusters, some of them in rings."""
    deposits = view.blank()
    for _ in range(clusters):
        middle = np.asarray(retina.macula) + random.normal(0, 0.22, 2)
        ring = random.uniform(0.08, 0.14) if random.random() < 0.4 else 0.0
        for _ in range(int(random.integers(5, 13))):
            angle = random.uniform(0, 2 * np.pi)
            place = middle + ring * np.array([np.cos(angle), np.sin(angle)]) + random.normal(0, 0.035, 2)
            size, stretch = random.uniform(0.012, 0.026), random.uniform(0.8, 1.25)
            view.spot(deposits, place, size, stretch=stretch, angle=angle, soft=0.15)
    return _tint(image, 0.85 * deposits, (1.0, 0.90, 0.52))


def _proliferation(image: Array, retina: Retina, view: _View, lesions: Lesions, random: np.random.Generator) -> Array:
    """New vessels: tangles of fine loops on the disc or elsewhere; blood that has settled before the retina."""
    fine = view.blank()
    for number in range(lesions.new_vessels):
        on_disc = number == 0 and random.random() < 0.5
        middle = np.asarray(retina.disc[:2]) if on_disc else _place(random, retina, 0.7)
        for _ in range(int(random.integers(9, 16))):
            turns = random.uniform(0, 2 * np.pi) + np.cumsum(random.normal(0, 0.45, 16))
            path = middle + _walk(turns, random.uniform(0.014, 0.022))
            view.stroke(fine, path, 0.011, 0.9)
    fine = np.clip(cv2.GaussianBlur(fine, (0, 0), 0.003 * view.unit), 0, 1)
    image = image * (1 - fine[..., None] * np.array([0.22, 0.60, 0.55], np.float32))
    for _ in range(lesions.preretinal):
        x0, y0 = _place(random, retina, 0.6)
        half, level = random.uniform(0.13, 0.22), 0.02 * np.sin(9 * view.x)
        bowl = _inside(np.hypot((view.x - x0) / half, (view.y - y0) / (0.75 * half)) - 1, 0.07)
        image = _tint(image, 0.92 * bowl * _inside(y0 + level - view.y, 0.012), (0.40, 0.05, 0.04))
    return image


def _photograph(image: Array, view: _View, random: np.random.Generator) -> Array:
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
        image = _tint(image, random.uniform(0.15, 0.5) * arc, (0.75, 0.72, 0.85))
    image = _tint(image, np.full(image.shape[:2], random.uniform(0, 0.16), np.float32), (0.62, 0.50, 0.40))
    image = image * _inside(from_centre - 1, 0.006)[..., None]
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
