"""NIH ChestX-ray14 (Wang et al., CVPR 2017): 112,120 X-rays of 30,805 patients with 14 findings."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from datamodules.classification import ClassificationDataModule
from datamodules.multilabel import Labels, MultiLabelDataModule
from datamodules.samples import Sample
from datamodules.tables import ImageFiles, Labelled, Row, read_table, samples_of_rows

Classes = Literal["cxr2", "cxr3", "cxr4"]

NO_FINDING = "No Finding"
FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
CLASSES = {
    "cxr2": (NO_FINDING, "Pneumothorax"),
    "cxr3": (NO_FINDING, "Pneumothorax", "Mass"),
    "cxr4": (NO_FINDING, "Pneumothorax", "Mass", "Nodule"),
}
_TABLES, _IMAGES = "Data_Entry_2017*.csv", "images*"


class NIHChestXRay(ClassificationDataModule):
    """NIH chest X-rays with a single finding, one class each (CXR-2, CXR-3 and CXR-4 after Ma et al., section 3.1).

    The public layout is ``Data_Entry_2017*.csv`` (the first by name if there are several) with the columns
    ``Image Index``, ``Finding Labels`` and ``Patient ID``, and ``images*/**/*.png``. Images with another finding than
    those of the classes, or with several, are left out. Splits are by patient.

    Args:
        root: Folder of the dataset.
        classes: ``cxr2`` for no finding and pneumothorax, ``cxr3`` with mass, ``cxr4`` with mass and nodule.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "nih_cxr14"

    def __init__(self, root: str | Path, classes: Classes = "cxr2", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        if classes not in get_args(Classes):
            raise ValueError(f"classes is one of {', '.join(get_args(Classes))}, got {classes!r}")
        self.classes = classes
        self.class_names = CLASSES[classes]

    def index(self) -> list[Sample[int]]:
        """All samples of the classes, sorted by id; no image is read.

        Raises:
            FileNotFoundError: The table or the folders of images do not exist.
            ValueError: The table has a wrong row; the message names the file and the row.
        """
        rows, images = _table_and_images(self.root.absolute(), self.refuse_row)
        return samples_of_rows(rows, images, self._label, self.refuse_row)

    def target_settings(self) -> list[Any]:
        """The names of the classes."""
        return [list(self.class_names)]

    def _label(self, row: Row) -> Labelled[int] | None:
        """Class and patient of an image with a single finding of the classes."""
        findings = _findings(row) or [NO_FINDING]
        if len(findings) > 1 or findings[0] not in self.class_names:
            return None
        return Labelled(self.class_names.index(findings[0]), row.cells["patient"])


class NIHChestXRayLabels(MultiLabelDataModule):
    """NIH chest X-rays with all of their findings at once: 14 labels, none of them for ``No Finding``.

    The public layout is that of `NIHChestXRay`. Splits are by patient.

    Args:
        root: Folder of the dataset.
        labels: The findings to use, such as those of which a part of the dataset has images; None for all 14.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "nih_cxr14"

    def __init__(self, root: str | Path, labels: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        names = list(FINDINGS) if labels is None else labels
        if not names or len(set(names)) < len(names) or not set(names) <= set(FINDINGS):
            raise ValueError(f"labels are different ones among {', '.join(FINDINGS)}, got {names}")
        self.labels = labels
        self.class_names = tuple(names)

    def index(self) -> list[Sample[Labels]]:
        """All samples, sorted by id; no image is read.

        Raises:
            FileNotFoundError: The table or the folders of images do not exist.
            ValueError: The table has a wrong row; the message names the file and the row.
        """
        rows, images = _table_and_images(self.root.absolute(), self.refuse_row)
        return samples_of_rows(rows, images, self._label, self.refuse_row)

    def _label(self, row: Row) -> Labelled[Labels]:
        """Findings and patient."""
        findings = _findings(row)
        return Labelled(tuple(int(name in findings) for name in self.class_names), row.cells["patient"])


def _table_and_images(root: Path, refuse: Callable[[str, str], None]) -> tuple[Sequence[Row], ImageFiles]:
    """The rows of the table, and the image files."""
    tables = sorted(root.glob(_TABLES))
    folders = sorted(path for path in root.glob(_IMAGES) if path.is_dir())
    if not tables or not folders:
        missing = f"no {_TABLES}" if not tables else "no folder of images"
        raise FileNotFoundError(
            f"{root}: expected NIH ChestX-ray14 as {_TABLES} and {_IMAGES}/**/*.png, "
            f"found {missing if root.is_dir() else 'no folder'}"
        )
    columns = {"image": ("Image Index",), "findings": ("Finding Labels",), "patient": ("Patient ID",)}
    return read_table(tables[0], columns, refuse=refuse), ImageFiles(root, folders)


def _findings(row: Row) -> list[str]:
    """The findings that a row names; none for ``No Finding``."""
    text = row.cells["findings"]
    if text == NO_FINDING:
        return []
    names = [name.strip() for name in text.split("|")]
    if wrong := [name for name in names if name not in FINDINGS]:
        raise ValueError(f"expected {NO_FINDING} or findings among {', '.join(FINDINGS)}, got {wrong[0]!r}")
    return names
