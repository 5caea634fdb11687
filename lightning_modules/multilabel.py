"""Victims of several labels per image: a sigmoid for each, trained on those that are known."""

from typing import Any, Literal, Protocol, runtime_checkable

import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor
from torch.nn import functional

from lightning_modules.classification import Classifier
from lightning_modules.optimisation import Schedule
from medrobust.metrics.labels import LabelQuality
from medrobust.networks import Outcome
from medrobust.networks.classifiers import Head
from medrobust.networks.label_outputs import label_loss, label_outcome


@runtime_checkable
class LabelledData(Protocol):
    """What ``class_weights: balanced`` requires of a data module of several labels."""

    def positive_weights(self) -> Tensor:
        """Number of images of Train without each label for one with it, ``(L,)``."""


class MultiLabelClassifier(Classifier):
    """Image classifier of L labels that do not exclude each other: one logit and one sigmoid for each.

    Targets are ``(N, L)``, each 0 or 1, or negative where the label is not known; such labels have no loss and are
    neither right nor wrong. A label is found where its logit is positive.

    The victim is right about an image if all of its known labels are right, so that an untargeted attack succeeds by
    flipping any of them. A targeted attack has goals ``(N, L)`` of the same form, and succeeds where all labels that
    its goals name are as they say: one chosen label flipped and the others negative, or all of them flipped.

    Args:
        backbone: Name of a timm network.
        num_classes: Number of labels L, at least 2.
        head: ``linear``, or ``dense`` for the 128 units with dropout of Ma20 section 3.3.
        channels: Channels of the images.
        weights: Where to start: ``hub`` (timm's download), a local file, or None for random weights.
        options: Further arguments of the timm network, such as ``pad_type: same``.
        mean: Mean to subtract from images in [0, 1], one number or one per channel; 0.5 and 0.5 give [-1, 1].
        std: Standard deviation to divide by, one number or one per channel.
        optimizer: Optimiser class with its settings; default AdamW, learning rate 3e-4.
        schedule: ``constant``, ``cosine`` (5 % linear warm-up, then a half cosine to 0, by step), or a scheduler
            class with its settings, stepped once per epoch (ReduceLROnPlateau watches ``val/loss``).
        class_weights: Weight of each label's positive images in training: ``balanced`` (negatives for each positive in
            Train), one number per label, or None.
        label_smoothing: Share of the target that is spread evenly over both states of a label, in [0, 1).
        head_std: Standard deviation of a ``linear`` head's first weights, as ``Classifier``.

    Raises:
        ValueError: An argument is out of its range, or the weights cannot be loaded.
    """

    shown_metrics = ("accuracy", "auroc")

    def __init__(
        self,
        backbone: str,
        num_classes: int = 2,
        head: Literal["linear", "dense"] = "linear",
        channels: int = 3,
        weights: str | None = None,
        options: dict[str, Any] | None = None,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=3e-4),
        schedule: Schedule = "cosine",
        class_weights: Literal["balanced"] | list[float] | None = None,
        label_smoothing: float = 0.0,
        head_std: float | None = None,
    ) -> None:
        """Build the network; nothing is read but a weight file."""
        if head not in ("linear", "dense"):
            raise ValueError(f"head of several labels is 'linear' or 'dense', got {head!r}")
        chosen: Head = head
        super().__init__(
            backbone,
            num_classes=num_classes,
            head=chosen,
            channels=channels,
            weights=weights,
            options=options,
            mean=mean,
            std=std,
            optimizer=optimizer,
            schedule=schedule,
            class_weights=class_weights,
            label_smoothing=label_smoothing,
            head_std=head_std,
        )
        self.clean_metric = LabelQuality()

    def setup(self, stage: str) -> None:
        """Compare with the data, before anything is computed.

        Raises:
            ValueError: The data have other labels or channels than the network, or cannot say how frequent they are.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        task = getattr(data, "task", "multilabel")
        if task != "multilabel":
            raise ValueError(
                f"a MultiLabelClassifier needs data of several labels per image, and those of {data.name} are of the "
                f"task {task}"
            )
        compared = {"num_classes": self.num_classes, "channels": self.channels}
        for name, expected in compared.items():
            found = getattr(data, name, expected)
            if found != expected:
                raise ValueError(f"model.{name} is {expected}, but the data set has {found}")
        self.clean_metric.names = [str(name) for name in getattr(data, "class_names", ())]
        if stage == "fit" and self.class_weights == "balanced":
            if not isinstance(data, LabelledData):
                raise ValueError("class_weights: balanced counts the labels of a data module with positive_weights")
            self.loss_weights = data.positive_weights().to(self.loss_weights)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross-entropy over each image's known labels, ``(N,)``, unweighted; 0 if none is known."""
        return label_loss(self(images), targets)

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        """Whether all known labels ``(N, L)`` are right, and the share of them that are.

        An image without a known label has no quality (NaN) and is not right, so that no attack succeeds on it.
        """
        return label_outcome(outputs, targets)

    def training_loss(self, images: Tensor, targets: Tensor, outputs: Tensor | None = None) -> Tensor:
        """Weighted binary cross-entropy of a batch, ``()``, over all of its known labels."""
        logits, smoothing = self(images) if outputs is None else outputs, self.label_smoothing
        truths = (targets > 0).float() * (1 - smoothing) + smoothing / 2
        losses = functional.binary_cross_entropy_with_logits(
            logits, truths, pos_weight=self.loss_weights, reduction="none"
        )
        known = targets >= 0
        return (losses * known).sum() / known.sum().clamp(min=1)
