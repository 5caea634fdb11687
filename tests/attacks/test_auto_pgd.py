"""APGD: its checkpoints and corner by hand, its algorithm beside a plain loop, its strength beside PGD and a peer."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.attacks import PGD
from medrobust.attacks.auto_pgd import APGD, checkpoints, stages
from medrobust.networks import as_victim
from medrobust.objectives import CrossEntropy, Margin, MaskedCrossEntropy
from medrobust.objectives.difference_of_logits import DifferenceOfLogits
from medrobust.random_streams import per_image_uniform
from tests.attacks.dense_cases import dense_case

EPSILON = 0.1


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (100, (22, 41, 57, 70, 80, 87, 93, 99)),
        (50, (11, 21, 29, 35, 40, 44, 47, 50)),  # 20.5, 28.5, 43.5, 46.5 and 49.5 are rounded up
        (10, (3, 5, 6, 7, 8, 9, 10)),  # 2.2, 4.1, 5.7, 7, 8, 8.7, 9.3, 9.9
        (1, (1,)),
    ],
)
def test_the_checkpoints_are_the_papers(steps: int, expected: tuple[int, ...]) -> None:
    assert checkpoints(steps) == expected


@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("objective", [None, DifferenceOfLogits(), Margin(1e6)], ids=["ce", "dlr", "margin"])
def test_the_corner_of_the_ball_is_reached(
    objective: Any, channels: int, classes: int, targeted: bool, linear: Any, images_of: Any
) -> None:
    """The first step is 2 epsilon long: from any start of the ball it ends at the corner."""
    if isinstance(objective, DifferenceOfLogits) and classes == 3:
        pytest.skip("the ratio of three logits has an optimum of its own")
    victim, images = linear(channels, classes), images_of(6, channels)
    targets = torch.arange(6) % classes
    direction = victim.uphill(targets) * (-1 if targeted else 1)
    expected = (images + EPSILON * direction).clamp(0, 1)
    attack = APGD(epsilon=EPSILON, steps=10, objective=objective, stop_when_fooled=False, targeted=targeted)
    attacked = attack(victim, images, targets)
    torch.testing.assert_close(attacked.images, expected, atol=1e-6, rtol=0)
    wrong = victim(expected).argmax(1) != targets
    assert torch.equal(attacked.success, ~wrong if targeted else wrong)
    assert attacked.forwards.tolist() == [12] * 6  # ten steps, the look at the last point, the judgement
    assert attacked.backwards.tolist() == [10] * 6
    assert attacked.zero_gradients.tolist() == [0] * 6


def plain_run(net: Any, image: Tensor, target: Tensor, start: Tensor, steps: int, rho: float) -> tuple[Tensor, float]:
    """Algorithm 1 as it is printed, for one image: the best point of a run and its cross-entropy."""
    low, high = (image - EPSILON).clamp(min=0), (image + EPSILON).clamp(max=1)

    def loss_and_slope(point: Tensor) -> tuple[float, Tensor]:
        leaf = point.clone().requires_grad_()
        loss = functional.cross_entropy(net(leaf[None]), target[None])
        return float(loss.detach()), torch.autograd.grad(loss, leaf)[0]

    places, shares = [0], [0.0, 0.22]
    while shares[-1] <= 1:
        places.append(math.ceil(round(shares[-1] * steps, 9)))
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    size, values, sizes, bests = 2 * EPSILON, [], [], []
    previous = point = start
    loss, slope = loss_and_slope(point)
    best, best_loss, best_slope = point, loss, slope
    values.append(loss)
    rising: list[bool] = []
    for k in range(steps):
        bests.append(best_loss)
        sizes.append(size)
        z = torch.minimum(torch.maximum(point + size * slope.sign(), low), high)
        moved = z if k == 0 else point + 0.75 * (z - point) + 0.25 * (point - previous)
        moved = torch.minimum(torch.maximum(moved, low), high)
        previous, point, before = point, moved, loss
        loss, slope = loss_and_slope(point)
        rising.append(loss > before)
        if loss > best_loss:
            best, best_loss, best_slope = point, loss, slope
        if k + 1 in places:
            last = max(place for place in places if place < k + 1)
            few = sum(rising[last : k + 1]) < rho * (k + 1 - last)
            same_size = last == 0 or sizes[last] == sizes[last - 1]
            if few or (same_size and bests[last] == best_loss):
                size /= 2
                point, loss, slope = best, best_loss, best_slope
    return best, best_loss


@pytest.mark.parametrize("rho", [0.75, 0.2])
@pytest.mark.parametrize("steps", [10, 40])
def test_it_is_the_algorithm_that_the_paper_prints(steps: int, rho: float, conv_net: Any, images_of: Any) -> None:
    net, images = conv_net().double().eval(), images_of(6, 3, 1).double()
    with torch.no_grad():
        targets = net(images).argmax(1)
    ids = [str(i) for i in range(6)]
    attack = APGD(epsilon=EPSILON, steps=steps, rho=rho, stop_when_fooled=False)
    noise = per_image_uniform(ids, images.shape[1:], 0, "APGD:0", images)
    starts = (images + EPSILON * noise).clamp(0, 1)
    attacked = attack(as_victim(net), images, targets, ids)
    compared = 0
    for place in range(6):
        best, loss = plain_run(net, images[place], targets[place], starts[place], steps, rho)
        with torch.no_grad():
            ours = functional.cross_entropy(net(attacked.images[place][None]), targets[place][None])
            fooled = int(net(best[None]).argmax()) != int(targets[place])
        if fooled == bool(attacked.success[place]):  # else an earlier point fools, and is what comes back
            compared += 1
            assert float(ours) == pytest.approx(loss, rel=1e-6)
            assert float(((attacked.images[place] - best).abs() > 1e-6).double().mean()) < 0.02
    assert compared >= 5


def trained(net: Any, seed: int = 5) -> tuple[Any, Tensor, Tensor]:
    """A network taught in 80 steps to tell three patterns under noise, and 48 images of them."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(3, 3, 4, 4, generator=generator).repeat(1, 1, 4, 4)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        classes = torch.arange(count) % 3
        noise = 0.2 + 0.6 * torch.rand(count, 3, 16, 16, generator=generator)
        return (noise + 0.12 * patterns[classes]).clamp(0, 1), classes

    net.train()
    net[8].p = 0.0  # the global random stream stays untouched
    optimiser = torch.optim.Adam(net.parameters(), 3e-2)
    for _ in range(80):
        images, classes = draw(48)
        optimiser.zero_grad()
        functional.cross_entropy(net(images), classes).backward()
        optimiser.step()
    net.eval().requires_grad_(False)
    images, classes = draw(48)
    assert float((net(images).argmax(1) == classes).double().mean()) > 0.9
    return net, images, classes


