"""COVID-19 CT (Ma et al., Medical Physics 2021): volumes of the chest with masks of the lungs, slice by slice."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.samples import Sample
from datamodules.scene_cache import Cache
from datamodules.segmentation import SegmentationDataModule
from datamodules.tables import Row, read_table
from datamodules.transforms import Augmentation, Scene
from datamodules.volumes import EIGHT_BITS, OpenVolumes, VolumeFacts, checked_window, facts_of, windowed

Labels = Literal["left_right", "lung"]
Slices = Literal["lung", "all"]

TABLE = "metadata.csv"
SCANS, MASKS = "ct_scans", "lung_mask"
SUFFIXES = (".nii.gz", ".nii")
PUBLISHED_WINDOW = (-1250.0, 250.0)  # HU: what 0 and 255 stand for in volumes that were published with eight bits
NAMES = {"left_right": ("background", "left lung", "right lung"), "lung": ("background", "lung")}
THREADS = 2  # each holds a volume
_CASE = re.compile(r"(radiopaedia\D*\d+-pneumonia-\d+|radiopaedia_\d+)_\d+_\d+")


class CovidCT(SegmentationDataModule):
    """COVID-19 CT (Ma et al., Medical Physics 2021, doi:10.1002/mp.14676): axial slices with masks of both lungs.

    The public layout is ``metadata.csv`` with the columns ``ct_scan`` and ``lung_mask``, ``ct_scans/*.nii`` and
    ``lung_mask/*.nii``, gzipped or not; of the paths in the table the last two parts count. A slice is seen from the
    feet, front above, so that the patient's right lung is on the left. Ids end in the slice's number, counted from the
    feet: ``ct_scans/NAME.nii.gz#017``.

    All slices of a volume share a split; so do the volumes of a case of Radiopaedia, which may have several. With fewer
    volumes than splits, some splits have to go without: a training whose ``val`` has the fraction 0 takes
    ``--trainer.limit_val_batches 0 --checkpoint.monitor null``. Volumes from Radiopaedia were published in the window
    from -1250 to 250 HU, scaled to 0 to 255: a volume whose values all lie in that range is scaled back first.

    Slices are read from the files when they are asked for; a process holds at most two volumes with their masks. Since
    a gzipped volume has to be unpacked for a single slice, the default is to keep slices on the disk (``cache``).

    Args:
        root: Folder of the dataset.
        window: Hounsfield units that become 0 and 1.
        labels: ``left_right`` for background, left and right lung; ``lung`` for background and lung, which masks that
            do not tell the lungs apart need.
        slices: ``lung`` for those whose mask has lung, or ``all``.
        image_size: Side of the square images, in pixels.
        channels: 1 for grey, or 3 for networks that expect RGB.
        augment: As `MedicalDataModule`; by default slices are not mirrored where left and right lung are told apart.
        cache: As `MedicalDataModule`.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "covid_ct"

    def __init__(
        self,
        root: str | Path,
        window: tuple[float, float] = PUBLISHED_WINDOW,
        labels: Labels = "left_right",
        slices: Slices = "lung",
        image_size: int = 224,
        channels: Literal[1, 3] = 1,
        augment: bool | Augmentation = True,
        cache: Cache = "disk",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, image_size=image_size, channels=channels, augment=augment, cache=cache, **kwargs)
        for argument, value, allowed in (("labels", labels, get_args(Labels)), ("slices", slices, get_args(Slices))):
            if value not in allowed:
                raise ValueError(f"{argument} is one of {', '.join(allowed)}, got {value!r}")
        self.window = checked_window(window)
        self.labels, self.slices = labels, slices
        self.class_names = NAMES[labels]
        self._volumes = OpenVolumes()
        self._eight_bits: frozenset[Path] = frozenset()

    def index(self) -> list[Sample[Path]]:
        """The slices of all volumes that the table names, sorted by id.

        The first start reads every volume once; what is needed to know of it is kept until a file changes.

        Raises:
            FileNotFoundError: There is no table.
            ValueError: A row is wrong, or a volume or its mask; the message names the table, the row and the file.
        """
        table = self.root.absolute() / TABLE
        if not table.is_file():
            raise FileNotFoundError(
                f"{self.root.absolute()}: expected {TABLE} and the CT volumes that it names, in {SCANS} and {MASKS}, "
                f"found {f'no {TABLE}' if self.root.is_dir() else 'no folder'}"
            )
        rows = read_table(table, {"scan": ("ct_scan",), "mask": ("lung_mask",)}, refuse=self.refuse_row)
        pairs = list(self._pairs(rows))
        self._tell_unnamed([*(row.cells["scan"] for row in rows), *(name for name, _ in self.bad_rows)])
        with ThreadPoolExecutor(THREADS) as threads:
            found = [threads.submit(facts_of, scan, mask) for _, scan, mask in pairs]
            samples: list[Sample[Path]] = []
            eight_bits, crossed = set[Path](), list[str]()
            for (row, scan, mask), future in zip(pairs, found, strict=True):
                try:
                    facts = future.result()
                    self._check_labels(mask, facts)
                except ValueError as error:
                    if self.on_bad_sample == "raise":  # without waiting for the other volumes
                        threads.shutdown(wait=False, cancel_futures=True)
                    self.refuse_row(self._id(scan), f"{row}: {error}")
                    continue
                samples += self._slices_of(scan, mask, facts)
                eight_bits |= {scan} if facts.eight_bits else set()
                crossed += [self._id(scan)] if facts.crossed else []
        if crossed and self.labels == "left_right":
            rank_zero_warn(
                f"{self.root}: the left lung (label 1) lies on the patient's right in {len(crossed)} of {len(pairs)} "
                f"volumes, first {crossed[0]}: their labels or their axes are not what they are said to be"
            )
        self._eight_bits = frozenset(eight_bits)
        return sorted(samples, key=lambda sample: sample.id)

    def read(self, sample: Sample[Path]) -> Scene:
        """A slice and its mask.

        Raises:
            ValueError: A file cannot be read; the message names it.
        """
        values, labels = self.held(sample)
        image = windowed(values, self.window).astype(np.float32)[:, :, None]
        mask = (labels > 0).astype(np.int32) if self.labels == "lung" else labels
        return Scene(image if self.channels == 1 else np.repeat(image, 3, axis=2), mask=mask)

    def held(self, sample: Sample[Path]) -> tuple[np.ndarray, ...]:
        """The Hounsfield units of a slice, ``(H, W)`` float32, and the labels of its mask, ``(H, W)`` int32."""
        volume, mask = self._volumes(sample.path), self._volumes(sample.target)
        place = int(sample.id.rpartition("#")[2])
        if place >= min(volume.depth, mask.depth):
            raise ValueError(f"{sample.path}: expected a volume with a slice {place}, got {volume.depth} slices")
        values, labels = volume.slice(place), mask.slice(place).astype(np.int32)
        if not np.isfinite(values).all():
            raise ValueError(f"{sample.path}: expected a volume of finite numbers, got others in slice {place}")
        if sample.path in self._eight_bits:
            low, high = PUBLISHED_WINDOW
            values = values * np.float32((high - low) / EIGHT_BITS) + np.float32(low)
        return values, labels

    def divide(self, samples: list[Sample[Path]]) -> dict[str, list[Sample[Path]]]:
        """The splits of the slices, by volume.

        Raises:
            ValueError: There are fewer volumes than splits.
        """
        volumes = len({sample.patient for sample in samples})
        wanted = [split for split, share in asdict(self.fractions).items() if share > 0]
        if volumes < len(wanted):
            raise ValueError(
                f"{self.root}: expected at least {len(wanted)} volumes, one for each of {', '.join(wanted)}, found "
                f"{volumes}: slices of a volume are never in two splits, so give some splits the fraction 0, such as "
                "fractions: {train: 0.5, val: 0, adv_train: 0, adv_test: 0.5}"
            )
        return super().divide(samples)

    def target_settings(self) -> list[Any]:
        """The names of the labels, and the window."""
        return [*super().target_settings(), list(self.window)]

    def describe(self) -> dict[str, Any]:
        """Description of the data, ready for JSON, with window, labels and slices."""
        return super().describe() | {"window": list(self.window), "labels": self.labels, "slices": self.slices}

    def _identity(self) -> str:
        """All that decides how files are read."""
        return f"{super()._identity()} {self.window}"

    def _augmentation(self) -> Augmentation | None:
        """Ranges of the random changes: a mirror image would show a left lung where right ones are."""
        if self.augment is True and self.labels == "left_right":
            return Augmentation(horizontal_flip=0)
        return super()._augmentation()

    def _pairs(self, rows: list[Row]) -> Iterator[tuple[Row, Path, Path]]:
        """The files that each row names."""
        first: dict[Path, int] = {}
        for row in rows:
            try:
                scan, mask = self._file(row.cells["scan"], "volume"), self._file(row.cells["mask"], "mask")
                if (before := first.setdefault(scan, row.number)) != row.number:
                    raise ValueError(f"expected each volume once, got {self._id(scan)} again after row {before}")
            except ValueError as error:
                self.refuse_row(row.cells["scan"], f"{row}: {error}")
                continue
            yield row, scan, mask

    def _file(self, cell: str, what: str) -> Path:
        """The file that a cell names by its last two parts, gzipped or not."""
        parts = [part for part in cell.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        path = self.root.absolute().joinpath(*parts[-2:])
        for name in (path, path.with_name(path.name.removesuffix(".gz")), path.with_name(f"{path.name}.gz")):
            if name.is_file():
                return name
        raise ValueError(f"expected the {what} {'/'.join(parts[-2:])} in {self.root}, found no file")

    def _check_labels(self, mask: Path, facts: VolumeFacts) -> None:
        """Refuse a mask without lung, and one that does not tell the lungs apart where they are to be told apart."""
        if not facts.lung and self.slices == "lung":
            raise ValueError(f"{mask}: expected a mask with lung, got background alone")
        if self.labels == "left_right" and facts.lung and not {1, 2} <= set(facts.labels):
            got = ", ".join(map(str, facts.labels))
            raise ValueError(
                f"{mask}: expected the labels 0 (background), 1 (left lung) and 2 (right lung), got only {got}, which "
                "do not tell the lungs apart; use labels: lung (--data.labels lung --model.num_classes 2)"
            )

    def _slices_of(self, scan: Path, mask: Path, facts: VolumeFacts) -> Iterator[Sample[Path]]:
        """A sample for each slice of a volume."""
        id, stem = self._id(scan), scan.name.removesuffix(".gz").removesuffix(".nii")
        case = _CASE.match(stem)
        for place in facts.lung if self.slices == "lung" else range(facts.depth):
            yield Sample(scan, f"{id}#{place:03d}", mask, case.group(1) if case else stem)

    def _id(self, path: Path) -> str:
        return path.relative_to(self.root.absolute()).as_posix()

    def _tell_unnamed(self, cells: list[str]) -> None:
        """Warn of volumes that the table does not name."""
        named = {cell.replace("\\", "/").rpartition("/")[2].removesuffix(".gz") for cell in cells}
        folder = self.root.absolute() / SCANS
        files = sorted(path.name for path in folder.glob("*") if path.name.endswith(SUFFIXES))
        if unnamed := [name for name in files if not name.startswith(".") and name.removesuffix(".gz") not in named]:
            are = "volume that is" if len(unnamed) == 1 else "volumes that are"
            rank_zero_warn(f"{self.root}: left out {len(unnamed)} {are} not in {TABLE}, first {SCANS}/{unnamed[0]}")
