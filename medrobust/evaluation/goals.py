"""Goals of targeted attacks: the class that each image is to be taken for."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from medrobust.attacks import Attack
from medrobust.networks.victims import Outputs, Targets
from medrobust.random_streams import image_generator

Goals = Literal["next", "random", "likeliest", "least_likely"]


def choose_goals(goals: Goals, attack: Attack, targets: Targets, outputs: Outputs, ids: Sequence[str]) -> Tensor:
    """Class that each image is to be mistaken for, ``(N,)``, never its true class.

    Args:
        goals: The ``next`` class, a ``random`` other one, or of the others the one that is ``likeliest`` or
            ``least_likely`` by the clean outputs. The likeliest is the one that hiding objectives of an untargeted
            attack would start with, too; of two classes every choice is the other one.
        attack: The attack, for its seed.
        targets: True classes ``(N,)``.
        outputs: The victim's logits for the clean images, ``(N, K)``.
        ids: The images' ids, from which the random goals come.

    Raises:
        ValueError: The task has no classes for images.
    """
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
