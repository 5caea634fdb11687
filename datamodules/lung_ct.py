"""Finding lungs in CT (Mader, Kaggle 2017): single slices of the chest with masks of the lungs."""

import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from datamodules.images import read_image
from datamodules.paired_masks import PairedMasks
from datamodules.samples import Sample
from datamodules.tables import SUFFIXES
from datamodules.transforms import Scene
from datamodules.volumes import checked_window, windowed

TIFF = (".tif", ".tiff")
UNITS = ("I", "F", "I;16S", "I;16BS")  # Pillow's names of signed or floating-point pixels
_NUMBERED = re.compile(r"(ID_\d+)_Z_\d+")


class LungCT(PairedMasks):
    """Finding lungs in CT (Mader, Kaggle 2017): axial slices with masks of both lungs.

    The public layout is ``2d_images/*`` and ``2d_masks/*`` with equal names, TIFF or PNG. TIFF images of signed or
    floating-point numbers hold Hounsfield units, of which a window becomes the greys; the others hold greys. The masks
    are of 0 and 255, or of 0 and 1. Images ``ID_0000_Z_0142`` of the same ``ID`` share a split; whose the others are is
    not known, and each counts as a patient.

    Args:
        root: Folder of the dataset.
        window: Hounsfield units that become 0 and 1.
        image_size: Side of the square images, in pixels.
        channels: 1 for grey, or 3 for networks that expect RGB.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "lung_ct"
    class_names = ("background", "lung")
    image_folders: ClassVar[tuple[str, ...]] = ("2d_images",)
    mask_folder: ClassVar[str] = "2d_masks"
    suffixes: ClassVar[tuple[str, ...]] = (*SUFFIXES, *TIFF)

    def __init__(
        self,
        root: str | Path,
        window: tuple[float, float] = (-1250.0, 250.0),
        image_size: int = 224,
        channels: Literal[1, 3] = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size=image_size, channels=channels, **kwargs)
        self.window = checked_window(window)

    def patient_of(self, stem: str) -> str:
        """The number of the scan, where the name states it."""
        numbered = _NUMBERED.fullmatch(stem)
        return numbered.group(1) if numbered else stem

    def read(self, sample: Sample[Path]) -> Scene:
        """A slice and its mask.

        Raises:
            ValueError: A file cannot be read or holds an unknown value; the message names it.
        """
        values = _hounsfield_units(sample.path) if sample.path.suffix.lower() in TIFF else None
        if values is None:
            image = read_image(sample.path, self.channels)
        else:
            image = np.repeat(windowed(values, self.window).astype(np.float32)[:, :, None], self.channels, axis=2)
        return Scene(image, mask=self.read_mask(sample))

    def target_settings(self) -> list[Any]:
        """The names of the labels, the values that stand for them, and the window."""
        return [*super().target_settings(), list(self.window)]

    def describe(self) -> dict[str, Any]:
        """Description of the data, ready for JSON, with the window."""
        return super().describe() | {"window": list(self.window)}

    def _identity(self) -> str:
        """All that decides how files are read."""
        return f"{super()._identity()} {self.window}"


def _hounsfield_units(path: Path) -> np.ndarray | None:
    """The values of a TIFF file ``(H, W)`` float32; None if they are not Hounsfield units, or no file is there.

    Raises:
        ValueError: The file is damaged, or a value is not finite.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in UNITS:
                return None
            values = np.asarray(image, np.float32)
    except (OSError, ValueError, SyntaxError) as error:
        if not path.is_file():
            return None  # what reads greys says so
        raise ValueError(f"{path}: expected a slice in Hounsfield units, got a damaged file ({error})") from None
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: expected finite Hounsfield units, got {values[~np.isfinite(values)][0]}")
    return values
