"""Boundaries between classes, or between a label and its absence: each rival's lead and gradient, and the checks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medrobust.networks.victims import check_known
from medrobust.objectives.logit_gap import image_lead, logit_gap


def check_candidates(candidates: int | None) -> None:
    """Refuse a number of candidate classes that leaves no rival.

    Raises:
        ValueError: ``candidates`` is neither None nor a whole number of at least 2.
    """
    if candidates is not None and (not isinstance(candidates, int) or candidates < 2):
        raise ValueError(f"candidates counts classes and is at least 2, or None for all, got {candidates}")


def check_classes(targets: Any) -> None:
    """Refuse targets that are neither one class per image nor labels.

    Raises:
        ValueError: The targets are masks or boxes.
    """
    if not isinstance(targets, Tensor) or targets.ndim not in (1, 2):
        received = f"targets of shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else "a list of boxes"
        raise ValueError(
            f"this attack moves between classes and takes labels, (N, L), or one class per image, (N,), got {received}"
        )


def check_logits(outputs: Any, targets: Tensor) -> None:
    """Refuse outputs that are not logits of the targets' classes or labels; the host waits for the device once.

    Raises:
        ValueError: The outputs are not ``(N, K)``, or a target is not one of the K classes (of two, if K is 1); or of
            labels ``(N, L)`` the outputs are not ``(N, L)``, or a label is above 1.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or not outputs.shape[1]:
        received = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"this attack needs logits (N, K), the victim gave {received}")
    if targets.ndim == 1:
        check_known(targets, outputs)
    elif outputs.shape != targets.shape:
        raise ValueError(
            f"this attack needs one logit for each of {targets.shape[1]} labels, the victim gave {tuple(outputs.shape)}"
        )
    elif targets.numel() and (largest := int(targets.max())) > 1:
        raise ValueError(f"a victim with one logit per target knows the targets 0 and 1, got {largest}")


def logits_of_classes(outputs: Tensor) -> Tensor:
    """Logits ``(N, K)`` with K >= 2: a single one, z, whose sign decides between 0 and 1, becomes (0, z)."""
    return outputs if outputs.shape[1] > 1 else torch.cat([torch.zeros_like(outputs), outputs], 1)


def rival_classes(outputs: Tensor, targets: Tensor, candidates: int | None = None) -> Tensor:
    """The classes other than the target, the largest logit first, ``(N, R)``.

    Of labels, which do not exclude each other, the rivals are the labels themselves, each of which may be turned: the
    one that is nearest to it first, those that are not known last.

    Args:
        outputs: Logits, ``(N, K)``, or one of two classes, ``(N, 1)``; of labels, ``(N, L)``.
        targets: Classes, ``(N,)``, or labels, ``(N, L)``.
        candidates: Number of classes that compete, the target included, so that R is at most ``candidates - 1``;
            None for all K.
    """
    if targets.ndim == 2:
        gaps, count = label_gaps(outputs, targets), targets.shape[1]
        return gaps.topk(count if candidates is None else min(candidates - 1, count), dim=1).indices
    logits = logits_of_classes(outputs)
    classes = logits.shape[1]
    count = classes if candidates is None else min(candidates, classes)
    return logits.scatter(1, targets.long()[:, None], float("-inf")).topk(count - 1, dim=1).indices


def class_leads(outputs: Tensor, targets: Tensor, rivals: Tensor, targeted: bool) -> Tensor:
    """By how many logits the attack leads: above 0 where it has what it wants.

    Args:
        outputs: Logits, ``(N, K)``, or one of two classes, ``(N, 1)``; of labels, ``(N, L)``.
        targets: True classes, ``(N,)``, or labels, ``(N, L)``; goals if ``targeted``.
        rivals: Classes that compete with the true one, or labels that may be turned, ``(N, R)``; not used if
            ``targeted``.
        targeted: Whether the attack aims at ``targets`` instead of away from them.

    Returns:
        Each rival's lead over the true class, ``(N, R)``, or the goal's over the strongest other class, ``(N, 1)``. Of
        labels, how far each is beyond its turning, minus infinity where it is not known; or, if ``targeted``, how far
        the one is that is furthest from its goal.
    """
    if targeted:
        return image_lead(outputs, targets, targeted).unsqueeze(1)
    if targets.ndim == 2:
        return label_gaps(outputs, targets).gather(1, rivals)
    logits = logits_of_classes(outputs)
    return logits.gather(1, rivals) - logits.gather(1, targets.long()[:, None])


def label_gaps(outputs: Tensor, targets: Tensor) -> Tensor:
    """How far each label is beyond its turning, ``(N, L)``, in logits; minus infinity where it is not known."""
    return logit_gap(outputs, targets, soft=False).masked_fill(targets < 0, float("-inf"))


def rival_goals(targets: Tensor, rivals: Tensor) -> Tensor:
    """Goals of a targeted attack that lead to one rival of each image: the class, or the one label turned.

    Args:
        targets: True classes, ``(N,)``, or labels, ``(N, L)``.
        rivals: A class or a label of each image, ``(N,)``.

    Returns:
        Classes ``(N,)``, or labels ``(N, L)`` that are negative, and to be ignored, except the one.

    >>> rival_goals(torch.tensor([[1, 0], [1, -1]]), torch.tensor([0, 1]))
    tensor([[ 0, -1],
            [-1, -1]])
    """
    if targets.ndim == 1:
        return rivals
    chosen = targets.gather(1, rivals[:, None]).long()
    turned = torch.where(chosen < 0, -1, 1 - chosen)
    return torch.full_like(targets, -1, dtype=torch.long).scatter(1, rivals[:, None], turned)


def drawn_labels(targets: Tensor, streams: Sequence[torch.Generator]) -> Tensor:
    """A known label of each image, drawn from the image's own stream, ``(N,)``; 0 for an image without any.

    Args:
        targets: Labels, ``(N, L)``, negative where they are not known; the host waits for them.
        streams: One generator for each image.
    """
    chosen = []
    for known, stream in zip((targets >= 0).cpu(), streams, strict=True):
        places = known.nonzero().squeeze(1)
        draw = torch.randint(max(len(places), 1), (), generator=stream)
        chosen.append(places[draw] if len(places) else draw)
    return torch.stack(chosen).to(targets.device) if chosen else targets.new_zeros(0, dtype=torch.long)


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
