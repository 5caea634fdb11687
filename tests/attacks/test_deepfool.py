"""DeepFool against closed forms: the nearest boundary of a linear victim, also in a box, and a peer beside it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust.attacks.deepfool import DeepFool
from medrobust.networks import as_victim
from tests.digits import digits_network

ROUNDING = 500
ORDER = {"l2": 2.0, "linf": float("inf")}
DUAL = {"l2": 2.0, "linf": 1.0}


def grey(count: int, channels: int = 1, seed: int = 0) -> Tensor:
    """Images in [0.4, 0.6], from which no small step leaves the box."""
    return 0.4 + 0.2 * torch.rand((count, channels, 8, 8), generator=torch.Generator().manual_seed(seed))


def several(classes: int, seed: int = 3) -> nn.Sequential:
    """A linear classifier of 8 x 8 images with unrelated weights for each class."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    generator = torch.Generator().manual_seed(seed)
    net[1].weight.data = torch.randn((classes, 64), generator=generator)
    net[1].bias.data = torch.randn(classes, generator=generator) - net[1].weight.data.sum(1) / 2
    return net


def lengths(images: Tensor, clean: Tensor, distance: str) -> Tensor:
    return torch.linalg.vector_norm((images - clean).flatten(1), ORDER[distance], 1)


def far_side(logits: Tensor) -> Tensor:
    """How far beyond the boundary the first step aims, in logits, ``(N,)``."""
    return 2 * ROUNDING * torch.finfo(logits.dtype).eps * logits.abs().amax(1).detach()


