"""Victims and data of masks and boxes so small that what they find can be told by hand; programs can name them too."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules import BoxDataModule, Sample, Scene, SegmentationDataModule
from lightning_modules import VictimModule
from medrobust.networks import Outcome

SIDE = 8
QUADRANTS = torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 4], [0, 4, 4, 8], [4, 4, 8, 8]])
GLARE = 0.7  # mean brightness from which a quadrant is taken for glare instead of a spot


def encoder(channels: int = 4) -> nn.Sequential:
    """A convolution whose first channel is the image itself, and an activation."""
    first = nn.Conv2d(1, channels, 3, padding=1)
    with torch.no_grad():
        first.weight.copy_(torch.randn(first.weight.shape, generator=torch.Generator().manual_seed(3)) * 0.3)
        first.weight[0] = 0
        first.weight[0, 0, 1, 1] = 1
        first.bias.zero_()
    return nn.Sequential(first, nn.ReLU())


class Organ(VictimModule):
    """Takes the pixels brighter than ``level`` for the organ; right where the Jaccard index reaches ``threshold``."""

    def __init__(self, num_classes: int = 2, channels: int = 1, threshold: float = 0.5, level: float = 0.5) -> None:
        head = nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            head.weight.zero_()
            head.weight[1, 0] = 10.0
            head.bias.copy_(torch.tensor([0.0, -10 * level]))
        super().__init__(nn.Sequential(OrderedDict(encoder=encoder(), head=head)), mean=0.0, std=1.0)
        self.num_classes, self.channels, self.threshold, self.level = num_classes, channels, threshold, level

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(self(images), targets, reduction="none").mean((1, 2))

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        found, true = outputs.argmax(1) == 1, targets == 1
        union = (found | true).sum((1, 2))
        jaccard = torch.where(union > 0, (found & true).sum((1, 2)) / union.clamp(min=1), 1.0)
        return Outcome(jaccard >= self.threshold, jaccard)

    def description(self) -> dict[str, Any]:
        names = ("num_classes", "channels", "threshold", "level")
        return {"class": type(self).__name__, **{name: getattr(self, name) for name in names}}


class Spots(VictimModule):
    """Finds the quadrants brighter than ``level``: class 0, spot, or class 1, glare, from `GLARE` on."""

    def __init__(
        self,
        num_classes: int = 2,
        channels: int = 1,
        score_threshold: float = 0.5,
        iou_threshold: float = 0.5,
        share: float = 0.5,
        level: float = 0.5,
    ) -> None:
        super().__init__(nn.Sequential(OrderedDict(encoder=encoder(), head=nn.AvgPool2d(4))), mean=0.0, std=1.0)
        self.num_classes, self.channels, self.level = num_classes, channels, level
        self.score_threshold, self.iou_threshold, self.share = score_threshold, iou_threshold, share

    def brightness(self, images: Tensor) -> Tensor:
        return self.network(self.normalised(images))[:, 0].flatten(1)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        found = []
        for means in self.brightness(images):
            scores = (10 * (means - self.level)).sigmoid()
            kept = (scores >= 0.05).nonzero().squeeze(1)
            kept = kept[scores[kept].argsort(descending=True, stable=True)]
            labels = (means[kept] >= GLARE).long()
            found.append({"boxes": QUADRANTS.to(means)[kept], "scores": scores[kept], "labels": labels})
        return found

    def loss(self, images: Tensor, targets: Any) -> Tensor:
        logits = 10 * (self.brightness(images) - self.level)
        signs = torch.stack([(QUADRANTS[:, None] == one["boxes"].cpu()).all(2).any(1) * 2.0 - 1 for one in targets])
        return functional.softplus(-signs.to(logits) * logits).sum(1)

    def outcome(self, outputs: Any, targets: Any) -> Outcome:
        right, quality = [], []
        for output, target in zip(outputs, targets, strict=True):
            sure = output["scores"] >= self.score_threshold
            found = {(int(label), *box) for label, box in zip(output["labels"][sure], output["boxes"][sure].tolist())}
            true = [(int(label), *box) for label, box in zip(target["labels"], target["boxes"].tolist())]
            share = sum(one in found for one in true) / len(true) if true else float("nan")
            right.append(share >= self.share if true else not found)
            quality.append(share)
        return Outcome(torch.tensor(right, dtype=torch.bool), torch.tensor(quality))

    def description(self) -> dict[str, Any]:
        names = ("num_classes", "channels", "score_threshold", "iou_threshold", "share", "level")
        return {"class": type(self).__name__, **{name: getattr(self, name) for name in names}}


class Organs(SegmentationDataModule):
    """An organ of 32 bright pixels, of which n are hardly brighter than one half, before a dark background."""

    name, class_names = "organs", ("background", "organ")
    count = 40

    def index(self) -> list[Sample[Path]]:
        return [Sample(Path(f"{n:02d}"), f"{n:02d}", Path(f"{n:02d}"), f"{n:02d}") for n in range(self.count)]

    def read(self, sample: Sample[Path]) -> Scene:
        number = int(sample.id)
        image, mask = np.full((SIDE, SIDE, 1), 0.1 + 0.001 * number, np.float32), np.zeros((SIDE, SIDE), np.int32)
        image[:4], mask[:4] = 0.9, 1
        image[:4].reshape(-1)[: number % 32] = 0.55
        return Scene(image, mask=mask)


class Frames(BoxDataModule):
    """Frames of no to three bright quadrants: spots at 0.6 and glare at 0.9; the rest of a frame is dark."""

    name, class_names = "frames", ("spot", "glare")
    count = 40

    def index(self) -> list[Sample[Any]]:
        samples = []
        for n in range(self.count):
            corners = QUADRANTS[: n % 4].tolist()
            boxes = [((n // 4 + place) % 2, *box) for place, box in enumerate(corners)]
            samples.append(Sample(Path(f"{n:02d}"), f"{n:02d}", boxes, f"{n:02d}"))
        return samples

    def read(self, sample: Sample[Any]) -> Scene:
        image = np.full((SIDE, SIDE, 1), 0.3 + 0.002 * int(sample.id), np.float32)
        for label, x1, y1, x2, y2 in sample.target:
            image[int(y1) : int(y2), int(x1) : int(x2)] = 0.9 if label else 0.6
        boxes = np.array([box[1:] for box in sample.target], np.float64).reshape(-1, 4)
        return Scene(image, boxes=boxes, labels=np.array([box[0] for box in sample.target], np.int64))


TASKS: dict[str, tuple[type[VictimModule], type[Any]]] = {"masks": (Organ, Organs), "boxes": (Spots, Frames)}


def data_of(task: str, **options: Any) -> Any:
    """The data of ``masks`` or ``boxes``, set up."""
    settings: dict[str, Any] = {"image_size": SIDE, "channels": 1, "batch_size": 3, "num_workers": 0}
    data = TASKS[task][1]("unused", **(settings | options))
    data.setup("test")
    return data