def test_it_ends_at_least_as_high_as_pgd_on_most_images(conv_net: Any) -> None:
    net, images, targets = trained(conv_net())
    for epsilon in (0.02, 0.05):
        ours = APGD(epsilon=epsilon, steps=40, stop_when_fooled=False)(as_victim(net), images, targets)
        theirs = PGD(epsilon=epsilon, steps=40)(as_victim(net), images, targets)
        losses = [functional.cross_entropy(net(made.images), targets, reduction="none") for made in (ours, theirs)]
        assert float((losses[0] >= losses[1] - 1e-6).double().mean()) > 0.5
        assert float(losses[0].mean()) >= float(losses[1].mean()) * 0.99


@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_torchattacks_leaves_no_fewer_images(loss: str, conv_net: Any) -> None:
    """Both start at random, so that one image in each seed's 48 may fall either way."""
    torchattacks = pytest.importorskip("torchattacks", exc_type=ImportError)
    net, images, targets = trained(conv_net())
    objective = None if loss == "ce" else DifferenceOfLogits()
    left = [0, 0]
    for epsilon in (0.035, 0.05):
        attack = APGD(epsilon=epsilon, steps=30, objective=objective)
        left[0] += int((~attack(as_victim(net), images, targets).success).sum())
        peer = torchattacks.APGD(net, eps=epsilon, steps=30, loss=loss)(images, targets)
        left[1] += int((net(peer).argmax(1) == targets).sum())
    assert 0 < left[0] <= left[1] + 1 < 96


def test_the_images_that_come_back_are_those_that_fool(linear: Any) -> None:
    """An objective that leads away from success: only the random start fools, and only there."""
    victim, images = linear(), torch.full((40, 1, 8, 8), 0.5)
    targets = torch.zeros(40).long()
    attack = APGD(epsilon=0.1, steps=5, objective=-Margin(1e6), stop_when_fooled=False)
    ids = [str(i) for i in range(40)]
    noise = per_image_uniform(ids, (1, 8, 8), 0, "APGD:0", images)
    starts = images + 0.1 * noise
    fools = victim(starts).argmax(1) != targets
    assert 5 < int(fools.sum()) < 35
    attacked = attack(victim, images, targets, ids)
    assert torch.equal(attacked.success, fools)
    torch.testing.assert_close(attacked.images[fools], starts[fools])


