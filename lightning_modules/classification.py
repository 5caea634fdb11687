"""Classifiers as victims: fine-tuning, metrics, and what attacks need of them."""

from typing import Any, Literal, Protocol, runtime_checkable

import torch
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional

from lightning_modules.base import VictimModule
from lightning_modules.optimisation import Schedule, optimisation
from medrobust.metrics.classification import ClassifierQuality
from medrobust.metrics.labels import LabelQuality
from medrobust.networks import Outcome, class_outcome
from medrobust.networks.classifiers import Head, build_classifier
from medrobust.networks.graph_head import LabelEmbedding


@runtime_checkable
class ClassificationData(Protocol):
    """What a classifier requires of a data module."""

    channels: int

    @property
    def num_classes(self) -> int:
        """Number of classes K."""

    def class_weights(self) -> Tensor:
        """Weights ``(K,)`` of the classes, inverse to their frequency in Train."""


class Classifier(VictimModule):
    """Image classifier: any timm backbone, fine-tuned by (weighted) cross-entropy.

    Args:
        backbone: Name of a timm network.
        num_classes: Number of classes K.
        head: ``linear``, ``dense`` for the 128 units with dropout of Ma20 section 3.3, or ``label_graph`` for the graph
            convolution over ordered grades of SMIA21.
        channels: Channels of the images.
        weights: Where to start: ``hub`` (timm's download), a local file, or None for random weights.
        options: Further arguments of the timm network, such as ``pad_type: same``.
        mean: Mean to subtract from images in [0, 1], one number or one per channel; 0.5 and 0.5 give [-1, 1].
        std: Standard deviation to divide by, one number or one per channel.
        optimizer: Optimiser class with its settings; default AdamW, learning rate 3e-4.
        schedule: ``constant``, ``cosine`` (5 % linear warm-up, then a half cosine to 0, by step), or a scheduler
            class with its settings, stepped once per epoch (ReduceLROnPlateau watches ``val/loss``).
        class_weights: ``balanced`` (inverse frequency in Train), one number per class, or None.
        label_smoothing: Share of the target that is spread evenly over all classes, in [0, 1).
        label_embedding: What the grades of a ``label_graph`` start from: ``learnt`` embeddings or ``one_hot`` ones.
        head_std: Standard deviation of a ``linear`` head's first weights, with a bias of 0; None leaves timm's, which
            of some backbones are so large that the first steps undo pretrained weights.

    Raises:
        ValueError: An argument is out of its range, or the weights cannot be loaded.
    """

    loss_weights: Tensor
    shown_metrics = ("accuracy", "auroc")

    def __init__(
        self,
        backbone: str,
        num_classes: int = 2,
        head: Head = "linear",
        channels: int = 3,
        weights: str | None = None,
        options: dict[str, Any] | None = None,
        mean: float | list[float] = 0.5,
        std: float | list[float] = 0.5,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=3e-4),
        schedule: Schedule = "cosine",
        class_weights: Literal["balanced"] | list[float] | None = None,
        label_smoothing: float = 0.0,
        label_embedding: LabelEmbedding = "learnt",
        head_std: float | None = None,
    ) -> None:
        """Build the network; nothing is read but a weight file."""
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is a share and lies in [0, 1), got {label_smoothing}")
        if isinstance(class_weights, list) and len(class_weights) != num_classes:
            raise ValueError(f"class_weights needs one number for each of {num_classes} classes, got {class_weights}")
        network = build_classifier(backbone, num_classes, head, channels, weights, options, label_embedding, head_std)
        super().__init__(network, mean, std)
        self.backbone, self.num_classes, self.head, self.channels = backbone, num_classes, head, channels
        self.options, self.label_embedding = dict(options or {}), label_embedding
        self.optimizer, self.schedule = optimizer, schedule
        self.class_weights, self.label_smoothing = class_weights, label_smoothing
        weights_of = torch.tensor(class_weights) if isinstance(class_weights, list) else torch.ones(num_classes)
        self.register_buffer("loss_weights", weights_of, persistent=False)
        self.clean_metric: ClassifierQuality | LabelQuality = ClassifierQuality()

    def setup(self, stage: str) -> None:
        """Compare with the data, before anything is computed.

        Raises:
            ValueError: The data have another number of classes or channels than the network.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, ClassificationData):
            if stage == "fit" and self.class_weights == "balanced":
                raise ValueError("class_weights: balanced counts the classes of a data module, and none is given")
            return
        compared = {"num_classes": (self.num_classes, data.num_classes), "channels": (self.channels, data.channels)}
        for name, (expected, found) in compared.items():
            if found != expected:
                names = ", ".join(map(str, getattr(data, "class_names", ()))) if name == "num_classes" else ""
                raise ValueError(
                    f"model.{name} is {expected}, but the data set has {found}" + f" ({names})" * bool(names)
                )
        self.clean_metric.names = [str(name) for name in getattr(data, "class_names", ())]
        self._compare_order(bool(getattr(data, "ordered", False)))
        if stage == "fit" and self.class_weights == "balanced":
            self.loss_weights = data.class_weights().to(self.loss_weights)

    def _compare_order(self, ordered: bool) -> None:
        """Let the metrics know whether classes are ordered grades, and warn of a label graph over others."""
        if isinstance(self.clean_metric, ClassifierQuality):
            self.clean_metric.ordered = ordered
        if self.head == "label_graph" and not ordered:
            rank_zero_warn(
                "the head label_graph ties neighbouring classes to each other, and the data set does not say that its "
                "classes are ordered grades (ordered)"
            )

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each image, ``(N,)``, unweighted."""
        return functional.cross_entropy(self(images), targets, reduction="none")

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        """Whether the largest logit is that of the target ``(N,)``, and the softmax probability of the target."""
        return class_outcome(outputs, targets)

    def training_loss(self, images: Tensor, targets: Tensor, outputs: Tensor | None = None) -> Tensor:
        """Weighted cross-entropy of a batch, ``()``."""
        logits = self(images) if outputs is None else outputs
        return functional.cross_entropy(logits, targets, self.loss_weights, label_smoothing=self.label_smoothing)

    def measure(self, batch: dict[str, Any]) -> None:
        """Gather the logits of a batch."""
        self.clean_metric.update(self(batch["image"]), batch["target"])

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule as configured."""
        return optimisation(self, self.optimizer, self.schedule)

    def description(self) -> dict[str, Any]:
        """What the network is, as plain values."""
        return {
            "class": type(self).__name__,
            "backbone": self.backbone,
            "num_classes": self.num_classes,
            "head": self.head,
            "channels": self.channels,
            "options": self.options,
            **({"label_embedding": self.label_embedding} if self.head == "label_graph" else {}),
        }
