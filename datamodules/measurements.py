"""What can be measured of an image without knowing what it shows: its size, its file and plain statistics."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from datamodules.base import MedicalDataModule
from datamodules.near_duplicates import SIDE, perceptual_hash
from datamodules.samples import Sample

MARGIN = 0.03  # share of the short side that counts as the border
BLACK = 5 / 255  # below it a pixel is black: JPEG turns 0 into a few grey levels
THREADS = 8
BLOCK = 1024  # images that wait for a thread at a time: bounds the memory

FEATURES = {
    "bytes per pixel": "size of the file in bytes, divided by the number of pixels: how hard it was compressed",
    "sharpness": f"variance of the Laplacian of the grey image (grey levels 0 to 255) at the size of its file, without "
    f"a border of {100 * MARGIN:.0f} % of the short side, where frames and markers make edges of their own",
    "aspect ratio": "width divided by height",
    "black border": f"share of black pixels (below {255 * BLACK:.0f} of 255) in the border, {100 * MARGIN:.0f} % of "
    "the short side wide",
    "mean grey": "mean of the grey image, from 0 to 1",
}


class Measured(NamedTuple):
    """What was measured of one image.

    Args:
        width: Of the image as its file holds it, upright, in pixels.
        height: The same.
        features: A number for each of `FEATURES`, NaN where there is none.
        small: Grey image of `SIDE` x `SIDE` pixels, uint8.
        hash: Its perceptual hash; None for an image without any structure.
        pixels: Number of pixels of each label of its mask; none without a mask.
    """

    width: int
    height: int
    features: tuple[float, ...]
    small: np.ndarray
    hash: int | None
    pixels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Measurements:
    """What was measured of N images, in the order of the splits.

    Args:
        samples: The samples.
        splits: Name of the split of each.
        widths: In pixels, ``(N,)``.
        heights: In pixels, ``(N,)``.
        features: For each of `FEATURES` a number per image, ``(N,)`` float64, NaN where there is none.
        small: Grey images, ``(N, SIDE, SIDE)`` uint8.
        hashes: Perceptual hashes, ``(N,)`` uint64.
        structured: Whether an image has a perceptual hash, ``(N,)``.
        pixels: Number of pixels of each of the K labels in the masks, ``(N, K)``; None without masks.
    """

    samples: Sequence[Sample[Any]]
    splits: Sequence[str]
    widths: np.ndarray
    heights: np.ndarray
    features: dict[str, np.ndarray]
    small: np.ndarray
    hashes: np.ndarray
    structured: np.ndarray
    pixels: np.ndarray | None = None


def measure(data: MedicalDataModule[Any], measured: Callable[[int], Any] = lambda count: None) -> Measurements:
    """Measure every image of every split, once, with several threads.

    Args:
        data: The data, after `setup`.
        measured: Called with the number of images that have been measured since its last call.

    Raises:
        ValueError: A file cannot be read; the message names it.
    """
    pairs = [(split, sample) for split, members in data.splits.items() for sample in members]
    samples = [sample for _, sample in pairs]
    shared = Counter(sample.path for sample in samples)  # the size of a file of many images tells nothing of one

    def one(sample: Sample[Any]) -> Measured:
        own = shared[sample.path] == 1 and sample.path.is_file()
        scene = data.read_checked(sample)
        measured = measure_image(_grey(scene.image), sample.path.stat().st_size if own else None)
        if scene.mask is None:
            return measured
        labels = scene.mask[scene.mask >= 0]
        return measured._replace(pixels=tuple(np.bincount(labels, minlength=data.num_classes).tolist()))

    in_order = sorted(range(len(samples)), key=lambda place: samples[place].id)  # a file of many is read once
    measurements: dict[int, Measured] = {}
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        for start in range(0, len(samples), BLOCK):
            block = in_order[start : start + BLOCK]
            measurements.update(zip(block, threads.map(one, [samples[place] for place in block]), strict=True))
            measured(len(block))
    found = [measurements[place] for place in range(len(samples))]
    table = np.array([row.features for row in found], dtype=np.float64).reshape(len(found), len(FEATURES))
    return Measurements(
        samples,
        [split for split, _ in pairs],
        np.array([row.width for row in found]),
        np.array([row.height for row in found]),
        dict(zip(FEATURES, table.T, strict=True)),
        np.array([row.small for row in found], dtype=np.uint8).reshape(len(found), SIDE, SIDE),
        np.array([row.hash or 0 for row in found], dtype=np.uint64),
        np.array([row.hash is not None for row in found], dtype=bool),
        np.array([row.pixels for row in found], dtype=np.int64) if found and found[0].pixels else None,
    )


def grey_of(data: MedicalDataModule[Any], sample: Sample[Any]) -> np.ndarray:
    """The image of a sample as its file holds it, in grey: ``(H, W)`` float32 in [0, 1]."""
    return _grey(data.read_checked(sample).image)


def _grey(image: np.ndarray) -> np.ndarray:
    return image[:, :, 0] if image.shape[2] == 1 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def measure_image(grey: np.ndarray, size: int | None) -> Measured:
    """Measure one image.

    Args:
        grey: ``(H, W)`` float32 in [0, 1], at least 2 x 2.
        size: Size of its file in bytes; None if it has none of its own.
    """
    height, width = grey.shape
    edge = max(1, round(MARGIN * min(height, width)))
    inside = np.zeros(grey.shape, bool)
    inside[edge : height - edge, edge : width - edge] = True
    laplacian = cv2.Laplacian(np.ascontiguousarray(grey, dtype=np.float32), cv2.CV_32F) * 255
    features = (
        np.nan if size is None else size / (height * width),
        float(laplacian[inside].var(dtype=np.float64)) if inside.any() else np.nan,
        width / height,
        float((grey[~inside] < BLACK).mean()),
        float(grey.mean(dtype=np.float64)),
    )
    small = np.rint(255 * shrunk(grey, SIDE, SIDE)).clip(0, 255).astype(np.uint8)
    return Measured(width, height, features, small, perceptual_hash(small))


def shrunk(grey: np.ndarray, width: int, height: int) -> np.ndarray:
    """A grey image of another size and aspect; each pixel is the mean of what it covers, where there are fewer."""
    fewer = width <= grey.shape[1] and height <= grey.shape[0]
    return np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA if fewer else cv2.INTER_LINEAR))
