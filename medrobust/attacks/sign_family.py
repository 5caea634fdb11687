"""The named members of the sign-gradient family, each a setting of the same stepper."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from medrobust.attacks.base import Crafted
from medrobust.attacks.in_turn import SEED_STRIDE, attack_in_turn
from medrobust.attacks.sign_gradient import SignGradient
from medrobust.networks.victims import Victim
from medrobust.objectives.base import Objective
from medrobust.objectives.margin import Margin


@dataclass(frozen=True, kw_only=True)
class FGSM(SignGradient):
    """Fast gradient sign method: one step of length epsilon (Goodfellow et al., ICLR 2015; Ma20 eq. 4)."""

    steps: int = field(default=1, init=False)


@dataclass(frozen=True, kw_only=True)
class BIM(SignGradient):
    """Basic iterative method: 40 steps of epsilon / steps from the clean image (Kurakin 2017; Ma20 eq. 5)."""

    steps: int = 40


@dataclass(frozen=True, kw_only=True)
class PGD(SignGradient):
    """Projected gradient descent: 20 steps of epsilon / 10 from a random start (Madry et al., 2018; Ma20 eq. 6).

    Args:
        restarts: Number of runs, each from its own random start. An image makes no further run once one has broken it;
            of an image that none breaks, the attempt with the largest margin is kept, as in ``WorstCase``. With more
            than one, a forward judges each run.
    """

    steps: int = 20
    random_start: bool = True
    restarts: int = 1

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        super().__post_init__()
        if not isinstance(self.restarts, int) or self.restarts < 1:
            raise ValueError(f"restarts counts runs and is a whole number of at least 1, got {self.restarts}")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"{self.restarts} restarts without a random start would all be the same")

    def step_length(self) -> float:
        """Length of one step: ``step_size``, or epsilon / 10 where it is None."""
        return float(self.epsilon) / 10 if self.step_size is None else float(self.step_size)

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Make the runs, each on the images that are still unbroken."""
        if self.restarts == 1:
            return super().perturb(victim, images, targets, ids)
        runs = [replace(self, restarts=1, seed=self.seed + SEED_STRIDE * run) for run in range(self.restarts)]
        crafted, _ = attack_in_turn(runs, victim, images, targets, ids)
        return crafted


@dataclass(frozen=True, kw_only=True)
class CWLinf(SignGradient):
    """Carlini and Wagner's margin in the maximum norm: 20 steps of epsilon / 10 (Ma20 eq. 7-8; HFC21 eq. 3).

    Args:
        kappa: Confidence by which the victim is to be fooled, in units of logits.
    """

    steps: int = 20
    kappa: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        super().__post_init__()
        Margin(self.kappa)

    def step_length(self) -> float:
        """Length of one step: ``step_size``, or epsilon / 10 where it is None."""
        return float(self.epsilon) / 10 if self.step_size is None else float(self.step_size)

    def raised(self) -> Objective:
        """Objective that is raised: ``objective``, or the margin where it is None."""
        return Margin(self.kappa) if self.objective is None else self.objective


@dataclass(frozen=True, kw_only=True)
class MIM(SignGradient):
    """Momentum iterative method, MI-FGSM: 10 steps of epsilon / steps, mu = 1 (Dong et al., CVPR 2018; SBF20)."""

    momentum: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DIM(MIM):
    """Diverse-inputs method: MIM on images resized to 0.9-1.0 and padded with probability 0.5 (Xie et al., 2019)."""

    diversity: float = 0.5


@dataclass(frozen=True, kw_only=True)
class TIM(MIM):
    """Translation-invariant method, TI-MI-FGSM: MIM on gradients smoothed by a 7 x 7 Gaussian (Dong et al., 2019)."""

    smoothing: int = 7


@dataclass(frozen=True, kw_only=True)
class LogDomain(SignGradient):
    """Log-domain baseline: x_a = clip(x exp(B)), the free B moved by signed steps within epsilon (SBF20 eq. 3)."""

    domain: Literal["pixel", "log"] = "log"
