"""How good a victim of any task is on clean images: mean loss, accuracy and quality, exact on any ranks."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOutcome(Metric):
    """Mean loss, share of right images and mean quality of all images of all ranks, each image counted once.

    The quality is the mean over the images that have one: it is NaN for an image of which it is not defined, such as
    one without boxes.
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, **options: Any) -> None:
        """Start empty; options are those of every torchmetrics metric."""
        super().__init__(**options)
        self.add_state("sums", default=torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", default=torch.zeros(3, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, loss: Tensor, right: Tensor, quality: Tensor) -> None:
        """Take a batch: each image's loss, whether the victim is right about it, and its quality, ``(N,)`` each."""
        defined = ~quality.isnan()
        self.sums += torch.stack(
            [
                values.detach().double().sum()
                for values in (loss, right, quality.where(defined, torch.zeros_like(quality)))
            ]
        )
        everyone = torch.full_like(defined.sum(), len(right))
        self.counts += torch.stack([everyone, everyone, defined.sum()])

    def compute(self) -> dict[str, Tensor]:
        """``loss``, ``accuracy`` and ``quality``; NaN if there was no image."""
        return dict(zip(("loss", "accuracy", "quality"), (self.sums / self.counts).unbind(), strict=True))