def test_restarts_begin_elsewhere_and_never_lose(conv_net: Any, images_of: Any) -> None:
    victim, images, targets = as_victim(conv_net()), images_of(8, 3, 1), torch.arange(8) % 3
    once, again = (
        APGD(epsilon=0.02, steps=8, restarts=restarts, stop_when_fooled=False)(victim, images, targets)
        for restarts in (1, 3)
    )
    values = [victim.loss(made.images, targets).detach() for made in (once, again)]
    assert bool((again.success | ~once.success).all())
    same = again.success == once.success
    assert bool((values[1] >= values[0] - 1e-6)[same].all())
    assert bool((values[1] > values[0] + 1e-7).any())
    assert again.backwards.tolist() == [24] * 8
    assert again.forwards.tolist() == [28] * 8
    stopped = APGD(epsilon=0.02, steps=8, restarts=3)(victim, images, targets)
    assert torch.equal(stopped.success, again.success)
    assert bool((stopped.backwards[stopped.success] < 24).all())
    assert stopped.backwards[~stopped.success].unique().tolist() in ([], [24])


def test_a_fooled_image_leaves_at_its_first_look(linear: Any, images_of: Any) -> None:
    """The second look is at the corner: what can be fooled is fooled by then."""
    victim, images = linear(), images_of(6)
    targets = victim(images).argmax(1)
    targets[0] = 1 - targets[0]
    attacked = APGD(epsilon=0.4)(victim, images, targets)
    assert bool(attacked.success.all())
    assert bool((attacked.backwards <= 1).all())
    assert torch.equal(attacked.forwards, attacked.backwards + 2)


@pytest.mark.parametrize("shift", [-20.0, -1000.0])
@pytest.mark.parametrize("objective", [None, DifferenceOfLogits()], ids=["ce", "dlr"])
def test_a_shift_of_all_logits_saves_no_victim(shift: float, objective: Any, linear: Any, images_of: Any) -> None:
    images, attack = images_of(6), APGD(epsilon=0.4, objective=objective)
    targets = linear(classes=3)(images).argmax(1)
    assert bool(attack(linear(classes=3, shift=shift), images, targets).success.all())


def test_a_saturated_victim_is_broken_and_its_lost_gradients_are_reported(linear: Any, images_of: Any) -> None:
    images, victim = images_of(6), linear(scale=1e4, constant_sign=True)
    targets = victim(images).argmax(1)
    attacked = APGD(epsilon=0.4)(victim, images, targets)
    assert bool(attacked.success.all())
    assert bool((attacked.zero_gradients[attacked.backwards > 0] >= 1).all())
    kept = APGD(epsilon=0.001, steps=5, objective=CrossEntropy(saturated="keep"))(victim, images, targets)
    assert torch.equal(kept.zero_gradients, kept.backwards)


def test_a_gradient_that_is_not_a_number_leaves_a_valid_image() -> None:
    class Rooted(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = (images - 0.1).clamp(min=0).square().sum((1, 2, 3)).sqrt()
            return torch.stack([score, 0.5 - score], 1)

    images = torch.zeros(2, 1, 2, 2)
    images[1] = 0.5
    for stop in (False, True):
        attacked = APGD(steps=5, stop_when_fooled=stop)(as_victim(Rooted()), images, torch.tensor([0, 1]))
        assert bool(attacked.images.isfinite().all())
        assert float((attacked.images - images).abs().max()) <= 8 / 255 + 1e-6


each_case = pytest.mark.parametrize("task", ["classes", "masks", "boxes"])
each_objective = pytest.mark.parametrize("objective", [None, DifferenceOfLogits()], ids=["ce", "dlr"])
each_stop = pytest.mark.parametrize("stop", [False, True], ids=["full budget", "stop when fooled"])


@each_objective
@each_stop
@pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])
@each_case
def test_every_kind_of_victim_is_pushed_in_the_right_direction(
    task: str, targeted: bool, stop: bool, objective: Any, request: pytest.FixtureRequest
) -> None:
    victim, images, targets = dense_case(task, 3, request)
    attack = APGD(epsilon=EPSILON, steps=10, targeted=targeted, stop_when_fooled=stop, objective=objective)
    attacked = attack(victim, images, targets)
    before, after = victim.loss(images, targets).detach(), victim.loss(attacked.images, targets).detach()
    gain = (before - after) if targeted else (after - before)
    started = attack.reached(victim, victim(images), targets)
    judged = ~started
    if task == "classes" and objective is not None and targeted:
        judged &= targets > 0  # the ratio towards class 0, which never leads, is best where the others are far apart
    assert bool((gain[judged] > 1e-3).all())
    assert bool(started.any())
    assert bool((~started).any())
    assert int(attacked.success.sum()) >= int(started.sum())
    assert float((attacked.images - images).abs().max()) <= EPSILON + 1e-6


