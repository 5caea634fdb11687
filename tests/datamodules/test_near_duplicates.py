"""Near-duplicates: copies saved, scaled or brightened anew are found, other pictures are not."""

import time

import cv2
import numpy as np
import pytest

from datamodules.measurements import measure_image
from datamodules.near_duplicates import (
    LEAST_ALIKE,
    MAX_DISTANCE,
    correlations,
    near_duplicates,
    perceptual_hash,
    same_detail,
)

RNG = np.random.default_rng(5)


def scene(seed: int, fine: float = 0.08) -> np.ndarray:
    """A picture of the same kind each time: the same large shapes, and blobs of its own; (120, 160) in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:120, 0:160] / 120
    shapes = 0.35 + 0.3 * np.exp(-((x - 0.67) ** 2 + (y - 0.5) ** 2) / 0.2)
    return np.clip(shapes + 0.08 * blobs(rng, 14) + fine * blobs(rng, 2.5), 0, 0.85).astype(np.float32)


def blobs(rng: np.random.Generator, size: float) -> np.ndarray:
    """Random blobs of some size in pixels, of variance 1."""
    found = cv2.GaussianBlur(rng.normal(size=(120, 160)), (0, 0), size)
    return found / found.std()


def saved(image: np.ndarray, quality: int) -> np.ndarray:
    data = cv2.imencode(".jpg", np.rint(255 * image).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE).astype(np.float32) / 255


CHANGES = {
    "saved anew": lambda image: saved(image, 40),
    "half the size": lambda image: cv2.resize(image, (80, 60), interpolation=cv2.INTER_AREA),
    "larger": lambda image: cv2.resize(image, (320, 240)),
    "squashed": lambda image: cv2.resize(image, (128, 128)),
    "brighter": lambda image: image + np.float32(0.1),
    "more contrast": lambda image: np.clip(1.2 * image - 0.1, 0, 1),
    "all of these": lambda image: saved(cv2.resize(image + np.float32(0.08), (100, 80)), 60),
}


def found_among(images: list[np.ndarray], splits: list[str]) -> list[tuple[int, int]]:
    rows = [measure_image(image, None) for image in images]
    usable = np.array([row.hash is not None for row in rows])
    hashes = np.array([row.hash or 0 for row in rows], dtype=np.uint64)
    small = np.stack([row.small for row in rows])
    pairs, _ = near_duplicates(hashes, small, splits, usable, images.__getitem__)
    return [(pair.one, pair.other) for pair in pairs]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_copy_in_another_split_is_found_and_nothing_else(change: object) -> None:
    images = [scene(seed) for seed in range(24)]
    copies = [change(images[3]), change(images[7])]  # type: ignore[operator]
    splits = ["train"] * 12 + ["val"] * 12 + ["adv_test"] * 2
    assert sorted(found_among([*images, *copies], splits)) == [(3, 24), (7, 25)]


def test_copies_within_a_split_and_constant_images_are_left_alone() -> None:
    black = np.zeros((40, 40), np.float32)
    assert not found_among([scene(1), scene(1), black, black], ["train", "train", "train", "val"])
    assert perceptual_hash(np.full((32, 32), 7, np.uint8)) is None


def test_small_likeness_does_not_suffice() -> None:
    """Two pictures whose large shapes agree and whose detail does not: candidates, and no duplicates."""
    one, other = (scene(1, 0) + 0.02 * blobs(np.random.default_rng(seed), 2).astype(np.float32) for seed in (11, 12))
    first, second = (measure_image(image, None) for image in (one, other))
    assert int(first.hash ^ second.hash).bit_count() <= MAX_DISTANCE  # type: ignore[operator]
    assert correlations(first.small[None], second.small[None])[0] >= LEAST_ALIKE
    assert same_detail(one, one + np.float32(0.1)) == pytest.approx(1, abs=1e-4)
    assert same_detail(one, other) < 0.8
    assert not found_among([one, other], ["train", "val"])


def test_a_hash_by_hand() -> None:
    """A cosine of one period down the image is a single frequency; its negative turns that bit, not the constant's."""
    wave = np.cos(np.pi * 2 * (2 * np.arange(32) + 1) / 64)
    small = np.rint(127 + 100 * np.repeat(wave[:, None], 32, axis=1)).astype(np.uint8)
    bits = f"{perceptual_hash(small):064b}"
    assert bits[0] == "1" and bits[2 * 8] == "1"  # the constant, and the frequency 2 along the height
    inverse = f"{perceptual_hash(255 - small):064b}"
    assert inverse[0] == "1" and inverse[2 * 8] == "0"


def test_every_pair_is_compared_whatever_the_block() -> None:
    """Numbers that differ in exactly 10 and 11 bits of one, wherever they stand among random ones, 1,200 in all."""
    hashes = RNG.integers(0, 2**64, 1200, dtype=np.uint64)
    hashes[1190] = hashes[5] ^ np.uint64(0b1111111111)
    hashes[700] = hashes[600] ^ np.uint64(0b11111111111)
    small = np.repeat(RNG.integers(0, 255, (1, 32, 32), dtype=np.uint8), 1200, axis=0)
    splits = ["train", "val"] * 600
    splits[600], splits[700] = "train", "val"
    pairs, candidates = near_duplicates(hashes, small, splits, np.ones(1200, bool), lambda place: scene(1))
    expected = {
        (i, j)
        for i in range(1200)
        for j in range(i + 1, 1200)
        if int(hashes[i] ^ hashes[j]).bit_count() <= 10 and splits[i] != splits[j]
    }
    assert {(pair.one, pair.other) for pair in pairs} == expected and candidates == len(expected)
    assert (5, 1190) not in expected or splits[5] != splits[1190]


def test_tiny_images_have_to_be_the_same() -> None:
    """8 x 8 pixels of two different pictures of the same kind correlate by more than 0.8; a brighter copy by 1."""
    rng = np.random.default_rng(0)
    shape = np.clip(rng.normal(size=(8, 8)), 0, 1).astype(np.float32) * np.float32(0.8)
    similar = np.clip(shape + 0.08 * rng.normal(size=(8, 8)), 0, 1).astype(np.float32)
    assert 0.9 < same_detail(shape, similar) < 0.998
    assert found_among([shape, similar, shape + np.float32(0.1)], ["train", "val", "adv_test"]) == [(0, 2)]


@pytest.mark.slow
def test_fifty_thousand_images_take_less_than_a_minute() -> None:
    hashes = RNG.integers(0, 2**64, 50_000, dtype=np.uint64)
    small = RNG.integers(0, 255, (50_000, 32, 32), dtype=np.uint8)
    begun = time.monotonic()
    near_duplicates(hashes, small, ["train", "val"] * 25_000, np.ones(50_000, bool), lambda place: scene(place))
    assert time.monotonic() - begun < 60
