"""Goals of targeted attacks: the class that each image is to be taken for, or the labels that are to turn."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from medrobust.attacks import Attack
from medrobust.attacks.class_boundaries import check_logits, drawn_labels, label_gaps, rival_goals
from medrobust.networks.victims import Outputs, Targets
from medrobust.random_streams import image_generator

Goals = Literal["next", "random", "likeliest", "least_likely"]


def choose_goals(
    goals: Goals,
    attack: Attack,
    targets: Targets,
    outputs: Outputs,
    ids: Sequence[str],
    label: str | None = None,
    names: Sequence[str] = (),
) -> Tensor:
    """Class that each image is to be mistaken for, ``(N,)``, never its true class; or labels that are to turn.

    Of labels that do not exclude each other, goals are ``(N, L)``: the other state of each label that is to turn, and
    -1, to be ignored, for all others and for those that are not known.

    Args:
        goals: The ``next`` class, a ``random`` other one, or of the others the one that is ``likeliest`` or
            ``least_likely`` by the clean outputs. The likeliest is the one that hiding objectives of an untargeted
            attack would start with, too; of two classes every choice is the other one. Of labels, ``next`` turns all
            of them; ``random``, ``likeliest`` and ``least_likely`` turn one, drawn or by how far its clean logit is
            from turning.
        attack: The attack, for its seed.
        targets: True classes ``(N,)``.
        outputs: The victim's logits for the clean images, ``(N, K)`` or ``(N, L)``.
        ids: The images' ids, from which the random goals come.
        label: Name of the one label that is to turn, in place of those that ``goals`` chooses; None for these.
        names: Names of the labels.

    Raises:
        ValueError: The task has no classes or labels for images, or there is no label of that name.
    """
    if isinstance(targets, Tensor) and targets.ndim == 2 and isinstance(outputs, Tensor):
        check_logits(outputs, targets)
        return _label_goals(goals, attack, targets, outputs, ids, label, names)
    if label is not None:
        raise ValueError(f"label names one of several labels of an image, and these have one class each, got {label!r}")
    are_classes = isinstance(targets, Tensor) and targets.ndim == 1
    if not are_classes or not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ValueError(
            "an evaluation chooses goals among the classes of logits (N, K), K >= 2; call targeted attacks on other "
            "victims from Python"
        )
    classes = outputs.shape[1]
    if goals == "next":
        return (targets + 1) % classes
    if goals == "likeliest":
        return outputs.scatter(1, targets[:, None], float("-inf")).argmax(1)
    if goals == "least_likely":
        return outputs.scatter(1, targets[:, None], float("inf")).argmin(1)
    draws = [int(torch.randint(1, classes, (), generator=image_generator(attack.seed, "goal", id))) for id in ids]
    return (targets + torch.tensor(draws).to(targets)) % classes


def _label_goals(
    goals: Goals,
    attack: Attack,
    targets: Tensor,
    outputs: Tensor,
    ids: Sequence[str],
    label: str | None,
    names: Sequence[str],
) -> Tensor:
    """What labels are to become, ``(N, L)``, -1 for those that need not turn."""
    if label is not None:
        if label not in names:
            raise ValueError(f"label is one of {', '.join(names) or 'none, as the data name no labels'}, got {label!r}")
        return rival_goals(targets, torch.full_like(targets[:, 0], list(names).index(label), dtype=torch.long))
    if goals == "next":
        return torch.where(targets < 0, -1, 1 - targets).long()
    if goals == "random":
        return rival_goals(targets, drawn_labels(targets, [image_generator(attack.seed, "goal", id) for id in ids]))
    gaps = label_gaps(outputs, targets)
    if goals == "least_likely":
        gaps = torch.where(targets < 0, float("-inf"), -gaps)
    return rival_goals(targets, gaps.argmax(1))
