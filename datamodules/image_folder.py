"""A plain folder of images: a folder for each class, with the patients in a table where they are known."""

import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

from datamodules.classification import ClassificationDataModule
from datamodules.public_splits import Public, PublicSplits
from datamodules.samples import Sample
from datamodules.tables import files_below, read_table

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
LAYOUT = "CLASS/*.png"
SHOWN = 8  # kinds of skipped files that a warning names
_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class ImageFolder(PublicSplits[int], ClassificationDataModule):
    """Images in a folder for each class, ``CLASS/*.png``, or in ``{train,val,test}/CLASS/*.png``.

    Images may be PNG, JPEG, BMP or TIFF, and lie in further folders below that of their class, or in links to such.
    Classes are numbered in the order of their names, unless ``classes`` gives another.

    Without a table of patients, each image counts as a patient: several images of a patient may then be in different
    splits, and accuracies look better than they are.

    Args:
        root: Folder of the dataset.
        classes: Names of the folders to use, in the order of their numbers; None for all, sorted.
        patients: CSV file with the columns ``id`` and ``patient``, relative to the root. An id is the path of an image
            relative to the root or its mere name, with or without suffix. Every image needs a row.
        name: Name of the dataset in records; None for that of the root. Images of the same id in datasets of the same
            name count as the same.
        public: If the root has folders ``train`` and ``test`` (and perhaps ``val``): ``keep`` takes Train (and Val)
            from the former, AdvTrain and AdvTest from the latter; ``pool`` splits all images anew. Without such folders
            all images are split.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    def __init__(
        self,
        root: str | Path,
        classes: list[str] | None = None,
        patients: str | None = None,
        name: str | None = None,
        public: Public = "keep",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, public, **kwargs)
        if classes is not None and (len(set(classes)) < len(classes) or len(classes) < 2):
            raise ValueError(f"classes are at least two different names of folders, got {classes}")
        self.name = name or self.root.resolve().name
        self.patients, self.classes = patients, classes
        self.class_names = tuple(classes or self._found())

    def index(self) -> list[Sample[int]]:
        """All samples, sorted by id; no image is read.

        Raises:
            FileNotFoundError: The root or the table does not exist.
            ValueError: There are fewer than two classes, names of classes differ in letter case alone, folders lie
                beside those of the parts, or the table has a wrong row.
        """
        root = self.root.absolute()
        if not root.is_dir():
            raise FileNotFoundError(f"{root}: expected images at {LAYOUT}, found no folder")
        self.class_names = tuple(self.classes or self._found())
        if len(self.class_names) < 2:
            found = ", ".join(self.class_names) or "none"
            raise ValueError(f"{root}: expected folders of at least two classes as in {LAYOUT}, found {found}")
        self._refuse_doubtful(root)
        files: list[tuple[Path, str, int]] = []
        skipped: Counter[str] = Counter()
        for top in self._tops():
            skipped += Counter(path.suffix or path.name for path in _visible(top) if not path.is_dir())
            for folder in visible_folders(top):
                paths, others = images_of_class(folder)
                skipped += others
                if folder.name not in self.class_names:
                    skipped[f"in the folder {folder.name}"] += len(paths)
                    continue
                target = self.class_names.index(folder.name)
                files += [(path, path.relative_to(root).as_posix(), target) for path in paths]
        if self.patients:
            skipped[Path(self.patients).suffix] -= root / self.patients in _visible(root)
        tell_skipped(root, +skipped)
        patients = self._patients_of([id for _, id, _ in files]) if self.patients else {id: id for _, id, _ in files}
        samples = [Sample(path, id, target, patients[id]) for path, id, target in files if id in patients]
        return sorted(samples, key=lambda sample: sample.id)

    def has_parts(self) -> bool:
        """Whether the root holds folders of parts, with those of the classes below them."""
        return self._tops() != [self.root.absolute()]

    def part_of(self, sample: Sample[int]) -> str:
        """The part in whose folder an image lies."""
        return _PARTS[super().part_of(sample).lower()]

    def target_settings(self) -> list[Any]:
        """The names of the classes."""
        return [list(self.class_names)]

    def _refuse_doubtful(self, root: Path) -> None:
        """Refuse folders of which it is doubtful whether they are classes."""
        spelt = {name.casefold(): name for name in self.class_names}
        if self.classes is None and (alike := set(self.class_names) - set(spelt.values())):
            one = min(alike)
            raise ValueError(
                f"{root}: expected names of classes that differ in more than letter case, found {one} and "
                f"{spelt[one.casefold()]}"
            )
        names = [folder.name for folder in visible_folders(root)]
        parts = [name for name in names if name.lower() in _PARTS]
        if self.classes is None and len(parts) > 1 and (others := [name for name in names if name not in parts]):
            raise ValueError(
                f"{root}: expected folders of classes, or {' and '.join(parts)} alone with the classes below them, "
                f"found {', '.join(others[:SHOWN])} beside; move other folders away, or name those of the classes by "
                "classes"
            )

    def _tops(self) -> list[Path]:
        """The folders that hold those of the classes: the root, or those of its parts."""
        folders = visible_folders(self.root.absolute())
        parts = [folder for folder in folders if folder.name.lower() in _PARTS]
        named = self.classes is not None and not {folder.name for folder in folders} & set(self.classes)
        return parts if parts and (named or len(parts) == len(folders)) else [self.root.absolute()]

    def _found(self) -> list[str]:
        """The names of all folders of classes."""
        return sorted({folder.name for top in self._tops() for folder in visible_folders(top)})

    def _patients_of(self, ids: list[str]) -> dict[str, str]:
        """The patient of each image that has one in the table."""
        table = self.root.absolute() / str(self.patients)
        keys: defaultdict[str, set[str]] = defaultdict(set)
        for id in ids:
            path = Path(id)
            for key in (id, path.with_suffix("").as_posix(), path.name, path.stem):
                keys[key].add(id)
        known = set(ids)
        patients: dict[str, str] = {}
        rows: dict[str, int] = {}
        disputed = set()
        # an image whose patient's cell is empty is counted below, as one without a row
        refuse = self.refuse_row if self.on_bad_sample == "raise" else lambda name, error: None
        for row in read_table(table, {"id": ("id",), "patient": ("patient",)}, refuse=refuse):
            name = row.cells["id"]
            found = {name} if name in known else keys.get(name, set())
            if len(found) != 1:
                several = f"{len(found)} such as {min(found)}" if found else "none"
                self.refuse_row(name, f"{row}: expected an image {name!r}, found {several}")
                continue
            (id,) = found
            if id in rows:
                again = f"got {name!r} again after row {rows[id]}"
                self.refuse_row(name, f"{row}: expected each image once, {again}")
                if patients[id] != row.cells["patient"]:
                    disputed.add(id)
                continue
            rows[id], patients[id] = row.number, row.cells["patient"]
        for id in ids:
            if id not in patients:
                self.refuse_row(id, f"{table}: expected a row for the image {id!r}, found none")
        for id in sorted(disputed):
            self.refuse_row(id, f"{table}, row {rows[id]}: expected one patient of the image {id!r}, got several")
        return {id: patient for id, patient in patients.items() if id not in disputed}


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and an archiver's leftovers."""
    return [path for path in _visible(folder) if path.is_dir()]


def images_of_class(folder: Path) -> tuple[list[Path], Counter[str]]:
    """The image files in a folder and in those below it, sorted, and how many other files of each kind there are."""
    images, others = [], Counter[str]()
    for place, files in files_below(folder):
        for name in files:
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                images.append(Path(place, name))
            else:
                others[os.path.splitext(name)[1] or name] += 1
    return sorted(images), others


def tell_skipped(folder: Path, skipped: Counter[str]) -> None:
    """Warn of files that are not read.

    Args:
        folder: Where they lie.
        skipped: How many of each kind there are.
    """
    if total := skipped.total():
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items())[:SHOWN] if count)
        are = "file that is no image" if total == 1 else "files that are no images"
        more = ", ..." if len(skipped) > SHOWN else ""
        rank_zero_warn(f"{folder}: skipped {total} {are} of its classes: {kinds}{more}")


def _visible(folder: Path) -> list[Path]:
    """The entries of a folder, sorted, without dot files and an archiver's leftovers; none if there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "__MACOSX")
