"""Goals of targeted attacks: the class that an image is to be taken for, labels that are to turn, masks, boxes."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from medrobust.attacks import Attack
from medrobust.attacks.class_boundaries import check_logits, drawn_labels, label_gaps, rival_goals
from medrobust.evaluation.dense_goals import GoalMask, erased, given_mask, invented, relabelled, shifted, vanished
from medrobust.networks.victims import Outputs, Targets, is_classes
from medrobust.random_streams import image_generator

ClassGoals = Literal["next", "random", "likeliest", "least_likely"]
MaskGoals = Literal["erase", "shift"]
BoxGoals = Literal["vanish", "invent", "relabel"]
Goals = ClassGoals | MaskGoals | BoxGoals
OF_TASKS = {"segmentation": ("masks", get_args(MaskGoals)), "boxes": ("boxes", get_args(BoxGoals))}
OF_CLASSES = ("classes and labels", get_args(ClassGoals))


def check_goals(goals: str, goal_mask: GoalMask | None, task: str) -> None:
    """Refuse goals that are those of another task.

    Args:
        goals: Name of the goals.
        goal_mask: A mask that is the goal in place of these, or None.
        task: The task of the data, as data modules name it.

    Raises:
        ValueError: The message names the goals of the task.
    """
    kind, choices = OF_TASKS.get(task, OF_CLASSES)
    if goal_mask is not None:
        if kind != "masks":
            raise ValueError(f"goal_mask is a goal for masks, and these are {kind}: set goals to {_either(choices)}")
        return
    if goals not in choices:
        given = " or goal_mask to a file" if kind == "masks" else ""
        raise ValueError(f"{goals!r} is no goal of {kind}: set goals to {_either(choices)}{given}")


def _either(choices: Sequence[str]) -> str:
    return f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}"


def choose_goals(
    goals: Goals,
    attack: Attack,
    targets: Targets,
    outputs: Outputs,
    ids: Sequence[str],
    label: str | None = None,
    names: Sequence[str] = (),
    goal_mask: GoalMask | None = None,
    side: tuple[int, int] = (0, 0),
) -> Any:
    """Class that each image is to be mistaken for, ``(N,)``, never the true one; labels to turn; masks; or boxes.

    Of labels that do not exclude each other, goals are ``(N, L)``: the other state of each label that is to turn, and
    -1, to be ignored, for all others and for those that are not known.

    Of masks they are ``(N, H, W)``: ``erase`` makes everything background, ``shift`` moves the true mask a quarter of
    the width to the right, and ``goal_mask`` is the same mask for every image. Pixels without a label are -1 here, too.
    Of boxes they are lists of dicts: ``vanish`` wants no box, ``relabel`` the true boxes as drawn other classes, and
    ``invent`` the true boxes and up to three more, of drawn classes, where nothing is; only the latter are ``sought``.

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
        names: Names of the labels, or of the classes of boxes.
        goal_mask: Mask that every image is to get; None for what ``goals`` says.
        side: Height and width of the images, in which boxes are invented.

    Raises:
        ValueError: The goals are those of another task, the outputs do not fit, or there is no label of that name.
    """
    if label is None and isinstance(targets, Tensor) and targets.ndim == 3:
        return _mask_goals(goals, targets, outputs, goal_mask)
    if label is None and not isinstance(targets, Tensor):
        check_goals(goals, goal_mask, "boxes")
        if goals == "vanish":
            return vanished(targets)
        if goals == "relabel":
            return relabelled(targets, ids, attack.seed, len(names))
        return invented(targets, ids, attack.seed, max(len(names), 1), *side)
    check_goals(goals, goal_mask, "classification")
    if isinstance(targets, Tensor) and targets.ndim == 2 and isinstance(outputs, Tensor):
        check_logits(outputs, targets)
        return _label_goals(goals, attack, targets, outputs, ids, label, names)
    if label is not None:
        raise ValueError(f"label names one of several labels of an image, and these have one class each, got {label!r}")
    if not is_classes(targets) or not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ValueError(
            "an evaluation chooses goals among the classes of logits (N, K), K >= 2; call targeted attacks on other "
            "victims from Python"
        )
    return _class_goals(goals, attack, targets, outputs, ids)


def _class_goals(goals: str, attack: Attack, targets: Tensor, outputs: Tensor, ids: Sequence[str]) -> Tensor:
    """Class that each image is to be mistaken for, ``(N,)``."""
    classes = outputs.shape[1]
    if goals == "next":
        return (targets + 1) % classes
    if goals == "likeliest":
        return outputs.scatter(1, targets[:, None], float("-inf")).argmax(1)
    if goals == "least_likely":
        return outputs.scatter(1, targets[:, None], float("inf")).argmin(1)
    draws = [int(torch.randint(1, classes, (), generator=image_generator(attack.seed, "goal", id))) for id in ids]
    return (targets + torch.tensor(draws).to(targets)) % classes


def _mask_goals(goals: str, targets: Tensor, outputs: Outputs, goal_mask: GoalMask | None) -> Tensor:
    """What masks are to become, ``(N, H, W)``."""
    check_goals(goals, goal_mask, "segmentation")
    if not isinstance(outputs, Tensor) or outputs.shape[:1] + outputs.shape[2:] != targets.shape:
        raise ValueError("goals for masks need logits (N, K, H, W) for the masks (N, H, W), and the victim has none")
    if goal_mask is not None:
        return given_mask(goal_mask, targets, outputs)
    return erased(targets) if goals == "erase" else shifted(targets)


def _label_goals(
    goals: str,
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
