"""The loaders of a data module: batches of each split, from files or from a cache of decoded scenes."""

import copy
import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Sampler

from datamodules.content import Content
from datamodules.dataset import ImageDataset, SquareScenes, loader_options, same_scene, unchanged
from datamodules.kept_scenes import KeptScenes
from datamodules.references import ALL
from datamodules.sample_source import SampleSource
from datamodules.samplers import EachImageOnce, ShuffledEpochs, rank_and_world
from datamodules.samples import Sample, Target
from datamodules.scene_cache import Cache, SceneCache
from datamodules.splits import SPLITS, first_of_each_stratum
from datamodules.transforms import (
    VERSIONS,
    Augmentation,
    NamedTransform,
    Resize,
    Transform,
    evaluation_transform,
    training_transform,
)

TRIALS = 8  # augmentations that show whether a training transform begins as the evaluation's does


class SplitLoaders(pl.LightningDataModule, SampleSource[Target]):
    """Batches of the splits that a `MedicalDataModule` has found."""

    name: str
    root: Path
    image_size: int
    batch_size: int
    num_workers: int | None
    cache: Cache
    resize: Resize
    augment: bool | Augmentation
    test_split: str
    splits: dict[str, list[Sample[Target]]]
    contents: dict[str, Content]
    judged: frozenset[str] | None = None  # ids of the only images that an evaluation is to read; None for all
    _listed: dict[str, list[Sample[Target]]]
    _kept: dict[str, KeptScenes | None]
    _references: "SplitLoaders[Any] | None"

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Train, shuffled and augmented; ``seed_everything`` and the epoch determine order and augmentation."""
        samples = self._samples("train")
        seed = torch.initial_seed() % 2**32
        sampler = ShuffledEpochs(len(samples), seed)
        share = len(sampler)
        # BatchNorm has no variance to divide by in a batch of one image
        drop_last = share > self.batch_size and share % self.batch_size == 1
        reader = self._reader()
        return DataLoader(
            self._training_set(samples, reader, seed),
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            **loader_options(reader, self.num_workers),
        )

    def _training_set(self, samples: Sequence[Sample[Target]], reader: Self, seed: int) -> ImageDataset:
        """Train as the training loader reads it."""
        kept = self._kept_scenes("train", samples)
        if self.augment is False:
            transform = unchanged if kept is not None else self.transform_for_evaluation()
            return ImageDataset(samples, reader, transform, seed, kept)
        transform = self.transform_for_training()
        if kept is not None:
            from_files, from_cache = (ImageDataset(samples, reader, transform, 0, one) for one in (None, kept))
            places = {0, len(samples) - 1}
            if not all(
                same_scene(from_files.scene(place, epoch), from_cache.scene(place, epoch))
                for place in places
                for epoch in range(TRIALS)
            ):
                rank_zero_warn(
                    f"cache: {self.cache} is not used for the training of {self.name}, whose transform_for_training "
                    "changes images before they are square"
                )
                kept = None
        return ImageDataset(samples, reader, transform, seed, kept)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Val in fixed order, each image once.

        Raises:
            ValueError: Several ranks train, and Val is too small to give each of them the same number of batches.
        """
        fitting = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        images = len(self._samples("val"))
        if fitting and not EachImageOnce(images, self.batch_size).even:  # DDP would wait for the missing batch forever
            raise ValueError(
                f"val has {counted(images)}, expected enough for the same number of batches of at most "
                f"{self.batch_size} on every rank: use fewer devices, another batch_size or a larger val"
            )
        return self._judged("val")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The split named by ``test_split`` in fixed order, each image once."""
        return self._judged(self.test_split)

    def batch_of(self, split: str, id: str, ranks: int = 1) -> list[str]:
        """Ids of the images that an evaluation on so many ranks reads in one batch, of which an image is one.

        Raises:
            ValueError: The split has no such image.
        """
        ids = [sample.id for sample in self._samples(split)]
        if id not in ids:
            raise ValueError(f"the split {split} has no image {id!r}")
        place, dealt = ids.index(id), EachImageOnce(len(ids), self.batch_size)
        batches = (batch for rank in range(ranks) for batch in dealt.of_rank(rank, ranks))
        return [ids[one] for one in next(batch for batch in batches if place in batch)]

    def _judged(self, split: str) -> DataLoader[dict[str, Any]]:
        """A split as an evaluation reads it: all images, or the few that ``judged`` names."""
        return self.dataloader_of(split, ids=self.judged)

    def reference_dataloader(self, per_class: int | None = None) -> DataLoader[dict[str, Any]]:
        """Clean Train images in fixed order, each once: what detectors take as normal. Available in every stage."""
        return self.dataloader_of("train", per_class)

    def dataloader_of(
        self, split: str, per_class: int | None = None, ids: Collection[str] | None = None
    ) -> DataLoader[dict[str, Any]]:
        """A split in fixed order with the evaluation's transform, each image once.

        Args:
            split: Name of the split.
            per_class: At most this many images of each stratum, the first in the fixed order; None for all.
            ids: The images to read, of those; None for all.

        Raises:
            ValueError: An unknown or empty split, fewer images than processes, or `setup` was not called.
        """
        samples = first_of_each_stratum(self._samples(split), per_class)
        if ids is not None:
            samples = [sample for sample in samples if sample.id in ids]
        world = rank_and_world()[1]
        if len(samples) < world:
            raise ValueError(f"the split {split} has {counted(len(samples))} for {world} processes: use fewer devices")
        batches: Sampler[list[int]] = EachImageOnce(len(samples), self.batch_size)
        reader = self._reader()
        kept = self._kept_scenes(split, samples)
        transform = self.transform_for_evaluation() if kept is None else unchanged
        dataset = ImageDataset(samples, reader, transform, kept=kept)
        return DataLoader(dataset, batch_sampler=batches, **loader_options(reader, self.num_workers))

    def _kept_scenes(self, split: str, samples: Sequence[Sample[Target]]) -> KeptScenes | None:
        """The square scenes of samples from the cache; None where there is none, or for a part of a split."""
        if self.cache == "none" or len(samples) != len(self.splits[split]):
            return None
        in_order = sorted(samples, key=lambda sample: sample.id)  # a file of many samples is read once
        key = self._scenes_key(in_order)
        if key not in self._kept:
            data = [self.contents[sample.id].data for sample in in_order]
            square = SquareScenes(in_order, self._reader(), self.transform_for_evaluation(), data)
            workers = loader_options(self, self.num_workers)["num_workers"]
            shared = SceneCache(self.cache, key, f"{split} of {self.name}")
            self._kept[key] = shared.scenes(len(samples), lambda: square.in_order(workers), square.fit)
        if (kept := self._kept[key]) is None:
            return None
        places = {sample.id: place for place, sample in enumerate(in_order)}
        return kept.at([places[sample.id] for sample in samples])

    def _scenes_key(self, samples: Sequence[Sample[Target]]) -> str:
        """16 hex digits over all that decides square scenes: the content of the files, and how they are read."""
        transform = self.transform_for_evaluation()
        reading = [
            f"{type(self).__module__}.{type(self).__qualname__}",
            *(self.channels, self.image_size, self.resize, self.target_settings()),
            transform.identity if isinstance(transform, NamedTransform) else "",
            VERSIONS,
        ]
        rows = [(sample.id, self.written(sample), self.contents[sample.id].data) for sample in samples]
        return hashlib.sha256(json.dumps([reading, rows]).encode()).hexdigest()[:16]

    def transform_for_evaluation(self) -> Transform:
        """How scenes become square, except those of the training loader."""
        return evaluation_transform(self.image_size, self.resize)

    def transform_for_training(self) -> Transform:
        """How training scenes become square and are changed at random."""
        return training_transform(self.image_size, self.resize, self._augmentation())

    def _samples(self, split: str, *, may_be_empty: bool = False) -> list[Sample[Target]]:
        known = (ALL,) if self.test_split == ALL else SPLITS
        if split in SPLITS and split not in known:
            raise ValueError(
                f"test_split is all, so that every image is judged and none is left for {split}; detectors and attacks "
                "that imitate clean images are fitted on the data of the victim's own run"
            )
        if split not in known:
            raise ValueError(f"expected a split among {', '.join(known)}, got {split!r}")
        self._require_setup()
        if not self.splits[split] and not may_be_empty:
            raise ValueError(f"the split {split} has no images: its fraction is 0 or the split file names none")
        return self.splits[split]

    def _require_setup(self) -> None:
        if not self.splits:
            raise ValueError(f"{type(self).__name__} has no splits yet: call setup() first")

    def _reader(self) -> Self:
        """A copy of this data module without its trainer, which could not be sent to a worker process."""
        reader = copy.copy(self)
        reader.trainer, reader._references = None, None
        reader.contents, reader._listed, reader._kept = {}, {}, {}
        return reader

    def _augmentation(self) -> Augmentation | None:
        """Ranges of the random changes; None for the defaults."""
        return self.augment if isinstance(self.augment, Augmentation) else None


def counted(count: int) -> str:
    """How many images, in words."""
    return "1 image" if count == 1 else f"{count} images"
