"""How good a victim of any task is on clean images: mean loss, accuracy and quality, exact on any ranks."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOutcome(Metric):
    """Mean loss, share of right images and mean quality of all images of all ranks, each image counted once."""

    is_differentiable = False
    full_state_update = False
    sums: Tensor
    count: Tensor

    def __init__(self, **options: Any) -> None:
        """Start empty; options are those of every torchmetrics metric."""
        super().__init__(**options)
        self.add_state("sums", default=torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, right: Tensor, quality: Tensor) -> None:
        """Take a batch: each image's loss, whether the victim is right about it, and its quality, ``(N,)`` each."""
        self.sums += torch.stack([values.detach().double().sum() for values in (loss, right, quality)])
        self.count += len(right)

    def compute(self) -> dict[str, Tensor]:
        """``loss``, ``accuracy`` and ``quality``; NaN if there was no image."""
        return dict(zip(("loss", "accuracy", "quality"), (self.sums / self.count).unbind(), strict=True))
