"""The chest X-ray pneumonia dataset (Kermany et al., Cell 2018): two classes, 5,863 images of children."""

import re
from collections import Counter
from pathlib import Path
from typing import ClassVar

from pytorch_lightning.utilities import rank_zero_warn

from datamodules.classification import ClassificationDataModule
from datamodules.samples import Sample

FOLDERS = ("train", "val", "test")
SUFFIXES = (".jpeg", ".jpg", ".png")
LAYOUT = "{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg"

_PATIENTS = (
    re.compile(r"(person\d+)_(?:bacteria|virus)_\d+"),
    re.compile(r"((?:NORMAL\d*-)?IM-\d+)(?:-\d+)+"),
)


def patient_of(stem: str) -> str:
    """The patient's id in a file name without its suffix; a name of any other form is a patient of its own.

    >>> patient_of("person123_bacteria_4"), patient_of("NORMAL2-IM-0117-0001-0002"), patient_of("scan7")
    ('person123', 'NORMAL2-IM-0117', 'scan7')
    """
    for pattern in _PATIENTS:
        if match := pattern.fullmatch(stem):
            return match[1]
    return stem


class ChestXRay(ClassificationDataModule):
    """Chest X-rays, normal or pneumonia, in the public layout ``{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg``.

    The public val has only 16 images, so the three folders are pooled and split again by patient. The root may also
    hold them inside a ``chest_xray`` folder, as the public archive unpacks. Ids are relative to the folder that holds
    train, val and test.
    """

    name = "chest_xray"
    class_names: ClassVar[tuple[str, ...]] = ("NORMAL", "PNEUMONIA")

    def index(self) -> list[Sample[int]]:
        """All samples of the three folders, sorted by id; no image is read.

        Raises:
            FileNotFoundError: The root does not exist or has none of the three folders.
            ValueError: There is a folder of another class, or no image at all.
        """
        base = self._base()
        samples = []
        skipped: Counter[str] = Counter()
        for folder in FOLDERS:
            for directory in sorted(_visible(base / folder)):
                if not directory.is_dir():
                    continue
                if directory.name not in self.class_names:
                    expected = " or ".join(self.class_names)
                    raise ValueError(f"{directory}: expected a folder {expected}, got {directory.name}")
                target = self.class_names.index(directory.name)
                for path in _visible(directory):
                    if path.suffix.lower() in SUFFIXES:
                        id = path.relative_to(base).as_posix()
                        samples.append(Sample(path, id, target, patient_of(path.stem)))
                    else:
                        skipped[path.suffix or path.name] += 1
        if skipped:
            kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(skipped.items())[:5])
            rank_zero_warn(f"{base}: skipped {skipped.total()} files that do not end in {', '.join(SUFFIXES)}: {kinds}")
        if not samples:
            raise ValueError(f"{base}: expected images at {LAYOUT}, found none")
        return sorted(samples, key=lambda sample: sample.id)

    def _base(self) -> Path:
        """The folder that holds train, val and test."""
        root = self.root.absolute()
        for base in (root, root / "chest_xray"):
            if any((base / folder).is_dir() for folder in FOLDERS):
                return base
        found = "a folder without them" if root.is_dir() else "no folder"
        raise FileNotFoundError(f"{root}: expected chest X-rays at {LAYOUT}, found {found}")


def _visible(directory: Path) -> list[Path]:
    """The entries of a folder, without dot files and an archiver's leftovers; none if the folder does not exist."""
    if not directory.is_dir():
        return []
    return [path for path in directory.iterdir() if not path.name.startswith(".") and path.name != "__MACOSX"]
