"""The stabilised medical image attack, SMIA (Qi et al., ICLR 2021, arXiv:2103.05232): an objective and its attack."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.attacks.sign_gradient import SignGradient
from medrobust.objectives.base import Objective, Step, WeightedSum
from medrobust.objectives.cross_entropy import CrossEntropy, Margin, image_mean, logit_gap

Distance = Literal["kl", "cross_entropy", "hard"]


def smoothed(perturbation: Tensor, side: int, sigma: float) -> Tensor:
    """Convolve each channel with a Gaussian, W * eta of SMIA21 eq. 4; zeros stand beyond the border.

    Args:
        perturbation: ``(N, C, H, W)``.
        side: Side of the kernel in pixels, odd.
        sigma: Its standard deviation in pixels.
    """
    places = torch.arange(side, dtype=torch.float64) - side // 2
    line = torch.exp(-places.square() / (2 * sigma**2))
    kernel = torch.outer(line, line)
    channels = perturbation.shape[1]
    weights = (kernel / kernel.sum()).to(perturbation).expand(channels, 1, -1, -1)
    return functional.conv2d(perturbation, weights, padding="same", groups=channels)


@dataclass(frozen=True)
class Stabilization(Objective):
    """Minus the distance between the decisions on x + eta and on x + W * eta (SMIA21 eq. 4); 0 at the first step.

    With q the probabilities at x + W * eta and p those at x + eta. The paper leaves open what L of two predictions
    is, and whether the gradient also flows through q; all readings are here. It adds a forward to each step, and a
    backward too if ``through``. On masks it is the mean over the labelled pixels.

    Args:
        distance: ``kl``, sum q (ln q - ln p); ``cross_entropy``, - sum q ln p; ``hard``, cross-entropy of p to the
            class that q names, as in the authors' code.
        through: Let the gradient flow through q too, as the paper's derivative has it; the authors' code does not.
        kernel: Side of the Gaussian W in pixels, odd.
        sigma: Its standard deviation in pixels.

    Raises:
        ValueError: A field is out of its range.
    """

    distance: Distance = "kl"
    through: bool = True
    kernel: int = 3
    sigma: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a distance that there is not, and a kernel that is none."""
        if self.distance not in ("kl", "cross_entropy", "hard"):
            raise ValueError(f"the stabilization is 'kl', 'cross_entropy' or 'hard', got {self.distance!r}")
        if not isinstance(self.kernel, int) or self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel is the odd side of a Gaussian in pixels, got {self.kernel}")
        if not self.sigma > 0:
            raise ValueError(f"sigma is a standard deviation in pixels and is positive, got {self.sigma}")

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``.

        Raises:
            ValueError: The victim does not return logits for classes or masks.
        """
        if not isinstance(step.targets, Tensor):
            raise ValueError("the stabilization compares logits and has no form for boxes yet")
        if step.index == 0:  # eta is 0, or noise of which the victim knows nothing yet
            return 0 * step.images.flatten(1).sum(1)
        with torch.set_grad_enabled(self.through and self.distance != "hard"):
            calm = step.victim(step.clean + smoothed(step.images - step.clean, self.kernel, self.sigma))
        step.count(forwards=1, backwards=int(calm.requires_grad))
        if self.distance == "hard":
            named = calm.argmax(1)
            # the same form as cross-entropy's, so that equal classes cancel to exactly 0 and not to rounding
            values = functional.softplus(logit_gap(step.outputs, named, soft=True), threshold=80.0)
            return -image_mean(values, step.targets)
        known, seen = calm.log_softmax(1), step.outputs.log_softmax(1)
        surprise = known - seen if self.distance == "kl" else -seen
        return -image_mean((known.exp() * surprise).sum(1), step.targets)


@dataclass(frozen=True, kw_only=True)
class SMIA(SignGradient):
    """Stabilised medical image attack: deviation plus stabilisation, 10 signed steps (SMIA21 eq. 3-6).

    On paper: with q held constant, weight 1 and cross-entropy, the gradient at the logits is
    (p - Y) - (p - q) = q - Y. So ``hard`` is exactly 0 until x + W * eta is fooled, and the attack stalls; and for two
    classes ``kl`` and ``cross_entropy`` without ``through`` step as BIM does. Hence the defaults. The authors' code
    moves by epsilon at every step without projecting: ``step_size: epsilon`` comes nearest within a budget.

    Args:
        stabilization: Distance of the two decisions: ``kl``, ``cross_entropy`` or ``hard``.
        through: Let the gradient flow through the smoothed branch too.
        deviation: What drives the image from its class: ``margin`` on logits, or ``cross_entropy`` as it stands, with
            its vanishing gradient.
        weight: Weight a of the stabilisation, >= 0.
        kernel: Side of the Gaussian W in pixels, odd.
        sigma: Its standard deviation in pixels.
        kappa: Logits by which the margin fools before it rests.

    Raises:
        ValueError: A field is out of its range, or ``objective`` is given.
    """

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
            raise ValueError(
                "SMIA smooths the perturbation of the image itself: diversity, which resizes it, must be 0"
            )
        self.raised()

    def raised(self) -> Objective:
        """Deviation plus ``weight`` times the stabilisation."""
        deviation = Margin(self.kappa) if self.deviation == "margin" else CrossEntropy(saturated="keep")
        if not self.weight:
            return deviation
        calm = Stabilization(self.stabilization, self.through, self.kernel, self.sigma)
        return WeightedSum((deviation, calm), (1.0, self.weight))
