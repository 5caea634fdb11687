"""TOG's vanishing and fabrication: a box victim's loss for an image in which nothing is to be found."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medrobust.objectives.base import Objective, Step
from medrobust.objectives.loss_parts import check_boxes


@dataclass(frozen=True)
class Vanishing(Objective):
    """Minus the loss for an image without objects: what is found vanishes (TOG, Chow et al. 2020, arXiv:2004.04320).

    The parts of the loss that ask whether something is there: ``objectness`` of the first stage and ``classes`` of the
    second; without objects there is nothing to regress. It reads no targets, so that a targeted attack raises the same.

    Raises:
        ValueError: (When called) the targets are no boxes, or the victim does not tell the parts of its loss.
    """

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``."""
        return -_something_found(step, type(self).__name__)


@dataclass(frozen=True)
class Invention(Objective):
    """The loss for an image without objects: boxes are found where nothing is (TOG, Chow et al. 2020).

    The negative of ``Vanishing``.

    Raises:
        ValueError: As that of ``Vanishing``.
    """

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``."""
        return _something_found(step, type(self).__name__)


def _something_found(step: Step, asking: str) -> Tensor:
    """Loss of each image as one in which nothing is, ``(N,)``: how much the victim takes for an object."""
    check_boxes(step, asking)
    parts = step.loss_parts([_without_boxes(target, step.images) for target in step.targets], asking)
    return torch.stack([parts["objectness"], parts["classes"]]).sum(0)


def _without_boxes(target: dict[str, Any], images: Tensor) -> dict[str, Tensor]:
    boxes = torch.zeros((0, 4), dtype=target["boxes"].dtype, device=images.device)
    return {"boxes": boxes, "labels": torch.zeros(0, dtype=torch.long, device=images.device)}
