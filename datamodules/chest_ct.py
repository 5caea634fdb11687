"""Drawing of phantom chest CT: one axial slice after the other of a person, in Hounsfield units, with the lungs."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from datamodules.painting import smooth_noise, soft_edge

Array = np.ndarray

AIR, FAT, MUSCLE, BLOOD = -1000.0, -100.0, 50.0, 40.0
OUTSIDE = -1024.0  # HU of what the scanner does not see
LEFT, RIGHT = 1, 2  # labels of the lungs; the patient's left is on the right of the picture
BASE, APEX = 0.06, 0.92  # heights between which there is lung


@dataclass(frozen=True)
class Person:
    """What is the same in all slices of a volume; lengths are in units of half the picture, heights from 0 to 1.

    Args:
        random: Stream of the person's smaller structures.
        width: Half the width of the chest.
        depth: Its half depth, as a share of the width.
        fat: Thickness of the fat under the skin.
        wall: Thickness of the muscles and ribs.
        domes: Heights of the left and the right half of the diaphragm.
        heart: Size of the heart, 1 on average.
        contrast: HU of the blood in large vessels.
        lung: HU of the lungs.
        noise: Standard deviation of the noise, in HU.
        turn: By how much the person is rotated, in radians.
        place: Where the middle of the chest lies, x and y.
        table: Distance of the table behind the back.
        opacities: Ellipsoids of infiltration: x, y, height, three radii, HU, and how ragged.
    """

    random: np.random.Generator
    width: float
    depth: float
    fat: float
    wall: float
    domes: tuple[float, float]
    heart: float
    contrast: float
    lung: float
    noise: float
    turn: float
    place: tuple[float, float]
    table: float
    opacities: Array

    @cached_property
    def vessels(self) -> Array:
        """Points of the vessels in the lungs ``(N, 4)``: x, y, height and radius, from the hila outwards."""
        random, found = self.random, []
        for side in (-1, 1):
            for _ in range(60):
                start = np.array([side * 0.17 * self.width, 0.02, 0.52])
                start += random.normal(0, [0.02, 0.03, 0.05])
                outwards = side * random.uniform(0.1, 1.0)
                aim = np.array([outwards, random.uniform(-1, 1) * 0.9, random.normal(0, 1.0)])
                steps = int(random.integers(30, 75))
                bends = random.normal(0, 0.09, (steps, 3)).cumsum(axis=0)
                ways = aim / np.linalg.norm(aim) + bends
                points = start + (ways / np.linalg.norm(ways, axis=1, keepdims=True) * [0.014, 0.014, 0.011]).cumsum(0)
                radius = random.uniform(0.008, 0.022) * np.linspace(1, 0.2, steps)
                found.append(np.column_stack([points, radius]))
        return np.concatenate(found)

    @cached_property
    def shapes(self) -> Array:
        """Smooth fields ``(6, 64, 64)`` that bend outlines and texture, two of which are mixed for each height."""
        return np.stack([smooth_noise(self.random, (64, 64), (3, 6)) for _ in range(6)])


def draw_person(random: np.random.Generator) -> Person:
    """A person, healthy or with infiltrations of one or both lungs."""
    count = int(random.choice([0, 2, 4, 7], p=[0.25, 0.25, 0.25, 0.25]))
    spots = []
    for _ in range(count):
        angle = random.uniform(-1.1, 1.5)  # mostly at the side and the back
        side = random.choice([-1.0, 1.0])
        reach = random.uniform(0.5, 0.98)
        ground_glass = random.random() < 0.6
        spots.append(
            [
                side * (0.42 + 0.36 * reach * np.cos(angle)),
                0.05 + 0.42 * reach * np.sin(angle),
                random.uniform(0.12, 0.8),
                *random.uniform(0.08, 0.28, 2),
                random.uniform(0.05, 0.18),
                random.uniform(-650, -350) if ground_glass else random.uniform(-80, 50),
                random.uniform(0.15, 0.5),
            ]
        )
    return Person(
        random=random,
        width=random.uniform(0.74, 0.9),
        depth=random.uniform(0.66, 0.8),
        fat=random.uniform(0.02, 0.085),
        wall=random.uniform(0.06, 0.1),
        domes=(random.uniform(0.2, 0.34), random.uniform(0.26, 0.42)),
        heart=random.uniform(0.85, 1.2),
        contrast=float(random.choice([BLOOD, random.uniform(120, 300)])),
        lung=random.uniform(-880, -790),
        noise=random.uniform(15, 45),
        turn=random.normal(0, 0.05),
        place=(random.normal(0, 0.03), random.normal(-0.02, 0.03)),
        table=random.uniform(0.0, 0.04),
        opacities=np.array(spots).reshape(-1, 8),
    )


def draw_slice(person: Person, height: float, random: np.random.Generator, side: int) -> tuple[Array, Array]:
    """One axial slice, seen from the feet.

    Args:
        person: Whose.
        height: 0 below the lungs, 1 above them.
        random: Stream of its noise.
        side: Pixels along each side.

    Returns:
        Hounsfield units ``(side, side)`` float32, and the labels of the lungs ``(side, side)`` uint8.
    """
    pixel = 2 / side
    across, down = np.meshgrid(*2 * [(np.arange(side, dtype=np.float32) + 0.5) * pixel - 1])
    cos, sin = np.cos(person.turn), np.sin(person.turn)
    x = (cos * (across - person.place[0]) + sin * (down - person.place[1])) / person.width
    y = (cos * (down - person.place[1]) - sin * (across - person.place[0])) / person.width
    bent, texture = _fields(person, height, side)
    edge = pixel / person.width / 3.5
    image: Array = np.full((side, side), AIR, np.float32)
    body, cavity = _outlines(person, height, x, y, bent)
    _table(image, person, across, down, edge)
    _body(image, person, height, x, y, body, cavity, edge, texture)
    lungs = _lungs(person, height, x, y, cavity, bent)
    inside = np.minimum(*lungs)
    vessels = _vessels(person, height, side, x, y, edge)
    tissue = _lung_tissue(person, height, x, y, texture, vessels)
    _mix(image, soft_edge(inside, edge), tissue)
    _airways(image, person, height, x, y, edge)
    image = cv2.GaussianBlur(image, (0, 0), 0.003 * side)
    noise = cv2.GaussianBlur(random.standard_normal((side, side)).astype(np.float32), (0, 0), 0.6)
    image += noise / noise.std() * person.noise * np.float32(random.uniform(0.9, 1.1))
    image[across**2 + down**2 > 0.985**2] = OUTSIDE
    mask = np.where(lungs[0] < 0, LEFT, np.where(lungs[1] < 0, RIGHT, 0)).astype(np.uint8)
    mask[across**2 + down**2 > 0.985**2] = 0
    return image.clip(OUTSIDE, 3071), mask


def _mix(image: Array, amount: Array, value: Array | float) -> None:
    """Let something cover an image, by `amount` in [0, 1] for each pixel."""
    image += amount * (value - image)


def _ellipse(x: Array, y: Array, middle: tuple[float, float], radii: tuple[float, float], power: float = 2) -> Array:
    """About the distance from an ellipse's edge, negative inside."""
    far = np.abs((x - middle[0]) / radii[0]) ** power + np.abs((y - middle[1]) / radii[1]) ** power
    return np.asarray((np.maximum(far, 1e-6) ** (1 / power) - 1) * min(radii), np.float32)


