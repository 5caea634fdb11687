"""The dataset of a split: samples to transformed images, and batches of them."""

import hashlib
from collections.abc import Sequence
from typing import Any

import cv2
import torch
from torch.utils.data import Dataset

from datamodules.images import read_image
from datamodules.samples import Sample
from datamodules.transforms import Transform


class ImageDataset(Dataset[dict[str, Any]]):
    """Images of a split, read when they are asked for.

    Args:
        samples: What to read.
        transform: From the file's image to a square one.
        channels: 1 for grey or 3 for RGB.
        seed: Seed of the augmentation, which an image draws from (seed, epoch, id).
    """

    def __init__(self, samples: Sequence[Sample], transform: Transform, channels: int, seed: int = 0) -> None:
        self.samples = list(samples)
        self.transform = transform
        self.channels = channels
        self.seed = seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """One image.

        Args:
            key: The index, or the pair (index, epoch) of a training order.

        Returns:
            ``image`` (C, H, W) float32 in [0, 1], ``target`` int and ``id`` str.

        Raises:
            ValueError: The file is not a readable image; the message names it.
        """
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        sample = self.samples[index]
        digest = hashlib.blake2b(f"{self.seed}/{epoch}/{sample.id}".encode(), digest_size=4).digest()
        image = self.transform(read_image(sample.path, self.channels), seed=int.from_bytes(digest, "big"))
        return {
            "image": torch.from_numpy(image).permute(2, 0, 1).contiguous(),
            "target": sample.target,
            "id": sample.id,
        }


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch: ``image`` (N, C, H, W) float32 in [0, 1], ``target`` (N,) int64, ``id`` list of N str."""
    return {
        "image": torch.stack([item["image"] for item in items]),
        "target": torch.tensor([item["target"] for item in items], dtype=torch.int64),
        "id": [item["id"] for item in items],
    }


def readable(samples: Sequence[Sample], channels: int) -> tuple[list[Sample], list[tuple[str, str]]]:
    """The samples whose files can be read, and (id, reason) of the others; every image is decoded."""
    good, bad = [], []
    for sample in samples:
        try:
            read_image(sample.path, channels)
        except ValueError as error:
            bad.append((sample.id, str(error).removeprefix(f"{sample.path}: ")))
        else:
            good.append(sample)
    return good, bad


def loader_options(num_workers: int) -> dict[str, Any]:
    """What all loaders of these batches have in common."""
    return {
        "num_workers": num_workers,
        "collate_fn": collate,
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": num_workers > 0,
        "worker_init_fn": one_thread,
    }


def one_thread(worker: int) -> None:
    """Keep OpenCV's threads out of a worker process: the workers are the parallelism."""
    cv2.setNumThreads(0)
