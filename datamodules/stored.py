"""Datasets whose images lie in arrays, many in a file, instead of in a file each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.base import MedicalDataModule
from datamodules.samples import Sample, Target


class StoredImages(MedicalDataModule[Target]):
    """A dataset whose ids end in the place of the image in an array: ``ARRAY/00017``.

    `index` reads the arrays and keeps them (`keep_array`); processes that load images share them where processes are
    forked, as on Linux. What is published about an image is its place alone, so that each image counts as a patient.

    Args:
        root: Folder of the dataset.
        **kwargs: As `MedicalDataModule`.
    """

    def __init__(self, root: str | Path, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self._arrays: dict[str, np.ndarray] = {}

    def stored(self, sample: Sample[Target]) -> np.ndarray | None:
        """The pixels of a sample as its array holds them; None if it has a file of its own."""
        array, _, place = sample.id.rpartition("/")
        return self._arrays[array][int(place)] if array in self._arrays else None

    def keep_array(self, name: str, images: np.ndarray, file: Path) -> Iterator[tuple[str, int]]:
        """Keep an array of images, and give the id and the place of each.

        Args:
            name: What the ids begin with.
            images: ``(N, H, W)`` or ``(N, H, W, 3)``: uint8, uint16, or floating-point numbers in [0, 1].
            file: Where it comes from, for the error.

        Raises:
            ValueError: The array has another shape or type, or no image.
        """
        grey_or_colour = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)
        if not grey_or_colour or images.dtype not in (np.uint8, np.uint16, np.float32) or not len(images):
            expected = "images (N, H, W) or (N, H, W, 3) of 8 or 16 bits"
            raise ValueError(f"{file}: expected {expected} in {name}, got {images.dtype} {images.shape}")
        self._arrays[name] = images
        digits = max(5, len(str(len(images) - 1)))
        return ((f"{name}/{place:0{digits}d}", place) for place in range(len(images)))