def _fields(person: Person, height: float, side: int) -> tuple[Array, Array]:
    """What bends the outlines at a height, and what its texture is, both of about unit variance."""
    turn = 2.5 * height
    mixed = [person.shapes[one] * np.cos(turn) + person.shapes[one + 1] * np.sin(turn) for one in (0, 2)]
    bent, texture = (cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in mixed)
    return bent, texture


def _outlines(person: Person, height: float, x: Array, y: Array, bent: Array) -> tuple[Array, Array]:
    """About the distances from the skin and from the inside of the ribs."""
    shoulders = max(0.0, height - 0.72) / 0.28
    body = _ellipse(x, y, (0, 0), (1 + 0.16 * shoulders, person.depth * (1 - 0.12 * shoulders)), 2.4) + 0.012 * bent
    narrow = np.sqrt(max(0.02, 1 - max(0.0, height - 0.45) ** 2 / 0.34))  # towards the apex
    rim = person.fat + person.wall
    radii = ((1 - rim) * (0.6 + 0.4 * narrow), (person.depth - rim) * (0.62 + 0.38 * narrow))
    cavity = _ellipse(x, y, (0, 0.03), radii, 2.3) + 0.008 * bent
    return body, cavity


def _table(image: Array, person: Person, across: Array, down: Array, edge: float) -> None:
    """The table on which the person lies, and a blanket or two."""
    back = person.place[1] + person.width * person.depth + 0.02 + person.table
    for offset, bend, value in ((0.0, 0.16, -450.0), (0.075, 0.12, 150.0), (0.10, 0.12, -700.0)):
        line = np.abs(down - (back + offset - bend * across**2 + 0.02)) - 0.008
        _mix(image, soft_edge(np.maximum(line, np.abs(across) - 0.72), edge), value)