@each_stop
@each_case
@pytest.mark.parametrize("restarts", [1, 2])
def test_passes_are_counted_as_an_independent_counter_sees_them(
    restarts: int, task: str, stop: bool, counting: Any, request: pytest.FixtureRequest
) -> None:
    """Channel 0 names the image, in steps of 0.14, further apart than any attack may move it."""
    victim, images, targets = dense_case(task, 3, request, tagged=True)
    tags = 0.01 + 0.14 * torch.arange(8)
    images[:, 0] = tags.view(-1, 1, 1)
    attack = APGD(epsilon=0.05, steps=6, restarts=restarts, stop_when_fooled=stop)
    ids = [f"image {i}" for i in range(8)]
    counter = counting(victim, tags)
    for i in range(8):  # an image's passes are those that it costs in a batch of its own
        attack(counter, images[i : i + 1], targets[i : i + 1], ids[i : i + 1])
    attacked = attack(victim, images, targets, ids)
    assert attacked.forwards.tolist() == [counter.seen[i] for i in range(8)]
    assert attacked.backwards.tolist() == [counter.differentiated[i] for i in range(8)]
    if not stop:
        looks = 7 * restarts * (2 if task == "boxes" else 1)
        assert attacked.forwards.tolist() == [looks + 1] * 8
        assert attacked.backwards.tolist() == [6 * restarts] * 8


@each_stop
@each_case
def test_dense_images_do_not_depend_on_their_batch_mates(task: str, stop: bool, request: pytest.FixtureRequest) -> None:
    victim, images, targets = dense_case(task, 3, request)
    attack = APGD(epsilon=EPSILON, steps=8, restarts=2, stop_when_fooled=stop)
    together = attack(victim, images, targets, [f"image {i}" for i in range(8)])
    for i in range(8):
        alone = attack(victim, images[i : i + 1], targets[i : i + 1], [f"image {i}"])
        assert bool(alone.success[0]) == bool(together.success[i])
        torch.testing.assert_close(alone.images[0], together.images[i], atol=1e-5, rtol=0)
        assert int(alone.backwards[0]) == int(together.backwards[i])
        assert int(alone.forwards[0]) == int(together.forwards[i])


@each_stop
def test_a_batch_of_sixteen_gives_what_sixteen_batches_of_one_give(stop: bool, conv_net: Any, images_of: Any) -> None:
    victim, images = as_victim(conv_net()), images_of(16, 3, 1)
    with torch.no_grad():
        targets = victim.eval()(images).argmax(1)
    ids = [str(i) for i in range(16)]
    attack = APGD(epsilon=0.08, steps=20, stop_when_fooled=stop)
    together = attack(victim, images, targets, ids)
    for i in range(16):
        alone = attack(victim, images[i : i + 1], targets[i : i + 1], ids[i : i + 1])
        assert bool(alone.success[0]) == bool(together.success[i])
        ours, theirs = (made - images[i] for made in (together.images[i], alone.images[0]))
        assert float(ours.norm()) == pytest.approx(float(theirs.norm()), rel=0.01, abs=1e-6)


