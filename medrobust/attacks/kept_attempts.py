"""Which of several attempts on an image is kept: one that fools the victim, or the one of the lowest quality."""

from typing import Any, Literal

import torch
from torch import Tensor

from medrobust.networks.victims import Outcome

Keep = Literal["first_success", "lowest_quality"]


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse a choice that is none.

    Raises:
        ValueError: ``value`` is not among the choices.
    """
    if value not in choices:
        raise ValueError(f"{name} is {' or '.join(map(repr, choices))}, got {value!r}")


def closeness(outcome: Outcome, targeted: bool) -> Tensor:
    """How close an attempt has brought the victim to what the attack wants, ``(N,)``: the larger, the closer.

    It is minus the quality of the outputs, or for goals their quality. Where quality is undefined, as for a frame
    without a box, whether the victim is right stands for it.

    >>> wrong = Outcome(torch.tensor([False, True, True]), torch.tensor([0.25, 0.75, torch.nan]))
    >>> closeness(wrong, targeted=False)
    tensor([-0.2500, -0.7500, -1.0000])
    """
    quality = torch.where(outcome.quality.isnan(), outcome.right.to(outcome.quality), outcome.quality)
    return quality if targeted else -quality
