"""The lesions of a phantom fundus, which define its grade of diabetic retinopathy."""

from dataclasses import dataclass

import cv2
import numpy as np

from datamodules.fundus_view import FundusView, Retina, place_off_disc
from datamodules.painting import Array, smooth_noise, soft_edge, tint, walk

MANY = 20  # haemorrhages above this number are severe disease


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


def _place_in(random: np.random.Generator, retina: Retina, quadrant: tuple[int, int]) -> Array:
    """A place in one quadrant of the field of view, off the disc."""
    while True:
        place = place_off_disc(random, retina)
        if (place * quadrant > 0).all():
            return place


def add_lesions(image: Array, retina: Retina, view: FundusView, lesions: Lesions, random: np.random.Generator) -> Array:
    """Add the lesions of diabetic retinopathy."""
    rough = 0.25 * smooth_noise(random, view.x.shape, (14, 28, 56))
    blood, wool = view.blank(), view.blank()
    for _ in range(lesions.microaneurysms):
        view.spot(blood, place_off_disc(random, retina), random.uniform(0.016, 0.022), 0.85, soft=0.2)
    for number in range(lesions.haemorrhages):
        size, stretch, angle = random.uniform(0.026, 0.055), random.uniform(0.85, 1.2), random.uniform(0, 3)
        place = place_off_disc(random, retina)
        if lesions.haemorrhages > MANY:  # dealt out to the quadrants, as in severe disease
            place = _place_in(random, retina, ((-1, 1)[number % 2], (-1, 1)[number // 2 % 2]))
        density = random.uniform(0.7, 0.95)
        view.spot(blood, place, size, density, stretch=stretch, angle=angle, rough=rough, soft=0.22)
    for _ in range(lesions.flames):
        place = place_off_disc(random, retina)
        toward = place - retina.disc[:2]
        angle = np.arctan2(toward[1], toward[0]) + random.normal(0, 0.2)
        view.spot(blood, place, random.uniform(0.035, 0.06), 0.8, stretch=1.7, angle=angle, rough=rough, soft=0.25)
    image = tint(image, 0.88 * blood, (0.55 * retina.ground[0], 0.10, 0.06))
    for _ in range(lesions.wool):
        place, angle = place_off_disc(random, retina, 0.7), random.uniform(0, 3)
        view.spot(wool, place, random.uniform(0.04, 0.07), stretch=1.15, angle=angle, rough=rough, soft=0.4)
    image = tint(image, 0.6 * wool, (0.98, 0.88, 0.68))
    image = _exudates(image, retina, view, lesions.exudates, random)
    return _proliferation(image, retina, view, lesions, random)


def _exudates(image: Array, retina: Retina, view: FundusView, clusters: int, random: np.random.Generator) -> Array:
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
    return tint(image, 0.85 * deposits, (1.0, 0.90, 0.52))


def _proliferation(
    image: Array, retina: Retina, view: FundusView, lesions: Lesions, random: np.random.Generator
) -> Array:
    """New vessels: tangles of fine loops on the disc or elsewhere; blood that has settled before the retina."""
    fine = view.blank()
    for number in range(lesions.new_vessels):
        on_disc = number == 0 and random.random() < 0.5
        middle = np.asarray(retina.disc[:2]) if on_disc else place_off_disc(random, retina, 0.7)
        for _ in range(int(random.integers(9, 16))):
            turns = random.uniform(0, 2 * np.pi) + np.cumsum(random.normal(0, 0.45, 16))
            path = middle + walk(turns, random.uniform(0.014, 0.022))
            view.stroke(fine, path, 0.011, 0.9)
    fine = np.clip(cv2.GaussianBlur(fine, (0, 0), 0.003 * view.unit), 0, 1)
    image = image * (1 - fine[..., None] * np.array([0.22, 0.60, 0.55], np.float32))
    for _ in range(lesions.preretinal):
        x0, y0 = place_off_disc(random, retina, 0.6)
        half, level = random.uniform(0.13, 0.22), 0.02 * np.sin(9 * view.x)
        bowl = soft_edge(np.hypot((view.x - x0) / half, (view.y - y0) / (0.75 * half)) - 1, 0.07)
        image = tint(image, 0.92 * bowl * soft_edge(y0 + level - view.y, 0.012), (0.40, 0.05, 0.04))
    return image
