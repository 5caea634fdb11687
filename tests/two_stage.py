"""A toy victim that finds boxes in two stages, whose every number can be worked out by hand."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_iou, nms

from medrobust.networks import Outcome

STRIDE, SIDE = 2, 4


class TwoStage(nn.Module):
    """Proposes windows of 4 x 4 pixels at every second pixel, and takes each for the channel that is brightest in it.

    The logit of class k is ``scale * (mean of channel k in the window - 0.5)``, that of the background, the last one,
    0; objectness is the largest of the classes' logits. Boxes are as they are proposed, so that regression has nothing
    to do but to add a share of the image's mean. An image is right where at least half its true boxes are found.

    Args:
        channels: Channels of its images, and number K of classes.
        scale: Multiplies the logits.
    """

    def __init__(self, channels: int = 3, scale: float = 10.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.channels, self.calls = channels, 0

    def windows(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        corners = [
            [left, top, left + SIDE, top + SIDE]
            for top in range(0, height - SIDE + 1, STRIDE)
            for left in range(0, width - SIDE + 1, STRIDE)
        ]
        return torch.tensor(corners, dtype=images.dtype, device=images.device)

    def means(self, image: Tensor, corners: Tensor) -> Tensor:
        """Means of the channels in each box, ``(P, C)``; pixels count by the share that the box covers."""

        def covered(low: Tensor, high: Tensor, side: int) -> Tensor:
            places = torch.arange(side, device=image.device)
            return (torch.minimum(high[:, None], places + 1) - torch.maximum(low[:, None], places)).clamp(min=0)

        x1, y1, x2, y2 = corners.unbind(1)
        inside = covered(y1, y2, image.shape[1])[:, :, None] * covered(x1, x2, image.shape[2])[:, None]
        return torch.einsum("phw,chw->pc", inside, image) / inside.sum((1, 2)).clamp(min=1e-6)[:, None]

    def classes(self, image: Tensor, corners: Tensor) -> Tensor:
        found = self.scale * (self.means(image, corners) - 0.5)
        return torch.cat([found, torch.zeros_like(found[:, :1])], 1)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        self.calls += 1
        corners, outputs = self.windows(images), []
        for image in images:
            scores, labels = self.classes(image, corners).softmax(1)[:, :-1].max(1)
            kept = nms(corners, scores, 0.3)
            outputs.append({"boxes": corners[kept], "scores": scores[kept], "labels": labels[kept]})
        return outputs

    def loss(self, images: Tensor, targets: Any) -> Tensor:
        return torch.stack(list(self.loss_parts(images, targets).values())).sum(0)

    def loss_parts(self, images: Tensor, targets: Any) -> dict[str, Tensor]:
        self.calls += 1
        corners, rows = self.windows(images), []
        for image, target in zip(images, targets, strict=True):
            logits = self.classes(image, corners)
            truth = torch.full((len(corners),), self.channels, device=images.device)
            if len(target["boxes"]):
                best, place = box_iou(corners, target["boxes"].to(corners)).max(1)
                truth = torch.where(best >= 0.5, target["labels"][place], truth)
            there = (truth < self.channels).to(logits.dtype)
            objectness = functional.binary_cross_entropy_with_logits(logits[:, :-1].amax(1), there)
            shift = image.mean() * bool(len(target["boxes"]))
            rows.append((objectness, 0.1 * shift, functional.cross_entropy(logits, truth), 0.2 * shift))
        names = ("objectness", "proposals", "classes", "boxes")
        empty = images.flatten(1).sum(1)
        return {name: torch.stack([row[i] for row in rows]) if rows else empty for i, name in enumerate(names)}

    def proposals(self, images: Tensor, overlap: float) -> list[Tensor]:
        self.calls += 1
        corners = self.windows(images)
        with torch.no_grad():
            return [corners[nms(corners, self.classes(image, corners)[:, :-1].amax(1), overlap)] for image in images]

    def proposal_logits(self, images: Tensor, proposals: Sequence[Tensor]) -> list[Tensor]:
        self.calls += 1
        return [self.classes(image, corners) for image, corners in zip(images, proposals, strict=True)]

    def outcome(self, outputs: Any, targets: Any) -> Outcome:
        right, quality = [], []
        for output, target in zip(outputs, targets, strict=True):
            sure = output["scores"] >= 0.5
            boxes, labels = target["boxes"], target["labels"]
            if "sought" in target:
                boxes, labels = boxes[target["sought"]], labels[target["sought"]]
            if not len(boxes):
                right.append(~sure.any())
                quality.append(torch.tensor(torch.nan, device=sure.device))
                continue
            overlaps = box_iou(output["boxes"], boxes.to(output["boxes"]))
            hits = (overlaps >= 0.5) & sure[:, None] & (output["labels"][:, None] == labels)
            quality.append(hits.any(0).float().mean())
            right.append(quality[-1] >= 0.5)
        if not right:
            return Outcome(torch.zeros(0, dtype=torch.bool), torch.zeros(0))
        return Outcome(torch.stack(right), torch.stack(quality))

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Any, dict[str, Tensor]]:
        return self(images), {layer: images.mean((2, 3)) for layer in layers}


def frames(count: int, seed: int = 0) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Dark frames of 3 x 8 x 8 with a spot of 4 x 4 of one channel in a corner; every fourth has none."""
    images = 0.3 + 0.1 * torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    targets = []
    for place, image in enumerate(images):
        boxes: list[list[float]] = []
        if place % 4 != 3:
            top, left = 4 * (place % 2), 4 * (place // 2 % 2)
            image[place % 3, top : top + 4, left : left + 4] += 0.3
            boxes = [[left, top, left + 4, top + 4]]
        labels = torch.full((len(boxes),), place % 3)
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": labels})
    return images, targets
