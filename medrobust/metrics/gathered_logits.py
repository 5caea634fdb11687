"""Logits and targets of all images, gathered over ranks: what metrics of classes and of labels are computed from."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class GatheredLogits(Metric):
    """A metric that keeps all logits ``(N, K)`` and targets, on any number of processes, also on one without images.

    Args:
        options: Those of any torchmetrics metric.
    """

    is_differentiable = False
    full_state_update = False
    logits: list[Tensor]
    targets: list[Tensor]
    columns: Tensor

    def __init__(self, **options: Any) -> None:
        """Start without images."""
        super().__init__(**options)
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")
        self.add_state("columns", default=torch.tensor(0), dist_reduce_fx="max")
        self._begin()

    def reset(self) -> None:
        """Start anew without images."""
        super().reset()
        self._begin()

    def _begin(self) -> None:
        """Give the lists a first entry: a process without an image must gather what has the others' form and type."""
        self.logits.append(torch.zeros(0, device=self.columns.device))
        self.targets.append(torch.zeros(0, dtype=torch.long, device=self.columns.device))

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits ``(N, K)`` and true classes ``(N,)`` or labels ``(N, K)``."""
        self.columns = torch.full_like(self.columns, logits.shape[1])
        self.logits.append(logits.detach().float().flatten())
        self.targets.append(targets.detach().long().flatten())

    def gathered(self) -> tuple[Tensor, Tensor]:
        """All logits, float64 ``(N, K)``, and all targets in one row."""
        return dim_zero_cat(self.logits).double().view(-1, int(self.columns)), dim_zero_cat(self.targets)
