"""Images in memory as an evaluation asks for them; shared by all tests of evaluations, with and without Lightning."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader


class InMemoryData:
    """Images of some splits with their classes, each image a patient of its own.

    Args:
        splits: Images ``(N, C, H, W)`` and classes ``(N,)`` of each split.
        ids: Ids of the images of each split; default the split's name and the image's number.
        batch_size: Images per batch.
        test_split: The split that is tested.
        num_classes: Number of classes.
        origin: What the fingerprints begin with.
    """

    name, task = "items", "classification"

    def __init__(
        self,
        splits: Mapping[str, tuple[Tensor, Tensor]],
        ids: Mapping[str, Sequence[str]] | None = None,
        batch_size: int = 4,
        test_split: str = "adv_test",
        num_classes: int = 2,
        origin: str = "",
    ) -> None:
        super().__init__()
        self.batch_size, self.test_split, self.num_classes, self.origin = batch_size, test_split, num_classes, origin
        self.images = {split: images for split, (images, _) in splits.items()}
        self.channels = next(iter(self.images.values())).shape[1]
        self.read: list[str] = []  # splits whose images were asked for
        self.splits: dict[str, list[Any]] = {}
        for split, (images, targets) in splits.items():
            names = ids[split] if ids and split in ids else [f"{split}-{place:02d}" for place in range(len(images))]
            self.splits[split] = [
                SimpleNamespace(id=id, target=int(target), patient=id, stratum=str(int(target)))
                for id, target in zip(names, targets, strict=True)
            ]

    def targets(self, split: str) -> Tensor:
        """True classes of a split, ``(N,)``."""
        return torch.tensor([sample.target for sample in self.splits[split]])

    def ids(self, split: str) -> list[str]:
        """Ids of a split."""
        return [sample.id for sample in self.splits[split]]

    def fingerprint(self, split: str) -> str:
        return f"{self.origin} {split} {' '.join(self.ids(split))}"

    def describe(self) -> dict[str, Any]:
        size = next(iter(self.images.values())).shape[-1]
        return {"name": self.name, "task": self.task, "image_size": size, "channels": self.channels}

    def dataloader_of(self, split: str, per_class: int | None = None) -> DataLoader[dict[str, Any]]:
        self.read.append(split)
        items, seen = [], [0] * self.num_classes
        for image, sample in zip(self.images[split], self.splits[split], strict=False):
            seen[sample.target] += 1
            if per_class is None or seen[sample.target] <= per_class:
                items.append({"image": image, "target": sample.target, "id": sample.id})
        return DataLoader(items, batch_size=self.batch_size)  # type: ignore[arg-type]

    def reference_dataloader(self, per_class: int | None = None) -> DataLoader[dict[str, Any]]:
        return self.dataloader_of("train", per_class)


def random_split(count: int, seed: int = 5, classes: int = 2, side: int = 8) -> tuple[Tensor, Tensor]:
    """Random grey images, and classes in a fixed order without a pattern."""
    images = torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed))
    return images, torch.arange(count) * 7 % 5 % classes


def random_data(
    count: int = 23, classes: int = 2, batch_size: int = 7, seed: int = 5, origin: str = "", kind: Any = InMemoryData
) -> Any:
    """The same random images as ``adv_test`` and as ``val``, named image-0, image-1 and so on."""
    split, names = random_split(count, seed, classes), [f"image-{place}" for place in range(count)]
    return kind(
        {"adv_test": split, "val": split},
        {"adv_test": names, "val": names},
        batch_size=batch_size,
        num_classes=classes,
        origin=origin,
    )
