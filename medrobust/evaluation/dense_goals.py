"""Goals of targeted attacks on masks and boxes: what an attacker may want to be seen in place of the truth."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from medrobust.networks.victims import Outputs
from medrobust.random_streams import image_generator

SHIFT = 0.25  # share of the width by which a mask is shifted
INVENTED = 3  # boxes that are drawn where nothing is
SIDES = (0.15, 0.4)  # smallest and largest side of a drawn box, as shares of the image's sides
TRIES = 50  # draws of a box at each size; then the largest side is halved
HALVINGS = 4


@dataclass(frozen=True)
class GoalMask:
    """A mask that every image is to get, read from an image of labels.

    Args:
        path: The file.
        labels: Its labels, int64 ``(H, W)``.
        content: Hash of shape and labels: what records depend on.
    """

    path: Path
    labels: Tensor
    content: str


def read_goal_mask(path: str | Path) -> GoalMask:
    """Read a mask from an image whose values are labels, as the masks of the data are.

    Raises:
        ValueError: There is no such image, or it has several channels or values that are no whole numbers.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"goal_mask is an image of labels, and there is no file {file}")
    try:
        with Image.open(file) as image:
            values = np.asarray(image)
    except OSError as error:
        raise ValueError(f"goal_mask is an image of labels, and {file} cannot be read as one: {error}") from None
    if values.ndim != 2 or not (np.issubdtype(values.dtype, np.integer) or values.dtype == bool):
        raise ValueError(
            f"goal_mask is an image of labels in one channel, and {file} has {values.dtype} values {values.shape}"
        )
    labels = torch.from_numpy(values.astype(np.int64))
    digest = hashlib.sha256(repr(values.shape).encode() + labels.numpy().tobytes()).hexdigest()
    return GoalMask(file, labels, digest[:16])


def erased(targets: Tensor) -> Tensor:
    """Background everywhere, ``(N, H, W)``; pixels without a label stay so, -1."""
    return torch.where(targets < 0, -1, 0)


def shifted(targets: Tensor) -> Tensor:
    """The true masks, a quarter of the width further right; background moves in, and pixels without a label stay so."""
    by = max(1, round(SHIFT * targets.shape[-1]))
    moved = torch.zeros_like(targets, dtype=torch.long)
    moved[..., by:] = targets[..., :-by].clamp(min=0)
    return torch.where(targets < 0, -1, moved)


def given_mask(mask: GoalMask, targets: Tensor, outputs: Outputs) -> Tensor:
    """The given mask for every image, ``(N, H, W)``; pixels whose true label is unknown have none, -1.

    Raises:
        ValueError: It has another size than the masks, or a label that the victim does not know.
    """
    if mask.labels.shape != targets.shape[1:]:
        (height, width), (true_height, true_width) = mask.labels.shape, targets.shape[1:]
        raise ValueError(
            f"the goal mask {mask.path} has {height} x {width} pixels, and the masks that the victim is shown "
            f"{true_height} x {true_width}"
        )
    labels = max(outputs.shape[1], 2)
    for found in (int(mask.labels.max()), int(mask.labels.min())):
        if not 0 <= found < labels:
            raise ValueError(f"the goal mask {mask.path} has the label {found}, and the victim knows 0 to {labels - 1}")
    return torch.where(targets < 0, -1, mask.labels.to(targets.device))


