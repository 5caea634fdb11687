"""How good a victim of several labels is on clean images: each label's loss, AUROC, sensitivity and specificity."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.metrics.gathered_logits import GatheredLogits
from medrobust.metrics.separation import auroc


class LabelQuality(GatheredLogits):
    """Loss, accuracy, AUROC, sensitivity and specificity of labels that do not exclude each other, over all ranks.

    ``accuracy`` is the share of images all of whose known labels are right, ``quality`` the share of all known labels
    that are right. AUROC, sensitivity and specificity are each label's own, under the label's name, and their means
    over the labels of which both states occur (macro averages). A negative target is unknown and counts nowhere.

    Args:
        names: Names of the labels; numbers where there are none.
        options: Those of any torchmetrics metric.
    """

    def __init__(self, names: Sequence[str] = (), **options: Any) -> None:
        """Start without images."""
        super().__init__(**options)
        self.names = list(names)

    def compute(self) -> dict[str, Tensor]:
        """Values by name: ``loss`` in nats, as training has it, the others in [0, 1]; NaN where images are missing."""
        logits, flat = self.gathered()
        targets = flat.view_as(logits)
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
