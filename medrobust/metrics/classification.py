"""How good a classifier is on clean images: loss, accuracy, AUROC, calibration and more, exact over all ranks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_cohen_kappa

from medrobust.metrics.calibration import calibration_error
from medrobust.metrics.gathered_logits import GatheredLogits
from medrobust.metrics.separation import auroc


class ClassifierQuality(GatheredLogits):
    """Loss, accuracy, AUROC, sensitivity, specificity, calibration and kappa from all logits, gathered over ranks.

    With two classes, class 1 is the positive one. With more, each class is compared with all others, and AUROC,
    sensitivity and specificity are means over the classes that occur (macro averages); each class's own are given
    besides, under the class's name. AUROC ranks the images by ``z_k - logsumexp_{j != k} z_j`` in float64, since a
    softmax in float32 would tie all confident images at 1.

    ``calibration_error`` is the expected one over 15 bins, as ``metrics.calibration`` defines it. ``kappa``, given for
    ordered grades, is Cohen's with quadratic weights: 1 for agreement with the truth, 0 for as much as chance gives.

    Args:
        names: Names of the classes; numbers where there are none.
        ordered: Whether the classes are ordered grades.
        options: Those of any torchmetrics metric.
    """

    def __init__(self, names: Sequence[str] = (), ordered: bool = False, **options: Any) -> None:
        """Start without images."""
        super().__init__(**options)
        self.names, self.ordered = list(names), ordered

    def compute(self) -> dict[str, Tensor]:
        """Values by name: ``loss`` in nats, ``kappa`` in [-1, 1], the others in [0, 1].

        A value is NaN if a class that it needs never occurs.
        """
        logits, targets = self.gathered()
        predictions, count = logits.argmax(1), logits.shape[1]
        classes = [1] if count == 2 else targets.unique().tolist()
        per_class = torch.stack([_one_against_rest(logits, targets, predictions, one) for one in classes])
        values = {
            "loss": functional.cross_entropy(logits, targets),
            "accuracy": (predictions == targets).double().mean(),
        }
        kinds = ("auroc", "sensitivity", "specificity")
        values |= dict(zip(kinds, per_class.mean(0).unbind(), strict=True))
        values["calibration_error"] = calibration_error(logits.softmax(1).amax(1), predictions == targets)
        if self.ordered:
            values["kappa"] = multiclass_cohen_kappa(predictions, targets, count, weights="quadratic")
        if count > 2:
            for one, numbers in zip(classes, per_class, strict=True):
                name = self.names[one] if one < len(self.names) else str(one)
                values |= {f"{kind}_{name}": number for kind, number in zip(kinds, numbers.unbind(), strict=True)}
        return values


def _one_against_rest(logits: Tensor, targets: Tensor, predictions: Tensor, positive: int) -> Tensor:
    """AUROC, sensitivity and specificity of a class against all others, ``(3,)``."""
    rest = logits.clone()
    rest[:, positive] = float("-inf")
    scores = logits[:, positive] - rest.logsumexp(1)
    is_positive, predicted = targets == positive, predictions == positive
    return torch.stack(
        [
            auroc(scores[~is_positive], scores[is_positive]),
            predicted[is_positive].double().mean(),
            (~predicted[~is_positive]).double().mean(),
        ]
    )