def vanished(targets: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """No box in any image."""
    return [{"boxes": target["boxes"][:0].clone(), "labels": target["labels"][:0].clone()} for target in targets]


def relabelled(
    targets: Sequence[dict[str, Tensor]], ids: Sequence[str], seed: int, classes: int
) -> list[dict[str, Tensor]]:
    """The true boxes, each with another class, drawn for each image.

    Raises:
        ValueError: There is one class alone.
    """
    if classes < 2:
        raise ValueError("goals 'relabel' draws other classes for the boxes, and there is one class alone")
    goals = []
    for target, id in zip(targets, ids, strict=True):
        labels = target["labels"]
        shifts = torch.randint(1, classes, (len(labels),), generator=image_generator(seed, "goal", id))
        goals.append({"boxes": target["boxes"].clone(), "labels": (labels + shifts.to(labels)) % classes})
    return goals


def invented(
    targets: Sequence[dict[str, Tensor]], ids: Sequence[str], seed: int, classes: int, height: int, width: int
) -> list[dict[str, Tensor]]:
    """The true boxes and, of drawn classes, drawn ones that touch neither these nor each other; the latter are sought.

    Up to three in each image: as many as find room.
    """
    goals = []
    for target, id in zip(targets, ids, strict=True):
        boxes, labels = target["boxes"], target["labels"]
        generator = image_generator(seed, "goal", id)
        taken = boxes.detach().cpu().double().tolist()
        drawn: list[list[float]] = []
        for _ in range(INVENTED):
            box = _free_box([*taken, *drawn], height, width, generator)
            drawn += [] if box is None else [box]
        kinds = torch.randint(0, classes, (len(drawn),), generator=generator)
        places = torch.tensor(drawn, dtype=boxes.dtype).view(-1, 4).to(boxes.device)
        sought = torch.arange(len(boxes) + len(drawn), device=boxes.device) >= len(boxes)
        joined = {"boxes": torch.cat([boxes, places]), "labels": torch.cat([labels, kinds.to(labels)])}
        goals.append({**joined, "sought": sought})
    return goals


def _free_box(taken: list[list[float]], height: int, width: int, generator: torch.Generator) -> list[float] | None:
    """A drawn box that touches none of others, smaller where it has to be; None where there is no room."""
    least, most = SIDES
    for _ in range(HALVINGS):
        for share_x, share_y, at_x, at_y in torch.rand((TRIES, 4), generator=generator, dtype=torch.float64).tolist():
            wide, high = (
                (least + (most - least) * share) * side for share, side in ((share_x, width), (share_y, height))
            )
            left, top = at_x * (width - wide), at_y * (height - high)
            box = [left, top, left + wide, top + high]
            if not any(_touch(box, other) for other in taken):
                return box
        least, most = least / 2, most / 2
    return None


def _touch(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes have a point in common."""
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def goal_shares(goals: Any, targets: Any, outputs: Outputs, outcome: Callable[[Any, Any], Any]) -> Tensor:
    """Share of what was to change that has changed, ``(N,)``; NaN where the goal is the truth.

    Of masks, of the labelled pixels whose goal is not their true label, the share that now has the goal's label. Of
    boxes, the quality of the outputs with respect to the goals; where no box is to be left, 1 if none is and else 0.

    Args:
        goals: What the attack aimed at.
        targets: The truth.
        outputs: The victim's outputs for the adversarial images.
        outcome: The victim's ``outcome``.
    """
    if isinstance(goals, Tensor):
        wanted = ((goals >= 0) & (goals != targets)).flatten(1)
        named = (outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).long()).flatten(1)
        reached = (wanted & (named == goals.flatten(1))).sum(1)
        return torch.where(wanted.any(1), reached / wanted.sum(1).clamp(min=1), torch.nan)
    found = outcome(outputs, goals)
    share = torch.where(found.quality.isnan(), found.right.to(found.quality), found.quality)
    return torch.where(nothing_to_do(goals, targets), torch.nan, share)


def nothing_to_do(goals: Any, targets: Any) -> Tensor:
    """Whether an image's goal is its truth, bool ``(N,)``: an image without a foreground cannot be erased.

    Args:
        goals: Goals of any task.
        targets: The truth.
    """
    if isinstance(goals, Tensor):
        same = (goals == targets) | (goals < 0)
        return same.flatten(1).all(1) if same.ndim > 1 else same
    same = []
    for goal, target in zip(goals, targets, strict=True):
        alike = goal["boxes"].shape == target["boxes"].shape and goal["labels"].shape == target["labels"].shape
        same.append(
            alike and torch.equal(goal["boxes"], target["boxes"]) and torch.equal(goal["labels"], target["labels"])
        )
    device = targets[0]["boxes"].device if len(targets) else None
    return torch.tensor(same, dtype=torch.bool, device=device)
