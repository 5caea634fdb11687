"""The stabilisation of SMIA (Qi et al., ICLR 2021, arXiv:2103.05232), which compares two decisions of the victim."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.networks.victims import box_victim
from medrobust.objectives.base import Objective, Step
from medrobust.objectives.logit_gap import class_logits, image_mean, logit_gap
from medrobust.objectives.proposals import clean_proposals, mean_of_each

Distance = Literal["kl", "kl_eq5", "cross_entropy", "hard"]
UNFIT = "the stabilization compares logits of classes, masks or labels"  # of boxes, those of proposals


@lru_cache(maxsize=16)
def gaussian_kernel(side: int, sigma: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Gaussian of ``side`` x ``side`` pixels, exp(-r^2 / (2 sigma^2)), whose values add up to 1: ``(side, side)``.

    The result is cached and shared between callers, so it must not be modified.

    Args:
        side: Side of the kernel in pixels, odd.
        sigma: Its standard deviation in pixels.
        device: Device of the result.
        dtype: Type of the result; it is computed in float64.
    """
    with torch.inference_mode(False):
        places = torch.arange(side, dtype=torch.float64, device="cpu") - side // 2
        line = torch.exp(-places.square() / (2 * sigma**2))
        kernel = torch.outer(line, line)
        return (kernel / kernel.sum()).to(device, dtype)


def smoothed(values: Tensor, side: int, sigma: float) -> Tensor:
    """Convolve each channel with a Gaussian, W * eta of SMIA21 eq. 4; beyond the border everything is 0.

    Args:
        values: ``(N, C, H, W)``.
        side: Side of the kernel in pixels, odd.
        sigma: Its standard deviation in pixels.
    """
    channels = values.shape[1]
    weights = gaussian_kernel(side, sigma, values.device, values.dtype).expand(channels, 1, -1, -1)
    return functional.conv2d(values, weights, padding="same", groups=channels)


@dataclass(frozen=True)
class Stabilization(Objective):
    """Minus the distance between the decisions on x + eta and on x + W * eta (SMIA21 eq. 4); 0 at the first step.

    With q the probabilities at x + W * eta and p those at x + eta. The paper leaves open what L of two predictions
    is, and whether the gradient also flows through q; all readings are here. It adds a forward to each step, and a
    backward too if ``through``. Masks and labels take the mean over an image's labelled entries; a single logit z, for
    an image, a pixel or a label, is a decision between the logits 0 and z.

    A victim that finds boxes gives no probabilities of its own: the boxes of two images are others in another
    number, and choosing them has no gradient. There p and q are those of the classes, background included, of the
    clean image's 300 likeliest proposals, as many as Faster R-CNN goes on with, so that both branches are asked
    about the same places, and the mean is taken over these, as the detector's own classification loss is a mean
    over proposals; its regression is not compared. It costs two forwards and two backwards (one if not ``through``)
    beside those of the victim's loss, and one for the proposals.

    Args:
        distance: ``kl``, sum q (ln q - ln p), KL(q || p); ``kl_eq5``, sum p (ln p - ln q), KL(p || q) of SMIA21 eq. 5;
            ``cross_entropy``, - sum q ln p; ``hard``, cross-entropy of p to the class that is likeliest under q, as in
            the authors' code.
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
        """Refuse an unknown distance and a kernel that has no centre or no width."""
        if self.distance not in ("kl", "kl_eq5", "cross_entropy", "hard"):
            raise ValueError(f"the stabilization is 'kl', 'kl_eq5', 'cross_entropy' or 'hard', got {self.distance!r}")
        if not isinstance(self.kernel, int) or self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel is the odd side of a Gaussian in pixels, got {self.kernel}")
        if not self.sigma > 0:
            raise ValueError(f"sigma is a standard deviation in pixels and is positive, got {self.sigma}")

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``.

        Raises:
            ValueError: The victim's outputs are not logits that fit the targets, or it does not tell its proposals.
        """
        if step.index == 0:  # eta is 0, or noise that the victim has not seen yet
            return 0 * step.images.flatten(1).sum(1)
        smooth = step.clean + smoothed(step.images - step.clean, self.kernel, self.sigma)
        # victims know images in [0, 1] only; the clip keeps the slope, or pixels at its bounds would have none
        smooth = smooth + (smooth.clamp(0, 1) - smooth).detach()
        through = self.through and self.distance != "hard"
        if not isinstance(step.targets, Tensor):
            return self._of_proposals(step, smooth, through)
        with torch.set_grad_enabled(through and torch.is_grad_enabled()):
            smooth_logits = class_logits(step.victim(smooth), step.targets)
        logits = class_logits(step.outputs, step.targets)
        if smooth_logits is None or logits is None:
            raise ValueError(f"{UNFIT}, got outputs that do not fit targets of shape {tuple(step.targets.shape)}")
        step.count(forwards=1, backwards=int(smooth_logits.requires_grad))
        return -image_mean(self._distances(logits, smooth_logits), step.targets)

    def _of_proposals(self, step: Step, smooth: Tensor, through: bool) -> Tensor:
        """Minus the mean distance over each image's proposals."""
        proposals = clean_proposals(step, type(self).__name__)
        victim = box_victim(step.victim, type(self).__name__)
        with torch.set_grad_enabled(through and torch.is_grad_enabled()):
            smooth_logits = torch.cat(victim.proposal_logits(smooth, proposals))
        logits = torch.cat(victim.proposal_logits(step.images, proposals))
        step.count(forwards=2, backwards=int(logits.requires_grad) + int(smooth_logits.requires_grad))
        return -mean_of_each(self._distances(logits, smooth_logits), [len(corners) for corners in proposals])

    def _distances(self, logits: Tensor, smooth_logits: Tensor) -> Tensor:
        """Distance of the two decisions at each place, ``(N, ...)`` for logits ``(N, K, ...)``."""
        if self.distance == "hard":
            # the same form as cross-entropy's, so that equal classes cancel to exactly 0 and not to rounding
            likeliest = smooth_logits.max(1).indices  # argmax is slow on a CPU
            return functional.softplus(logit_gap(logits, likeliest, soft=True), threshold=80.0)
        log_q, log_p = smooth_logits.log_softmax(1), logits.log_softmax(1)
        if self.distance == "kl_eq5":
            return (log_p.exp() * (log_p - log_q)).sum(1)
        surprise = log_q - log_p if self.distance == "kl" else -log_p
        return (log_q.exp() * surprise).sum(1)
