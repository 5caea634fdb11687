"""How good a classifier is on clean images: loss, accuracy, AUROC, sensitivity and specificity, exact on any ranks."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from medrobust.metrics.separation import auroc


class ClassifierQuality(Metric):
    """Cross-entropy, accuracy, AUROC, sensitivity and specificity from all images' logits, gathered over the ranks.

    For two classes, class 1 is the positive one. For more, each class stands against the others and the mean over
    the classes that occur is given. AUROC is taken by ranks of z_k - logsumexp_{j != k} z_j in float64: a softmax in
    float32 would tie the confident images at 1.
    """

    is_differentiable = False
    full_state_update = False
    logits: list[Tensor]
    targets: list[Tensor]

    def __init__(self, **options: Any) -> None:
        """Start empty; options are those of every torchmetrics metric."""
        super().__init__(**options)
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Take a batch: logits ``(N, K)`` and classes ``(N,)``."""
        self.logits.append(logits.detach().float())
        self.targets.append(targets.detach())

    def compute(self) -> dict[str, Tensor]:
        """Values by name, ``loss`` in nats, the others in [0, 1]; NaN where a class never occurs."""
        logits, targets = dim_zero_cat(self.logits).double(), dim_zero_cat(self.targets)
        predictions = logits.argmax(1)
        classes = [1] if logits.shape[1] == 2 else targets.unique().tolist()
        per_class = []
        for positive in classes:
            rest = logits.clone()
            rest[:, positive] = float("-inf")
            scores = logits[:, positive] - rest.logsumexp(1)
            is_positive, called = targets == positive, predictions == positive
            per_class.append(
                torch.stack(
                    [
                        auroc(scores[~is_positive], scores[is_positive]),
                        called[is_positive].double().mean(),
                        (~called[~is_positive]).double().mean(),
                    ]
                )
            )
        means = torch.stack(per_class).mean(0)
        values = {
            "loss": functional.cross_entropy(logits, targets),
            "accuracy": (predictions == targets).double().mean(),
        }
        return values | dict(zip(("auroc", "sensitivity", "specificity"), means.unbind(), strict=True))
