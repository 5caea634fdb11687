"""FAB: its projection against linear programs, its distances against closed forms, its counts against a counter."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from medrobust.attacks.deepfool import DeepFool
from medrobust.attacks.fab import FAB, onto_hyperplane
from medrobust.networks import as_victim


def distance(images: Tensor, made: Tensor) -> Tensor:
    """Largest change of a pixel, ``(N,)``."""
    return (made - images).flatten(1).abs().amax(1)


def program(point: Tensor, normal: Tensor, gap: float) -> float | None:
    """Smallest max|d| with <normal, d> = -gap and point + d in the unit cube, by a linear program, or None."""
    count = len(point)
    identity, one = torch.eye(count), torch.ones(count, 1)
    rows = torch.cat([torch.cat([identity, -one], 1), torch.cat([-identity, -one], 1)])
    bounds = [(-float(value), 1 - float(value)) for value in point] + [(0, None)]
    solved = linprog(
        [0.0] * count + [1.0],
        A_ub=rows.double().numpy(),
        b_ub=[0.0] * 2 * count,
        A_eq=[[*normal.tolist(), 0.0]],
        b_eq=[-gap],
        bounds=bounds,
    )
    return float(solved.fun) if solved.status == 0 else None


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_the_projection_is_the_linear_programs(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    points = torch.rand(40, count, generator=generator, dtype=torch.float64)
    points[::3] = points[::3].mul(2).round().div(2)  # walls, and ties between the rooms
    normals = torch.randn(40, count, generator=generator, dtype=torch.float64)
    normals[1::4, 0] = 0
    gaps = normals.abs().sum(1) * 0.6 * torch.randn(40, generator=generator, dtype=torch.float64)
    moves = onto_hyperplane(points, normals, gaps)
    feasible = 0
    for point, normal, gap, move in zip(points, normals, gaps, moves, strict=True):
        radius = program(point, normal, float(gap))
        assert bool(((point + move) >= -1e-12).all())
        assert bool(((point + move) <= 1 + 1e-12).all())
        if radius is None:  # the corner of the cube that comes closest
            corner = torch.where((normal * -gap) > 0, 1.0, 0.0).double()
            torch.testing.assert_close(torch.where(normal == 0, point, corner), point + move)
        else:
            feasible += 1
            assert float(normal @ move) == pytest.approx(-float(gap), abs=1e-9)
            assert float(move.abs().max()) == pytest.approx(radius, abs=1e-7)
    assert 5 < feasible < 40


def test_the_projection_by_hand() -> None:
    """Far from the walls t = gap / |w|_1; a coordinate at its wall leaves its share to the others."""
    normals = torch.tensor([[2.0, -1.0, 1.0], [2.0, -1.0, 1.0], [2.0, -1.0, 1.0], [0.0, 0.0, 0.0]])
    points = torch.tensor([[0.5, 0.5, 0.5], [0.95, 0.5, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    moves = onto_hyperplane(points, normals, torch.tensor([-0.4, -0.4, 0.4, 0.4]))
    expected = torch.tensor([[0.1, -0.1, 0.1], [0.05, -0.15, 0.15], [-0.1, 0.1, -0.1], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(moves, expected)


def test_the_projection_keeps_its_digits_in_many_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    points, normals = (torch.rand(2, 50_000, generator=generator) for _ in range(2))
    gaps = -0.3 * normals.sum(1)
    moves = onto_hyperplane(points, normals, gaps)
    exact = onto_hyperplane(points.double(), normals.double(), gaps.double())
    torch.testing.assert_close(moves.double(), exact, atol=1e-5, rtol=0)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_distance_of_a_linear_victim_is_margin_over_l1_norm(channels: int, targeted: bool, linear: Any) -> None:
    """|2 <w, x - 1/2>| / |2 w|_1, as far as no pixel meets a wall."""
    victim = linear(channels)
    images = 0.3 + 0.4 * torch.rand(6, channels, 8, 8, generator=torch.Generator().manual_seed(3))
    score = ((images - 0.5) * victim.weight.detach()).sum((1, 2, 3))
    before = victim(images).argmax(1)
    attacked = FAB(steps=20, targeted=targeted)(victim, images, 1 - before if targeted else before)
    assert bool(attacked.success.all())
    shares = distance(images, attacked.images) / (score.abs() / 4)
    assert bool((shares >= 1).all())
    assert bool((shares <= 1.01).all())
    assert not attacked.zero_gradients.any()


@pytest.mark.parametrize("classes", [2, 4])
def test_the_distance_with_walls_is_the_smallest_of_the_rivals_linear_programs(classes: int, images_of: Any) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(classes, 64, generator=generator))
        net[1].bias.zero_().sub_(net(torch.full((1, 1, 8, 8), 0.5))[0])
    images = images_of(6).mul(1.6).sub(0.3).clamp(0, 1)  # many pixels at the walls
    logits = net(images).detach()
    targets = logits.argmax(1)
    attacked = FAB(steps=30)(as_victim(net), images, targets)
    assert bool(attacked.success.all())
    weight = net[1].weight.detach()
    for place in range(6):
        truth, radii = int(targets[place]), []
        for rival in set(range(classes)) - {truth}:
            gap = float(logits[place, rival] - logits[place, truth])
            radii.append(program(images[place].flatten(), weight[rival] - weight[truth], gap))
        nearest = min(radius for radius in radii if radius is not None)
        assert nearest * (1 - 1e-5) <= float(distance(images, attacked.images)[place]) <= nearest * 1.01


def test_one_step_overshoots_a_linear_boundary_by_eta(linear: Any) -> None:
    """From the clean image both moves are the same, |score| / 4 long: their mixture is eta times it."""
    victim = linear()
    images = 0.3 + 0.4 * torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    score = ((images - 0.5) * victim.weight.detach()).sum((1, 2, 3))
    attacked = FAB(steps=1, eta=1.3, search_steps=0)(victim, images, victim(images).argmax(1))
    torch.testing.assert_close(distance(images, attacked.images), 1.3 * score.abs() / 4, rtol=1e-4, atol=0)


def plain_walk(net: Any, image: Tensor, target: int, steps: int, attack: FAB) -> float:
    """Algorithm 1 as it is printed, for one image, with radii by bisection: the smallest norm that fools."""

    def move(point: Tensor, normal: Tensor, gap: float) -> Tensor:
        direction = (normal * -gap).sign()
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            step = (point + middle * direction).clamp(0, 1) - point
            low, high = (low, middle) if abs(float((normal * step).sum())) >= abs(gap) else (middle, high)
        return (point + high * direction).clamp(0, 1) - point

    best, point = math.inf, image
    for _ in range(steps):
        leaf = point.clone().requires_grad_()
        logits = net(leaf[None])[0]
        chosen: tuple[float, float, Tensor] | None = None
        for rival in set(range(len(logits))) - {target}:
            lead = logits[rival] - logits[target]
            (normal,) = torch.autograd.grad(lead, leaf, retain_graph=True)
            away = abs(float(lead.detach())) / float(normal.abs().sum())
            if chosen is None or away < chosen[0]:
                chosen = away, float(lead.detach()), normal
        assert chosen is not None
        _, gap, normal = chosen
        moves = move(point, normal, gap), move(image, normal, gap + float((normal * (image - point)).sum()))
        length, clean_length = (float(one.abs().max()) for one in moves)
        weight = min(length / (length + clean_length), attack.alpha_max)
        point = (1 - weight) * (point + attack.eta * moves[0]) + weight * (image + attack.eta * moves[1])
        point = point.clamp(0, 1)
        if int(net(point[None]).argmax()) != target:
            best = min(best, float((point - image).abs().max()))
            point = image + attack.beta * (point - image)
    return best


@pytest.mark.parametrize("attack", [FAB(), FAB(alpha_max=0.03, eta=1.2, beta=0.7)], ids=["defaults", "others"])
def test_it_is_the_algorithm_that_the_paper_prints(attack: FAB, conv_net: Any, images_of: Any) -> None:
    net, images = conv_net().double().eval(), images_of(5, 3, 1).double()
    with torch.no_grad():
        targets = net(images).argmax(1)
    attacked = dataclasses.replace(attack, steps=8, search_steps=0)(as_victim(net), images, targets)
    for place, norm in enumerate(distance(images, attacked.images).tolist()):
        assert norm == pytest.approx(plain_walk(net, images[place], int(targets[place]), 8, attack), rel=1e-6)


def test_a_radius_decides_and_failed_images_come_back_clean(linear: Any) -> None:
    """Scores 4 d with distances d of 0.01 to 0.06, and a radius of 0.035 between them."""
    victim = linear(constant_sign=True)
    distances = torch.tensor([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    images = (0.5 + distances).view(-1, 1, 1, 1).expand(6, 1, 8, 8).contiguous()
    targets = torch.ones(6).long()
    for stop in (False, True):
        attacked = FAB(epsilon=0.035, steps=20, stop_when_fooled=stop)(victim, images, targets)
        assert attacked.success.tolist() == [True] * 3 + [False] * 3
        assert torch.equal(attacked.images[3:], images[3:])
        assert bool((distance(images, attacked.images) <= 0.035).all())
        assert bool((distance(images, attacked.images)[:3] >= distances[:3] * 0.999).all())
    free = FAB(steps=20)(victim, images, targets)
    assert bool(free.success.all())
    torch.testing.assert_close(distance(images, free.images), distances, rtol=0.01, atol=0)


def test_an_image_that_fools_already_comes_back_and_costs_one_look(linear: Any, images_of: Any) -> None:
    victim, images = linear(), images_of(6)
    right = victim(images).argmax(1)
    targets = torch.where(torch.arange(6) < 3, 1 - right, right)
    attacked = FAB(steps=5)(victim, images, targets)
    assert torch.equal(attacked.images[:3], images[:3])
    assert attacked.forwards.tolist() == [2] * 3 + [1 + 2 * 5 + 3 + 1] * 3
    assert attacked.backwards.tolist() == [0] * 3 + [5] * 3
    assert bool(attacked.success.all())


def test_an_image_on_the_boundary_is_pushed_over_it(linear: Any) -> None:
    """All logits are equal at x = 1/2 and the first class is taken: the nearest boundary is at distance 0."""
    images = torch.full((2, 1, 8, 8), 0.5)
    attacked = FAB(steps=5)(linear(), images, torch.tensor([0, 0]))
    assert attacked.success.tolist() == [True, True]
    assert bool((distance(images, attacked.images) <= 2e-5).all())


@pytest.mark.parametrize(("scale", "shift"), [(1.0, -20.0), (1e4, 0.0), (1e-3, 0.0), (1e4, 1000.0)])
def test_no_shift_and_no_scale_saves_a_victim(scale: float, shift: float, linear: Any, images_of: Any) -> None:
    images = images_of(6)
    plain = linear(classes=3)
    targets = plain(images).argmax(1)
    expected, attacked = (
        FAB(steps=20)(victim, images, targets) for victim in (plain, linear(classes=3, scale=scale, shift=shift))
    )
    assert bool(attacked.success.all())
    torch.testing.assert_close(
        distance(images, attacked.images), distance(images, expected.images), rtol=0.01, atol=1e-5
    )


def test_a_victim_without_a_gradient_is_reported_and_its_images_stay(images_of: Any) -> None:
    dead = as_victim(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)))
    torch.nn.init.zeros_(dead.network[1].weight)
    wins, images = int(dead.network[1].bias.detach().argmax()), images_of(2)
    attacked = FAB(steps=4)(dead, images, torch.full((2,), wins))
    assert torch.equal(attacked.images, images)
    assert attacked.zero_gradients.tolist() == [4, 4]
    assert attacked.success.tolist() == [False, False]


def test_a_gradient_that_is_not_a_number_leaves_a_valid_image() -> None:
    class Rooted(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = images.square().sum((1, 2, 3)).sqrt()
            return torch.stack([score, 0.5 - score], 1)

    images = torch.zeros(2, 1, 2, 2)
    images[1] = 0.5
    attacked = FAB(steps=5)(as_victim(Rooted()), images, torch.tensor([1, 0]))
    assert bool(attacked.images.isfinite().all())
    assert torch.equal(attacked.images[0], images[0])
    assert attacked.zero_gradients.tolist() == [5, 0]


@pytest.mark.parametrize(("candidates", "backwards"), [(2, 1), (3, 2), (10, 4), (None, 4)])
def test_each_rival_costs_a_backward(candidates: int | None, backwards: int, images_of: Any) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5))
    images, attack = images_of(3), FAB(steps=4, candidates=candidates, search_steps=0)
    attacked = attack(as_victim(net), images, net(images).argmax(1))
    assert attacked.backwards.tolist() == [4 * backwards] * 3
    assert attacked.forwards.tolist() == [1 + 2 * 4 + 1] * 3
    aimed = FAB(steps=4, targeted=True)(as_victim(net), images, (net(images).argmax(1) + 1) % 5)
    assert aimed.backwards.tolist() == [4] * 3


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize(("epsilon", "stop"), [(None, False), (None, True), (0.03, False), (0.03, True)])
def test_passes_are_counted_as_an_independent_counter_sees_them(
    epsilon: float | None, stop: bool, restarts: int, linear: Any, images_of: Any, counting: Any
) -> None:
    """Channel 0 names the image and has no weight, so that it stays."""
    images, tags = images_of(6, 3, 4), 0.01 + 0.14 * torch.arange(6)
    images[:, 0] = tags.view(-1, 1, 1)
    victim = linear(3, 2, tagged=True)
    targets = victim(images).argmax(1)
    targets[0] = 1 - targets[0]
    ids = [f"image {i}" for i in range(6)]
    counter = counting(victim, tags)
    attack = FAB(epsilon=epsilon, steps=6, restarts=restarts, stop_when_fooled=stop)
    for i in range(6):  # an image's passes are those that it costs in a batch of its own
        attack(counter, images[i : i + 1], targets[i : i + 1], ids[i : i + 1])
    attacked = attack(victim, images, targets, ids)
    assert attacked.forwards.tolist() == [counter.seen[i] for i in range(6)]
    assert attacked.backwards.tolist() == [counter.differentiated[i] for i in range(6)]


@pytest.mark.parametrize("attack", [FAB(steps=20), FAB(steps=10, restarts=2), FAB(epsilon=0.1, steps=20)])
def test_a_batch_of_sixteen_gives_what_sixteen_batches_of_one_give(attack: FAB, conv_net: Any, images_of: Any) -> None:
    victim, images = as_victim(conv_net()), images_of(16, 3, 1)
    with torch.no_grad():
        targets = victim.eval()(images).argmax(1)
    ids = [str(i) for i in range(16)]
    together = attack(victim, images, targets, ids)
    for i in range(16):
        alone = attack(victim, images[i : i + 1], targets[i : i + 1], ids[i : i + 1])
        assert bool(alone.success[0]) == bool(together.success[i])
        ours, theirs = (made - images[i] for made in (together.images[i], alone.images[0]))
        assert float(ours.norm()) == pytest.approx(float(theirs.norm()), rel=0.01, abs=1e-6)
        assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.01, abs=1e-6)


def test_restarts_and_the_final_search_never_lengthen_a_perturbation(conv_net: Any, images_of: Any) -> None:
    victim, images = as_victim(conv_net()), images_of(16, 3, 1)
    with torch.no_grad():
        targets = victim.eval()(images).argmax(1)
    raw, searched, again = (
        distance(images, attack(victim, images, targets).images)
        for attack in (FAB(steps=15, search_steps=0), FAB(steps=15), FAB(steps=15, search_steps=0, restarts=3))
    )
    assert bool((searched <= raw + 1e-7).all())
    assert bool((again <= raw + 1e-7).all())
    assert float(searched.mean()) < float(raw.mean())


def test_it_finds_smaller_perturbations_than_deepfool(conv_net: Any, images_of: Any) -> None:
    victim, images = as_victim(conv_net()), images_of(16, 3, 1)
    with torch.no_grad():
        targets = victim.eval()(images).argmax(1)
    ours, theirs = FAB(steps=30)(victim, images, targets), DeepFool(distance="linf")(victim, images, targets)
    assert bool((ours.success | ~theirs.success).all())
    both = ours.success & theirs.success
    near, far = distance(images, ours.images)[both], distance(images, theirs.images)[both]
    assert float((near <= far * 1.001).double().mean()) >= 0.8
    assert float(near.mean()) < float(far.mean())


def test_torchattacks_walks_as_far(conv_net: Any, images_of: Any) -> None:
    """The same algorithm without the final search; with it ours are the shorter ones."""
    torchattacks = pytest.importorskip("torchattacks", exc_type=ImportError)
    net, images = conv_net().eval(), images_of(16, 3, 1)
    with torch.no_grad():
        targets = net(images).argmax(1)
    theirs = distance(images, torchattacks.FAB(net, eps=1.0, steps=30, n_classes=3)(images, targets))
    plain, searched = (FAB(steps=30, search_steps=steps)(as_victim(net), images, targets) for steps in (0, 3))
    assert bool(plain.success.all())
    assert float(distance(images, plain.images).median()) == pytest.approx(float(theirs.median()), rel=0.01)
    assert float(distance(images, searched.images).mean()) <= float(theirs.mean())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("epsilon", 8, r"epsilon is in units of the \[0, 1\] image range and lies in \[0, 1\], got 8"),
        ("steps", 0, "got 0"),
        ("restarts", 0, "restarts is a whole number of at least 1, got 0"),
        ("search_steps", -1, "search_steps is a whole number of at least 0, got -1"),
        ("candidates", 1, "candidates counts classes and is at least 2, or None for all, got 1"),
        ("alpha_max", 1.5, r"alpha_max is a weight and lies in \[0, 1\], got 1.5"),
        ("eta", 0.9, "eta is an overshoot and at least 1, got 0.9"),
        ("eta", float("nan"), "eta"),
        ("beta", 1.0, r"beta is a share of the way back and lies in \(0, 1\), got 1.0"),
    ],
)
def test_a_field_out_of_range_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FAB(**{field: value})


def test_goals_find_a_boundary_that_the_nearest_one_hides() -> None:
    """Class 1 seems 0.02 away from anywhere and is never reached; class 2, at 0.2, is, once it is a goal."""

    class Hidden(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            first, second = images[:, 0, 0, 0], images[:, 0, 0, 1]
            mirage = 50 * (first - first.detach()) - 1  # recedes with the image
            return torch.stack([torch.zeros_like(first), mirage, 10 * (second - 0.7)], 1)

    images, targets = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3).long()
    attack = FAB(epsilon=0.25, steps=15, candidates=None)
    nearest, first, both = (
        dataclasses.replace(attack, goals=g)(as_victim(Hidden()), images, targets) for g in (0, 1, 9)
    )
    assert not bool(nearest.success.any() or first.success.any())
    assert bool(both.success.all())
    torch.testing.assert_close(distance(images, both.images), torch.full((3,), 0.2), rtol=0.01, atol=0)
    assert both.backwards.tolist() == [15 * 2] * 3  # one for a step, towards one goal
    assert both.forwards.tolist() == [1 + 2 * 15 * 2 + 3 + 1] * 3
    stopped = dataclasses.replace(attack, goals=9, stop_when_fooled=True)(as_victim(Hidden()), images, targets)
    assert bool(stopped.success.all())
    assert bool((stopped.backwards < 20).all())


@pytest.mark.parametrize("stop", [False, True])
def test_runs_towards_goals_do_not_depend_on_the_batch(stop: bool, conv_net: Any, images_of: Any) -> None:
    victim, images = as_victim(conv_net()), images_of(10, 3, 1)
    targets = victim.eval()(images).argmax(1)
    attack = FAB(epsilon=0.04, steps=8, goals=9, restarts=2, stop_when_fooled=stop)
    ids = [str(i) for i in range(10)]
    together = attack(victim, images, targets, ids)
    assert bool((together.success | ~FAB(epsilon=0.04, steps=8)(victim, images, targets, ids).success).all())
    for i in range(10):
        alone = attack(victim, images[i : i + 1], targets[i : i + 1], ids[i : i + 1])
        assert bool(alone.success) == bool(together.success[i])
        assert (int(alone.forwards), int(alone.backwards)) == (int(together.forwards[i]), int(together.backwards[i]))
        torch.testing.assert_close(alone.images[0], together.images[i], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="goals"):
        FAB(goals=-1)
