"""The difference-of-logits ratio on logits made by hand, its invariances, and what replaces it for two classes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust.attacks.auto_pgd import APGD
from medrobust.networks import as_victim
from medrobust.objectives import Margin, Step
from medrobust.objectives.difference_of_logits import DifferenceOfLogits


def value_and_gradient(
    logits: Tensor, targets: Tensor, targeted: bool = False, objective: Any = None
) -> tuple[Tensor, Tensor]:
    """The objective and its gradient, of a victim whose images are its logits."""
    leaf = logits.clone().requires_grad_()
    ids = [str(i) for i in range(len(leaf))]
    step = Step(torch.nn.Identity(), leaf, logits, targets, ids, targeted)  # type: ignore[arg-type]
    values = (objective or DifferenceOfLogits())(step)
    return values.detach(), torch.autograd.grad(values.sum(), leaf)[0]


@pytest.mark.parametrize(
    ("logits", "target", "targeted", "expected"),
    [
        ([3.0, 1.0, 0.0, -2.0], 0, False, -2 / 3),
        ([3.0, 1.0, 0.0, -2.0], 1, False, 2 / 3),
        ([3.0, 1.0, 0.0, -2.0], 3, False, 5 / 3),
        ([-2.0, 1.0, 0.0], 1, False, -1 / 3),
        ([3.0, 1.0, 0.0, -2.0], 2, True, -3 / 4),
        ([3.0, 1.0, 0.0, -2.0], 1, True, -2 / 4),
        ([3.0, 1.0, 0.0, -2.0], 0, True, 2 / 4),
        ([3.0, 1.0, 0.0, -2.0, -9.0], 4, True, -12 / 4),
        ([3.0, 1.0, 0.0], 2, True, -3 / 2.5),
        ([3.0, 1.0, 0.0], 1, True, -2 / 2.5),
        ([3.0, 1.0, 0.0], 0, True, 2 / 2.5),
        ([3.0, 1.0], 0, False, -2.0),
        ([3.0, 1.0], 0, True, 2.0),
    ],
)
def test_logits_made_by_hand(logits: list[float], target: int, targeted: bool, expected: float) -> None:
    values, gradient = value_and_gradient(torch.tensor([logits]), torch.tensor([target]), targeted)
    assert float(values) == pytest.approx(expected)
    assert bool(gradient.any())


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("classes", [3, 4, 10])
def test_a_shift_and_a_scale_change_neither_value_nor_direction(classes: int, targeted: bool) -> None:
    """f(a z + b) = f(z), so the gradient is divided by a."""
    logits = torch.randn(50, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.arange(50) % classes
    values, gradient = value_and_gradient(logits, targets, targeted)
    for scale, shift in ((1.0, -20.0), (1e4, 0.0), (1e4, -20.0), (1e-4, 3.0)):
        changed = value_and_gradient(scale * logits + shift, targets, targeted)
        torch.testing.assert_close(changed[0], values)
        torch.testing.assert_close(changed[1] * scale, gradient)
        single = value_and_gradient((scale * logits).float() + shift, targets, targeted)[0]
        if abs(shift) <= scale * 100:
            torch.testing.assert_close(single.double(), values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("classes", [3, 5])
def test_the_gradient_is_that_of_the_papers_formula(classes: int) -> None:
    logits = torch.randn(30, classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets, rows = torch.arange(30) % classes, torch.arange(30)
    leaf = logits.clone().requires_grad_()
    falling = leaf.sort(dim=1, descending=True).values
    best_other = torch.where(leaf.argmax(1) == targets, falling[:, 1], falling[:, 0])
    expected = -(leaf[rows, targets] - best_other) / (falling[:, 0] - falling[:, 2])
    values, gradient = value_and_gradient(logits, targets)
    torch.testing.assert_close(values, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), leaf)[0])


def test_the_targeted_gradient_is_that_of_the_papers_formula() -> None:
    """The true class of the paper is the one that leads, as long as the goal does not."""
    logits = torch.randn(30, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows, truth = torch.arange(30), logits.argmax(1)
    goals = (truth + 1 + rows % 5) % 6
    leaf = logits.clone().requires_grad_()
    falling = leaf.sort(dim=1, descending=True).values
    divisor = falling[:, 0] - (falling[:, 2] + falling[:, 3]) / 2
    expected = -(leaf[rows, truth] - leaf[rows, goals]) / divisor
    values, gradient = value_and_gradient(logits, goals, True)
    torch.testing.assert_close(values, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), leaf)[0])


@pytest.mark.parametrize("targeted", [False, True])
def test_with_two_classes_the_gradient_is_the_margins(targeted: bool) -> None:
    """The literal ratio of two logits is +-1 and has none."""
    logits = 30 * torch.randn(20, 2, generator=torch.Generator().manual_seed(3))
    targets = torch.arange(20) % 2
    ours, margin = (value_and_gradient(logits, targets, targeted, objective) for objective in (None, Margin(kappa=1e6)))
    torch.testing.assert_close(ours[0], margin[0])
    torch.testing.assert_close(ours[1], margin[1])
    sign = torch.tensor([[-1.0, 1.0]]) * torch.where(targets == 0, 1, -1)[:, None] * (-1 if targeted else 1)
    assert torch.equal(ours[1], sign)


@pytest.mark.parametrize("targeted", [False, True])
def test_equal_logits_keep_the_margins_gradient(targeted: bool) -> None:
    values, gradient = value_and_gradient(torch.full((1, 4), 7.0), torch.tensor([2]), targeted)
    direction = torch.tensor([[1 / 3, 1 / 3, -1.0, 1 / 3]])
    assert values.tolist() == [0.0]
    torch.testing.assert_close(gradient, -direction if targeted else direction)


@pytest.mark.parametrize("classes", [2, 4])
def test_masks_are_averaged_over_the_labelled_pixels(classes: int) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(3, classes, 4, 4, generator=generator)
    masks = torch.randint(-1, classes, (3, 4, 4), generator=generator)
    values, gradient = value_and_gradient(logits, masks)
    for image in range(3):
        places = (masks[image] >= 0).nonzero().tolist()
        pixels = torch.stack([logits[image, :, h, w] for h, w in places])
        labels = torch.stack([masks[image, h, w] for h, w in places])
        alone = value_and_gradient(pixels, labels)[0]
        torch.testing.assert_close(values[image], alone.mean())
    assert not (gradient * (masks < 0)[:, None]).any()


@pytest.mark.parametrize("targeted", [False, True])
def test_box_victims_are_asked_for_their_own_loss(
    targeted: bool, box_victim: Any, images_of: Any, boxes_of: Any
) -> None:
    victim, images, boxes = box_victim(3), images_of(4, 3), boxes_of(4)
    values = DifferenceOfLogits()(Step(victim, images, images, boxes, list("abcd"), targeted))
    torch.testing.assert_close(values, victim.loss(images, boxes) * (-1 if targeted else 1))


@pytest.mark.parametrize(("scale", "shift"), [(1e4, 0.0), (1.0, -20.0), (1024.0, -20.0)])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_shifted_and_scaled_victim_is_broken_as_the_plain_one(
    classes: int, scale: float, shift: float, linear: Any, images_of: Any
) -> None:
    images, attack = images_of(6, 3), APGD(epsilon=0.1, steps=10, objective=DifferenceOfLogits())
    plain = linear(3, classes)
    targets = plain(images).argmax(1)
    attacked, expected = (
        attack(victim, images, targets) for victim in (linear(3, classes, scale=scale, shift=shift), plain)
    )
    assert bool(expected.success.any())
    assert torch.equal(attacked.success, expected.success)
    torch.testing.assert_close(attacked.images, expected.images, atol=1e-4, rtol=0)
    assert not attacked.zero_gradients.any()


def test_a_saturated_network_is_as_weak_as_the_same_network_with_small_logits(conv_net: Any, images_of: Any) -> None:
    images, attack = images_of(8, 3, 1), APGD(epsilon=0.2, steps=20, objective=DifferenceOfLogits())
    plain, saturated = as_victim(conv_net()), as_victim(conv_net(scale=1e4))
    with torch.no_grad():
        targets = plain.eval()(images).argmax(1)
    weak, strong = attack(plain, images, targets), attack(saturated, images, targets)
    assert bool(weak.success.any())
    assert torch.equal(strong.success, weak.success)