def _body(
    image: Array,
    person: Person,
    height: float,
    x: Array,
    y: Array,
    body: Array,
    cavity: Array,
    edge: float,
    texture: Array,
) -> None:
    """Skin, fat, muscles, bones and the organs between and below the lungs."""
    _mix(image, soft_edge(body, edge), FAT + 8 * texture)
    _mix(image, soft_edge(body, edge) * soft_edge(-body - 0.012, edge), MUSCLE)  # skin
    _mix(image, soft_edge(cavity - person.wall, edge), MUSCLE + 6 * texture)
    around = np.arctan2(y, x)
    swing = np.sin(around * 1.0 + 40 * height - 7 * np.abs(around + np.pi / 2))
    ribs = np.maximum(np.abs(cavity - 0.5 * person.wall) - 0.3 * person.wall, 0.25 - swing)
    _mix(image, soft_edge(np.maximum(ribs, np.abs(x) * -1 + 0.1), edge), 420.0)
    _mix(image, soft_edge(cavity, edge), -20 + 12 * texture)  # fat and tissue between the organs
    for distance, value in _organs(person, height, x, y):
        _mix(image, soft_edge(distance, edge) * soft_edge(cavity, edge), value)
    if height > 0.62:  # shoulder blades and arms' bones
        for sign in (-1, 1):
            blade = _ellipse(x + y * 0.35 * sign, y, (sign * 0.86, 0.3), (0.1 + 0.06 * height, 0.028))
            _mix(image, soft_edge(np.maximum(blade, body + 0.03), edge), 480.0)
    spine = person.depth * 0.58
    _mix(image, soft_edge(_ellipse(x, y, (0, spine), (0.12, 0.1)), edge), 180.0 + 40 * texture)
    _mix(image, soft_edge(np.abs(_ellipse(x, y, (0, spine), (0.12, 0.1))) - 0.012, edge), 520.0)
    _mix(image, soft_edge(_ellipse(x, y, (0, spine + 0.16), (0.045, 0.04)), edge), 30.0)
    for sign in (-1, 1):
        arch = _ellipse(x - sign * 0.7 * (y - spine - 0.12), y, (sign * 0.09, spine + 0.14), (0.03, 0.07))
        _mix(image, soft_edge(arch, edge), 430.0)
    if height > 0.15:
        breastbone = _ellipse(x, y, (0, -person.depth + person.fat + 0.055), (0.1, 0.028))
        _mix(image, soft_edge(breastbone, edge), 280.0)


def _organs(person: Person, height: float, x: Array, y: Array) -> list[tuple[Array, Array | float]]:
    """What lies between the lungs and below them, as distances and HU."""
    found: list[tuple[Array, Array | float]] = []
    left, right = _domes(person, height, x, y)
    found.append((np.minimum(left, right), 62.0))
    if height < person.domes[0] * 0.8:  # gas in the stomach, which is no lung
        size = 0.16 * (1 - height / person.domes[0])
        found.append((_ellipse(x, y, (0.42, -0.2), (0.5 * size + 0.06, size + 0.02)), AIR + 30))
    found.append((_mediastinum(person, height, x, y), BLOOD))
    found.append((_heart(person, height, x, y), 0.5 * (person.contrast + BLOOD)))
    aorta = (0.13, 0.28 * person.depth / 0.7)
    found.append((_ellipse(x, y, aorta, (0.072, 0.072)), person.contrast))
    if height > 0.5:
        found.append((_ellipse(x, y, (-0.09, -0.14), (0.062, 0.07)), person.contrast))
    if 0.62 < height < 0.76:  # the arch of the aorta
        found.append((_ellipse(x + 0.25 * y, y, (0.08, 0.04), (0.075, 0.26)), person.contrast))
    return found


def _domes(person: Person, height: float, x: Array, y: Array) -> tuple[Array, Array]:
    """Distances from what the two halves of the diaphragm cover: stomach and spleen on the left, liver on the right."""
    both = []
    for sign, top in zip((1, -1), person.domes, strict=True):
        if height >= top:
            both.append(np.full(x.shape, 1.0, np.float32))
            continue
        share = np.sqrt(1 - (max(height, 0.0) / top) ** 2)
        both.append(_ellipse(x, y, (sign * 0.33, -0.13), (0.55 * share, 0.56 * share * person.depth / 0.72)))
    return both[0], both[1]


