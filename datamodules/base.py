"""The Lightning data module that every dataset derives from: splits, loaders and fingerprints for any task."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pytorch_lightning.utilities import rank_zero_warn

from datamodules.content import (
    Content,
    ContentReader,
    contradictions,
    copies_in_later_splits,
    image_hashes,
    kept_hashes,
)
from datamodules.findings import findings_key, kept_findings
from datamodules.kept_scenes import KeptScenes
from datamodules.loaders import SplitLoaders, counted
from datamodules.references import ALL, DataBeside
from datamodules.samples import Sample, Target
from datamodules.scene_cache import Cache
from datamodules.splits import (
    SPLITS,
    Fractions,
    read_splits,
    split_by_patient,
    take,
    tell_differences,
    write_splits,
)
from datamodules.transforms import Augmentation, Resize

logger = logging.getLogger(__name__)

Split = Literal["train", "val", "adv_train", "adv_test", "all"]


class MedicalDataModule(SplitLoaders[Target]):
    """Images of one dataset in the splits Train, Val, AdvTrain and AdvTest, disjoint by patient.

    Train fits the victim, Val chooses its checkpoint, AdvTrain fits detectors, AdvTest judges all of them. Batches
    are ``{"image": (N, C, H, W) float32 in [0, 1], "target": as the task defines it, "id": list of N str}``.
    Evaluation reads each image exactly once on any number of ranks; use it with
    ``Trainer(use_distributed_sampler=False)``.

    `setup` reads every file once and keeps hashes of its bytes and pixels (`datamodules.content`): fingerprints
    change with the files, a victim's checkpoint names what it was trained on, and an image whose pixels an earlier
    split holds under another name is left out with a warning.

    What a dataset and its task define, besides a ``name``, is listed in `SampleSource`.

    Args:
        root: Folder of the dataset.
        image_size: Side of the square images, in pixels.
        channels: 1 for grey or 3 for RGB.
        batch_size: Images per batch and rank.
        num_workers: Processes of each rank that read images; 0 reads them in the training process. None takes up to
            8 where there are GPUs, depending on the cores, and none where there are not.
        fractions: Shares of the images that the splits get.
        split_seed: Seed of the splits.
        split_file: CSV with the columns id, split, target, patient to take the splits from instead.
        resize: ``crop`` scales the short side and cuts the centre, ``squash`` changes the aspect ratio, ``pad``
            scales the long side and fills with black.
        augment: Whether training images are changed at random, or by how much.
        on_bad_sample: ``raise`` stops at the first bad file; ``skip`` reads every sample in advance, leaves the bad
            ones out and reports them.
        test_split: The split that the test stage evaluates; ``all`` for every image, without splits: another
            hospital's data, on which nothing is trained or fitted.
        limit: At most this many images per split, for a quick trial; None keeps all.
        cache: Keep images that have been decoded and resized: on the ``disk``, for the next runs too, or in memory
            (``ram``). Results are the same. All processes of a machine share what is kept; augmentation comes after
            it. It takes 4 bytes for each value of an image, 602 kB for one of 224 x 224 in colour and a third of
            that for a grey one. Where there is no room, a warning says so and images are decoded each time. On the disk
            the caches lie in ``medrobust/scenes`` below ``MEDROBUST_CACHE`` or ``~/.cache``, where they may be deleted;
            those not used for longest go when all exceed ``MEDROBUST_CACHE_LIMIT`` (in GB, 50 by default).
        alias: Name of the data in records and reports instead of the dataset's own, for data of the same layout from
            elsewhere: equal names of images and patients are then others.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name: str

    def __init__(
        self,
        root: str | Path,
        image_size: int = 224,
        channels: Literal[1, 3] = 3,
        batch_size: int = 32,
        num_workers: int | None = None,
        fractions: Fractions = Fractions(),  # noqa: B008  frozen
        split_seed: int = 0,
        split_file: str | Path | None = None,
        resize: Resize = "crop",
        augment: bool | Augmentation = True,
        on_bad_sample: Literal["raise", "skip"] = "raise",
        test_split: Split = "adv_test",
        limit: int | None = None,
        cache: Cache = "none",
        alias: str | None = None,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.image_size = image_size
        self.channels = channels
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.fractions = fractions
        self.split_seed = split_seed
        self.split_file = None if split_file is None else Path(split_file)
        self.resize = resize
        self.augment = augment
        self.on_bad_sample = on_bad_sample
        self.test_split = test_split
        self.limit = limit
        self.cache = cache
        self.alias = alias
        self._validate()
        self.splits: dict[str, list[Sample[Target]]] = {}
        self.bad_samples: list[tuple[str, str]] = []
        self.bad_rows: list[tuple[str, str]] = []  # of the dataset's tables
        self.contents: dict[str, Content] = {}
        self._listed: dict[str, list[Sample[Target]]] = {}  # the splits before a limit
        self._kept: dict[str, KeptScenes | None] = {}
        self._references: MedicalDataModule[Any] | None = None
        self._of_run = False
        # a rank may get no image at all of a small split, and must not stop the others
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def take_splits_of_run(self, path: str | Path) -> None:
        """Take the splits that a victim was trained with from its run's ``splits.csv``, before `setup`.

        Unlike those of ``split_file``, its images may have gone: they are left out with a warning, as are images that
        have been added since.
        """
        self.split_file, self._of_run = Path(path), True

    def take_references_of(self, data: "MedicalDataModule[Any]") -> None:
        """Fit detectors, and attacks that imitate clean images, on the data that a victim was trained on.

        For ``test_split: all``, which leaves no image of these data to fit anything on. The other data are set up when
        something is fitted.
        """
        self._references = data

    def setup(self, stage: str | None = None) -> None:
        """Find the samples, split them and read what they hold, once; every stage gets all splits.

        All processes have to call this.

        Raises:
            FileNotFoundError: The root or the split file does not exist.
            ValueError: The dataset, a class or a split has no image, a patient is in two splits, or the split file has
                a wrong row.
        """
        if self.splits:
            return
        if self.alias is not None:
            self.name = self.alias
        self.bad_rows = []
        samples = self.stratified(self.found())
        good = self._without_bad(samples) if self.on_bad_sample == "skip" else samples
        if (missing := self.missing_classes(good)) and self.test_split != ALL:
            raise ValueError(f"{self.root}: expected images of the class {missing[0]}, found none")
        if not good:
            first = f", first {': '.join(self.bad_samples[0])}" if self.bad_samples else ""
            raise ValueError(f"{self.root}: expected images, found {len(samples)} of which none is good{first}")
        listed, required = self._split(samples, good)
        splits = listed
        if self.limit is not None:
            splits = {split: take(members, self.limit, self.split_seed) for split, members in splits.items()}
        splits = self.thinned(splits)
        every = [sample for members in splits.values() for sample in members]
        self.contents = self._contents_of(every)
        self._tell_contradictions(every)
        copies = self._copies(splits)
        splits, self._listed = (
            {split: [sample for sample in members if sample.id not in copies] for split, members in one.items()}
            for one in (splits, listed)
        )
        self._check_splits(splits, required)
        # ordered by a hash of the ids, so that the first few batches hold all classes
        self.splits = {split: sorted(members, key=_by_hash) for split, members in splits.items()}

    def refuse_row(self, name: str, error: str) -> None:
        """Stop at a bad row of a table, or with ``on_bad_sample: skip`` count it among the bad samples.

        Args:
            name: What the row is about, such as the id of an image.
            error: One sentence that names the file, the row and what was expected.

        Raises:
            ValueError: Bad samples are not skipped.
        """
        if self.on_bad_sample == "raise":
            raise ValueError(error)
        self.bad_rows.append((name, error.replace(f"{self.root.absolute()}/", "")))

    def divide(self, samples: list[Sample[Target]]) -> dict[str, list[Sample[Target]]]:
        """The splits of the samples, if no file gives them; a dataset that keeps public ones overrides this."""
        return split_by_patient(samples, self.fractions, self.split_seed)

    def thinned(self, splits: dict[str, list[Sample[Target]]]) -> dict[str, list[Sample[Target]]]:
        """The splits without images on which nothing is to be trained; a task that leaves some out overrides this."""
        return splits

    def for_evaluation(self) -> "MedicalDataModule[Target] | DataBeside":
        """These data as an evaluation sees them: beside those on which something is fitted, if these are others."""
        return self if self._references is None or self.test_split != ALL else DataBeside(self, self._references)

    def _check_splits(self, splits: dict[str, list[Sample[Target]]], required: Sequence[str]) -> None:
        """Refuse empty splits and patients of several, and warn of missing classes."""
        homes: dict[str, str] = {}
        for split, members in splits.items():
            for sample in members:
                if (home := homes.setdefault(sample.patient, split)) != split:
                    raise ValueError(
                        f"{self.root}: expected each patient in one split, found {sample.patient!r} in {home} and "
                        f"{split}; published parts that share patients can be split anew with public: pool"
                    )
        for split in required:
            if not splits[split]:
                total = sum(map(len, splits.values()))
                raise ValueError(
                    f"expected images in every split, but {split} is empty after splitting {counted(total)}; "
                    "give it a larger fraction or the dataset more patients"
                )
            if missing := self.missing_classes(splits[split]):
                rank_zero_warn(f"the split {split} has no image of {', '.join(missing)}")

    def _contents_of(self, samples: Sequence[Sample[Target]]) -> dict[str, Content]:
        """What the samples' files hold, by id."""
        reader = self._reader()
        return ContentReader(kept_hashes(self._identity()), reader.read_checked, reader.files_of, reader.held)(samples)

    def _identity(self) -> str:
        """All that decides how files are read."""
        return f"{type(self).__module__}.{type(self).__qualname__} {self.channels} {self.root.absolute()}"

    def _copies(self, splits: dict[str, list[Sample[Target]]]) -> set[str]:
        """Ids of the images whose pixels an earlier split holds under another name; all are named in a warning."""
        copies = copies_in_later_splits(splits, self.contents)
        if copies:
            shown = ", ".join(f"{id} of {split} is {twin.id} of {home}" for id, split, twin, home in copies[:5])
            rank_zero_warn(
                f"left out {counted(len(copies))} with the same pixels as an image of another split: {shown}"
                + (", ..." if len(copies) > 5 else "")
            )
        return {id for id, *_ in copies}

    def _tell_contradictions(self, samples: Sequence[Sample[Target]]) -> None:
        """Warn of images with the same pixels and different targets, of which at least one is wrong."""
        inside = [sample for sample in samples if not isinstance(sample.target, Path)]
        if found := contradictions(inside, self.contents, self.written):
            have = "1 image has" if len(found) == 1 else f"{len(found)} images have"
            shown = ", ".join(f"{id} as {twin}" for id, twin in found[:5]) + (", ..." if len(found) > 5 else "")
            rank_zero_warn(f"{have} the same pixels as another one and another target: {shown}")

    def export_splits(self, path: str | Path) -> None:
        """Write the splits as CSV with the columns id, split, target, patient, as ``split_file`` reads them.

        All images of a split are written, those beyond ``limit`` too.
        """
        self._require_setup()
        write_splits(Path(path), self._listed, self.written)

    def describe(self) -> dict[str, Any]:
        """Description of the data, ready for JSON, without absolute paths."""
        self._require_setup()
        return {
            "name": self.name,
            "task": self.task,
            "root": self.root.resolve().name,
            "class_names": list(self.class_names),
            "image_size": self.image_size,
            "channels": self.channels,
            "resize": self.resize,
            "splits": {split: self.summarise(members) for split, members in self.splits.items()},
            "split_seed": self.split_seed,
            "split_file": None if self.split_file is None else self.split_file.name,
            "fractions": asdict(self.fractions),
            "limit": self.limit,
            "skipped": len(self.bad_samples),
            "test_split": self.test_split,
            "findings": kept_findings(self.findings_key()),
        }

    def findings_key(self, whole: bool = False) -> str:
        """16 hex digits by which a description of these data (`prepare.py describe`) is found again.

        They change with the images of any split, wherever the root lies, and not with how images are resized. Where the
        data are taken as a `whole`, they are those of ``test_split: all``.
        """
        self._require_setup()
        every = [sample for members in self.splits.values() for sample in members]
        written = {sample.id: self.written(sample) for sample in every}
        meaning = [self.task, list(self.class_names), *self.target_settings()]
        return findings_key({ALL: every} if whole else self.splits, written, self.contents, meaning)

    def fingerprint(self, split: str) -> str:
        """16 hex digits over everything that determines a split's evaluation images, wherever the root lies.

        This includes the content of their files.

        Raises:
            ValueError: A file cannot be read; the message names it.
        """
        samples = self._readable(split)
        rows = sorted((sample.id, self.written(sample), self.contents[sample.id].data) for sample in samples)
        settings = [self.name, self.image_size, self.channels, self.resize, rows, *self.target_settings()]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]

    def hashes(self, split: str) -> dict[str, torch.Tensor]:
        """Hashes by which the images of a split are recognised: ``ids``, ``patients``, ``data``, ``pixels``.

        Each is int64 ``(N,)``, in the order of the split; 0 means unknown.

        Raises:
            ValueError: A file cannot be read; the message names it.
        """
        return image_hashes(self.name, self._readable(split), self.contents)

    def training_data(self) -> dict[str, Any]:
        """What a victim that is trained on these data keeps of them: facts, and the hashes of Train and Val."""
        facts = ("name", "task", "class_names", "image_size", "channels", "resize")
        return {
            "schema": 1,
            "class": type(self).__name__,
            **{name: value for name, value in self.describe().items() if name in facts},
            "splits": {split: self.hashes(split) for split in ("train", "val")},
        }

    def _readable(self, split: str) -> list[Sample[Target]]:
        """The samples of a split, if all of them can be read."""
        samples = self._samples(split, may_be_empty=True)
        if errors := [error for sample in samples if (error := self.contents[sample.id].error)]:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            raise ValueError(f"{errors[0]}{more}")
        return samples

    def _split(
        self, samples: list[Sample[Target]], good: list[Sample[Target]]
    ) -> tuple[dict[str, list[Sample[Target]]], list[str]]:
        """The good samples of each split, and the splits that need an image."""
        if self.test_split == ALL:
            return {ALL: good}, [ALL]
        if self.split_file is None:
            return self.divide(good), [split for split, share in asdict(self.fractions).items() if share > 0]
        gone: list[str] | None = [] if self._of_run else None
        listed = read_splits(self.split_file, samples, self.check_written, gone)
        tell_differences(self.root, self.split_file, samples, listed, gone or [])
        kept = {sample.id for sample in good}
        splits = {split: [sample for sample in members if sample.id in kept] for split, members in listed.items()}
        return splits, [split for split, members in listed.items() if members]

    def _without_bad(self, samples: Sequence[Sample[Target]]) -> list[Sample[Target]]:
        """The samples that can be read; the others are recorded, and reported in a single warning."""
        good = []
        self.bad_samples = list(self.bad_rows)
        for sample in samples:
            try:
                self.read_checked(sample)
            except ValueError as error:
                reason = str(error).removeprefix(f"{sample.path}: ").replace(f"{self.root.absolute()}/", "")
                self.bad_samples.append((sample.id, reason))
            else:
                good.append(sample)
        if self.bad_samples:
            first = ", ".join(id for id, _ in self.bad_samples[:5])
            total = len(samples) + len(self.bad_rows)
            rank_zero_warn(f"skipped {len(self.bad_samples)} of {total} images that cannot be read: {first}")
        return good

    def _validate(self) -> None:
        """Refuse arguments outside their range."""
        for argument, least in (("image_size", 1), ("batch_size", 1), ("num_workers", 0), ("limit", 1)):
            value = getattr(self, argument)
            if value is not None and value < least:
                raise ValueError(f"{argument} is at least {least}, got {value}")
        choices = {
            "channels": (1, 3),
            "resize": get_args(Resize),
            "on_bad_sample": ("raise", "skip"),
            "test_split": (*SPLITS, ALL),
            "cache": get_args(Cache),
        }
        for argument, allowed in choices.items():
            if (choice := getattr(self, argument)) not in allowed:
                raise ValueError(f"{argument} is one of {', '.join(map(str, allowed))}, got {choice!r}")


def _by_hash(sample: Sample[Any]) -> bytes:
    return hashlib.sha256(sample.id.encode()).digest()
