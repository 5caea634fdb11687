"""The chest X-ray pneumonia dataset (Kermany et al., Cell 2018): two classes, 5,863 images of children."""

import re
from collections import Counter
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_warn

from datamodules.classification import ClassificationDataModule
from datamodules.samples import Sample

FOLDERS = ("train", "val", "test")
SUFFIXES = (".jpeg", ".jpg", ".png")
LAYOUT = "{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg"
SHOWN = 8  # kinds of skipped files that a warning names
IMAGES = (
    *SUFFIXES,
    ".dcm",
    ".bmp",
    ".tif",
    ".tiff",
)  # beside the splits, other files are no images that were forgotten

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
    class_names: tuple[str, ...] = ("NORMAL", "PNEUMONIA")

    def index(self) -> list[Sample[int]]:
        """All samples of the three folders, sorted by id; no image is read.

        Raises:
            FileNotFoundError: The root does not exist or has none of the three folders.
            ValueError: There is a folder of another class, or no image at all.
        """
        base = self._base()
        samples, skipped = [], _beside_the_splits(base)
        for folder in FOLDERS:
            for directory in sorted(_visible(base / folder)):
                if not directory.is_dir():
                    skipped[f"{_kind(directory)} directly in {folder}"] += 1
                    continue
                if directory.name not in self.class_names:
                    expected = " or ".join(self.class_names)
                    raise ValueError(f"{directory}: expected a folder {expected}, got {directory.name}")
                target = self.class_names.index(directory.name)
                for path in _visible(directory):
                    id = path.relative_to(base).as_posix()
                    if path.is_dir():
                        skipped[f"in the folder {id}"] += _count(path)
                    elif path.suffix.lower() in SUFFIXES:
                        samples.append(Sample(path, id, target, patient_of(path.stem)))
                    else:
                        skipped[_kind(path)] += 1
        if total := skipped.total():
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items())[:SHOWN] if count)
            rank_zero_warn(
                f"{base}: skipped {total} {'file that is' if total == 1 else 'files that are'} not at {LAYOUT} (or "
                f"{', '.join(SUFFIXES[1:])}): {kinds}{', ...' if len(skipped) > SHOWN else ''}"
            )
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


def _beside_the_splits(base: Path) -> Counter[str]:
    """How many files lie in each unknown folder beside train, val and test, and how many images beside them."""
    skipped: Counter[str] = Counter()
    for path in sorted(_visible(base)):
        if path.is_dir() and path.name not in FOLDERS:
            skipped[f"in the folder {path.name}"] = _count(path)
        elif path.suffix.lower() in IMAGES:
            skipped[f"{_kind(path)} beside {', '.join(FOLDERS)}"] += 1
    return +skipped


def _count(folder: Path) -> int:
    """How many files lie in a folder and in those below it."""
    return sum(_count(path) if path.is_dir() and not path.is_symlink() else 1 for path in _visible(folder))


def _kind(path: Path) -> str:
    return path.suffix or path.name
