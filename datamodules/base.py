"""The Lightning datamodule that every image classification dataset derives from."""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Sampler

from datamodules.dataset import ImageDataset, loader_options, readable
from datamodules.samplers import EachImageOnce, ShuffledEpochs, rank_and_world
from datamodules.samples import Sample
from datamodules.splits import (
    SPLITS,
    Fractions,
    first_of_each_class,
    missing_classes,
    read_splits,
    split_by_patient,
    summarise,
    take,
    write_splits,
)
from datamodules.transforms import Augmentation, Resize, Transform, evaluation_transform, training_transform

logger = logging.getLogger(__name__)

Split = Literal["train", "val", "adv_train", "adv_test"]


class MedicalDataModule(pl.LightningDataModule, ABC):
    """Images of one dataset in the splits Train, Val, AdvTrain and AdvTest, disjoint by patient.

    Train fits the victim, Val chooses its checkpoint, AdvTrain fits detectors, AdvTest judges all of them. Batches
    are ``{"image": (N, C, H, W) float32 in [0, 1], "target": (N,) int64, "id": list of N str}``. Evaluation reads
    each image exactly once on any number of ranks; use it with ``Trainer(use_distributed_sampler=False)``.

    Args:
        root: Folder of the dataset.
        image_size: Side of the square images, in pixels.
        channels: 1 for grey or 3 for RGB.
        batch_size: Images per batch and rank.
        num_workers: Processes that read images; 0 reads them in the training process.
        fractions: Shares of the images that the splits get.
        split_seed: Seed of the splits.
        split_file: CSV with the columns id, split, target, patient to take the splits from instead.
        resize: ``crop`` scales the short side and cuts the centre, ``squash`` changes the aspect ratio, ``pad``
            scales the long side and fills with black.
        augment: Whether training images are changed at random, or by how much.
        on_bad_sample: ``raise`` stops at the first unreadable image; ``skip`` reads every image in advance, leaves
            the unreadable ones out and reports them.
        test_split: The split that the test stage sees.
        limit: Keep at most that many images of each split, for quick tries; None keeps all.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name: str
    class_names: ClassVar[tuple[str, ...]]
    task: ClassVar[str] = "classification"

    def __init__(
        self,
        root: str | Path,
        image_size: int = 224,
        channels: Literal[1, 3] = 3,
        batch_size: int = 32,
        num_workers: int = 0,
        fractions: Fractions = Fractions(),  # noqa: B008  frozen
        split_seed: int = 0,
        split_file: str | Path | None = None,
        resize: Resize = "crop",
        augment: bool | Augmentation = True,
        on_bad_sample: Literal["raise", "skip"] = "raise",
        test_split: Split = "adv_test",
        limit: int | None = None,
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
        self._validate()
        self.splits: dict[str, list[Sample]] = {}
        self.bad_samples: list[tuple[str, str]] = []
        # a rank may get no image at all of a small split, and must not stop the others
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @abstractmethod
    def index(self) -> list[Sample]:
        """All samples found under the root, sorted by id; no image is read."""

    def setup(self, stage: str | None = None) -> None:
        """Find the samples and split them, once; every stage gets all splits.

        Raises:
            FileNotFoundError: The root or the split file does not exist.
            ValueError: A class or a split has no image, or the split file has a wrong row.
        """
        if self.splits:
            return
        samples = self.index()
        good = self._without_bad(samples) if self.on_bad_sample == "skip" else samples
        found = Counter(sample.target for sample in good)
        for target, class_name in enumerate(self.class_names):
            if not found[target]:
                raise ValueError(f"{self.root}: expected images of the class {class_name}, found none")
        if self.split_file is None:
            splits = split_by_patient(good, self.fractions, self.split_seed)
            wanted = [split for split, share in asdict(self.fractions).items() if share > 0]
        else:
            kept = {sample.id for sample in good}
            listed = read_splits(self.split_file, samples, self.num_classes)
            splits = {split: [sample for sample in members if sample.id in kept] for split, members in listed.items()}
            wanted = [split for split, members in listed.items() if members]
            if unlisted := len(samples) - sum(map(len, listed.values())):
                logger.warning("%s leaves out %d of %d images", self.split_file, unlisted, len(samples))
        if self.limit is not None:
            splits = {split: take(members, self.limit, self.split_seed) for split, members in splits.items()}
        for split in wanted:
            if missing := missing_classes(split, splits, self.class_names):
                rank_zero_warn(f"the split {split} has no image of {', '.join(missing)}")
        # in the order of a hash of the ids, so that a few batches from the start hold all classes
        self.splits = {split: sorted(members, key=_by_hash) for split, members in splits.items()}

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Train, shuffled and augmented; order and augmentation follow from ``seed_everything`` and the epoch."""
        transform = self._evaluation_transform()
        if self.augment is not False:
            options = None if self.augment is True else self.augment
            transform = training_transform(self.image_size, self.resize, options)
        samples = self._samples("train")
        seed = torch.initial_seed() % 2**32
        sampler = ShuffledEpochs(len(samples), seed)
        share = len(sampler)
        # BatchNorm has no variance to divide by in a batch of one image
        drop_last = share > self.batch_size and share % self.batch_size == 1
        return DataLoader(
            ImageDataset(samples, transform, self.channels, seed),
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            **loader_options(self.num_workers),
        )

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Val in fixed order, each image once.

        Raises:
            ValueError: Several ranks train, and Val is too small to give each of them the same number of batches.
        """
        fitting = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        images = len(self._samples("val"))
        if fitting and not EachImageOnce(images, self.batch_size).even:  # DDP would wait for the missing batch for ever
            raise ValueError(
                f"val has {images} images, expected enough for the same number of batches of at most {self.batch_size} "
                "on every rank: use fewer devices, another batch_size or a larger val"
            )
        return self.dataloader_of("val")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The split named by ``test_split`` in fixed order, each image once."""
        return self.dataloader_of(self.test_split)

    def reference_dataloader(self, per_class: int | None = None) -> DataLoader[dict[str, Any]]:
        """Clean Train images in fixed order, each once: what detectors take as normal. Exists in every stage."""
        return self.dataloader_of("train", per_class)

    def dataloader_of(self, split: Split, per_class: int | None = None) -> DataLoader[dict[str, Any]]:
        """A split in fixed order with the evaluation's transform, each image once.

        Args:
            split: Name of the split.
            per_class: At most that many images of each class, the first in the fixed order; None for all.

        Raises:
            ValueError: An unknown or empty split, fewer images than processes, or `setup` was not called.
        """
        samples = first_of_each_class(self._samples(split), per_class)
        world = rank_and_world()[1]
        if len(samples) < world:
            raise ValueError(f"the split {split} has {len(samples)} images for {world} processes: use fewer devices")
        batches: Sampler[list[int]] = EachImageOnce(len(samples), self.batch_size)
        dataset = ImageDataset(samples, self._evaluation_transform(), self.channels)
        return DataLoader(dataset, batch_sampler=batches, **loader_options(self.num_workers))

    def export_splits(self, path: str | Path) -> None:
        """Write the splits as CSV with the columns id, split, target, patient, as ``split_file`` reads them."""
        self._require_setup()
        write_splits(Path(path), self.splits)

    def describe(self) -> dict[str, Any]:
        """What the data are, ready for JSON; it holds no absolute path."""
        self._require_setup()
        return {
            "name": self.name,
            "task": self.task,
            "root": self.root.resolve().name,
            "class_names": list(self.class_names),
            "image_size": self.image_size,
            "channels": self.channels,
            "resize": self.resize,
            "splits": summarise(self.splits, self.class_names),
            "split_seed": self.split_seed,
            "split_file": None if self.split_file is None else self.split_file.name,
            "fractions": asdict(self.fractions),
            "limit": self.limit,
            "skipped": len(self.bad_samples),
            "test_split": self.test_split,
        }

    def fingerprint(self, split: Split) -> str:
        """16 hex digits over all that decides a split's evaluation images; the same wherever the root lies."""
        pairs = sorted((sample.id, sample.target) for sample in self._samples(split, may_be_empty=True))
        content = json.dumps([self.name, self.image_size, self.channels, self.resize, pairs])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def class_weights(self) -> torch.Tensor:
        """Weights (K,) float32 of the classes, inverse to their frequency in Train, with mean 1.

        Raises:
            ValueError: A class has no image in Train.
        """
        counts = Counter(sample.target for sample in self._samples("train"))
        if missing := [name for target, name in enumerate(self.class_names) if not counts[target]]:
            raise ValueError(f"class weights need images of every class in train, found none of {', '.join(missing)}")
        weights = torch.tensor([1 / counts[target] for target in range(self.num_classes)], dtype=torch.float64)
        return (weights / weights.mean()).float()

    def _without_bad(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples whose files can be read; the others are recorded and reported in one warning."""
        good, self.bad_samples = readable(samples, self.channels)
        if self.bad_samples:
            first = ", ".join(id for id, _ in self.bad_samples[:5])
            rank_zero_warn(f"skipped {len(self.bad_samples)} of {len(samples)} images that cannot be read: {first}")
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
            "test_split": SPLITS,
        }
        for argument, allowed in choices.items():
            if (choice := getattr(self, argument)) not in allowed:
                raise ValueError(f"{argument} is one of {', '.join(map(str, allowed))}, got {choice!r}")

    def _samples(self, split: str, *, may_be_empty: bool = False) -> list[Sample]:
        if split not in SPLITS:
            raise ValueError(f"expected a split among {', '.join(SPLITS)}, got {split!r}")
        self._require_setup()
        if not self.splits[split] and not may_be_empty:
            raise ValueError(f"the split {split} has no images: its fraction is 0 or the split file names none")
        return self.splits[split]

    def _require_setup(self) -> None:
        if not self.splits:
            raise ValueError(f"{type(self).__name__} has no splits yet: call setup() first")

    def _evaluation_transform(self) -> Transform:
        return evaluation_transform(self.image_size, self.resize)


def _by_hash(sample: Sample) -> bytes:
    return hashlib.sha256(sample.id.encode()).digest()
