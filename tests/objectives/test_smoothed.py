"""The smoothed objective: its mean and slope on victims where they are known, its noise and its counts."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust.attacks import APGD
from medrobust.networks import as_victim
from medrobust.objectives import CrossEntropy, DifferenceOfLogits, Margin, Smoothed, Step


def step_of(victim: Any, images: Tensor, clean: Tensor, targets: Tensor, index: int = 0) -> Step:
    return Step(victim, images, clean, targets, [str(i) for i in range(len(images))], index=index)


def test_on_a_linear_victim_the_mean_is_the_objectives_up_to_the_noise(linear: Any) -> None:
    """The margin is 2 <w, x - 1/2>; of n copies with deviation s per pixel the mean has deviation 2 s |w| / sqrt n."""
    victim, clean = linear(), torch.full((4, 1, 8, 8), 0.5)
    images, targets = clean + 0.03 * torch.tensor([1.0, -1.0, 0.5, 2.0]).view(-1, 1, 1, 1), torch.zeros(4).long()
    exact = Margin(1e6)(step_of(victim, images, clean, targets))
    values = Smoothed(Margin(1e6), deviation=0.5, copies=100)(step_of(victim, images, clean, targets))
    weight = float(victim.weight.detach().norm())
    deviations = 2 * 0.5 * 0.03 * torch.tensor([1.0, 1.0, 0.5, 2.0]) * weight / math.sqrt(100)
    assert bool(((values - exact).abs() < 4 * deviations).all())
    assert bool(((values - exact).abs() > 0).all())


def test_a_clean_image_has_no_noise(linear: Any, images_of: Any) -> None:
    victim, images = linear(), images_of(3)
    targets = torch.tensor([0, 1, 0])
    for objective in (Margin(), CrossEntropy()):
        plain, smoothed = (o(step_of(victim, images, images, targets)) for o in (objective, Smoothed(objective)))
        torch.testing.assert_close(smoothed, plain)


def test_each_image_has_noise_of_its_own_that_changes_with_the_step(linear: Any, images_of: Any) -> None:
    victim, clean = linear(), images_of(3)
    images, targets = (clean + 0.1).clamp(max=1), torch.tensor([0, 1, 0])
    objective = Smoothed(Margin(1e6))
    together = objective(step_of(victim, images, clean, targets))
    assert torch.equal(together, objective(step_of(victim, images, clean, targets)))
    assert not torch.equal(together, objective(step_of(victim, images, clean, targets, index=1)))
    last = Step(victim, images[2:], clean[2:], targets[2:], ["2"])
    torch.testing.assert_close(objective(last), together[2:])


@pytest.mark.parametrize("copies", [1, 3])
def test_its_passes_are_counted(copies: int, linear: Any, images_of: Any) -> None:
    step = step_of(linear(), images_of(2), images_of(2), torch.tensor([0, 1]))
    Smoothed(copies=copies)(step)
    assert (step.forwards, step.backwards) == (copies, copies)
    attacked = APGD(objective=Smoothed(copies=copies), steps=3, stop_when_fooled=False)(
        linear(), images_of(2), torch.tensor([0, 1])
    )
    assert attacked.backwards.tolist() == [3 * copies] * 2
    assert attacked.forwards.tolist() == [4 * (copies + 1) + 1] * 2  # each look also asks who is fooled


def test_of_two_classes_the_smoothed_ratio_makes_other_steps_than_cross_entropy(images_of: Any) -> None:
    """The margin's gradient has the signs of cross-entropy's, so that a second attack from the same start is lost."""
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 2))
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    victim, images = as_victim(net), images_of(6)
    targets = net(images).argmax(1)
    made = [
        APGD(epsilon=0.1, steps=10, objective=objective, stop_when_fooled=False)(victim, images, targets).images
        for objective in (None, DifferenceOfLogits(), DifferenceOfLogits(two_classes="smoothed"), Smoothed())
    ]
    same = [(one == made[0]).flatten(1).all(1) for one in made]
    assert bool(same[1].all())
    assert int(same[2].sum()) <= 1  # where no kink is near, the slope is the same everywhere
    assert torch.equal(made[2], made[3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deviation": 0.0}, "deviation is a share of the image's change and is positive, got 0.0"),
        ({"deviation": math.nan}, "deviation"),
        ({"copies": 0}, "copies counts noisy images and is a whole number of at least 1, got 0"),
    ],
)
def test_a_field_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Smoothed(**settings)
    with pytest.raises(ValueError, match="two_classes is 'margin' or 'smoothed', got 'none'"):
        DifferenceOfLogits(two_classes="none")  # type: ignore[arg-type]


class Roots(nn.Module):
    """Finite for images in [0, 1] only, and with an infinite slope where a pixel is black."""

    def forward(self, images: Tensor) -> Tensor:
        lead = (images.sqrt().flatten(1) - 0.5).sum(1)
        return torch.stack([-lead, lead], 1)


def test_the_victim_sees_copies_in_the_unit_range_and_the_slope_passes_the_clip(images_of: Any) -> None:
    images = images_of(3)
    images[:, :, :2], images[:, :, 2:4] = 0.01, 1.0
    clean = (images - 0.4).clamp(0, 1)
    leaf = images.clone().requires_grad_()
    values = Smoothed(Margin(1e6), copies=3)(step_of(as_victim(Roots()), leaf, clean, torch.zeros(3).long()))
    assert bool(values.isfinite().all())
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    assert bool((gradient != 0).all())


def test_broken_gradients_behind_the_noise_are_counted(images_of: Any) -> None:
    class Region(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return Roots()(images * (torch.arange(8) > 3))

    victim, images = as_victim(Region()), images_of(3)
    with pytest.warns(UserWarning, match="for 3 of 3 images the victim's gradients were not finite"):
        attacked = APGD(epsilon=1e-4, steps=5, objective=Smoothed(Margin(1e6)))(victim, images, torch.zeros(3).long())
    assert attacked.measures["broken_gradients"].tolist() == attacked.backwards.tolist()
