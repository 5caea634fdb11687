"""HAM10000 as boxes: the smallest box around each lesion's mask, with one class, two or seven."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from datamodules.boxes import BoxDataModule
from datamodules.dermoscopy import BINARY, DIAGNOSES, HAM10000, MALIGNANT
from datamodules.images import read_mask
from datamodules.samples import Sample

BoxClasses = Literal["lesion", "seven", "malignant"]

CLASS_NAMES = {"lesion": ("lesion",), "seven": DIAGNOSES, "malignant": BINARY}
MASKS = "HAM10000_segmentations_lesion_tschandl"


class HAM10000Boxes(BoxDataModule):
    """HAM10000's lesions as boxes: of each image, the smallest box around the lesion's mask.

    The public layout is that of `HAM10000` and
    ``HAM10000_segmentations_lesion_tschandl/*_segmentation.png``, masks with 0 where there is no lesion. Splits are by
    lesion, of which many have several images, and stratified by diagnosis.

    Args:
        root: Folder of the dataset.
        classes: ``lesion`` for a single class, ``seven`` for the diagnoses akiec, bcc, bkl, df, mel, nv and vasc,
            ``malignant`` for mel, bcc and akiec against the others.
        **kwargs: As `BoxDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "ham10000_boxes"

    def __init__(self, root: str | Path, classes: BoxClasses = "lesion", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        if classes not in get_args(BoxClasses):
            raise ValueError(f"classes is one of {', '.join(get_args(BoxClasses))}, got {classes!r}")
        self.classes = classes
        self.class_names = CLASS_NAMES[classes]

    def index(self) -> list[Sample[int]]:
        """All samples that the table names, sorted by id; no image is read.

        A sample's target is the place of its diagnosis in `DIAGNOSES`.

        Raises:
            FileNotFoundError: The table or a folder does not exist.
            ValueError: The table has a wrong row, or an image has no mask; the message names the file.
        """
        root = self.root.absolute()
        table = HAM10000(self.root, on_bad_sample=self.on_bad_sample)
        samples = table.index()
        self.bad_rows += table.bad_rows
        if not (root / MASKS).is_dir():
            raise FileNotFoundError(f"{root}: expected the lesions' masks as {MASKS}/*_segmentation.png, found none")
        good = []
        for sample in samples:
            if (mask := self._mask(sample)).is_file():
                good.append(sample)
            else:
                self.refuse_row(sample.id, f"{mask}: expected the mask of {sample.id}, found no file")
        return good

    def stratum_of(self, sample: Sample[int]) -> str:
        """The diagnosis."""
        return DIAGNOSES[sample.target]

    def labels_of(self, sample: Sample[int]) -> Sequence[int]:
        """The class of the only box."""
        code = DIAGNOSES[sample.target]
        return [{"lesion": 0, "seven": sample.target, "malignant": int(code in MALIGNANT)}[self.classes]]

    def read_boxes(self, sample: Sample[int], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The box around a lesion's mask.

        Raises:
            ValueError: The mask cannot be read, has another size than its image or holds no lesion; the message names
                its file.
        """
        path = self._mask(sample)
        mask = read_mask(path)
        if mask.shape != (height, width):
            got = " x ".join(map(str, mask.shape[::-1]))
            raise ValueError(f"{path}: expected a mask of {width} x {height} pixels as its image, got {got}")
        rows, columns = (np.flatnonzero((mask > 0).any(axis)) for axis in (1, 0))
        if not len(rows):
            raise ValueError(f"{path}: expected the mask of a lesion, got one that is 0 everywhere")
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        return np.array([box], np.float64), np.array(self.labels_of(sample), np.int64)

    def files_of(self, sample: Sample[int]) -> list[Path]:
        """The image and the mask."""
        return [sample.path, self._mask(sample)]

    def written(self, sample: Sample[int]) -> str:
        """The diagnosis."""
        return DIAGNOSES[sample.target]

    def _mask(self, sample: Sample[int]) -> Path:
        return self.root.absolute() / MASKS / f"{sample.path.stem}_segmentation.png"
