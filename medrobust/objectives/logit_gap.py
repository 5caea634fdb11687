"""The gap between the logits of a target and of its rivals: what objectives read off a victim's decision."""

from typing import Any

import torch
from torch import Tensor

from medrobust.objectives.base import Step


def class_logits(outputs: Any, targets: Any) -> Tensor | None:
    """A victim's outputs as logits of at least two classes for each target; None if they do not fit the targets.

    Three kinds of outputs fit:

    - classes or masks: outputs ``(N, K)`` or ``(N, K, H, W)`` with K >= 2, targets ``(N,)`` or ``(N, H, W)``. They
      are returned as they are.
    - one logit z, whose sign decides between 0 and 1: outputs ``(N, 1)`` or ``(N, 1, H, W)``, targets as above. It is
      the same as the two logits (0, z).
    - labels that do not exclude each other: outputs and targets of the same shape, ``(N, L)`` or ``(N, L, H, W)``,
      each target 0 or 1. Each logit z becomes (0, z), in a new second dimension.

    Returns:
        ``(N, K, ...)``, where the targets are ``(N, ...)``.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or outputs.ndim < 2:
        return None
    if outputs.shape == targets.shape:
        return torch.stack([torch.zeros_like(outputs), outputs], 1)
    if (outputs.shape[0], *outputs.shape[2:]) != targets.shape or not outputs.shape[1]:
        return None
    return outputs if outputs.shape[1] > 1 else torch.cat([torch.zeros_like(outputs), outputs], 1)


def step_logits(step: Step) -> Tensor | None:
    """The outputs of a step as ``class_logits`` reads them; None where the victim's own loss is to be raised.

    Raises:
        ValueError: The first step of an attack finds a target beyond the victim's classes.
    """
    if not isinstance(step.targets, Tensor):
        return None  # boxes; their outputs would cost a forward and give no logits
    logits = class_logits(step.outputs, step.targets)
    if logits is not None and step.index == 0 and logits.shape != step.outputs.shape and step.targets.numel():
        largest = int(step.targets.max())  # the host waits for the device, but only once per attack
        if largest > 1:
            raise ValueError(f"a victim with one logit per target knows the targets 0 and 1, got {largest}")
    return logits


def own_loss(step: Step) -> Tensor:
    """The victim's own loss of each image, ``(N,)``; its negative if the attack is targeted."""
    return -step.loss if step.targeted else step.loss


def logit_gap(outputs: Tensor, targets: Tensor, soft: bool) -> Tensor:
    """By how much the other classes lead the target's logit: ``max_{j != y} z_j - z_y``, or with logsumexp if soft.

    The target is masked with -inf, not with 0, so that any shift of the logits is harmless. For one logit z per
    target the gap is (1 - 2 y) z.

    Args:
        outputs: Outputs of any kind that ``class_logits`` reads.
        targets: Their targets, ``(N, ...)``; where a label is negative, and to be ignored, the gap is that of class 0.
        soft: Logsumexp of the other classes instead of their maximum.

    Returns:
        ``(N, ...)``; positive where the target has lost.

    Raises:
        ValueError: The outputs do not fit the targets.

    >>> logit_gap(torch.tensor([[3.0], [3.0]]), torch.tensor([0, 1]), soft=True)
    tensor([ 3., -3.])
    """
    logits = class_logits(outputs, targets)
    if logits is None:
        raise ValueError(
            "a margin needs a logit for each class (N, K, ...) or label (N, L, ...), got outputs of shape "
            f"{tuple(outputs.shape)} for targets of shape {tuple(targets.shape)}"
        )
    if logits.shape[1] == 2:  # a single rival, so that no class has to be masked: a fraction of the time
        lead = logits[:, 1] - logits[:, 0]
        return torch.where(targets > 0, -lead, lead)
    index = targets.long().clamp(min=0).unsqueeze(1)
    rivals = logits.scatter(1, index, float("-inf"))
    lead = rivals.logsumexp(1) if soft else rivals.amax(1)
    return lead - logits.gather(1, index).squeeze(1)


def image_lead(outputs: Tensor, targets: Tensor, targeted: bool) -> Tensor:
    """By how many logits an attack leads, ``(N,)``: above 0 where it has what it wants.

    Of several labels an attack wants any known one to be wrong, so that the label with the largest gap decides. If
    ``targeted`` it wants all labels that its goals name, and the one that is furthest from its goal decides.

    Args:
        outputs: Logits of classes ``(N, K)`` or of labels ``(N, L)``, as ``class_logits`` reads them.
        targets: True classes ``(N,)`` or labels ``(N, L)``, or goals if ``targeted``; negative labels are ignored.
        targeted: Whether the attack aims at ``targets`` instead of away from them.

    Returns:
        Where no label counts, minus infinity, or infinity if ``targeted``.

    >>> logits, labels = torch.tensor([[3.0, -1.0, 2.0]]), torch.tensor([[1, 0, -1]])
    >>> image_lead(logits, labels, targeted=False), image_lead(logits, 1 - labels.abs(), targeted=True)
    (tensor([-1.]), tensor([-3.]))
    """
    gap = logit_gap(outputs, targets, soft=False)
    if gap.ndim > 1:
        gap = gap.masked_fill(targets < 0, float("-inf")).flatten(1).amax(1)
    return -gap if targeted else gap


def image_mean(values: Tensor, targets: Tensor) -> Tensor:
    """Mean over each image's labelled places, ``(N,)``.

    A class is its image's only place; of masks and labels the negative ones are left out, and an image without any
    other has 0.
    """
    if values.ndim == 1:
        return values
    counted = (targets >= 0).to(values.dtype)
    return (values * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)
