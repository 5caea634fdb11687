"""Datasets of segmentation: a mask for each image, with a label for each pixel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from datamodules.base import MedicalDataModule
from datamodules.images import read_image, read_mask
from datamodules.samples import Sample
from datamodules.transforms import Scene


class SegmentationDataModule(MedicalDataModule[Path]):
    """Images in which each pixel has one of K labels; a sample's target is the path of its mask.

    In a batch, ``target`` is int64 ``(N, H, W)``: labels in ``[0, K)``, or a negative number where a pixel is to be
    ignored, such as those that ``resize: pad`` adds. Masks move along with their images; each pixel takes the nearest
    label. Since nobody knows the labels of an image before its mask is read, all images belong to one stratum unless
    `index` assigns others, such as the kind of scanner.

    ``class_names`` names the labels from 0 on. If the files hold other values, such as 255 for an organ,
    ``mask_values`` maps them to labels.
    """

    task: ClassVar[str] = "segmentation"
    mask_values: ClassVar[Mapping[int, int] | None] = None  # the label of each value; None if the values are labels

    def read(self, sample: Sample[Path]) -> Scene:
        """The image of a sample and its mask.

        Raises:
            ValueError: A file cannot be read or holds an unknown value; the message names it.
        """
        return Scene(read_image(sample.path, self.channels), mask=self.read_mask(sample))

    def read_mask(self, sample: Sample[Path]) -> np.ndarray:
        """The mask of a sample, ``(H, W)`` integers, read from an image file; datasets in other formats override this.

        Raises:
            ValueError: The file cannot be read or holds a value that ``mask_values`` does not name.
        """
        values = read_mask(sample.target)
        if self.mask_values is None:
            return values
        known = sorted(self.mask_values)
        if strange := sorted(set(np.unique(values).tolist()) - set(known)):
            expected = ", ".join(map(str, known))
            raise ValueError(f"{sample.target}: expected a mask of the values {expected}, got {strange[0]}")
        return np.array([self.mask_values[value] for value in known], np.int32)[np.searchsorted(known, values)]

    def check(self, sample: Sample[Path], scene: Scene) -> None:
        """Refuse a mask whose size differs from its image's, and labels without a name.

        Raises:
            ValueError: The mask is wrong; the message names its file.
        """
        file = sample.target if isinstance(sample.target, Path) else sample.id
        if scene.mask is None:
            raise ValueError(f"{file}: expected a mask, got an image alone")
        height, width = scene.image.shape[:2]
        if scene.mask.shape != (height, width):
            got = " x ".join(map(str, scene.mask.shape[::-1]))
            raise ValueError(f"{file}: expected a mask of {width} x {height} pixels as its image, got {got}")
        if (largest := int(scene.mask.max())) >= self.num_classes:
            names = ", ".join(self.class_names)
            raise ValueError(
                f"{file}: expected labels from 0 to {self.num_classes - 1} ({names}) or negative ones to ignore, "
                f"got {largest}"
            )

    def target_of(self, sample: Sample[Path], scene: Scene) -> Tensor:
        """The transformed mask, int64 ``(H, W)``."""
        assert scene.mask is not None  # `check` has refused the others
        return torch.from_numpy(scene.mask.astype(np.int64, order="C"))

    def target_settings(self) -> list[Any]:
        """The names of the labels and the values that stand for them."""
        values = None if self.mask_values is None else sorted(self.mask_values.items())
        return [list(self.class_names), values]
