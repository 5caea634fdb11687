"""Victims that find boxes: Faster R-CNN fine-tuned, measured, and open to attacks on both of its stages."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor

from lightning_modules.base import VictimModule
from lightning_modules.optimisation import Schedule, optimisation
from medrobust.metrics.boxes import BoxQuality, match_boxes
from medrobust.networks import Outcome
from medrobust.networks.boxes import build_detector

Boxes = dict[str, Tensor]


class BoxDetector(VictimModule):
    """Faster R-CNN on the features of any timm backbone, which finds boxes of K classes (``networks.boxes``).

    Outputs and targets are lists of N dicts: ``boxes`` (B, 4) with corners x1, y1, x2, y2 in pixels, ``labels`` (B,)
    counted from 0, and of outputs ``scores`` (B,), the most certain first. Images keep their size.

    A true box is found by a detection of its class whose score is at least ``score_threshold`` and whose IoU is at
    least ``iou_threshold``, each by its own. The quality of an image is the share of its boxes that are found, and
    the victim is right where that is at least ``share``. An image without any box has no quality (NaN), and the
    victim is right about it where no detection reaches the score. The goals of a targeted attack may say by
    ``sought``, bool ``(B,)``, which of their boxes decide; the others count nowhere.

    It is trained on the losses that are attacked. Those of an image depend neither on chance nor on the images beside
    it, but in training mode BatchNorm sees all of a batch. ``val/map50`` is the number to choose a checkpoint by.

    Args:
        num_classes: Number of classes K, without the background.
        backbone: Name of a timm network with maps of the strides 4, 8, 16 and 32; a small one such as ``resnet10t``
            can be trained on a CPU.
        channels: Channels of the images.
        weights: Where the backbone starts: ``hub`` (timm's download), a local file, or None for random weights.
        options: Further arguments of the timm network, such as ``pad_type: same``.
        booster: Put a multi-scale booster behind each level of the pyramid (Shao et al. 2019).
        mean: Mean to subtract from images in [0, 1], one number or one per channel; 0.5 and 0.5 give [-1, 1].
        std: Standard deviation to divide by, one number or one per channel.
        optimizer: Optimiser class with its settings; default AdamW, learning rate 3e-4.
        schedule: ``constant``, ``cosine`` (5 % linear warm-up, then a half cosine to 0, by step), or a scheduler
            class with its settings, stepped once per epoch (ReduceLROnPlateau watches ``val/loss``).
        score_threshold: Least score of a detection that counts, in [0, 1].
        iou_threshold: Least IoU with the box that it finds, above 0 and at most 1.
        share: Share of an image's boxes from which the victim is right, above 0 and at most 1.
        width: Channels of the pyramid.
        anchor: Side of the smallest anchors in pixels, about that of the smallest objects; the next ones are 2, 4, 8
            and 16 times as long.
        proposals: Most proposals of an image.

    Raises:
        ValueError: An argument is out of its range, or the weights cannot be loaded.
    """

    shown_metrics = ("map50", "quality")

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        channels: int = 3,
        weights: str | None = None,
        options: dict[str, Any] | None = None,
        booster: bool = False,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=3e-4),
        schedule: Schedule = "cosine",
        score_threshold: float = 0.5,
        iou_threshold: float = 0.5,
        share: float = 0.5,
        width: int = 256,
        anchor: float = 16,
        proposals: int = 300,
    ) -> None:
        """Build the network; nothing is read but a weight file."""
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold is a score and lies in [0, 1], got {score_threshold}")
        for name, value in {"iou_threshold": iou_threshold, "share": share}.items():
            if not 0 < value <= 1:
                raise ValueError(f"{name} lies above 0 and is at most 1, got {value}")
        network = build_detector(
            backbone, num_classes, channels, weights, options, booster, width=width, anchor=anchor, proposals=proposals
        )
        super().__init__(network, mean, std)
        self.num_classes, self.backbone, self.channels = num_classes, backbone, channels
        self.options, self.booster = dict(options or {}), booster
        self.score_threshold, self.iou_threshold, self.share = score_threshold, iou_threshold, share
        self.width, self.anchor, self.proposals_kept = width, anchor, proposals
        self.optimizer, self.schedule = optimizer, schedule
        self.clean_metric: BoxQuality = BoxQuality(score_threshold)

    def setup(self, stage: str) -> None:
        """Compare with the data, before anything is computed.

        Raises:
            ValueError: The data have no boxes, or other classes or channels than the network.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        task = getattr(data, "task", "boxes")
        if task != "boxes":
            raise ValueError(f"a BoxDetector needs data with boxes, and those of {data.name} are of the task {task}")
        for name, expected in {"num_classes": self.num_classes, "channels": self.channels}.items():
            found = getattr(data, name, expected)
            if found != expected:
                names = ", ".join(map(str, getattr(data, "class_names", ()))) if name == "num_classes" else ""
                raise ValueError(
                    f"model.{name} is {expected}, but the data set has {found}" + f" ({names})" * bool(names)
                )

    def loss_parts(self, images: Tensor, targets: Sequence[Boxes]) -> dict[str, Tensor]:
        """The parts of each image's loss, ``(N,)`` each, which add up to ``loss``.

        They are ``objectness`` and ``proposals`` (regression) of the first stage, ``classes`` and ``boxes``
        (regression) of the second.

        Raises:
            ValueError: As ``outcome``.
        """
        check_boxes(targets)
        return cast(dict[str, Tensor], self.network(self.normalised(images), targets=targets))

    def loss(self, images: Tensor, targets: Sequence[Boxes]) -> Tensor:
        """Sum of the losses of both stages for each image, ``(N,)``."""
        return torch.stack(list(self.loss_parts(images, targets).values())).sum(0)

    def proposals(self, images: Tensor, overlap: float) -> list[Tensor]:
        """Corners ``(P, 4)`` of each image's proposals, at most 1,000, the most likely first, without a gradient.

        Args:
            images: ``(N, C, H, W)`` in [0, 1].
            overlap: IoU with a likelier proposal above which one is dropped, in (0, 1).
        """
        return cast(list[Tensor], self.network(self.normalised(images), overlap=overlap))

    def proposal_logits(self, images: Tensor, proposals: Sequence[Tensor]) -> list[Tensor]:
        """Logits of given proposals ``(P, 4)``, of each image ``(P, K + 1)``: those of the K classes, then background.

        They carry a gradient to the images and none to the proposals; P may be 0.
        """
        return cast(list[Tensor], self.network(self.normalised(images), proposals=proposals))

    def outcome(self, outputs: Sequence[Boxes], targets: Sequence[Boxes]) -> Outcome:
        """Whether enough of the boxes are found, and the share of them that is, for each image.

        Raises:
            ValueError: The targets are no list of boxes.
        """
        check_boxes(targets)
        match = match_boxes(outputs, targets, self.score_threshold, self.iou_threshold)
        decides = match.true
        for row, target in enumerate(targets):
            if (sought := target.get("sought")) is not None:
                decides[row, : len(sought)] &= sought.to(decides.device)
        count, found = decides.sum(1), (match.found & decides).sum(1)
        quality = torch.where(count > 0, found.double() / count, torch.nan)
        enough = found >= self.share * count - 1e-6  # which rounding must not decide
        return Outcome(torch.where(count > 0, enough, match.certain == 0), quality)

    def measure(self, batch: dict[str, Any]) -> None:
        """Measure detections and losses, both from one pass through the backbone."""
        outputs, parts = self.network(self.normalised(batch["image"]), targets=batch["target"], measured=True)
        outcome = self.outcome(outputs, batch["target"])
        loss = torch.stack(list(parts.values())).sum(0)
        self.clean_metric.update(loss, outcome.right, outcome.quality, outputs, batch["target"])

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule as configured."""
        return optimisation(self, self.optimizer, self.schedule)

    def description(self) -> dict[str, Any]:
        """What the network is and when it is right, as plain values."""
        return {
            "class": type(self).__name__,
            "num_classes": self.num_classes,
            "backbone": self.backbone,
            "channels": self.channels,
            "options": self.options,
            "booster": self.booster,
            "score_threshold": self.score_threshold,
            "iou_threshold": self.iou_threshold,
            "share": self.share,
            "width": self.width,
            "anchor": self.anchor,
            "proposals": self.proposals_kept,
        }


def check_boxes(targets: Any) -> None:
    """Refuse what is no list with the boxes and labels of each image, without a look at their values.

    Args:
        targets: A list of N dicts with ``boxes`` and ``labels``.

    Raises:
        ValueError: The message shows what came.
    """
    listed = isinstance(targets, list | tuple)
    if not listed or not all(isinstance(one, dict) and {"boxes", "labels"} <= one.keys() for one in targets):
        received = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(f"the targets of a detector are a list with a dict of boxes and labels each, got {received}")
