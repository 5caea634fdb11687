"""The stabilised medical image attack, SMIA (Qi et al., ICLR 2021, arXiv:2103.05232)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from medrobust.attacks.sign_gradient import SignGradient
from medrobust.objectives.base import Objective, WeightedSum
from medrobust.objectives.cross_entropy import CrossEntropy
from medrobust.objectives.margin import Margin
from medrobust.objectives.stabilization import Distance, Stabilization


@dataclass(frozen=True, kw_only=True)
class SMIA(SignGradient):
    """Stabilised medical image attack: deviation plus stabilisation, 10 signed steps (SMIA21 eq. 3-6).

    With q held constant, weight 1 and cross-entropy, the gradient at the logits is (p - Y) - (p - q) = q - Y. So
    ``hard`` is exactly 0 until x + W * eta fools the victim, and the attack stalls; and for two classes ``kl`` and
    ``cross_entropy`` without ``through`` step as BIM does. Hence the defaults. With ``kl_eq5`` it is (p - Y) -
    p (ln p - ln q - KL), so that for two classes it steps as BIM does until the true class leads by 1 / p_Y logits less
    at x + eta than at x + W * eta, and the other way from there on. The authors' code moves by epsilon at every step
    without projecting; ``step_size: epsilon`` comes closest to it within a budget.

    On a victim that finds boxes the deviation is its own loss, whatever ``deviation`` says, and the stabilisation
    compares the classes of the clean image's proposals (``Stabilization``). A step after the first then costs three
    forwards and three backwards, as its loss and its proposals' classes do not come from one pass.

    Args:
        stabilization: Distance of the two decisions: ``kl``, ``kl_eq5`` (the KL divergence of the paper's analysis, the
            other way round than ``kl``), ``cross_entropy`` or ``hard``.
        through: Let the gradient flow through the smoothed branch too.
        deviation: What drives the image from its class: ``margin`` on logits, or plain ``cross_entropy``, with its
            vanishing gradient.
        weight: Weight a of the stabilisation, >= 0.
        kernel: Side of the Gaussian W in pixels, odd.
        sigma: Its standard deviation in pixels.
        kappa: Confidence, in units of logits, beyond which the margin has no gradient.

    Raises:
        ValueError: A field is out of its range, or ``objective`` is given.
    """

    own_objective: ClassVar[bool] = True

    stabilization: Distance = "kl"
    through: bool = True
    deviation: Literal["margin", "cross_entropy"] = "margin"
    weight: float = 1.0
    kernel: int = 3
    sigma: float = 1.0
    kappa: float = 50.0

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        super().__post_init__()
        if self.objective is not None:
            raise ValueError("SMIA has its own objective; give Stabilization to another attack's objective instead")
        if self.deviation not in ("margin", "cross_entropy"):
            raise ValueError(f"deviation is 'margin' or 'cross_entropy', got {self.deviation!r}")
        if not self.weight >= 0:
            raise ValueError(f"weight is not negative, got {self.weight}")
        if self.diversity:
            raise ValueError("SMIA smooths the perturbation of the image itself: diversity resizes it and must be 0")
        self.raised()

    def raised(self) -> Objective:
        """Deviation plus ``weight`` times the stabilisation."""
        deviation = Margin(self.kappa) if self.deviation == "margin" else CrossEntropy(saturated="keep")
        if not self.weight:
            return deviation
        stabilization = Stabilization(self.stabilization, self.through, self.kernel, self.sigma)
        return WeightedSum((deviation, stabilization), (1.0, self.weight))
