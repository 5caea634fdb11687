"""The stabilisation: its gradient on paper for each reading, and what its smoothing is."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from medrobust.networks import as_victim
from medrobust.objectives import CrossEntropy, Margin, Stabilization, Step
from medrobust.objectives.stabilization import smoothed


class Logits(torch.nn.Module):
    """Returns the first pixels of an image as its logits, so that gradients at the logits can be read off."""

    def __init__(self, classes: int, scale: float = 8.0) -> None:
        super().__init__()
        self.classes, self.scale = classes, scale

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * images.flatten(1)[:, : self.classes]


def logit_gradient(objective: Any, images: Tensor, clean: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Gradient of an objective at the logits of the unsmoothed branch."""
    variable = images.clone().requires_grad_()
    step = Step(as_victim(Logits(classes)), variable, clean, targets, ["a"] * len(images), index=1)
    (gradient,) = torch.autograd.grad(objective(step).sum(), variable)
    return gradient.flatten(1)[:, :classes] / 8.0


def images_and_clean(classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clean = 0.2 + 0.6 * torch.rand(6, 1, 6, 6, generator=generator, dtype=torch.float64)
    return (clean + 0.2 * torch.rand(clean.shape, generator=generator, dtype=torch.float64) - 0.1), clean


@pytest.mark.parametrize("distance", ["kl", "cross_entropy"])
@pytest.mark.parametrize("classes", [2, 4])
def test_with_the_smoothed_branch_held_the_gradient_is_q_minus_y(distance: Any, classes: int) -> None:
    images, clean = images_and_clean(classes)
    targets = torch.arange(6) % classes
    objective = CrossEntropy(saturated="keep") + Stabilization(distance, through=False)
    q = (8.0 * (clean + smoothed(images - clean, 3, 1.0)).flatten(1)[:, :classes]).softmax(1)
    expected = q - functional.one_hot(targets, classes)
    torch.testing.assert_close(logit_gradient(objective, images, clean, targets, classes), expected)


@pytest.mark.parametrize("weight", [1.0, 0.4])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_divergence_of_eq_5_has_its_own_gradient(classes: int, weight: float) -> None:
    """d KL(p || q) / dz_j = p_j (ln p_j - ln q_j - KL): the derivative of p ln p / q, and p sums to 1."""
    images, clean = images_and_clean(classes)
    targets = torch.arange(6) % classes
    objective = CrossEntropy(saturated="keep") + weight * Stabilization("kl_eq5", through=False)
    p, q = (
        (8.0 * seen.flatten(1)[:, :classes]).softmax(1) for seen in (images, clean + smoothed(images - clean, 3, 1.0))
    )
    divergence = (p * (p / q).log()).sum(1, keepdim=True)
    expected = p - functional.one_hot(targets, classes) - weight * p * ((p / q).log() - divergence)
    torch.testing.assert_close(logit_gradient(objective, images, clean, targets, classes), expected)


def test_the_two_divergences_by_hand() -> None:
    """p = (4/5, 1/5) at x + eta, q = (1/2, 1/2) at x + W * eta: a flat W shifts both logits alike."""
    clean = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    images = torch.tensor([math.log(4.0) / 8, 0.0], dtype=torch.float64).view(1, 1, 1, 2)

    def value(distance: Any) -> float:
        objective = Stabilization(distance, kernel=9, sigma=1e9)
        return float(-objective(Step(as_victim(Logits(2)), images, clean, torch.tensor([0]), ["a"], index=1)))

    assert value("kl_eq5") == pytest.approx(0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5))
    assert value("kl") == pytest.approx(0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2))


@pytest.mark.parametrize("lead", [0.9, 1.1])
def test_of_two_classes_eq_5_turns_back_once_the_lead_differs_by_one_over_p(lead: float) -> None:
    """With the true class's p at x + eta, dJ/dz_0 = -(1 - p) (1 + p (m - n)) for leads m at x + eta, n at x + W * eta.

    A flat W shifts both logits alike, so that n is the clean image's lead, and m = n - lead / p.
    """
    p = 0.25
    smooth_lead = math.log(p / (1 - p)) + lead / p
    clean = torch.tensor([0.5 + smooth_lead / 8, 0.5], dtype=torch.float64).view(1, 1, 1, 2)
    images = torch.tensor([0.5 + math.log(p / (1 - p)) / 8, 0.5], dtype=torch.float64).view(1, 1, 1, 2)
    spread = Stabilization("kl_eq5", through=False, kernel=9, sigma=1e9)
    objective = CrossEntropy(saturated="keep") + spread
    gradient = logit_gradient(objective, images, clean, torch.tensor([0]), 2)
    expected = -(1 - p) * (1 - lead)
    torch.testing.assert_close(gradient, torch.tensor([[expected, -expected]], dtype=torch.float64))


@pytest.mark.parametrize("classes", [2, 4])
def test_hard_gives_exactly_nothing_until_the_smoothed_image_is_fooled(classes: int) -> None:
    images, clean = images_and_clean(classes)
    images, clean = images.float(), clean.float()
    named = Logits(classes)(clean + smoothed(images - clean, 3, 1.0)).argmax(1)
    objective = CrossEntropy(saturated="keep") + Stabilization("hard")
    assert not logit_gradient(objective, images, clean, named, classes).any()
    fooled = (named + 1) % classes
    expected = functional.one_hot(named, classes) - functional.one_hot(fooled, classes)
    torch.testing.assert_close(logit_gradient(objective, images, clean, fooled, classes), expected.float())


def test_through_the_smoothed_branch_the_gradient_is_the_numerical_one(conv_net: Any, images_of: Any) -> None:
    victim = as_victim(conv_net().double().eval())
    clean, targets = 0.3 + 0.4 * images_of(2, 3).double(), torch.tensor([0, 1])  # where nothing is clipped
    image = (clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    direction = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2)).double()
    for distance in ("kl", "kl_eq5", "cross_entropy"):
        objective = Margin(50.0) + Stabilization(distance)  # type: ignore[arg-type]

        def value(images: Tensor, objective: Any = objective) -> Tensor:
            return objective(Step(victim, images, clean, targets, ["a", "b"], index=1)).sum()

        (gradient,) = torch.autograd.grad(value(image), image)
        with torch.no_grad():
            numerical = (value(image + 1e-6 * direction) - value(image - 1e-6 * direction)) / 2e-6
        torch.testing.assert_close((gradient * direction).sum(), numerical, rtol=1e-5, atol=1e-8)


def test_smoothing_is_a_normalised_gaussian() -> None:
    image = torch.zeros(1, 2, 9, 9, dtype=torch.float64)
    image[0, 1, 4, 4] = 1.0
    spread = smoothed(image, 3, 1.0)
    line = np.exp(-(np.array([-1.0, 0, 1]) ** 2) / 2)
    expected = np.outer(line, line) / np.outer(line, line).sum()
    np.testing.assert_allclose(spread[0, 1, 3:6, 3:6].numpy(), expected, atol=1e-12)
    assert not spread[0, 0].any()
    assert float(spread.sum()) == pytest.approx(1.0)
    noise = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reference = gaussian_filter(noise[0, 0].numpy(), 1.5, mode="constant", radius=3)
    np.testing.assert_allclose(smoothed(noise, 7, 1.5)[0, 0].numpy(), reference, atol=1e-12)