def test_two_runs_have_no_cosine_between_them(linear: Any) -> None:
    """Each run is one step to the corner and then none: no pair of updates has a cosine."""
    images = 0.25 + 0.5 * torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    attack = APGD(epsilon=0.1, steps=5, restarts=2, stop_when_fooled=False)
    measures = attack.craft(linear(), images, torch.tensor([0, 1, 1])).measures
    assert set(measures) == {"cos", "positive_cosines"}
    assert all(bool(values.isnan().all()) for values in measures.values())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epsilon", 8, r"epsilon is in units of the \[0, 1\] image range and lies in \[0, 1\], got 8"),
        ("steps", 0, "got 0"),
        ("restarts", 0, "restarts counts runs and is a whole number of at least 1, got 0"),
        ("rho", 1.5, r"rho is a share of the steps and lies in \[0, 1\], got 1.5"),
        ("rho", float("nan"), "rho"),
        ("momentum", 0.0, r"momentum is the new step's share of a move and lies in \(0, 1\], got 0.0"),
    ],
)
def test_a_field_out_of_range_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        APGD(**{field: value})


def test_a_configuration_is_a_value() -> None:
    attack = APGD(objective=DifferenceOfLogits(), restarts=5)
    assert dataclasses.replace(attack, seed=1) != attack
    assert attack.parameters()["objective"] == {"class": "DifferenceOfLogits", "two_classes": "margin"}


