"""Near-duplicates: images of different splits that are the same picture, saved, scaled or brightened anew."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

SIDE = 32  # pixels of the small images that hashes are made of
LOW = 8  # frequencies along each side that a hash looks at
MAX_DISTANCE = 10  # bits of 64
LEAST_ALIKE = 0.98  # correlation of the small images
DETAIL = 128  # pixels of the images whose detail decides
FINE, COARSE = 1.0, 3.0  # pixels: detail is what one blur keeps and the other removes
LEAST_DETAIL = 0.8  # correlation of the detail: of X-rays, up to 0.64 for different ones, 0.94 and more for copies
TINY = 32  # pixels; two different images of a 1 in MNIST, 28 x 28, correlate by up to 0.995
LEAST_TINY = 0.998  # correlation of the detail of images that are smaller than that
ROWS, COLUMNS = 512, 8192  # hashes compared at a time
PAIRS = 65536  # small images compared at a time


class Twins(NamedTuple):
    """Two images that are nearly the same.

    Args:
        one: Place of the first image.
        other: Place of the second, in a later split.
        distance: Bits in which their perceptual hashes differ, 0 to 64.
        alike: Correlation of their detail, up to 1.
    """

    one: int
    other: int
    distance: int
    alike: float


def perceptual_hash(small: np.ndarray) -> int | None:
    """64 bits that change little when an image is saved, scaled or brightened anew (pHash, Zauner 2010).

    Each bit says whether one of the 8 x 8 lowest frequencies of the cosine transform lies above the median of all but
    the constant one.

    Args:
        small: Grey image, ``(SIDE, SIDE)`` uint8.

    Returns:
        The bits as a number; None for an image of a single grey.
    """
    if small.max() == small.min():
        return None
    low = cv2.dct(small.astype(np.float32))[:LOW, :LOW].ravel()
    return int.from_bytes(np.packbits(low > np.median(low[1:])).tobytes(), "big")


def near_duplicates(
    hashes: np.ndarray, small: np.ndarray, splits: Sequence[str], usable: np.ndarray, grey: Callable[[int], np.ndarray]
) -> tuple[list[Twins], int]:
    """Pairs of images of different splits that are nearly the same.

    Candidates are pairs whose perceptual hashes differ in at most `MAX_DISTANCE` bits. Of these the small images have
    to correlate by `LEAST_ALIKE`, and then the detail of larger ones by `LEAST_DETAIL`: different X-rays look alike
    when they are small, and differ in their detail. A correlation leaves brightness and contrast out of account.
    Images that were cropped, turned or mirrored are not found. Images below `TINY` pixels have little detail: theirs
    has to correlate by `LEAST_TINY`, which a copy that was saved with losses may fail.

    Args:
        hashes: Perceptual hashes, ``(N,)`` uint64.
        small: Grey images, ``(N, SIDE, SIDE)`` uint8.
        splits: Split of each image; images of one split are not compared.
        usable: Whether an image has a hash, ``(N,)``.
        grey: Reads the image at a place, ``(H, W)`` float32 in [0, 1].

    Returns:
        The pairs, the most alike first; and the number of candidates.
    """
    numbers = np.unique(np.asarray(splits), return_inverse=True)[1]
    kept: list[tuple[int, int, int]] = []
    candidates = 0
    for one, other, distance in _close(hashes, numbers, usable):
        candidates += len(one)
        for start in range(0, len(one), PAIRS):
            part = slice(start, start + PAIRS)
            alike = correlations(small[one[part]], small[other[part]]) >= LEAST_ALIKE
            columns = (values[part][alike].tolist() for values in (one, other, distance))
            kept += zip(*columns, strict=True)
    read = lru_cache(maxsize=4096)(grey)
    found = []
    for here, there, bits in sorted(kept):  # neighbours share an image
        first, second = read(here), read(there)
        detail = same_detail(first, second)
        if detail >= (LEAST_TINY if min(*first.shape, *second.shape) < TINY else LEAST_DETAIL):
            found.append(Twins(here, there, bits, detail))
    return sorted(found, key=lambda pair: (-pair.alike, pair.one, pair.other)), candidates


def correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation of N pairs of images, ``(N, H, W)`` each; 0 where one of them is constant."""
    first, second = (images.reshape(len(images), -1).astype(np.float32) for images in (one, other))
    first, second = (values - values.mean(axis=1, keepdims=True) for values in (first, second))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    products = np.einsum("np,np->n", first, second)
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)


def same_detail(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of the detail of two images of any size, up to 1.

    Both are squashed to a square that is no larger than the smaller of them; detail is the difference of two blurs.
    """
    side = min(DETAIL, *one.shape, *other.shape)
    details = []
    for image in (one, other):
        square = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
        details.append(cv2.GaussianBlur(square, (0, 0), FINE) - cv2.GaussianBlur(square, (0, 0), COARSE))
    return float(correlations(details[0][None], details[1][None])[0])


def _close(
    hashes: np.ndarray, splits: np.ndarray, usable: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Places of pairs of different splits whose hashes are close, the lower place first, and their distances."""
    places = np.flatnonzero(usable)
    hashes, splits = hashes[places], splits[places]
    for top in range(0, len(hashes), ROWS):
        rows = hashes[top : top + ROWS, None]
        for left in range(top, len(hashes), COLUMNS):
            distances = np.bitwise_count(rows ^ hashes[None, left : left + COLUMNS])
            row, column = np.nonzero(distances <= MAX_DISTANCE)
            one, other = row + top, column + left
            wanted = (one < other) & (splits[one] != splits[other])
            yield places[one[wanted]], places[other[wanted]], distances[row, column][wanted]
