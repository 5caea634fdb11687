"""Columns of the records for the probability of each label, or of each class."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.networks.victims import is_classes
from medrobust.results.columns import label_column, label_names, probability_column


def label_columns(batch: AdversarialBatch) -> dict[str, Tensor]:
    """Truth and probabilities of each label that does not exclude others, ``(N,)`` by column; empty for other tasks.

    Args:
        batch: Its targets ``(N, L)`` and outputs ``(N, L)`` belong to labels; of an unknown one the truth is NaN.
    """
    targets, outputs = batch.targets, (batch.clean_outputs, batch.adversarial_outputs)
    shapes = {tuple(tensor.shape) for tensor in (targets, *outputs) if isinstance(tensor, Tensor) and tensor.ndim == 2}
    if len(shapes) != 1 or not all(isinstance(tensor, Tensor) and tensor.ndim == 2 for tensor in (targets, *outputs)):
        return {}
    names = label_names(names_of_data(batch, targets.shape[1]))
    true = torch.where(targets < 0, torch.nan, targets.float())
    before, after = (logits.double().sigmoid() for logits in outputs)
    columns: dict[str, Tensor] = {}
    for place, name in enumerate(names):
        columns[label_column(name, "true")] = true[:, place]
        columns[label_column(name, "before")] = before[:, place]
        columns[label_column(name, "after")] = after[:, place]
    return columns


def class_columns(batch: AdversarialBatch) -> dict[str, Tensor]:
    """Probabilities of each class, ``(N,)`` by column; empty unless the outputs are logits of at least two classes."""
    columns: dict[str, Tensor] = {}
    outputs: tuple[Any, Any] = (batch.clean_outputs, batch.adversarial_outputs)
    if not is_classes(batch.targets):
        return columns
    for logits, before in zip(outputs, (True, False), strict=True):
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
            return {}
        for place, values in enumerate(logits.double().softmax(1).unbind(1)):
            columns[probability_column(place, "before" if before else "after")] = values
    return columns


def names_of_data(batch: AdversarialBatch, count: int) -> Sequence[str]:
    """Names of the labels as the data have them, or their numbers."""
    names = [str(name) for name in batch.plan.data.get("class_names") or []]
    return names if len(names) == count else [str(place) for place in range(count)]