def _mediastinum(person: Person, height: float, x: Array, y: Array) -> Array:
    """Distance from what lies between the lungs, which is widest at the hila."""
    width = 0.13 + 0.07 * np.exp(-(((height - 0.52) / 0.13) ** 2)) + 0.05 * max(0.0, height - 0.7)
    along = y / person.depth  # thin in front, where the lungs meet
    column = np.abs(x - 0.015) - width * (1.1 - np.where(along < 0, 1.15, 0.55) * along**2)
    return np.asarray(column, np.float32)


def _heart(person: Person, height: float, x: Array, y: Array) -> Array:
    """Distance from the heart, whose tip points to the left and to the front."""
    middle, half = 0.34, 0.2
    if abs(height - middle) >= half:
        return np.full(x.shape, 1.0, np.float32)
    share = person.heart * np.sqrt(1 - ((height - middle) / half) ** 2)
    u, v = (x - 0.09) * 0.86 - (y + 0.16) * 0.5, (x - 0.09) * 0.5 + (y + 0.16) * 0.86
    return _ellipse(u, v, (0, 0), (0.36 * share, 0.25 * share))


def _lungs(person: Person, height: float, x: Array, y: Array, cavity: Array, bent: Array) -> tuple[Array, Array]:
    """Distances from the left and the right lung, negative inside, with vessels and infiltrations."""
    if not BASE < height < APEX:
        nothing = np.full(x.shape, 1.0, np.float32)
        return nothing, nothing.copy()
    top = max(0.0, height - 0.6) / (APEX - 0.6)
    shrink = 0.05 + 0.3 * top**2.5
    spine = _ellipse(x, y, (0, person.depth * 0.6), (0.155, 0.2))
    keep_out = np.maximum(-_mediastinum(person, height, x, y), -_heart(person, height, x, y))
    keep_out = np.maximum(np.maximum(keep_out, -spine), -_ellipse(x, y, (0.13, 0.28), (0.085, 0.085)))
    keep_out = np.maximum(keep_out, -np.minimum(*_domes(person, height, x, y)))
    whole = np.maximum(cavity + shrink * 0.45, keep_out + 0.012) + 0.012 * bent
    deep = (person.depth - person.fat - person.wall) * (1.02 - 0.5 * shrink)
    left, right = (_ellipse(x, y, (sign * 0.43, 0.05), (0.45, deep), 2.2) + 0.02 * bent for sign in (1, -1))
    return np.maximum(np.maximum(whole, left), 0.02 - x), np.maximum(np.maximum(whole, right), 0.02 + x)


def _vessels(person: Person, height: float, side: int, x: Array, y: Array, edge: float) -> Array:
    """How much of each pixel is a vessel, in [0, 1]."""
    near = np.abs(person.vessels[:, 2] - height) < 0.016
    amount = np.zeros(x.shape, np.float32)
    cos, sin = np.cos(person.turn), np.sin(person.turn)
    for across, down, _, radius in person.vessels[near]:
        u, v = (across * cos - down * sin) * person.width, (across * sin + down * cos) * person.width
        column, row = ((u + person.place[0] + 1) * side / 2 - 0.5), ((v + person.place[1] + 1) * side / 2 - 0.5)
        size = max(radius * person.width * side / 2, 0.25)
        cv2.circle(
            amount, (round(column * 16), round(row * 16)), round(size * 16), min(1.0, 0.35 + size), -1, cv2.LINE_AA, 4
        )
    return amount


def _lung_tissue(person: Person, height: float, x: Array, y: Array, texture: Array, vessels: Array) -> Array:
    """HU of the lungs: denser towards the back, with vessels, ground glass and consolidations."""
    tissue = person.lung + 70 * y + 22 * texture
    for across, down, middle, wide, deep, high, value, ragged in person.opacities:
        share = 1 - ((height - middle) / high) ** 2
        if share <= 0:
            continue
        spot = _ellipse(x, y, (across, down), (wide * share, deep * share)) + ragged * 0.09 * texture
        _mix(tissue, soft_edge(spot, 0.02), np.float32(value) + 45 * texture)
    _mix(tissue, vessels, BLOOD)
    return np.asarray(tissue, np.float32)


def _airways(image: Array, person: Person, height: float, x: Array, y: Array, edge: float) -> None:
    """The trachea and the main bronchi, which are no lung."""
    if height < 0.46:
        return
    apart = max(0.0, 0.6 - height) / 0.14 * 0.13
    for sign in (-1, 1) if apart else (1,):
        tube = _ellipse(x, y, (sign * apart - 0.01, 0.02), (0.052 if not apart else 0.04, 0.05))
        _mix(image, soft_edge(np.abs(tube + 0.006) - 0.012, edge), MUSCLE)
        _mix(image, soft_edge(tube, edge), AIR + 15)
