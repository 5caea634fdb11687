"""How good a victim of several labels is on clean images: each label's loss, AUROC, sensitivity and specificity."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from medrobust.metrics.separation import auroc


class LabelQuality(Metric):
    """Loss, accuracy, AUROC, sensitivity and specificity of labels that do not exclude each other, over all ranks.

    ``accuracy`` is the share of images all of whose known labels are right, ``quality`` the share of all known labels
    that are right. AUROC, sensitivity and specificity are each label's own, under the label's name, and their means
    over the labels of which both states occur (macro averages). A negative target is unknown and counts nowhere.

    Args:
        names: Names of the labels; numbers where there are none.
        options: Those of any torchmetrics metric.
    """

    is_differentiable = False
    full_state_update = False
    logits: list[Tensor]
    targets: list[Tensor]
    columns: Tensor

    def __init__(self, names: Sequence[str] = (), **options: Any) -> None:
        """Start without images."""
        super().__init__(**options)
        self.names = list(names)
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
        """Add a batch: logits ``(N, L)`` and labels ``(N, L)``, each 0, 1 or negative where it is unknown."""
        self.columns = torch.full_like(self.columns, logits.shape[1])
        self.logits.append(logits.detach().float().flatten())
        self.targets.append(targets.detach().long().flatten())

    def compute(self) -> dict[str, Tensor]:
        """Values by name: ``loss`` in nats, as training has it, the others in [0, 1]; NaN where images are missing."""
        logits = dim_zero_cat(self.logits).double().view(-1, int(self.columns))
        targets = dim_zero_cat(self.targets).view_as(logits)
        known = targets >= 0
        losses = label_losses(logits, targets)
        hits = ((logits > 0) == (targets > 0)) & known
        judged = known.any(1)
        values = {
            "loss": (losses.sum(1) / known.sum(1).clamp(min=1))[judged].mean(),
            "accuracy": (hits == known).all(1)[judged].double().mean(),
            "quality": hits.sum().double() / known.sum(),
        }
        rows = [_of_label(logits[known[:, one], one], targets[known[:, one], one]) for one in range(logits.shape[1])]
        own = torch.stack(rows)
        kinds = ("auroc", "sensitivity", "specificity")
        values |= dict(zip(kinds, own[~own.isnan().any(1)].mean(0).unbind(), strict=True))
        for one, (numbers, lost, count) in enumerate(zip(own, losses.sum(0), known.sum(0), strict=True)):
            name = self.names[one] if one < len(self.names) else str(one)
            values[f"loss_{name}"] = lost / count
            values |= {f"{kind}_{name}": number for kind, number in zip(kinds, numbers.unbind(), strict=True)}
        return values


def label_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of each label, ``(N, L)``, 0 where the label is unknown.

    Args:
        logits: ``(N, L)``.
        targets: ``(N, L)``, each 0, 1 or negative where it is unknown.

    >>> label_losses(torch.zeros(1, 2), torch.tensor([[1, -1]]))  # ln 2, and nothing of a label that is not known
    tensor([[0.6931, 0.0000]])
    """
    truths = (targets > 0).to(logits.dtype)
    losses = functional.binary_cross_entropy_with_logits(logits, truths, reduction="none")
    return losses * (targets >= 0)


def _of_label(logits: Tensor, targets: Tensor) -> Tensor:
    """AUROC, sensitivity and specificity of one label, ``(3,)``."""
    positive, found = targets > 0, logits > 0
    return torch.stack(
        [
            auroc(logits[~positive], logits[positive]),
            found[positive].double().mean(),
            (~found[~positive]).double().mean(),
        ]
    )
