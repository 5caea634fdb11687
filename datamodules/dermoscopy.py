"""Dermoscopy: HAM10000 with its seven diagnoses, and tables of the ISIC archive and challenges."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from datamodules.classification import ClassificationDataModule
from datamodules.samples import Sample
from datamodules.tables import Columns, ImageFiles, Labelled, Row, has_columns, read_table, samples_of_rows

Classes = Literal["seven", "malignant"]

DIAGNOSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
MALIGNANT = ("mel", "bcc", "akiec", "scc")
BINARY = ("benign", "malignant")

IMAGE = ("image_id", "isic_id", "image_name", "image")
GROUPS: Columns = {"lesion": ("lesion_id",), "patient": ("patient_id",)}
DX: Columns = {"dx": ("dx",)}
STATED: Columns = {"stated": ("benign_malignant", "diagnosis_1", "target")}
ONE_HOT: Columns = {code: (code, "ak") if code == "akiec" else (code,) for code in DIAGNOSES}
_STATED = {"benign": 0, "0": 0, "0.0": 0, "malignant": 1, "1": 1, "1.0": 1}

_HAM_TABLES = ("HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab")
_HAM_IMAGES = "HAM10000_images_part_*"


class DermoscopyDataModule(ClassificationDataModule):
    """Photographs of skin lesions through a dermatoscope; all images of a lesion, or of a patient, share a split.

    Args:
        root: Folder of the dataset.
        classes: ``seven`` for the diagnoses akiec, bcc, bkl, df, mel, nv and vasc, ``malignant`` for mel, bcc and akiec
            (and scc, where a table has it) against the others.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    def __init__(self, root: str | Path, classes: Classes = "seven", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        if classes not in get_args(Classes):
            raise ValueError(f"classes is one of {', '.join(get_args(Classes))}, got {classes!r}")
        self.classes = classes
        self.class_names = DIAGNOSES if classes == "seven" else BINARY

    def target_settings(self) -> list[Any]:
        """The names of the classes."""
        return [list(self.class_names)]

    def class_of(self, code: str) -> int:
        """The class of a diagnosis, given as in HAM10000's column ``dx``."""
        return DIAGNOSES.index(code) if self.classes == "seven" else int(code in MALIGNANT)


class HAM10000(DermoscopyDataModule):
    """HAM10000 (Tschandl et al., Scientific Data 2018): 10,015 images of 7,470 skin lesions in seven classes.

    The public layout is ``HAM10000_metadata.csv`` with the columns ``lesion_id``, ``image_id`` and ``dx``, and
    ``HAM10000_images_part_{1,2}/*.jpg``. Splits are by lesion, of which many have several images.

    Args:
        root: Folder of the dataset.
        classes: ``seven`` for the diagnoses akiec, bcc, bkl, df, mel, nv and vasc, ``malignant`` for mel, bcc and akiec
            against the others.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "ham10000"

    def index(self) -> list[Sample[int]]:
        """All samples that the table names, sorted by id; no image is read.

        Raises:
            FileNotFoundError: The table or the folders of images do not exist.
            ValueError: The table has a wrong row; the message names the file and the row.
        """
        root = self.root.absolute()
        table, folders = ham_table_and_images(root)
        rows = read_table(table, {"image": ("image_id",), "lesion": ("lesion_id",), **DX}, refuse=self.refuse_row)
        return samples_of_rows(rows, ImageFiles(root, folders), self._label, self.refuse_row)

    def _label(self, row: Row) -> Labelled[int]:
        """Class and lesion."""
        return Labelled(self.class_of(diagnosis_of(row)), row.cells["lesion"])


class ISIC(DermoscopyDataModule):
    """Dermoscopy in the layouts of the ISIC archive and of its challenges: a CSV file beside folders of images.

    The column of images is ``isic_id``, ``image_name``, ``image_id`` or ``image``. Labels are, in this order,
    ``benign_malignant``, ``diagnosis_1`` or ``target`` (0 and 1) if the classes are benign and malignant; ``dx`` as in
    HAM10000; or one column of 0 and 1 for each diagnosis, as in the challenges of 2018 and 2019 (``MEL``, ``NV``,
    ``BCC``, ``AKIEC`` or ``AK``, ``BKL``, ``DF``, ``VASC``, and ``SCC``, which is malignant and not among the seven).
    Splits are by ``patient_id`` where the table has it, otherwise by ``lesion_id``, in this or a second table;
    an image with neither counts as a patient.

    Args:
        root: Folder of the dataset.
        classes: ``malignant`` for benign and malignant, ``seven`` for the diagnoses akiec, bcc, bkl, df, mel, nv and
            vasc.
        table: CSV file with the labels, relative to the root; None for the only one that has such columns.
        images: Folder with the images, relative to the root; None for the root itself.
        lesions: CSV file with the columns ``image`` and ``lesion_id``, relative to the root, such as
            ``ISIC2018_Task3_Training_LesionGroupings.csv``; None if there is none.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "isic"

    def __init__(
        self,
        root: str | Path,
        classes: Classes = "malignant",
        table: str | None = None,
        images: str | None = None,
        lesions: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, classes, **kwargs)
        self.table, self.images, self.lesions = table, images, lesions

    def index(self) -> list[Sample[int]]:
        """All samples that the table names, sorted by id; no image is read.

        Raises:
            FileNotFoundError: The root, a table or the folder of images does not exist.
            ValueError: No table has the columns, several have, or a row is wrong; the message names the file.
        """
        root = self.root.absolute()
        folder = root / self.images if self.images else root
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: expected dermoscopy as a CSV file and images, found no folder")
        table = root / self.table if self.table else self._only_table(root)
        labels = next((one for one in self._forms() if has_columns(table, one)), self._forms()[0])
        rows = read_table(table, {"image": IMAGE, **labels}, {**GROUPS, "scc": ("scc",)}, self.refuse_row)
        images = ImageFiles(root, [folder])
        label = partial(self._label, groups=self._groups(rows, root, images.stem), stem=images.stem)
        return samples_of_rows(rows, images, label, self.refuse_row)

    def _forms(self) -> list[Columns]:
        """The columns that may state a class, the most explicit first."""
        return [STATED, DX, ONE_HOT] if self.classes == "malignant" else [DX, ONE_HOT]

    def _only_table(self, root: Path) -> Path:
        """The table with the labels."""
        files = sorted([*root.glob("*.csv"), *root.glob("*/*.csv")])
        found = [path for path in files if any(has_columns(path, {"image": IMAGE, **form}) for form in self._forms())]
        if len(found) != 1:
            names = ", ".join(path.relative_to(root).as_posix() for path in found) or "none"
            raise ValueError(f"{root}: expected one CSV file with images and their classes, or table, found {names}")
        return found[0]

    def _groups(self, rows: Sequence[Row], root: Path, stem: Callable[[str], str]) -> dict[str, str]:
        """Patient or lesion of each image that has one; images of a lesion share what is known of its patient."""
        lesions = {}
        if self.lesions:
            second = read_table(root / self.lesions, {"image": IMAGE, "lesion": GROUPS["lesion"]})
            lesions = {stem(row.cells["image"]): row.cells["lesion"] for row in second}
        lesions |= {stem(row.cells["image"]): lesion for row in rows if (lesion := row.cells.get("lesion"))}
        patients = {stem(row.cells["image"]): patient for row in rows if (patient := row.cells.get("patient"))}
        owners = {lesion: patients[image] for image, lesion in lesions.items() if image in patients}
        return {image: owners.get(lesion, lesion) for image, lesion in lesions.items()} | patients

    def _label(self, row: Row, groups: dict[str, str], stem: Callable[[str], str]) -> Labelled[int] | None:
        """Class, and patient or lesion."""
        patient = groups.get(stem(row.cells["image"]))
        if (stated := row.cells.get("stated")) is not None:
            if stated.casefold() not in _STATED:
                raise ValueError(f"expected benign (0) or malignant (1), got {stated!r}")
            return Labelled(_STATED[stated.casefold()], patient)
        code = diagnosis_of(row) if "dx" in row.cells else _only_one(row)
        if code == "scc" and self.classes == "seven":
            return None
        return Labelled(self.class_of(code), patient)


def ham_table_and_images(root: Path) -> tuple[Path, list[Path]]:
    """The table of HAM10000 and its folders of images.

    Raises:
        FileNotFoundError: They do not exist.
    """
    table = next((root / name for name in _HAM_TABLES if (root / name).is_file()), None)
    folders = sorted(path for path in root.glob(_HAM_IMAGES) if path.is_dir())
    if table is None or not folders:
        missing = f"no {_HAM_TABLES[0]}" if table is None else "no folder of images"
        raise FileNotFoundError(
            f"{root}: expected HAM10000 as {_HAM_TABLES[0]} and {_HAM_IMAGES}/*.jpg, "
            f"found {missing if root.is_dir() else 'no folder'}"
        )
    return table, folders


def diagnosis_of(row: Row) -> str:
    """The diagnosis that a row names."""
    code = row.cells["dx"].casefold()
    if code not in DIAGNOSES:
        raise ValueError(f"expected a diagnosis among {', '.join(DIAGNOSES)}, got {row.cells['dx']!r}")
    return code


def _only_one(row: Row) -> str:
    """The diagnosis whose column holds 1."""
    values = {code: row.cells[code] for code in (*DIAGNOSES, "scc") if row.cells.get(code)}
    codes = [code for code, value in values.items() if value in ("1", "1.0")]
    if len(codes) != 1 or any(value not in ("0", "0.0", "1", "1.0") for value in values.values()):
        raise ValueError(f"expected 1 for one diagnosis and 0 for the others, got {', '.join(values.values())}")
    return codes[0]