def test_goals_are_the_other_classes_by_the_clean_logits() -> None:
    """Only class 3, the lowest on the clean image, can win within 0.3: its pixel alone has a slope that leads there."""

    class Trap(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            near, far = images[:, 0, 0, 1], images[:, 0, 0, 3]
            stopped = [0.5 + 0.1 * near, 0.4 + 0.1 * near]  # which rise, but never to class 0
            return torch.stack([torch.ones_like(near), *stopped, 4 * far - 0.5], 1)

    images, targets = torch.full((2, 1, 8, 8), 0.2), torch.zeros(2).long()
    images[:, 0, 0, 1] = 0.5
    for objective in (Margin(), DifferenceOfLogits()):
        attack = APGD(epsilon=0.3, steps=10, objective=objective, seed=1)
        won = [dataclasses.replace(attack, goals=goals)(as_victim(Trap()), images, targets) for goals in (1, 2, 3, 9)]
        assert [one.success.tolist() for one in won] == [[False] * 2, [False] * 2, [True] * 2, [True] * 2]
        assert torch.equal(won[2].images, won[3].images)  # there are no more than three other classes
        assert won[1].backwards.tolist() == [20, 20]
        assert won[1].forwards.tolist() == [1 + 2 * 11 + 1] * 2  # the clean image is looked at once


def test_an_image_that_any_class_wins_makes_no_further_runs(conv_net: Any, images_of: Any) -> None:
    victim, images = as_victim(conv_net()), images_of(12, 3, 1)
    targets = victim.eval()(images).argmax(1)
    targets[0] = (targets[0] + 1) % 3
    attack = APGD(epsilon=0.03, steps=10, goals=9, objective=DifferenceOfLogits())
    attacked = attack(victim, images, targets, [str(i) for i in range(12)])
    assert torch.equal(attacked.images[0], images[0])
    assert (int(attacked.forwards[0]), int(attacked.backwards[0])) == (2, 0)
    assert 1 < int(attacked.success.sum()) < 12
    assert bool((attacked.backwards[attacked.success] < 20).all())
    assert attacked.backwards[~attacked.success].unique().tolist() == [20]
    for i in range(12):
        alone = attack(victim, images[i : i + 1], targets[i : i + 1], [str(i)])
        assert bool(alone.success) == bool(attacked.success[i])
        torch.testing.assert_close(alone.images[0], attacked.images[i], atol=1e-5, rtol=0)
        assert (int(alone.forwards), int(alone.backwards)) == (int(attacked.forwards[i]), int(attacked.backwards[i]))


def test_a_run_towards_a_goal_is_that_of_a_targeted_attack_until_the_truth_falls(conv_net: Any, images_of: Any) -> None:
    """While the true class leads it is the strongest besides the goal, and both objectives are the same."""
    victim, images = as_victim(conv_net()), images_of(8, 3, 1)
    outputs = victim.eval()(images)
    targets, goals = outputs.topk(2, 1).indices.unbind(1)
    attack = APGD(epsilon=0.004, steps=10, objective=DifferenceOfLogits(), stop_when_fooled=False)
    towards = dataclasses.replace(attack, goals=1)(victim, images, targets)
    aimed = dataclasses.replace(attack, targeted=True)(victim, images, goals)
    kept = ~towards.success & ~aimed.success
    assert int(kept.sum()) >= 4
    assert torch.equal(towards.images[kept], aimed.images[kept])


def test_goals_need_classes(segmenter: Any, linear: Any, images_of: Any) -> None:
    images = images_of(2)
    with pytest.raises(ValueError, match=r"takes labels, \(N, L\), or one class per image"):
        APGD(goals=2)(segmenter(), images, segmenter()(images).argmax(1))
    with pytest.raises(ValueError, match="goals counts classes and is a whole number of at least 0, got -1"):
        APGD(goals=-1)
    targeted = APGD(goals=9, steps=3, targeted=True, stop_when_fooled=False)
    assert targeted(linear(1, 3), images, torch.tensor([1, 2])).backwards.tolist() == [3, 3]


def test_the_steps_of_several_radii() -> None:
    assert stages(300, (2.0, 1.5, 1.0)) == [(2.0, 90), (1.5, 90), (1.0, 120)]
    assert stages(10, (2.0, 1.5, 1.0)) == [(2.0, 3), (1.5, 3), (1.0, 4)]
    assert stages(2, (2.0, 1.5, 1.0)) == [(1.0, 2)] and stages(7, (1.0,)) == [(1.0, 7)]


@pytest.mark.parametrize("radii", [(2.0, 1.5, 1.0), (1.5, 1.0)])
def test_several_radii_end_in_the_ball_and_each_costs_a_look(radii: Any, linear: Any, images_of: Any) -> None:
    victim, images, targets = linear(), images_of(4), torch.tensor([0, 1, 0, 1])
    attacked = APGD(epsilon=0.1, steps=10, radii=radii, stop_when_fooled=False)(victim, images, targets)
    best = torch.clamp(images + 0.1 * victim.uphill(targets), (images - 0.1).clamp(0), (images + 0.1).clamp(max=1))
    torch.testing.assert_close(attacked.images, best)
    assert attacked.backwards.tolist() == [10] * 4
    assert attacked.forwards.tolist() == [10 + len(radii) + 1] * 4


def test_an_image_does_not_leave_in_a_larger_ball() -> None:
    """The mean has to fall by 0.15: 0.1 is not enough, twice that would be."""
    victim, images = as_victim(Above(0.5)), torch.full((1, 1, 8, 8), 0.65)
    attack = APGD(epsilon=0.1, steps=10, radii=(2.0, 1.0))
    attacked = attack(victim, images, torch.tensor([1]))
    assert not attacked.success.any() and float((attacked.images - images).abs().max()) <= 0.1 + 1e-6
    near = torch.full((1, 1, 8, 8), 0.55)
    attacked = attack(victim, near, torch.tensor([1]))
    assert attacked.success.all() and float((attacked.images - near).abs().max()) <= 0.1 + 1e-6


class Above(nn.Module):
    """Class 1 if the mean is above a bound."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, images: Tensor) -> Tensor:
        lead = images.flatten(1).mean(1) - self.bound
        return torch.stack([-lead, lead], 1)


def test_the_lowest_quality_is_not_the_highest_objective(segmenter: Any) -> None:
    """A masked loss counts pixels that are still right alone: it is highest where it has turned none."""
    victim = segmenter(1)
    images = torch.full((1, 1, 8, 8), 0.52)
    images[..., 4:] = 0.9
    masks = torch.ones(1, 8, 8).long()
    settings: dict[str, Any] = {
        "epsilon": 0.1,
        "steps": 5,
        "stop_when_fooled": False,
        "objective": MaskedCrossEntropy(),
    }
    worst = APGD(**settings, keep="lowest_quality")(victim, images, masks)
    quality = victim.outcome(victim(worst.images), masks).quality
    assert quality.tolist() == [0.5]  # the half that is within reach is wrong
    goal = APGD(**settings, keep="lowest_quality", targeted=True)(victim, images, torch.zeros_like(masks))
    assert victim.outcome(victim(goal.images), torch.zeros_like(masks)).quality.tolist() == [0.5]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"radii": (1.0, 2.0)},
            r"radii are factors of epsilon that fall to 1, such as \[2, 1.5, 1\], got \(1.0, 2.0\)",
        ),
        ({"radii": ()}, "radii are factors"),
        ({"radii": (2.0,)}, "radii are factors"),
        ({"radii": (float("inf"), 1.0)}, "radii are factors"),
        ({"keep": "worst"}, "keep is 'highest_objective' or 'lowest_quality', got 'worst'"),
        ({"keep": "lowest_quality"}, "set stop_when_fooled to False"),
    ],
)
def test_radii_and_points_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        APGD(**fields)
