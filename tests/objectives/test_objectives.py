"""Objectives: values and gradients against torch's own in float64, and the algebra of sums."""

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.attacks import BIM, SignGradient
from medrobust.networks import Outcome, as_victim, class_outcome
from medrobust.objectives import CrossEntropy, Margin, Objective, Step, WeightedSum
from medrobust.objectives.logit_gap import logit_gap


class Identity(nn.Module):
    """A victim whose images are its logits."""

    def forward(self, images: Tensor) -> Tensor:
        return images

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(images, targets, reduction="none")

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        return class_outcome(outputs, targets)

    def features(self, images: Tensor, layers: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return images, {layer: images.flatten(2).mean(2) for layer in layers}


def look(logits: Tensor, targets: Tensor, targeted: bool = False) -> Step:
    ids = [str(i) for i in range(len(logits))]
    return Step(Identity(), logits, logits.detach(), targets, ids, targeted)


def value_and_gradient(
    objective: Any, logits: Tensor, targets: Tensor, targeted: bool = False
) -> tuple[Tensor, Tensor]:
    logits = logits.clone().requires_grad_()
    values = objective(look(logits, targets, targeted))
    return values.detach(), torch.autograd.grad(values.sum(), logits)[0]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_and_its_gradient_equal_torchs(dtype: torch.dtype, classes: int, targeted: bool) -> None:
    logits = 3 * torch.randn(20, classes, generator=torch.Generator().manual_seed(0), dtype=dtype)
    targets = torch.arange(20) % classes
    sign = -1 if targeted else 1
    reference = logits.clone().requires_grad_()
    expected = sign * functional.cross_entropy(reference, targets, reduction="none")
    gradient = torch.autograd.grad(expected.sum(), reference)[0]
    for objective in (CrossEntropy(), CrossEntropy(saturated="keep")):
        ours = value_and_gradient(objective, logits, targets, targeted)
        torch.testing.assert_close(ours[0], expected.detach(), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(ours[1], gradient, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("gap", [10.0, 17.0, 25.0, 40.0, 49.0])
def test_cross_entropy_keeps_the_digits_that_float32_loses(gap: float) -> None:
    """log(1 + 2 exp(-gap)) for three classes; torch's float32 value is 0 from gap 17 on."""
    logits = torch.tensor([[gap, 0.0, 0.0]])
    values, gradient = value_and_gradient(CrossEntropy(), logits, torch.tensor([0]))
    exact = logits.double().requires_grad_()
    lost = 2 * math.exp(-gap) / (1 + 2 * math.exp(-gap))
    torch.testing.assert_close(
        values.double(), torch.tensor([math.log1p(2 * math.exp(-gap))]).double(), rtol=1e-5, atol=0
    )
    expected = torch.tensor([[-lost, lost / 2, lost / 2]]).double()
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-5, atol=0)
    theirs = torch.autograd.grad(functional.cross_entropy(exact, torch.tensor([0])), exact)[0]
    torch.testing.assert_close(theirs[0, 1:], expected[0, 1:], rtol=1e-5, atol=0)
    if gap >= 17:
        assert float(functional.cross_entropy(logits, torch.tensor([0]))) == 0


@pytest.mark.parametrize("gap", [60.0, 200.0, 1e4])
def test_a_saturated_cross_entropy_is_reported_and_replaced_by_its_soft_margin(gap: float) -> None:
    logits, targets = torch.tensor([[gap, 0.0, 0.0], [0.0, gap, 0.0]]), torch.tensor([0, 0])
    leaf = logits.clone().requires_grad_()
    step = look(leaf, targets)
    values = CrossEntropy()(step)
    gradient = torch.autograd.grad(values.sum(), leaf)[0]
    assert step.vanished is not None
    assert step.vanished.tolist() == [True, False]
    torch.testing.assert_close(gradient[0], torch.tensor([-1.0, 0.5, 0.5]))
    torch.testing.assert_close(gradient[1], torch.tensor([-1.0, 1.0, 0.0]), atol=1e-6, rtol=0)
    assert float(values[0].detach()) == pytest.approx(math.log(2) - gap, rel=1e-6)
    kept, flat = value_and_gradient(CrossEntropy(saturated="keep"), logits, targets)
    assert float(kept[0]) < 1e-20
    assert float(flat[0].abs().max()) < 1e-20


@pytest.mark.parametrize("shift", [0.0, -20.0, -1000.0])
@pytest.mark.parametrize("soft", [False, True])
def test_the_gap_masks_the_target_also_where_all_logits_are_negative(soft: bool, shift: float) -> None:
    logits = torch.tensor([[3.0, 1.0, 1.0], [-1.0, 2.0, 0.0]]) + shift
    gaps = logit_gap(logits, torch.tensor([0, 1]), soft)
    lead = math.log(2) if soft else 0.0
    second = math.log(math.exp(-1) + 1) if soft else 0.0
    torch.testing.assert_close(gaps, torch.tensor([1.0 + lead - 3.0, second - 2.0]), atol=2e-4, rtol=0)


@pytest.mark.parametrize("soft", [False, True])
def test_the_gap_of_two_classes_is_their_difference_with_slopes_of_one(soft: bool) -> None:
    logits = torch.tensor([[-7.0, -5.0], [-30.0, 2.0]], requires_grad=True)
    gaps = logit_gap(logits, torch.tensor([0, 1]), soft)
    torch.testing.assert_close(gaps.detach(), torch.tensor([2.0, -32.0]))
    gradient = torch.autograd.grad(gaps.sum(), logits)[0]
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))


