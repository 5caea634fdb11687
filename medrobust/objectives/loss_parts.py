"""Parts of a box victim's own loss as objectives: an attack on one of its stages alone."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medrobust.objectives.base import Objective, Step

Part = Literal["objectness", "proposals", "classes", "boxes"]
PARTS: tuple[Part, ...] = ("objectness", "proposals", "classes", "boxes")


@dataclass(frozen=True)
class LossParts(Objective):
    """Sum of parts of the loss of a victim that finds boxes in two stages (Ren et al., NeurIPS 2015, eq. 1).

    The first stage's ``objectness`` and regression of ``proposals``, the second one's ``classes`` and regression of
    ``boxes``; their sum is the loss that ``CrossEntropy`` raises on boxes. Its negative if the attack is targeted.

    Args:
        parts: Names of the parts.

    Raises:
        ValueError: There is none, or it has another name; or (when called) the targets are no boxes, or the victim
            does not tell the parts of its loss.
    """

    parts: tuple[Part, ...] = PARTS

    def __post_init__(self) -> None:
        """Refuse unknown parts, and turn a list into a tuple, so that an attack can be hashed."""
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts or set(self.parts) - set(PARTS) or len(set(self.parts)) < len(self.parts):
            raise ValueError(f"parts lists some of {', '.join(PARTS)}, each once, got {self.parts!r}")

    @property
    def title(self) -> str:
        """What records call it."""
        return f"{type(self).__name__} {' and '.join(self.parts)}"

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``."""
        name = type(self).__name__
        check_boxes(step, name)
        parts = step.loss_parts(step.targets, name)
        value = torch.stack([parts[part] for part in self.parts]).sum(0)
        return -value if step.targeted else value


def check_boxes(step: Step, asking: str) -> None:
    """Refuse targets that are no boxes.

    Raises:
        ValueError: They are a tensor.
    """
    if isinstance(step.targets, Tensor):
        raise ValueError(f"{asking} is for boxes, got targets {tuple(step.targets.shape)} of another task")
