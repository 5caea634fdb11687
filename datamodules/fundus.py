"""Fundus photographs graded for diabetic retinopathy: APTOS 2019 and the Kaggle set of EyePACS."""

import os
import re
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from datamodules.classification import ClassificationDataModule
from datamodules.samples import Sample
from datamodules.tables import SUFFIXES, Columns, ImageFiles, Labelled, Row, read_table, samples_of_rows

Grading = Literal["five", "any", "referable"]

GRADES = ("No DR", "Mild", "Moderate", "Severe", "Proliferative DR")
CLASSES = {"five": GRADES, "any": ("No DR", "DR"), "referable": ("No referable DR", "Referable DR")}
LEAST = {"any": 1, "referable": 2}  # the first grade that counts as diseased

_EYE = re.compile(r"(.+)_(?:left|right)", re.IGNORECASE)
_WHOLE = re.compile(r"\d+(?:\.0*)?")


class FundusDataModule(ClassificationDataModule):
    """Fundus photographs with a grade of diabetic retinopathy from 0 to 4 in a CSV file.

    Args:
        root: Folder of the dataset.
        grading: ``five`` for the grades 0 to 4 (International Clinical Diabetic Retinopathy scale), which are ordered;
            ``any`` for no retinopathy against any (grade 1 and above); ``referable`` for grade 2 and above.
        table: CSV file with the grades, relative to the root; None for the public one.
        images: Folder with the images, relative to the root; None for the public one.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    public_table: str
    public_images: str
    columns: ClassVar[Columns]

    def __init__(
        self,
        root: str | Path,
        grading: Grading = "five",
        table: str | None = None,
        images: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if grading not in get_args(Grading):
            raise ValueError(f"grading is one of {', '.join(get_args(Grading))}, got {grading!r}")
        self.grading = grading
        self.table = table or self.public_table
        self.images = images or self.public_images
        self.class_names = CLASSES[grading]
        self.ordered = grading == "five"

    def index(self) -> list[Sample[int]]:
        """All samples that the table names, sorted by id; no image is read.

        Raises:
            FileNotFoundError: The table or the folder of images does not exist.
            ValueError: The table has a wrong row; the message names the file and the row.
        """
        root = self.root.absolute()
        for path in (root / self.table, root / self.images):
            if not path.exists():
                found = f"no {path.name}" if root.is_dir() else "no folder"
                raise FileNotFoundError(
                    f"{root}: expected fundus photographs as {self.table} and {self.images}/*, found {found}"
                )
        rows = read_table(root / self.table, self.columns, refuse=self.refuse_row)
        return samples_of_rows(rows, ImageFiles(root, [root / self.images]), self._label, self.refuse_row)

    def target_settings(self) -> list[Any]:
        """The names of the classes."""
        return [list(self.class_names)]

    def patient_of(self, name: str) -> str | None:
        """The patient that the name of an image states; None if it states none."""
        return None

    def _label(self, row: Row) -> Labelled[int]:
        """Class and patient."""
        text = row.cells["grade"]
        grade = int(float(text)) if _WHOLE.fullmatch(text) else -1
        if not 0 <= grade < len(GRADES):
            raise ValueError(
                f"expected a grade from 0 to {len(GRADES) - 1} in {self.columns['grade'][0]}, got {text!r}"
            )
        target = grade if self.grading == "five" else int(grade >= LEAST[self.grading])
        return Labelled(target, self.patient_of(row.cells["image"]))


class APTOS(FundusDataModule):
    """Fundus photographs of APTOS 2019 (3,662 with a grade) in the public layout ``train.csv``, ``train_images/*.png``.

    The table has the columns ``id_code`` and ``diagnosis``. It names no patient, so that each image counts as one; the
    set holds a number of images twice, of which only the first is used if they are in different splits.

    Args:
        root: Folder of the dataset.
        grading: ``five`` for the grades 0 to 4, ``any`` for grade 1 and above against 0, ``referable`` for grade 2 and
            above.
        table: CSV file with the grades, relative to the root; None for ``train.csv``.
        images: Folder with the images, relative to the root; None for ``train_images``.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "aptos"
    public_table, public_images = "train.csv", "train_images"
    columns: ClassVar[Columns] = {"image": ("id_code",), "grade": ("diagnosis",)}


class KaggleDR(FundusDataModule):
    """Fundus photographs of EyePACS (35,126 with a grade) in the public layout ``trainLabels.csv``, ``train/*.jpeg``.

    The table has the columns ``image`` and ``level``. Images are called ``PATIENT_left`` and ``PATIENT_right``: both
    eyes of a patient are in the same split.

    Args:
        root: Folder of the dataset.
        grading: ``five`` for the grades 0 to 4, ``any`` for grade 1 and above against 0, ``referable`` for grade 2 and
            above.
        table: CSV file with the grades, relative to the root; None for ``trainLabels.csv``.
        images: Folder with the images, relative to the root; None for ``train``.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "kaggle_dr"
    public_table, public_images = "trainLabels.csv", "train"
    columns: ClassVar[Columns] = {"image": ("image",), "grade": ("level",)}

    def patient_of(self, name: str) -> str | None:
        """The part of the name before ``_left`` or ``_right``.

        >>> KaggleDR("data").patient_of("10_left")
        '10'
        """
        stem, suffix = os.path.splitext(name)  # a patient's name may have a dot, too
        match = _EYE.fullmatch(stem if suffix.lower() in SUFFIXES else name)
        return match[1] if match else None
