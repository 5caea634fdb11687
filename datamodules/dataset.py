"""The dataset of a split: samples to transformed images, and batches of them."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import cv2
import torch
from torch.utils.data import Dataset

from datamodules.samples import Sample
from datamodules.transforms import Scene, Transform


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


class ImageDataset(Dataset[dict[str, Any]]):
    """Images of a split, read on demand.

    Args:
        samples: The samples of the split.
        reader: Reads them.
        transform: Makes every scene square.
        seed: Seed of the augmentation; each image draws its own from (seed, epoch, id).
    """

    def __init__(self, samples: Sequence[Sample[Any]], reader: Reader, transform: Transform, seed: int = 0) -> None:
        self.samples = list(samples)
        self.reader = reader
        self.transform = transform
        self.seed = seed

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
        sample = self.samples[index]
        digest = hashlib.blake2b(f"{self.seed}/{epoch}/{sample.id}".encode(), digest_size=4).digest()
        scene = self.transform(self.reader.read_checked(sample), seed=int.from_bytes(digest, "big"))
        return {
            "image": torch.from_numpy(scene.image).permute(2, 0, 1).contiguous(),
            "target": self.reader.target_of(sample, scene),
            "id": sample.id,
        }


def collate(items: Sequence[dict[str, Any]], batch_targets: Callable[[Sequence[Any]], Any]) -> dict[str, Any]:
    """A batch: ``image`` (N, C, H, W) float32 in [0, 1], ``target`` as the task batches it, ``id`` list of N str."""
    return {
        "image": torch.stack([item["image"] for item in items]),
        "target": batch_targets([item["target"] for item in items]),
        "id": [item["id"] for item in items],
    }


def loader_options(reader: Reader, num_workers: int) -> dict[str, Any]:
    """Options that all loaders of these batches share."""
    return {
        "num_workers": num_workers,
        "collate_fn": partial(collate, batch_targets=reader.batch_targets),
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": num_workers > 0,
        "worker_init_fn": one_thread,
    }


def one_thread(worker: int) -> None:
    """Keep OpenCV's threads out of a worker process: the workers are the parallelism."""
    cv2.setNumThreads(0)