def test_outputs_that_fit_no_targets_have_no_gap() -> None:
    expected = r"got outputs of shape \(3, 4, 5\) for targets of shape \(3,\)"
    with pytest.raises(ValueError, match=expected):
        logit_gap(torch.zeros(3, 4, 5), torch.zeros(3).long(), False)


@pytest.mark.parametrize(
    ("kappa", "targeted", "expected", "slope"),
    [
        (0.0, False, [-2.0, 0.0], [1.0, 0.0]),
        (5.0, False, [-2.0, 3.0], [1.0, 1.0]),
        (2.5, False, [-2.0, 2.5], [1.0, 0.0]),
        (0.0, True, [0.0, -3.0], [0.0, -1.0]),
        (1.5, True, [1.5, -3.0], [0.0, -1.0]),
        (100.0, True, [2.0, -3.0], [-1.0, -1.0]),
    ],
)
def test_the_margin_stops_at_kappa(kappa: float, targeted: bool, expected: list[float], slope: list[float]) -> None:
    """Target 0 leads by 2 in the first row and lags by 3 in the second; slope is that of the strongest other logit."""
    logits = torch.tensor([[1.0, -1.0, -4.0], [-6.0, -3.0, -9.0]])
    values, gradient = value_and_gradient(Margin(kappa), logits, torch.tensor([0, 0]), targeted)
    assert values.tolist() == expected
    assert gradient[:, 1].tolist() == slope
    assert gradient[:, 0].tolist() == [-number for number in slope]
    assert gradient[:, 2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("objective", [CrossEntropy(), Margin(100.0)])
@pytest.mark.parametrize("targeted", [False, True])
def test_masks_are_averaged_over_the_labelled_pixels_of_each_image(objective: Objective, targeted: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 4, 5, 5, generator=generator)
    masks = torch.randint(-1, 4, (3, 5, 5), generator=generator)
    masks[2] = -1
    values, gradient = value_and_gradient(objective, logits, masks, targeted)
    for image in range(3):
        places = [(h, w) for h in range(5) for w in range(5) if masks[image, h, w] >= 0]
        total = 0.0
        for h, w in places:
            pixel, label = logits[image, :, h, w][None], masks[image, h, w][None]
            total += float(value_and_gradient(objective, pixel, label, targeted)[0])
        assert float(values[image]) == pytest.approx(total / max(1, len(places)), abs=1e-5)
    assert bool((gradient.abs().amax(1) > 0)[masks >= 0].all())
    assert float(gradient.permute(0, 2, 3, 1)[masks < 0].abs().max()) == 0


def test_ignored_pixels_have_no_say_in_whether_cross_entropy_is_lost() -> None:
    """Labelled pixels are certain by 300, the ignored one would be open: the margin must step in all the same."""
    logits = torch.zeros(1, 2, 1, 3)
    logits[0, 0, 0, :2] = 300.0
    masks = torch.tensor([[[0, 0, -1]]])
    leaf = logits.requires_grad_()
    step = look(leaf, masks)
    gradient = torch.autograd.grad(CrossEntropy()(step).sum(), leaf)[0]
    assert step.vanished is not None
    assert step.vanished.tolist() == [True]
    torch.testing.assert_close(gradient[0, :, 0], torch.tensor([[-0.5, -0.5, 0.0], [0.5, 0.5, 0.0]]))


def test_one_open_pixel_keeps_cross_entropy_alive() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    logits[0, 0, 0, 0] = 300.0
    step = look(logits.requires_grad_(), torch.tensor([[[0, 0]]]))
    assert float(CrossEntropy()(step).detach()) == pytest.approx(math.log(2) / 2)
    assert step.vanished is not None
    assert step.vanished.tolist() == [False]


def test_for_boxes_the_victims_own_loss_is_raised(box_victim: Any, images_of: Any, boxes_of: Any) -> None:
    victim, images, boxes = box_victim(), images_of(4), boxes_of(4)
    for objective in (CrossEntropy(), Margin()):
        for targeted, sign in ((False, 1), (True, -1)):
            step = Step(victim, images, images, boxes, list("abcd"), targeted)
            torch.testing.assert_close(objective(step), sign * victim.loss(images, boxes))
            assert step.forwards == 1


def test_objectives_add_subtract_scale_and_negate() -> None:
    logits, targets = torch.randn(5, 3, generator=torch.Generator().manual_seed(2)), torch.arange(5) % 3
    one, other = CrossEntropy(), Margin(1.0)
    a, b = one(look(logits, targets)), other(look(logits, targets))
    cases: list[tuple[Any, Tensor]] = [
        (one + other, a + b),
        (one - other, a - b),
        (2 * one, 2 * a),
        (one * 0.5, 0.5 * a),
        (-one, -a),
        (one + 0.5 * other - 3 * one, a + 0.5 * b - 3 * a),
        (-(one - 2.0 * other), 2 * b - a),
        (WeightedSum((one, other), (2.0, -1.0)), 2 * a - b),
    ]
    for objective, expected in cases:
        assert isinstance(objective, Objective)
        torch.testing.assert_close(objective(look(logits, targets)), expected)
    assert one + other == CrossEntropy() + Margin(1.0)
    assert hash(one + other) == hash(CrossEntropy() + Margin(1.0))
    assert one + other != one - other


class Brightness(Objective):
    """Sum of a layer's activations."""

    def __init__(self, *names: str) -> None:
        self.names = names

    @property
    def layers(self) -> tuple[str, ...]:
        return self.names

    def __call__(self, step: Step) -> Tensor:
        return torch.stack([step.features[name].sum(1) for name in self.names]).sum(0)


def test_a_sum_asks_for_each_layer_once() -> None:
    summed = Brightness("a", "b") + 0.5 * Brightness("b", "c") - CrossEntropy()
    assert summed.layers == ("a", "b", "c")
    assert CrossEntropy().layers == ()


def test_a_sum_of_three_objectives_shares_one_forward_a_step(counting: Any, linear: Any, images_of: Any) -> None:
    images = images_of(3, 2)
    images[:, 0] = torch.tensor([0.0, 0.5, 1.0]).view(-1, 1, 1)
    victim = counting(linear(2, tagged=True), torch.tensor([0.0, 0.5, 1.0]))
    objective = CrossEntropy() + 0.1 * Brightness("pixels") + Margin(10.0) - Brightness("channels", "pixels")
    attacked = SignGradient(epsilon=0.05, steps=4, objective=objective)(victim, images, torch.tensor([0, 1, 0]))
    assert victim.calls == 5
    assert attacked.forwards.tolist() == [5] * 3
    assert attacked.backwards.tolist() == [4] * 3


def test_the_weighted_sum_is_what_the_attack_climbs(linear: Any) -> None:
    """<w, x> sign against a brightness term: where 0.01 |dJ| < weight the brightness decides the sign."""
    victim, images = linear(), torch.full((1, 1, 8, 8), 0.5)
    targets = torch.tensor([0])
    for weight in (0.0, 0.05, 10.0):
        attack = SignGradient(epsilon=0.1, steps=1, objective=Margin(10.0) - weight * Brightness("pixels"))
        sign = (2 * victim.weight.detach() - weight).sign()
        torch.testing.assert_close(attack(victim, images, targets).images[0], 0.5 + 0.1 * sign)


@pytest.mark.parametrize(
    ("terms", "weights", "received"),
    [((), (), "0 and 0"), ((CrossEntropy(),), (1.0, 2.0), "1 and 2"), ((), (1.0,), "0 and 1")],
)
def test_a_sum_needs_a_weight_for_each_term(terms: Any, weights: Any, received: str) -> None:
    with pytest.raises(ValueError, match=f"one weight for each term, got {received}"):
        WeightedSum(terms, weights)


@pytest.mark.parametrize("kappa", [-1.0, math.nan])
def test_a_negative_confidence_is_refused(kappa: float) -> None:
    with pytest.raises(ValueError, match="kappa is a confidence in units of logits and is not negative, got"):
        Margin(kappa)


@pytest.mark.parametrize("saturated", ["margin", "keep"])
def test_on_a_fresh_network_both_treatments_give_the_same_images(
    saturated: Literal["margin", "keep"], conv_net: Any, images_of: Any
) -> None:
    victim, images, targets = as_victim(conv_net()), images_of(4, 3), torch.arange(4) % 3
    plain = BIM(steps=3)(victim, images, targets).images
    assert torch.equal(BIM(steps=3, objective=CrossEntropy(saturated))(victim, images, targets).images, plain)
