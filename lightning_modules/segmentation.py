"""Segmenters as victims: fine-tuning by cross-entropy and Dice, metrics, and what attacks need of them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor

from lightning_modules.base import VictimModule
from lightning_modules.optimisation import Schedule, optimisation
from medrobust.metrics.segmentation import SegmentationQuality, overlaps, predicted_labels, quality_of_masks
from medrobust.networks import Outcome
from medrobust.networks.features import ACTIVATIONS
from medrobust.networks.mask_outputs import check_masks, pixel_cross_entropy
from medrobust.networks.segmenters import build_segmenter


class Segmenter(VictimModule):
    """A network that gives each pixel one of K labels, of which 0 is the background.

    Targets are masks ``(N, H, W)`` of labels; negative pixels are ignored everywhere. The victim is right about an
    image if the mean Jaccard index of its foreground classes is at least a threshold. The layers that ``activations``
    stands for are those of the encoder.

    Args:
        num_classes: Number of labels K, at least 2, the background among them.
        encoder: Name of an encoder of segmentation_models_pytorch or of a timm network, as ``build_segmenter``.
        architecture: ``unet``, ``unet++``, ``deeplabv3+``, ``fpn`` or another one that ``build_segmenter`` names.
        channels: Channels of the images.
        weights: Where to start: ``hub`` (the encoder's, downloaded), a local file of the encoder or of the whole
            network, or None for random weights.
        options: Further arguments of the architecture, such as ``decoder_channels``, or of a timm encoder, such as
            ``pad_type: same``.
        mean: Mean to subtract from images in [0, 1], one number or one per channel; 0.5 and 0.5 give [-1, 1].
        std: Standard deviation to divide by, one number or one per channel.
        optimizer: Optimiser class with its settings; default AdamW, learning rate 1e-3.
        schedule: ``constant``, ``cosine`` (5 % linear warm-up, then a half cosine to 0, by step), or a scheduler
            class with its settings, stepped once per epoch (ReduceLROnPlateau watches ``val/loss``).
        threshold: Jaccard index from which an image is right, in (0, 1].
        dice_weight: Weight of the Dice loss beside the cross-entropy, at least 0.
        class_weights: Weight of each label's pixels in the cross-entropy of training, one number per label, or None.

    Raises:
        ValueError: An argument is out of its range, or the weights cannot be loaded.
    """

    loss_weights: Tensor
    clean_metric: SegmentationQuality
    shown_metrics = ("accuracy", "jaccard")

    def __init__(
        self,
        num_classes: int,
        encoder: str = "resnet18",
        architecture: str = "unet",
        channels: int = 1,
        weights: str | None = None,
        options: dict[str, Any] | None = None,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        schedule: Schedule = "cosine",
        threshold: float = 0.5,
        dice_weight: float = 1.0,
        class_weights: list[float] | None = None,
    ) -> None:
        """Build the network; nothing is read but a weight file."""
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is a Jaccard index above 0 and at most 1, got {threshold}")
        if not 0 <= dice_weight < math.inf:
            raise ValueError(f"dice_weight is a number of at least 0, got {dice_weight}")
        if class_weights is not None and len(class_weights) != num_classes:
            raise ValueError(f"class_weights needs one number for each of {num_classes} labels, got {class_weights}")
        if class_weights is not None and not (all(0 <= one < math.inf for one in class_weights) and any(class_weights)):
            raise ValueError(f"class_weights are numbers of at least 0, one of them above it, got {class_weights}")
        super().__init__(build_segmenter(encoder, num_classes, architecture, channels, weights, options), mean, std)
        self.num_classes, self.encoder, self.architecture, self.channels = num_classes, encoder, architecture, channels
        self.options, self.threshold, self.dice_weight = dict(options or {}), threshold, dice_weight
        self.optimizer, self.schedule = optimizer, schedule
        weights_of = torch.ones(num_classes) if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("loss_weights", weights_of.float(), persistent=False)
        self.clean_metric = SegmentationQuality(num_classes)

    def setup(self, stage: str) -> None:
        """Compare with the data, before anything is computed.

        Raises:
            ValueError: The data are of another task, or have other labels or channels than the network.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        task = getattr(data, "task", "segmentation")
        if task != "segmentation":
            raise ValueError(f"a Segmenter needs data with masks, and those of {data.name} are of the task {task}")
        compared = {"num_classes": self.num_classes, "channels": self.channels}
        for name, expected in compared.items():
            found = getattr(data, name, expected)
            if found != expected:
                names = ", ".join(map(str, getattr(data, "class_names", ()))) if name == "num_classes" else ""
                raise ValueError(
                    f"model.{name} is {expected}, but the data set has {found}" + f" ({names})" * bool(names)
                )
        self.clean_metric.names = [str(name) for name in getattr(data, "class_names", ())]

    def layers_named(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Names of the network's layers that match patterns; ``activations`` are those of the encoder.

        Raises:
            ValueError: A pattern matches no layer.
        """
        if ACTIVATIONS not in patterns:
            return super().layers_named(patterns)
        own = [name for name in super().layers_named([ACTIVATIONS]) if name.startswith("encoder.")]
        if not own:
            raise ValueError("the encoder has no activation layer among its modules; name the layers")
        return super().layers_named([*own, *(pattern for pattern in patterns if pattern != ACTIVATIONS)])

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy and weighted Dice loss of each image, ``(N,)``, without class weights.

        Raises:
            ValueError: As ``outcome``.
        """
        return self._losses(self(images), targets, None)

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        """Whether the mean Jaccard index of an image's foreground classes reaches the threshold, and that index.

        It is the mean over the foreground classes that truth or prediction has, and 1 where neither has any. An image
        without a labelled pixel has no quality (NaN) and is not right, so that no attack succeeds on it.

        Raises:
            ValueError: The targets are not one mask per image, of the size of the outputs.
        """
        check_masks(outputs, targets)
        quality = quality_of_masks(overlaps(predicted_labels(outputs), targets, self.num_classes))
        return Outcome(quality >= self.threshold, quality)

    def training_loss(self, images: Tensor, targets: Tensor, outputs: Tensor | None = None) -> Tensor:
        """Weighted cross-entropy and Dice loss, ``()``: the mean over the images that have a labelled pixel."""
        losses = self._losses(self(images) if outputs is None else outputs, targets, self.loss_weights)
        return losses.sum() / (targets >= 0).flatten(1).any(1).sum().clamp(min=1)

    def measure(self, batch: dict[str, Any]) -> None:
        """Measure the masks of a batch."""
        logits, targets = self(batch["image"]), batch["target"]
        outcome = self.outcome(logits, targets)
        self.clean_metric.update(self._losses(logits, targets, None), outcome.right, outcome.quality, logits, targets)

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule as configured."""
        return optimisation(self, self.optimizer, self.schedule)

    def description(self) -> dict[str, Any]:
        """What the network is and when it is right, as plain values."""
        return {
            "class": type(self).__name__,
            "num_classes": self.num_classes,
            "encoder": self.encoder,
            "architecture": self.architecture,
            "channels": self.channels,
            "options": self.options,
            "threshold": self.threshold,
            "dice_weight": self.dice_weight,
        }

    def _losses(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """Cross-entropy and Dice loss of each image, ``(N,)``; 0 if it has no labelled pixel."""
        check_masks(logits, targets)
        cross_entropy = pixel_cross_entropy(logits, targets, weights)
        return cross_entropy + self.dice_weight * dice_losses(logits, targets) if self.dice_weight else cross_entropy


def dice_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Soft Dice loss of each image (Milletari et al., 3DV 2016), ``(N,)``; 0 if it has no labelled pixel.

    1 minus the mean, over the classes that the true mask has, of 2 sum p t / (sum p + sum t), where p is a pixel's
    softmax probability of the class, t is 1 where that is its label, and the sums are over the labelled pixels.

    Args:
        logits: ``(N, K, H, W)``.
        targets: Labels ``(N, H, W)``, negative where a pixel is ignored.

    >>> dice_losses(torch.zeros(1, 2, 1, 2), torch.tensor([[[1, -1]]]))  # 2 * 0.5 / (0.5 + 1) = 2 / 3
    tensor([0.3333])
    """
    labelled = (targets >= 0).unsqueeze(1)
    probabilities = logits.softmax(1) * labelled
    labels = torch.arange(logits.shape[1], device=targets.device).view(-1, 1, 1)
    truths = (targets.unsqueeze(1) == labels).to(logits.dtype)
    true = truths.sum((2, 3))
    shares = 2 * (probabilities * truths).sum((2, 3)) / (probabilities.sum((2, 3)) + true).clamp(min=1)
    present = true > 0
    kinds = present.sum(1)
    return (kinds > 0).to(logits.dtype) - (shares * present).sum(1) / kinds.clamp(min=1)
