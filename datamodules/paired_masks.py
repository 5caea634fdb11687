"""Datasets of a folder of images beside a folder of masks with the same names."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.images import read_image
from datamodules.samples import Sample
from datamodules.segmentation import SegmentationDataModule
from datamodules.tables import SUFFIXES, ImageFiles

LOSSY = (".jpg", ".jpeg")
UNCLEAR = (0.25, 0.75)  # greys that a saved mask has at its edges alone
MOST_UNCLEAR = 0.1  # share of the pixels


class BinaryMasks(SegmentationDataModule):
    """Images in which something is marked: masks of 0 and 255, or of 0 and 1.

    Masks that were saved as JPEG hold other greys at their edges; in these, what is brighter than half is marked.
    """

    mask_values: ClassVar[Mapping[int, int] | None] = {0: 0, 1: 1, 255: 1}

    def read_mask(self, sample: Sample[Path]) -> np.ndarray:
        """The mask of a sample, ``(H, W)`` integers, 0 and 1 by default.

        Raises:
            ValueError: The file cannot be read, holds another value, or is a JPEG of more than black and white.
        """
        if sample.target.suffix.lower() not in LOSSY:
            return super().read_mask(sample)
        if len(self.class_names) > 2:
            names = ", ".join(self.class_names)
            raise ValueError(
                f"{sample.target}: expected a file without loss, such as PNG, for a mask of {names}, got a JPEG"
            )
        grey = read_image(sample.target, 1)[:, :, 0]
        unclear = float(((grey > UNCLEAR[0]) & (grey < UNCLEAR[1])).mean())
        if unclear > MOST_UNCLEAR:
            raise ValueError(
                f"{sample.target}: expected a black and white mask, got one of which {100 * unclear:.0f} % is grey"
            )
        return (grey >= 0.5).astype(np.int32)


class PairedMasks(BinaryMasks):
    """A folder of images and a folder of masks; a mask has the name of its image, with any suffix.

    Attributes:
        image_folders: Names that the folder of images may have; the first that exists is taken.
        mask_folder: Name of the folder of masks.
        suffixes: Suffixes of images and masks, in lower case.
    """

    image_folders: ClassVar[tuple[str, ...]]
    mask_folder: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES

    def patient_of(self, stem: str) -> str:
        """The patient of an image by its name without suffix; by default each image is of another one."""
        return stem

    def index(self) -> list[Sample[Path]]:
        """All images with their masks, sorted by id; no image is read.

        Raises:
            FileNotFoundError: A folder does not exist.
            ValueError: An image has no mask, or a name is there twice; the message names the file.
        """
        root = self.root.absolute()
        images = next((root / name for name in self.image_folders if (root / name).is_dir()), None)
        if images is None or not (root / self.mask_folder).is_dir():
            missing = " or ".join(self.image_folders) if images is None else self.mask_folder
            raise FileNotFoundError(
                f"{root}: expected images in {' or '.join(self.image_folders)} and their masks in {self.mask_folder}, "
                f"found {f'no folder {missing}' if root.is_dir() else 'no folder'}"
            )
        pictures, masks = (ImageFiles(root, [folder], self.suffixes) for folder in (images, root / self.mask_folder))
        samples = []
        for stem, id in sorted(pictures.ids.items(), key=lambda item: item[1]):
            try:
                pictures.find(stem)
            except ValueError as error:
                self.refuse_row(id, f"{root / id}: {error}")
                continue
            try:
                mask = masks.find(stem)
            except ValueError as error:
                self.refuse_row(id, f"{root / id}: {str(error).replace('image', 'mask', 1)}")
                continue
            samples.append(Sample(root / id, id, root / mask, self.patient_of(stem)))
        tell_unused(root, [id for stem, id in masks.ids.items() if stem not in pictures.ids])
        return samples


def tell_unused(root: Path, masks: list[str]) -> None:
    """Warn of masks without an image."""
    if masks:
        are = "mask" if len(masks) == 1 else "masks"
        rank_zero_warn(f"{root}: left out {len(masks)} {are} without an image, first {min(masks)}")
