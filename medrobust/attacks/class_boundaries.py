"""Boundaries between classes: the checks of attacks that cross them, and each rival class's lead and gradient."""

from typing import Any

import torch
from torch import Tensor

from medrobust.networks.victims import check_known
from medrobust.objectives.logit_gap import logit_gap


def check_candidates(candidates: int | None) -> None:
    """Refuse a number of candidate classes that leaves no rival.

    Raises:
        ValueError: ``candidates`` is neither None nor a whole number of at least 2.
    """
    if candidates is not None and (not isinstance(candidates, int) or candidates < 2):
        raise ValueError(f"candidates counts classes and is at least 2, or None for all, got {candidates}")


def check_classes(targets: Any) -> None:
    """Refuse targets that are not one class per image.

    Raises:
        ValueError: The targets are labels, masks or boxes.
    """
    if not isinstance(targets, Tensor) or targets.ndim != 1:
        received = f"targets of shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else "a list of boxes"
        raise ValueError(f"this attack moves between classes and takes one class per image, (N,), got {received}")


def check_logits(outputs: Any, targets: Tensor) -> None:
    """Refuse outputs that are not logits of classes that include the targets; the host waits for the device once.

    Raises:
        ValueError: The outputs are not ``(N, K)``, or a target is not one of the K classes (of two, if K is 1).
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or not outputs.shape[1]:
        received = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"this attack needs logits (N, K), the victim gave {received}")
    check_known(targets, outputs)


def logits_of_classes(outputs: Tensor) -> Tensor:
    """Logits ``(N, K)`` with K >= 2: a single one, z, whose sign decides between 0 and 1, becomes (0, z)."""
    return outputs if outputs.shape[1] > 1 else torch.cat([torch.zeros_like(outputs), outputs], 1)


def rival_classes(outputs: Tensor, targets: Tensor, candidates: int | None = None) -> Tensor:
    """The classes other than the target, the largest logit first, ``(N, R)``.

    Args:
        outputs: Logits, ``(N, K)``, or one of two classes, ``(N, 1)``.
        targets: Classes, ``(N,)``.
        candidates: Number of classes that compete, the target included, so that R is at most ``candidates - 1``;
            None for all K.
    """
    logits = logits_of_classes(outputs)
    classes = logits.shape[1]
    count = classes if candidates is None else min(candidates, classes)
    return logits.scatter(1, targets.long()[:, None], float("-inf")).topk(count - 1, dim=1).indices


def class_leads(outputs: Tensor, targets: Tensor, rivals: Tensor, targeted: bool) -> Tensor:
    """By how many logits the attack leads: above 0 where it has what it wants.

    Args:
        outputs: Logits, ``(N, K)``, or one of two classes, ``(N, 1)``.
        targets: True classes, or goals if ``targeted``, ``(N,)``.
        rivals: Classes that compete with the true one, ``(N, R)``; not used if ``targeted``.
        targeted: Whether the attack aims at ``targets`` instead of away from them.

    Returns:
        Each rival's lead over the true class, ``(N, R)``, or the goal's over the strongest other class, ``(N, 1)``.
    """
    if targeted:
        return -logit_gap(outputs, targets, soft=False).unsqueeze(1)
    logits = logits_of_classes(outputs)
    return logits.gather(1, rivals) - logits.gather(1, targets.long()[:, None])


def class_gradients(values: Tensor, images: Tensor, batched: bool | None = None) -> Tensor:
    """Gradients of several values of each image, all from the one forward that made them.

    Args:
        values: ``(N, R)``; an image's values depend on that image alone. Their graph is freed.
        images: ``(N, C, H, W)``, part of that graph.
        batched: Use one backward for all R values, which needs R times the memory, instead of R backwards. None
            decides by the device: on the CPU it saves nothing. A network that cannot do it falls back to R backwards.

    Returns:
        ``(N, R, C, H, W)``.
    """
    count = values.shape[1]
    if count == 1:
        return torch.autograd.grad(values.sum(), images)[0].unsqueeze(1)
    if images.device.type != "cpu" if batched is None else batched:
        chosen = torch.eye(count, dtype=values.dtype, device=values.device)[:, None].expand(-1, len(values), -1)
        try:
            (batch,) = torch.autograd.grad(values, images, chosen, retain_graph=True, is_grads_batched=True)
        except RuntimeError:  # an autograd.Function without a rule for vmap, or too little memory for R at once
            pass
        else:
            return batch.detach().transpose(0, 1)
    columns = values.sum(0).unbind()
    gradients = [
        torch.autograd.grad(column, images, retain_graph=place < count - 1)[0] for place, column in enumerate(columns)
    ]
    return torch.stack(gradients, 1)
