"""Generated miniatures of the public layouts: a few small images of each class, and the tables beside them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules import APTOS, HAM10000, ISIC, KaggleDR, MedicalDataModule, NIHChestXRay, NIHChestXRayLabels
from datamodules.nih import CLASSES, FINDINGS

SIDE = 12


def pixels(number: int, side: int = SIDE) -> np.ndarray:
    """Pixels that only this number has."""
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def picture(path: Path, number: int) -> None:
    """Write an image; the suffix of its name is its format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(number)).save(path)


def write_table(path: Path, rows: Sequence[Sequence[Any]], seed: int = 0) -> None:
    """Write a table whose rows below the header are shuffled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header, *rest = (",".join(map(str, row)) for row in rows)
    random.Random(seed).shuffle(rest)
    path.write_text("\n".join([header, *rest]) + "\n")


@dataclass(frozen=True)
class TableLayout:
    """A dataset of images that a table names.

    Args:
        module: The data module.
        table: Name of the table.
        header: Its columns, others besides the needed ones among them.
        rows: Its rows.
        image: Path of the image that a row names, relative to the root.
        name: Place of the image's name in a row.
        label: Place of the label in a row, and a wrong label.
        targets: What the data module makes of the rows, in their order; None for a row that it leaves out.
        patients: Number of patients.
        options: Further arguments.
    """

    module: type[MedicalDataModule[Any]]
    table: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    image: Callable[[str], str]
    name: int
    label: tuple[int, str]
    targets: Sequence[Any]
    patients: int
    options: dict[str, Any] = field(default_factory=dict)

    def write(self, root: Path, seed: int = 0) -> Path:
        """Write the files in an order that the seed decides."""
        order = list(enumerate(self.rows))
        random.Random(seed).shuffle(order)
        for number, row in order:
            picture(root / self.image(row[self.name]), number)
        write_table(root / self.table, [self.header, *self.rows], seed)
        return root


def repeated(rows: Sequence[Sequence[str]], targets: Sequence[Any], times: int) -> tuple[list[list[str]], list[Any]]:
    """Rows and their targets several times, with the number of the repetition in place of ``{}``."""
    both = [([cell.format(n) for cell in row], target) for n in range(times) for row, target in zip(rows, targets)]
    return [row for row, _ in both], [target for _, target in both]


def _eyes(grades: dict[str, int]) -> tuple[list[list[str]], list[int]]:
    """Eight times two patients of each grade, one with both eyes."""
    rows = [[f"1{{}}{level}_{eye}", level] for level in "01234" for eye in ("left", "right")]
    rows += [[f"2{{}}{level}_left", level] for level in "01234"]
    return repeated(rows, [grades[row[1]] for row in rows], 6)


def _aptos() -> tuple[list[list[str]], list[int]]:
    return repeated([[f"{level}a{{}}", level] for level in "01234"], range(5), 8)


HAM_HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization".split(",")
CODES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")


def _ham(targets: Sequence[int]) -> tuple[list[list[str]], list[int]]:
    """Seven lesions of each diagnosis, with two images each."""
    rows = [
        [f"HAM_{{}}{code}", f"ISIC_{{}}{code}{view}", code, "histo", "", "male", "back"]
        for code in CODES
        for view in "ab"
    ]
    return repeated(rows, [targets[CODES.index(row[2])] for row in rows], 7)


def _ham_image(name: str) -> str:
    return f"HAM10000_images_part_{1 + name.endswith('b')}/{name}.jpg"


def _archive() -> tuple[list[list[str]], list[int]]:
    """Five patients with a benign and a malignant lesion, whose second image names no patient, and ten others."""
    rows = [
        ["ISIC_{}a", "benign", "IP_{}", "IL_{}a"],
        ["ISIC_{}b", "malignant", "IP_{}", "IL_{}b"],
        ["ISIC_{}c", "malignant", "", "IL_{}b"],
        ["ISIC_{}d", "benign", "", ""],
        ["ISIC_{}e", "malignant", "", ""],
    ]
    return repeated(rows, [0, 1, 1, 0, 1], 5)


def _challenge() -> tuple[list[list[str]], list[int | None]]:
    """Four lesions of each of eight diagnoses, of which squamous cell carcinoma is none of the seven classes."""
    codes = ("mel", "nv", "bcc", "ak", "bkl", "df", "vasc", "scc")
    rows = [[f"ISIC_{{}}{code}", *(f"{int(one == code)}.0" for one in codes)] for code in codes]
    return repeated(rows, [4, 5, 1, 0, 2, 3, 6, None], 4)


NIH_HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,OriginalImage[Width,Height]".split(",")


def _nih() -> tuple[list[list[str]], list[list[str]]]:
    """Four times 18 patients with one finding or none, and one with two and none; and their findings."""
    cells = [*([name] for name in FINDINGS), *([[]] * 4), ["Mass", "Nodule"], []]
    rows = [
        [f"00{{}}{n:02d}_000.png", "|".join(names) or "No Finding", "0", f"{{}}{min(n, 18)}", "58", "2682", "2749"]
        for n, names in enumerate(cells)
    ]
    return repeated(rows, cells, 4)


def _nih_layouts() -> dict[str, TableLayout]:
    def image(name: str) -> str:
        return f"images_00{1 + int(name[3]) % 2}/images/{name}"

    rows, findings = _nih()
    place = ("Data_Entry_2017_v2020.csv", NIH_HEADER, rows, image, 0, (1, "Cough"))
    found = {}
    for classes, names in CLASSES.items():
        single = [(given or ["No Finding"])[0] if len(given) < 2 else None for given in findings]
        targets = [names.index(name) if name in names else None for name in single]
        used = {row[3] for row, target in zip(rows, targets) if target is not None}
        found[f"nih {classes}"] = TableLayout(NIHChestXRay, *place, targets, len(used), {"classes": classes})
    labels = [tuple(int(name in names) for name in FINDINGS) for names in findings]
    found["nih labels"] = TableLayout(NIHChestXRayLabels, *place, labels, 4 * 19)
    return found


def _layouts() -> dict[str, TableLayout]:
    five, any_grade = {str(n): n for n in range(5)}, {str(n): int(n > 0) for n in range(5)}
    referable = {str(n): int(n > 1) for n in range(5)}
    eyes = (KaggleDR, "trainLabels.csv", ("image", "level"))
    found: dict[str, TableLayout] = {}
    for grading, grades in (("five", five), ("any", any_grade), ("referable", referable)):
        rows, targets = _eyes(grades)
        given = {"grading": grading}
        found[f"kaggle_dr {grading}"] = TableLayout(
            *eyes, rows, "train/{}.jpeg".format, 0, (1, "5"), targets, 60, given
        )
    aptos = (APTOS, "train.csv", ("id_code", "diagnosis"))
    found["aptos"] = TableLayout(*aptos, *_aptos_rows(), 40)
    for classes, numbers in (("seven", range(7)), ("malignant", (1, 1, 0, 0, 1, 0, 0))):
        rows, targets = _ham(list(numbers))
        ham = (HAM10000, "HAM10000_metadata.csv", HAM_HEADER, rows, _ham_image, 1, (2, "melanoma"), targets, 49)
        found[f"ham10000 {classes}"] = TableLayout(*ham, {"classes": classes})
    rows, targets = _archive()
    archive = (ISIC, "metadata.csv", ("isic_id", "benign_malignant", "patient_id", "lesion_id"), rows)
    found["isic archive"] = TableLayout(*archive, "images/{}.jpg".format, 0, (1, "indeterminate"), targets, 15)
    rows, targets = _challenge()
    header = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC".split(",")
    found["isic challenge"] = TableLayout(
        *(ISIC, "ISIC_2019_Training_GroundTruth.csv", header, rows, "ISIC_2019_Training_Input/{}.jpg".format, 0),
        *((1, "0.5"), targets, 28, {"classes": "seven"}),
    )
    return found


def _aptos_rows() -> tuple[Any, ...]:
    rows, targets = _aptos()
    return rows, "train_images/{}.png".format, 0, (1, "five"), targets


TABLES = _layouts() | _nih_layouts()
