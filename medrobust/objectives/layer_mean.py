"""HFC21's stress test: how far one layer's mean activation moves within a small ball (section 3, Table 1)."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from medrobust.objectives.base import Objective, Step


@dataclass(frozen=True)
class LayerMean(Objective):
    """Mean of one layer's activations, J = mean(f^l(x)), or its negative (HFC21 section 3).

    ``BIM(epsilon="8/256", objective=LayerMean("layer3"))`` raises the mean of ``layer3`` as far as it can.

    Args:
        layer: Name of the layer, as ``named_modules`` gives it.
        sign: ``up`` raises the mean, ``down`` lowers it.

    Raises:
        ValueError: ``sign`` is neither of the two, or ``layer`` is empty.
    """

    layer: str
    sign: Literal["up", "down"] = "up"

    def __post_init__(self) -> None:
        """Refuse an unknown direction and an empty name."""
        if self.sign not in ("up", "down"):
            raise ValueError(f"sign is 'up' or 'down', got {self.sign!r}")
        if not self.layer or not isinstance(self.layer, str):
            raise ValueError(f"layer is the name of one layer, got {self.layer!r}")

    @property
    def layers(self) -> tuple[str, ...]:
        """The one layer."""
        return (self.layer,)

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``."""
        mean = step.features[self.layer].mean(1)
        return mean if self.sign == "up" else -mean
