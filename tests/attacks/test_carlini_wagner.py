"""CW-L2 against closed forms: the nearest point of a linear victim's boundary, also in a box, and a peer beside it."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust.attacks.carlini_wagner import CWL2
from medrobust.networks import as_victim

SHORT = CWL2(search_steps=6, steps=60)


def grey(count: int, channels: int = 1, seed: int = 0) -> Tensor:
    """Images in [0.4, 0.6], from which no small step leaves the box."""
    return 0.4 + 0.2 * torch.rand((count, channels, 8, 8), generator=torch.Generator().manual_seed(seed))


def lengths(images: Tensor, clean: Tensor) -> Tensor:
    return (images - clean).flatten(1).norm(dim=1)


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (-20.0, 1.0), (0.0, 1e4), (0.0, 0.01)])
def test_two_classes_are_fooled_at_the_distance_of_the_boundary(
    shift: float, scale: float, targeted: bool, linear: Any
) -> None:
    """|m| / ||w||_2 to 1 %, whatever is added to the logits or multiplies them."""
    victim, images = linear(1, 2, shift=shift, scale=scale), grey(6)
    score = ((images - 0.5) * victim.weight).sum((1, 2, 3)).detach()
    targets = ((score < 0) if targeted else (score > 0)).long()
    # on logits of 1e4 the constant has to fall by four decades first
    attacked = CWL2(targeted=targeted, search_steps=10 if scale > 1 else 9)(victim, images, targets)
    assert bool(attacked.success.all())
    optimum = score.abs() / victim.weight.detach().norm()
    torch.testing.assert_close(lengths(attacked.images, images), optimum, rtol=0.01, atol=1e-4)


def test_of_several_boundaries_the_nearest_is_crossed() -> None:
    """Of a convex set's complement: no point outside is nearer than the nearest of the boundaries."""
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    net[1].weight.data = torch.randn((4, 64), generator=generator)
    net[1].bias.data = torch.randn(4, generator=generator) - net[1].weight.data.sum(1) / 2
    images = grey(8)
    with torch.no_grad():
        logits, weights = net(images), net[1].weight
        targets = logits.argmax(1)
        gaps = logits.gather(1, targets[:, None]) - logits
        norms = (weights[targets][:, None] - weights).norm(dim=2)
        optimum = torch.where(norms > 0, gaps / norms, float("inf")).amin(1)
    attacked = CWL2()(as_victim(net), images, targets)
    assert bool(attacked.success.all())
    found = lengths(attacked.images, images)
    assert bool((found >= optimum * (1 - 1e-4)).all())
    assert float((found / optimum).median()) <= 1.01  # Adam may settle on a class that is not the nearest


@pytest.mark.parametrize("border", [0.0, 1.0])
def test_black_and_white_pixels_can_move(border: float, linear: Any) -> None:
    """Where all pixels are at the bound, the optimum moves those alone that the bound lets move."""
    victim = linear(1, 2)
    images = torch.full((1, 1, 8, 8), border)
    score = ((images - 0.5) * victim.weight).sum().detach()
    down = score > 0
    free = (victim.weight.detach() < 0) == (down if border == 0 else not down)
    optimum = float(score.abs()) / float(victim.weight.detach()[free].norm())
    attacked = CWL2()(victim, images, down.long().view(1))
    assert bool(attacked.success)
    assert lengths(attacked.images, images).item() == pytest.approx(optimum, rel=0.01)


