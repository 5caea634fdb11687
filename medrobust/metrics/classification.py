"""How good a classifier is on clean images: loss, accuracy, AUROC, sensitivity, specificity, exact over all ranks."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from medrobust.metrics.separation import auroc


class ClassifierQuality(Metric):
    """Cross-entropy, accuracy, AUROC, sensitivity and specificity from the logits of all images, gathered over ranks.

    With two classes, class 1 is the positive one. With more, each class is compared with all others, and the values are
    means over the classes that occur. AUROC ranks the images by ``z_k - logsumexp_{j != k} z_j`` in float64, since a
    softmax in float32 would tie all confident images at 1.
    """

    is_differentiable = False
    full_state_update = False
    logits: list[Tensor]
    targets: list[Tensor]

    def __init__(self, **options: Any) -> None:
        """Start without images; the options are those of any torchmetrics metric."""
        super().__init__(**options)
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits ``(N, K)`` and true classes ``(N,)``."""
        self.logits.append(logits.detach().float())
        self.targets.append(targets.detach())

    def compute(self) -> dict[str, Tensor]:
        """Values by name: ``loss`` in nats, the others in [0, 1]; NaN if a class that a value needs never occurs."""
        logits, targets = dim_zero_cat(self.logits).double(), dim_zero_cat(self.targets)
        predictions = logits.argmax(1)
        classes = [1] if logits.shape[1] == 2 else targets.unique().tolist()
        per_class = []
        for positive in classes:
            rest = logits.clone()
            rest[:, positive] = float("-inf")
            scores = logits[:, positive] - rest.logsumexp(1)
            is_positive, predicted = targets == positive, predictions == positive
            per_class.append(
                torch.stack(
                    [
                        auroc(scores[~is_positive], scores[is_positive]),
                        predicted[is_positive].double().mean(),
                        (~predicted[~is_positive]).double().mean(),
                    ]
                )
            )
        means = torch.stack(per_class).mean(0)
        values = {
            "loss": functional.cross_entropy(logits, targets),
            "accuracy": (predictions == targets).double().mean(),
        }
        return values | dict(zip(("auroc", "sensitivity", "specificity"), means.unbind(), strict=True))