@pytest.mark.parametrize("overshoot", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("distance", ["l2", "linf"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_two_classes_are_fooled_at_the_distance_of_the_boundary(
    scale: float, distance: Any, overshoot: float, linear: Any
) -> None:
    """(|m| + r) / ||w||_q, r beyond the boundary, prolonged by the overshoot, in one step."""
    victim, images = linear(1, 2, scale=scale, shift=-20.0 if scale == 1 else 0.0), grey(6)
    score = ((images - 0.5) * victim.weight).sum((1, 2, 3)).detach()
    targets = (score > 0).long()
    beyond = far_side(victim(images)) / (2 * scale)  # the gap of the logits is twice the score
    optimum = (score.abs() + beyond) / torch.linalg.vector_norm(victim.weight.detach(), DUAL[distance])

    attacked = DeepFool(distance=distance, overshoot=overshoot)(victim, images, targets)

    assert bool(attacked.success.all())
    expected = (1 + overshoot) * optimum
    torch.testing.assert_close(lengths(attacked.images, images, distance), expected, rtol=2e-3, atol=3e-6)
    if overshoot:  # without it, the rounding of the pixels may ask for a further step
        assert attacked.forwards.tolist() == [3] * 6  # one at the image, one at what was made, one to judge
        assert attacked.backwards.tolist() == [1] * 6
    assert attacked.zero_gradients.tolist() == [0] * 6


@pytest.mark.parametrize("candidates", [None, 10, 6])
@pytest.mark.parametrize("distance", ["l2", "linf"])
def test_of_several_boundaries_the_nearest_is_crossed(distance: Any, candidates: int | None) -> None:
    net, images = several(6), grey(8)
    with torch.no_grad():
        logits = net(images)
    targets = logits.argmax(1)
    weights = net[1].weight.detach()
    gaps = logits.gather(1, targets[:, None]) - logits
    norms = torch.linalg.vector_norm(weights[targets][:, None] - weights, DUAL[distance], dim=2)
    optimum = torch.where(norms > 0, (gaps + far_side(logits)[:, None]) / norms, float("inf")).amin(1)

    attacked = DeepFool(distance=distance, candidates=candidates)(as_victim(net), images, targets)

    assert bool(attacked.success.all())
    torch.testing.assert_close(lengths(attacked.images, images, distance), 1.02 * optimum, rtol=1e-3, atol=1e-6)
    assert attacked.backwards.tolist() == [5] * 8


def test_only_the_highest_ranking_classes_are_candidates() -> None:
    """Class 2 is nearer than class 1 but ranks below it: gaps 1 and 2, gradients 1 and 10 times as long."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    net[1].weight.data = torch.zeros(3, 64)
    net[1].weight.data[1, 0], net[1].weight.data[2, 1] = 5.0, 50.0
    net[1].bias.data = torch.tensor([0.0, -1.0, -2.0]) - net[1].weight.data.sum(1) / 2
    images, targets = torch.full((1, 1, 8, 8), 0.5), torch.tensor([0])
    two = DeepFool(candidates=2)(as_victim(net), images, targets)
    three = DeepFool(candidates=3)(as_victim(net), images, targets)
    beyond = far_side(net(images).detach()).item()
    assert lengths(two.images, images, "l2").item() == pytest.approx(1.02 * (1 + beyond) / 5, rel=1e-5)
    assert lengths(three.images, images, "l2").item() == pytest.approx(1.02 * (2 + beyond) / 50, rel=1e-5)
    assert (two.backwards.item(), three.backwards.item()) == (1, 2)


@pytest.mark.parametrize("distance", ["l2", "linf"])
def test_a_goal_is_reached_over_its_own_boundary(distance: Any, linear: Any) -> None:
    victim, images = linear(1, 2), grey(6)
    score = ((images - 0.5) * victim.weight).sum((1, 2, 3)).detach()
    goals = (score < 0).long()
    attacked = DeepFool(distance=distance, targeted=True)(victim, images, goals)
    optimum = score.abs() / torch.linalg.vector_norm(victim.weight.detach(), DUAL[distance])
    assert bool(attacked.success.all())
    torch.testing.assert_close(lengths(attacked.images, images, distance), 1.02 * optimum, rtol=1e-3, atol=1e-6)

    net = several(5)
    goals = (net(images).argmax(1) + 1 + torch.arange(6) % 4) % 5
    attacked = DeepFool(distance=distance, targeted=True)(as_victim(net), images, goals)
    assert bool(attacked.success.all())
    assert torch.equal(net(attacked.images).argmax(1), goals)
    assert bool((attacked.backwards < attacked.forwards).all())  # one backward a step, whatever the classes


@pytest.mark.parametrize("border", [0.0, 1.0])
@pytest.mark.parametrize("distance", ["l2", "linf"])
def test_pixels_at_the_bound_that_must_leave_it_are_made_up_for_from_the_fourth_step(
    distance: Any, border: float, linear: Any
) -> None:
    """About half the weights ask to leave [0, 1], and clipping undoes their share s of a step.

    Three steps leave (1 - 1.02 (1 - s))^3 of the gap; the fourth lets the free pixels close it, and 2 % more.
    """
    victim = linear(1, 2)
    images = torch.full((1, 1, 8, 8), border)
    score = ((images - 0.5) * victim.weight).sum().detach()
    down = score > 0  # the score has to fall: against w
    free = (victim.weight.detach() < 0) == (down if border == 0 else not down)
    weights = victim.weight.detach()
    order = DUAL[distance]
    share = 1 - float((weights[free].norm(order) / weights.norm(order)) ** order)
    gap = float(score.abs() + far_side(victim(images)) / 2)
    left = (1 - 1.02 * (1 - share)) ** 3
    assert 0.3 < share < 0.7

    attacked = DeepFool(distance=distance)(victim, images, down.long().view(1))

    assert bool(attacked.success)
    expected = (1 - left + 1.02 * left) * gap / float(weights[free].norm(order))
    assert lengths(attacked.images, images, distance).item() == pytest.approx(expected, rel=1e-3)
    assert torch.equal(attacked.images[0][~free], images[0][~free])
    assert int(attacked.backwards) == 4

    at_once = DeepFool(distance=distance, steps=1)(victim, images, down.long().view(1))
    assert bool(at_once.success)  # the last step makes up for them, too
    expected = 1.02 * gap / float(weights[free].norm(order))
    assert lengths(at_once.images, images, distance).item() == pytest.approx(expected, rel=1e-3)


def test_what_fools_only_beyond_the_box_is_no_success(linear: Any) -> None:
    victim = linear(1, 2)
    victim.leads, victim.biases = torch.tensor([-0.1, 0.1]), torch.tensor([1e3, 0.0])
    images = grey(3)
    attacked = DeepFool(steps=20)(victim, images, torch.zeros(3, dtype=torch.long))
    assert not bool(attacked.success.any())
    assert torch.equal(attacked.images, images)
    assert bool((attacked.backwards < 10).all())  # all pixels are at their bounds soon, and it gives up


def test_without_a_slope_the_clean_image_comes_back_and_is_counted(conv_net: Any, images_of: Any) -> None:
    net, images = conv_net(), images_of(3, 3)
    with torch.no_grad():
        net[9].weight.zero_()
        net[9].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    attacked = DeepFool()(as_victim(net), images, torch.tensor([0, 1, 0]))
    assert torch.equal(attacked.images, images)
    assert attacked.success.tolist() == [False, True, False]
    assert attacked.zero_gradients.tolist() == [2, 0, 2]


def test_already_fooled_images_come_back_clean(linear: Any, images_of: Any) -> None:
    victim, images = linear(1, 3), images_of(6)
    targets = (victim(images).argmax(1) + 1) % 3
    attacked = DeepFool()(victim, images, targets)
    assert torch.equal(attacked.images, images)
    assert bool(attacked.success.all())
    assert attacked.forwards.tolist() == [2] * 6
    assert attacked.backwards.tolist() == [0] * 6


@pytest.mark.parametrize("classes", [2, 3])
def test_passes_are_those_that_the_victim_saw(classes: int, linear: Any, images_of: Any, counting: Any) -> None:
    images = images_of(5, 3)
    images[:, 0] = torch.linspace(0.1, 0.9, 5).view(-1, 1, 1)
    for i in range(5):
        victim = counting(linear(3, classes, tagged=True), torch.linspace(0.1, 0.9, 5))
        attacked = DeepFool()(victim, images[i : i + 1], torch.tensor([i % classes]))
        assert attacked.forwards.item() == victim.seen.total()
        assert attacked.backwards.item() == victim.differentiated.total()
    victim = counting(linear(3, classes, tagged=True), torch.linspace(0.1, 0.9, 5))
    together = DeepFool()(victim, images, torch.arange(5) % classes)
    assert all(together.forwards[i].item() <= victim.seen[i] for i in range(5))


def test_a_batch_is_attacked_like_its_images_alone(waves: Any) -> None:
    net, images, labels = waves
    victim = as_victim(net)
    together = DeepFool()(victim, images, labels)
    for i in range(len(images)):
        alone = DeepFool()(victim, images[i : i + 1], labels[i : i + 1])
        assert bool(alone.success) == bool(together.success[i])
        assert abs(alone.forwards.item() - int(together.forwards[i])) <= 1  # rounding may ask for a last tiny step
        ours, theirs = lengths(alone.images, images[i : i + 1], "l2"), lengths(together.images, images, "l2")[i]
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-3)


@pytest.mark.parametrize("distance", ["l2", "linf"])
def test_foolbox_finds_nothing_nearer(distance: Any, waves: Any) -> None:
    foolbox = pytest.importorskip("foolbox", exc_type=ImportError)
    net, images, labels = waves
    ours = DeepFool(distance=distance)(as_victim(net), images, labels)
    peer = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}[distance]()
    theirs, _, fooled = peer(foolbox.PyTorchModel(net, bounds=(0, 1)), images, labels, epsilons=None)
    assert bool(ours.success.all()) and ours.success.sum() >= fooled.sum()
    assert lengths(ours.images, images, distance).median() <= 1.01 * lengths(theirs, images, distance).median()


@pytest.mark.parametrize("distance", ["l2", "linf"])
def test_on_digits_it_moves_no_further_than_foolbox(distance: Any) -> None:
    """Making up for blocked pixels from the first step on moved 5 % (L2) and 7 % (Linf) further than clipping them."""
    foolbox = pytest.importorskip("foolbox", exc_type=ImportError)
    net, images, labels = digits_network()
    ours = DeepFool(distance=distance, steps=50, overshoot=0.02, candidates=10)(as_victim(net), images, labels)
    peer = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}[distance]
    peer = peer(steps=50, overshoot=0.02, candidates=10)
    theirs, _, fooled = peer(foolbox.PyTorchModel(net, bounds=(0, 1)), images, labels, epsilons=None)
    assert bool(ours.success.all())
    assert bool(fooled.all())
    near, far = lengths(ours.images, images, distance), lengths(theirs, images, distance)
    assert float(near.mean()) <= float(far.mean())
    assert float((near / far).max()) < 1.02
    assert float(ours.backwards.double().mean()) / 9 < 4  # steps; foolbox needs more than 4 on average


@pytest.mark.parametrize("overshoot", [0.0, 0.02])
@pytest.mark.parametrize("distance", ["l2", "linf"])
def test_another_kernel_judges_what_it_made_alike(distance: Any, overshoot: float) -> None:
    """In float64, alone, or with the channels last: a lead of 500 roundings of the largest logit is not lost."""
    net, images, labels = digits_network()
    images, labels = images[:100], labels[:100]
    attacked = DeepFool(distance=distance, overshoot=overshoot)(as_victim(net), images, labels)
    assert bool(attacked.success.all())
    exact = copy.deepcopy(net).double()(attacked.images.double())
    leads = exact.scatter(1, labels[:, None], -torch.inf).amax(1) - exact.gather(1, labels[:, None]).squeeze(1)
    least = ROUNDING * torch.finfo(torch.float32).eps * exact.abs().amax(1)
    assert bool((leads >= 0.9 * least).all())
    alone = torch.cat([net(image[None]) for image in attacked.images])
    turned = net.to(memory_format=torch.channels_last)(attacked.images.contiguous(memory_format=torch.channels_last))
    net.to(memory_format=torch.contiguous_format)
    for outputs in (exact, alone, turned):
        assert bool((outputs.argmax(1) != labels).all())


@pytest.mark.parametrize("overshoot", [0.0, 0.02])
@pytest.mark.parametrize("distance", ["l2", "linf"])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_failure_gives_the_clean_image_whatever_judges_it(steps: int, distance: Any, overshoot: float) -> None:
    net, images, labels = digits_network()
    attacked = DeepFool(distance=distance, overshoot=overshoot, steps=steps)(as_victim(net), images, labels)
    alone = torch.cat([net(image[None]) for image in attacked.images]).argmax(1) != labels
    exact = copy.deepcopy(net).double()(attacked.images.double()).argmax(1) != labels
    moved = (attacked.images != images).flatten(1).any(1)
    for judged in (attacked.success, alone, exact):
        assert torch.equal(judged, moved)


@pytest.mark.parametrize("overshoot", [0.0, 0.02])
@pytest.mark.parametrize("distance", ["l2", "linf"])
def test_digits_are_attacked_in_a_batch_as_they_are_alone(distance: Any, overshoot: float) -> None:
    net, images, labels = digits_network()
    images, labels, attack = images[:50], labels[:50], DeepFool(distance=distance, overshoot=overshoot)
    together = attack(as_victim(net), images, labels)
    alone = [attack(as_victim(net), images[i : i + 1], labels[i : i + 1]) for i in range(50)]
    assert torch.equal(torch.cat([one.success for one in alone]), together.success)
    made = torch.cat([one.images for one in alone])
    torch.testing.assert_close(
        lengths(made, images, distance), lengths(together.images, images, distance), rtol=1e-4, atol=0
    )


def test_a_lead_within_rounding_is_pushed_on(linear: Any) -> None:
    """The clean image is taken for the other class by a tenth of the least lead: another kernel might disagree."""
    victim = linear(1, 2, scale=1.0, shift=100.0)
    direction = victim.weight.detach() / victim.weight.detach().square().sum()
    least = ROUNDING * torch.finfo(torch.float32).eps * 100
    images = (0.5 + 0.05 * least * direction)[None]
    attacked = DeepFool()(victim, images, torch.tensor([0]))
    assert bool(attacked.success)
    assert int(attacked.backwards) == 1
    moved = lengths(attacked.images, images, "l2").item()
    assert moved == pytest.approx(1.02 * (2 - 0.1) * least / 2 / float(victim.weight.detach().norm()), rel=0.1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "steps counts gradient steps and is a whole number of at least 1, got 0"),
        ("overshoot", -0.1, "overshoot is a share of the perturbation and is not negative, got -0.1"),
        ("overshoot", float("nan"), "overshoot"),
        ("distance", "l1", "distance is 'l2' or 'linf', got 'l1'"),
        ("candidates", 1, "candidates counts classes and is at least 2, or None for all, got 1"),
    ],
)
def test_a_field_out_of_range_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepFool(**{field: value})


def test_the_norm_is_the_distance() -> None:
    assert [DeepFool(distance=name).norm for name in ("l2", "linf")] == ["l2", "linf"]
    assert DeepFool.minimal
