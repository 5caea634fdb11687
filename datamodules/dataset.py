"""The dataset of a split: samples to transformed images, and batches of them."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.content import data_of_files, hash_of_arrays
from datamodules.kept_scenes import KeptScenes
from datamodules.samplers import rank_and_world
from datamodules.samples import Sample
from datamodules.transforms import Scene, Transform

MOST_WORKERS = 8
ROUNDING = 1e-3  # pixels


class Reader(Protocol):
    """What a dataset asks of its data module: how to turn samples into images and targets."""

    def read_checked(self, sample: Sample[Any]) -> Scene:
        """The image of a sample and what lies on it, both of them checked."""
        ...

    def target_of(self, sample: Sample[Any], scene: Scene) -> Any:
        """The target of a sample whose scene has been transformed."""
        ...

    def batch_targets(self, targets: Sequence[Any]) -> Any:
        """Targets of several images as a victim takes them."""
        ...

    def files_of(self, sample: Sample[Any]) -> list[Path]:
        """The files that decide a sample."""
        ...

    def held(self, sample: Sample[Any]) -> tuple[np.ndarray, ...]:
        """What files that hold many samples hold of this one; none for files that hold a single one."""
        ...


class ImageDataset(Dataset[dict[str, Any]]):
    """Images of a split, read on demand.

    Args:
        samples: The samples of the split.
        reader: Reads them.
        transform: Makes every scene square.
        seed: Seed of the augmentation; each image draws its own from (seed, epoch, id).
        kept: The square scenes of the samples, which the transform gets instead of what their files hold.
    """

    def __init__(
        self,
        samples: Sequence[Sample[Any]],
        reader: Reader,
        transform: Transform,
        seed: int = 0,
        kept: KeptScenes | None = None,
    ) -> None:
        self.samples = list(samples)
        self.reader = reader
        self.transform = transform
        self.seed = seed
        self.kept = kept

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """One image.

        Args:
            key: The index, or the pair (index, epoch) of a training order.

        Returns:
            ``image`` (C, H, W) float32 in [0, 1], ``target`` as the task defines it and ``id`` str.

        Raises:
            ValueError: A file of the sample is bad; the message names it.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        sample, scene = self.samples[index], self.scene(index, epoch)
        return {
            "image": torch.from_numpy(scene.image).permute(2, 0, 1).contiguous(),
            "target": self.reader.target_of(sample, scene),
            "id": sample.id,
        }

    def scene(self, index: int, epoch: int = 0) -> Scene:
        """The transformed scene of an image."""
        sample = self.samples[index]
        digest = hashlib.blake2b(f"{self.seed}/{epoch}/{sample.id}".encode(), digest_size=4).digest()
        scene = self.reader.read_checked(sample) if self.kept is None else self.kept[index]
        return self.transform(scene, seed=int.from_bytes(digest, "big"))


class SquareScenes(Dataset[Scene]):
    """The scenes of samples after the evaluation's transform, as a cache keeps them.

    Args:
        samples: The samples.
        reader: Reads them.
        transform: Makes every scene square.
        data: Hash of what each sample's files held when its content was read (`Content.data`), in the same order.
    """

    def __init__(
        self, samples: Sequence[Sample[Any]], reader: Reader, transform: Transform, data: Sequence[str]
    ) -> None:
        self.samples, self.reader, self.transform = list(samples), reader, transform
        self.data = list(data)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Scene:
        """One scene, of files that hold what they held before.

        Raises:
            ValueError: A file cannot be read, or has been changed; the message names it.
        """
        scene = self.square(place)
        sample = self.samples[place]
        held = self.reader.held(sample)
        now = hash_of_arrays(held) if held else data_of_files(self.reader.files_of(sample))
        if now is not None and now != self.data[place]:  # what is kept is found again by what the file held
            raise ValueError(f"{sample.path}: expected the image that was there at the start, got another one")
        return scene

    def square(self, place: int) -> Scene:
        """One scene, as its files hold it now."""
        return self.transform(self.reader.read_checked(self.samples[place]))

    def in_order(self, workers: int) -> Iterator[Scene]:
        """All of them, made by so many processes."""
        options: dict[str, Any] = {"num_workers": workers, "worker_init_fn": one_thread}
        return iter(DataLoader(self, batch_size=None, collate_fn=_as_it_is, **options))

    def fit(self, kept: Sequence[Scene] | KeptScenes) -> bool:
        """Whether some kept scenes are exactly what the files give: what reads them may have changed."""
        places = sorted({0, len(self) // 2, len(self) - 1}) if len(self) else []
        return all(same_scene(self.square(place), kept[place]) for place in places)


def same_scene(one: Scene, other: Scene) -> bool:
    """Whether two scenes are equal in every value; corners of boxes may differ by rounding."""
    if (one.boxes is None) != (other.boxes is None):
        return False
    if one.boxes is not None and other.boxes is not None and not _close(one.boxes, other.boxes):
        return False
    pairs = ((one.image, other.image), (one.mask, other.mask), (one.labels, other.labels))
    return all((a is None and b is None) or np.array_equal(a, b) for a, b in pairs)  # type: ignore[arg-type]


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=0, atol=ROUNDING)


def unchanged(scene: Scene, seed: int | None = None) -> Scene:
    """The transform of scenes that are square already and are not augmented."""
    return scene


def _as_it_is(scene: Any) -> Any:
    return scene


def collate(items: Sequence[dict[str, Any]], batch_targets: Callable[[Sequence[Any]], Any]) -> dict[str, Any]:
    """A batch: ``image`` (N, C, H, W) float32 in [0, 1], ``target`` as the task batches it, ``id`` list of N str."""
    return {
        "image": torch.stack([item["image"] for item in items]),
        "target": batch_targets([item["target"] for item in items]),
        "id": [item["id"] for item in items],
    }


def loader_options(reader: Reader, num_workers: int | None) -> dict[str, Any]:
    """Options that all loaders of these batches share.

    Args:
        reader: Knows how targets are batched.
        num_workers: Processes that read images; None for as many as suit the machine.
    """
    workers = suitable_workers() if num_workers is None else num_workers
    return {
        "num_workers": workers,
        "collate_fn": partial(collate, batch_targets=reader.batch_targets),
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": workers > 0,
        "worker_init_fn": one_thread,
    }


def suitable_workers() -> int:
    """Processes that read images: none without a GPU, where they would take the cores from the victim.

    With GPUs, each rank gets its share of the cores, less one that drives the GPU: at least 1, at most 8.
    """
    if not torch.cuda.is_available():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = min(rank_and_world()[1], torch.cuda.device_count())
    return min(max(cores // max(ranks, 1) - 1, 1), MOST_WORKERS)


def one_thread(worker: int) -> None:
    """Keep OpenCV's threads out of a worker process: the workers are the parallelism."""
    cv2.setNumThreads(0)