def test_black_pixels_that_do_not_matter_stay_black() -> None:
    """The start of an image with a black border is the image itself, not one pulled off the bound."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    net[1].weight.data = torch.zeros(2, 64)
    net[1].weight.data[1, 28:36] = 1.0
    net[1].bias.data = torch.tensor([4.1, 0.0])
    images = torch.zeros(1, 1, 8, 8)
    images.view(-1)[28:36] = 0.5
    attacked = CWL2()(as_victim(net), images, torch.tensor([0]))
    assert lengths(attacked.images, images).item() == pytest.approx(0.1 / 8**0.5, rel=0.01)
    assert float((attacked.images - images).abs().view(-1)[:28].max()) < 1e-6


def test_confidence_is_reached_and_never_exceeded_by_much(linear: Any) -> None:
    """Leading by kappa costs (|m| + kappa) / ||w||, the margin being 2 |score| and its gradient 2 w."""
    victim, images = linear(1, 2), grey(4)
    score = ((images - 0.5) * victim.weight).sum((1, 2, 3)).detach()
    attacked = CWL2(kappa=0.5)(victim, images, (score > 0).long())
    with torch.no_grad():
        lead = (victim(attacked.images)[:, 1] - victim(attacked.images)[:, 0]) * -score.sign()
    assert bool((lead >= 0.5 - 1e-5).all())
    optimum = (2 * score.abs() + 0.5) / (2 * victim.weight.detach().norm())
    torch.testing.assert_close(lengths(attacked.images, images), optimum, rtol=0.01, atol=1e-4)


def test_what_cannot_be_fooled_comes_back_clean(linear: Any) -> None:
    victim, images = linear(1, 2), grey(3)
    victim.leads, victim.biases = torch.tensor([-0.1, 0.1]), torch.tensor([1e3, 0.0])
    attacked = SHORT(victim, images, torch.zeros(3, dtype=torch.long))
    assert not bool(attacked.success.any())
    assert torch.equal(attacked.images, images)


def test_without_a_slope_the_clean_image_comes_back_and_is_counted(conv_net: Any, images_of: Any) -> None:
    net, images = conv_net(), images_of(3, 3)
    with torch.no_grad():
        net[9].weight.zero_()
        net[9].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    attacked = CWL2()(as_victim(net), images, torch.tensor([0, 1, 0]))
    assert torch.equal(attacked.images, images)
    assert attacked.success.tolist() == [False, True, False]
    assert attacked.zero_gradients.tolist() == [1, 0, 1]
    assert attacked.backwards.tolist() == [1, 0, 1]


def test_already_fooled_images_come_back_clean(linear: Any, images_of: Any) -> None:
    victim, images = linear(1, 3), images_of(6)
    targets = (victim(images).argmax(1) + 1) % 3
    attacked = CWL2()(victim, images, targets)
    assert torch.equal(attacked.images, images)
    assert bool(attacked.success.all())
    assert attacked.forwards.tolist() == [2] * 6
    assert attacked.backwards.tolist() == [0] * 6
    assert bool(attacked.measures["cos"].isnan().all())


@pytest.mark.parametrize("abort_early", [False, True])
def test_passes_are_those_that_the_victim_saw(abort_early: bool, linear: Any, images_of: Any, counting: Any) -> None:
    """A look at the clean image, then ``steps`` looks for each constant, the last of them without a backward."""
    images, tags = images_of(4, 3), torch.linspace(0.0, 1.0, 4)
    images[:, 0] = tags.view(-1, 1, 1)
    targets = linear(3, 2, tagged=True)(images).argmax(1)
    attack = CWL2(search_steps=3, steps=45, abort_early=abort_early)
    for i in range(4):
        victim = counting(linear(3, 2, tagged=True), tags)
        attacked = attack(victim, images[i : i + 1], targets[i : i + 1])
        assert attacked.forwards.item() == victim.seen.total()
        assert attacked.backwards.item() == victim.differentiated.total()
        most = (1 + 3 * 45 + 1, 1 + 3 * 44)
        spent = (attacked.forwards.item(), attacked.backwards.item())
        assert spent <= most if abort_early else spent == most
    victim = counting(linear(3, 2, tagged=True), tags)
    together = attack(victim, images, targets)
    assert together.forwards.tolist() == [victim.seen[i] for i in range(4)]


def test_images_without_progress_stop_on_their_own(waves: Any) -> None:
    net, images, labels = waves
    victim = as_victim(net)
    whole = CWL2(search_steps=4, steps=100, abort_early=False)
    full, short = whole(victim, images, labels), dataclasses.replace(whole, abort_early=True)(victim, images, labels)
    assert torch.equal(full.success, short.success)
    assert int(short.backwards.sum()) < int(full.backwards.sum())


def test_a_batch_is_attacked_like_its_images_alone_or_with_fewer_others(waves: Any) -> None:
    net, images, labels = waves
    victim = as_victim(net)
    together = SHORT(victim, images, labels)
    expected = lengths(together.images, images)
    for rows in (slice(0, 1), slice(1, 2), slice(2, 7), slice(7, None)):
        apart = SHORT(victim, images[rows], labels[rows])
        assert torch.equal(apart.success, together.success[rows])
        torch.testing.assert_close(lengths(apart.images, images[rows]), expected[rows], rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("steps", [20, 100])
@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
def test_foolbox_finds_nothing_nearer(targeted: bool, steps: int, waves: Any) -> None:
    foolbox = pytest.importorskip("foolbox", exc_type=ImportError)
    net, images, labels = waves
    with torch.no_grad():
        predicted = net(images).argmax(1)
    labels = (predicted + 1) % 3 if targeted else labels
    ours = CWL2(steps=steps, targeted=targeted)(as_victim(net), images, labels)
    criterion = foolbox.criteria.TargetedMisclassification(labels) if targeted else labels
    peer = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=steps)
    theirs, _, fooled = peer(foolbox.PyTorchModel(net, bounds=(0, 1)), images, criterion, epsilons=None)
    assert bool(ours.success.all()) and ours.success.sum() >= fooled.sum()
    assert lengths(ours.images, images).median() <= 1.002 * lengths(theirs, images).median()


def test_the_cosines_are_those_of_the_last_constant(linear: Any) -> None:
    attacked = SHORT(linear(1, 2), grey(3), ((grey(3) - 0.5) * linear(1, 2).weight).sum((1, 2, 3)).gt(0).long())
    assert bool((attacked.measures["cos"].abs() <= 1 + 1e-5).all())
    assert bool(((attacked.measures["positive_cosines"] >= 0) & (attacked.measures["positive_cosines"] <= 1)).all())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "steps counts gradient steps and is a whole number of at least 1, got 0"),
        ("search_steps", 0, "search_steps counts constants and is a whole number of at least 1, got 0"),
        ("learning_rate", 0.0, "learning_rate is positive and finite, got 0.0"),
        ("initial_constant", float("nan"), "initial_constant is positive and finite, got nan"),
        ("kappa", -1.0, "kappa is a confidence in units of logits and is not negative, got -1.0"),
    ],
)
def test_a_field_out_of_range_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CWL2(**{field: value})


def test_the_norm_is_euclidean() -> None:
    assert CWL2().norm == "l2"
    assert CWL2.minimal
