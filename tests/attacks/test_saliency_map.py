"""JSMA: the chosen values are known by hand on linear victims, and the pair search is compared with the full matrix."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import medrobust.attacks.saliency_map as saliency_map
from medrobust.attacks.saliency_map import JSMA, best_pair
from medrobust.networks import as_victim
from tests.largest_tensor import LargestTensor

SIGNS = torch.tensor([1.0, -1.0]).repeat(8)
LADDER = torch.tensor([4, 11, 16, 2, 7, 15, 1, 9, 14, 3, 12, 5, 13, 8, 6, 10]).float()  # 1 to 16, each once


def plane(weights: list[Tensor], biases: list[float]) -> Any:
    """Victim of 4 x 4 images with the logits <weights_k, x - 1/2> + biases_k."""
    layer = nn.Linear(16, len(weights))
    with torch.no_grad():
        layer.weight.copy_(torch.stack(weights))
        layer.bias.copy_(torch.tensor(biases))
    return as_victim(nn.Sequential(nn.Flatten(), layer), 0.5, 1.0)


def two_classes(margin: float, weight: Tensor = LADDER) -> Any:
    """Class 0 wins until <w, x - 1/2> exceeds the margin."""
    return plane([-weight, weight], [margin, -margin])


def changed(images: Tensor, clean: Tensor) -> list[int]:
    return (images != clean).flatten(1).sum(1).tolist()


NO_BOXES = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
GREY, TRUTH = torch.full((1, 1, 4, 4), 0.5), torch.tensor([0])


def moves(**amounts: float) -> Tensor:
    """The grey image with the weights named moved: ``w16=0.2``."""
    image = torch.full((16,), 0.5)
    for name, amount in amounts.items():
        image[LADDER == int(name[1:])] += amount
    return image.view(1, 1, 4, 4)


@pytest.mark.parametrize("space", ["logits", "probabilities"])
@pytest.mark.parametrize(
    ("pixels", "steps", "expected"),
    [  # moves of 0.1, two a value: the pairs gain 3.1, 3.1, 2.7, the single ones 1.6, 1.6, 1.5, 1.5, 1.4: more than 7
        (2, 3, {"w16": 0.2, "w15": 0.2, "w14": 0.1, "w13": 0.1}),
        (1, 5, {"w16": 0.2, "w15": 0.2, "w14": 0.1}),  # 0.2 * (16 + 15) < 7: three values are the least that can do
    ],
)
def test_the_largest_weights_move_until_the_victim_is_fooled(
    space: Any, pixels: Any, steps: int, expected: Any
) -> None:
    attacked = JSMA(changes=2, pixels=pixels, space=space)(two_classes(7.0), GREY, TRUTH)
    torch.testing.assert_close(attacked.images, moves(**expected))
    assert attacked.success.tolist() == [True]
    assert attacked.forwards.tolist() == [steps + 2]  # each step, the look that stops, the judge
    assert attacked.backwards.tolist() == [steps * (2 if space == "logits" else 1)]


@pytest.mark.parametrize("direction", ["increase", "decrease", "both"])
def test_values_go_the_way_that_is_allowed(direction: Any) -> None:
    """Signs alternate, so that 16, 4, 7, 1, 14, 12, 13, 6 raise the goal when they are increased, the others else."""
    weight = LADDER * SIGNS
    attacked = JSMA(direction=direction)(two_classes(0.1, weight), GREY, TRUTH)
    moved = {
        float(w): round(float(d), 6)
        for w, d in zip(weight, (attacked.images - GREY).flatten(), strict=True)
        if abs(float(d)) > 1e-6
    }
    expected = {
        "increase": {16.0: 0.1, 14.0: 0.1},
        "decrease": {-15.0: -0.1, -11.0: -0.1},
        "both": {16.0: 0.1, -15.0: -0.1},
    }
    assert moved == expected[direction]


def test_black_and_white_values_leave_the_domain() -> None:
    image = GREY.clone().flatten()
    image[LADDER == 16], image[LADDER == 15], image[LADDER == 14] = 1.0, 0.97, 0.0
    image = image.view_as(GREY)
    weight = LADDER.clone()
    margin = float((weight * (image.flatten() - 0.5)).sum()) + 1.0  # 15 gives 0.03 * 15 = 0.45, 14 gives 1.4
    attacked = JSMA(space="probabilities")(two_classes(margin), image, TRUTH)
    moved = attacked.images.flatten() - image.flatten()
    assert moved[LADDER == 16] == 0
    assert moved[LADDER == 15] == pytest.approx(0.03)
    assert moved[LADDER == 14] == pytest.approx(0.1)
    assert changed(attacked.images, image) == [2]
    for way, value in (("increase", 1.0), ("decrease", 0.0)):  # nothing can move at all
        full = JSMA(direction=way)(two_classes(99.0, weight if way == "increase" else -weight), GREY * 0 + value, TRUTH)
        assert (full.success.tolist(), full.backwards.tolist()) == ([False], [2])


@pytest.mark.parametrize("pixels", [1, 2])
@pytest.mark.parametrize("changes", [1, 3])
def test_no_value_moves_more_often_than_allowed_and_a_failure_is_clean(pixels: Any, changes: int) -> None:
    """All 16 weights of both signs at most 0.1 * changes: the victim is fooled by the very last move, or never."""
    for margin, success in ((13.6 * changes - 0.05, True), (13.6 * changes + 0.05, False)):
        attack = JSMA(changes=changes, pixels=pixels)
        attacked = attack(two_classes(margin, LADDER * SIGNS), GREY, TRUTH)
        assert attacked.success.tolist() == [success]
        assert float((attacked.images - GREY).abs().max()) == pytest.approx(0.1 * changes if success else 0, abs=1e-6)
        assert attacked.backwards.tolist() == [2 * (16 * changes // pixels + (not success))]  # one more finds nothing
        assert success or torch.equal(attacked.images, GREY)


def test_steps_are_counted_and_the_last_one_is_looked_at() -> None:
    for steps, success in ((2, False), (3, True)):
        attacked = JSMA(changes=2, steps=steps)(two_classes(7.0), GREY, TRUTH)
        assert attacked.success.tolist() == [success]
        assert (attacked.forwards.tolist(), attacked.backwards.tolist()) == ([steps + 2], [2 * steps])


def test_without_a_positive_saliency_the_gap_decides_unless_strict() -> None:
    """Logits w and 3 w rise together: whatever raises the goal raises the other more, and lowering both helps."""
    victim, goal = plane([LADDER, 3 * LADDER], [-1.0, 0.0]), TRUTH  # class 1 leads by 1 + 2 <w, x - 1/2>
    literal = JSMA(targeted=True, strict=True)(victim, GREY, goal)
    assert (literal.success.tolist(), literal.forwards.tolist(), literal.backwards.tolist()) == ([False], [3], [2])
    assert torch.equal(literal.images, GREY)
    attacked = JSMA(targeted=True)(victim, GREY, goal)
    torch.testing.assert_close(attacked.images, moves(w16=-0.1, w15=-0.1))
    assert attacked.success.tolist() == [True]


def test_a_constant_shift_of_all_logits_changes_no_choice_of_the_gap() -> None:
    common = LADDER.flip(0) * 50
    weights = [LADDER + common, common, -LADDER + common]
    attacked = JSMA(targeted=True)(plane(weights, [-1.0, 0.0, 0.0]), GREY, TRUTH)
    torch.testing.assert_close(attacked.images, moves(w16=0.1, w15=0.1))


def test_the_saliency_is_that_of_the_goal_and_the_sum_of_the_others() -> None:
    """Goal 0: a = w0, b = w1 + w2. Pairs are judged together: 3 x 5 beats what each could do alone."""
    zero = torch.zeros(16)
    first, second, third = zero.clone(), zero.clone(), zero.clone()
    first[0], second[0], third[0] = 5.0, 2.0, -1.0  # a = 5, b = 1: alone no saliency
    second[1], third[1] = -3.0, -3.0  # a = 0, b = -6: alone none either; together 5 * 5
    first[2], second[2] = 2.0, -2.0  # alone 2 * 2; with 0: 7 * 1, with 1: 2 * 8
    victim = plane([first, second, third], [-0.1, 0.0, 0.0])
    pair = JSMA(targeted=True, direction="increase")(victim, GREY, TRUTH).images.flatten() - 0.5
    assert pair.nonzero().flatten().tolist() == [0, 1]
    single = JSMA(targeted=True, direction="increase", pixels=1)(victim, GREY, TRUTH).images.flatten() - 0.5
    assert single.nonzero().flatten().tolist() == [2]


def by_the_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Largest product over all pairs, 0 without one."""
    sums = [values[:, :, None] + values[:, None, :] for values in (first, second)]
    distinct = ~torch.eye(first.shape[1], dtype=torch.bool)
    return torch.where((sums[0] > 0) & (sums[1] > 0) & distinct, sums[0] * sums[1], 0).flatten(1).amax(1)


def cases(kind: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, other = torch.randn((2, 24, count), generator=generator)
    if kind == "ties":
        first, other = (values.mul(2).round() for values in (first, other))
    elif kind == "falling":
        other = -2 * first + 0.01 * other
    elif kind == "line":
        first = first.mul(8).round()
        other = -first
    elif kind == "same":
        other = first
    elif kind == "negative":
        first = first.abs().neg() + 0.1
    elif kind == "curve":
        first = first.abs()
        other = 1 / first - 2
    elif kind == "ways":
        first, other = (torch.cat([values, -values], 1) for values in (first, other))
    elif kind == "mixed scales":
        other = other * torch.logspace(-6, 3, 24)[:, None]
    closed = torch.rand(first.shape, generator=generator) < 0.2
    return first.masked_fill(closed, float("-inf")), other.masked_fill(closed, float("-inf"))


KINDS = ["independent", "ties", "falling", "line", "same", "negative", "curve", "ways", "mixed scales"]


@pytest.mark.parametrize("crowd", [1, 3, 256])
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_pair_is_that_of_the_full_matrix(kind: str, crowd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saliency_map, "CROWD", crowd)
    for count in (2, 3, 5, 12, 60):
        for seed in range(4):
            first, second = cases(kind, count, seed)
            if 16 * crowd < first.shape[1] and kind in ("curve", "falling", "line"):
                continue  # more candidates than are compared
            pair, value = best_pair(first, second)
            torch.testing.assert_close(value, by_the_matrix(first, second), rtol=0, atol=0)
            found = value > 0
            product = first.gather(1, pair).sum(1) * second.gather(1, pair).sum(1)
            torch.testing.assert_close(product[found], value[found], rtol=0, atol=0)
            assert bool((pair[:, 0] != pair[:, 1])[found].all())


def test_a_row_of_best_pairs_does_not_feel_its_neighbours() -> None:
    """Ties included: which of the equal pairs is taken must not depend on how many points the others keep."""
    rows = [cases(kind, 30, 0) for kind in KINDS if kind != "ways"]
    first, second = (torch.cat(values) for values in zip(*rows, strict=True))
    together, value = best_pair(first, second)
    for row in range(len(first)):
        alone, product = best_pair(first[row : row + 1], second[row : row + 1])
        assert product[0] == value[row]
        assert product[0] == 0 or torch.equal(alone[0], together[row])


@pytest.mark.parametrize("direction", ["increase", "both"])
def test_memory_is_linear_in_the_number_of_pixels(direction: Any, conv_net: Any, images_of: Any) -> None:
    images = images_of(1, 3, 1, 224)
    victim = as_victim(conv_net())
    with torch.no_grad():
        targets = victim.eval()(images).argmax(1)
    with LargestTensor() as watch:
        attacked = JSMA(steps=2, direction=direction)(victim, images, targets)
    assert attacked.backwards.tolist() == [4]
    assert watch.elements <= 2 * images.numel()  # the network's own activations have as many


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("settings", [{}, {"space": "probabilities"}, {"pixels": 1}, {"goals": "every"}], ids=str)
def test_two_classes_are_broken_also_where_the_victim_is_certain(
    settings: Any, scale: float, linear: Any, images_of: Any
) -> None:
    victim, images = linear(scale=scale), images_of(8)
    targets = victim(images).argmax(1)
    attacked = JSMA(**settings)(victim, images, targets)
    assert bool(attacked.success.all())
    assert not bool(attacked.zero_gradients.any())
    assert 0 <= float(attacked.images.min()) <= float(attacked.images.max()) <= 1
    assert bool((attacked.measures["cos"].nan_to_num(1.0) <= 1 + 1e-6).all())


@pytest.fixture
def batch(conv_net: Any, images_of: Any) -> tuple[Any, Tensor, Tensor]:
    """A network, sixteen images and the classes that it gives them."""
    victim, images = as_victim(conv_net()), images_of(16, 3, 1)
    with torch.no_grad():
        return victim, images, victim.eval()(images).argmax(1)


def test_every_goal_keeps_the_fewest_changes_and_pays_for_all(batch: tuple[Any, Tensor, Tensor]) -> None:
    victim, images, targets = batch
    every = JSMA(goals="every")(victim, images, targets)
    runs = [JSMA(targeted=True)(victim, images, (targets + turn) % 3) for turn in (1, 2)]
    sizes = [torch.tensor(changed(run.images, images)).masked_fill(~run.success, images[0].numel() + 1) for run in runs]
    assert bool(every.success.all())
    assert bool((torch.tensor(changed(every.images, images)) <= torch.minimum(*sizes)).all())
    random = JSMA()(victim, images, targets)
    assert bool((every.success >= random.success).all())
    assert sum(changed(every.images, images)) < sum(changed(random.images, images))
    assert bool((every.forwards > random.forwards).all())
    already = JSMA(goals="every")(victim, images, (targets + 1) % 3)
    assert torch.equal(already.images, images)
    assert (already.forwards.tolist(), already.backwards.tolist()) == ([3] * 16, [0] * 16)


def test_a_random_goal_is_drawn_for_the_image_and_is_never_the_truth() -> None:
    ids, targets = [f"image-{i}" for i in range(300)], torch.arange(300) % 5
    goals = JSMA()._goals(torch.zeros(300, 5), targets, ids, 0)
    assert not bool((goals == targets).any())
    assert sorted(((goals - targets) % 5).unique().tolist()) == [1, 2, 3, 4]
    assert int(((goals - targets) % 5).bincount().amax()) < 110
    assert torch.equal(JSMA()._goals(torch.zeros(10, 5), targets[:10], ids[:10], 0), goals[:10])
    assert not torch.equal(JSMA(seed=1)._goals(torch.zeros(300, 5), targets, ids, 0), goals)
    every = JSMA(goals="every")
    outputs = torch.tensor([[5.0, 1.0, 3.0], [1.0, 5.0, 3.0]])
    assert [every._goals(outputs, torch.tensor([0, 2]), ["a", "b"], turn).tolist() for turn in (0, 1)] == [
        [2, 1],
        [1, 0],
    ]


def test_targeted_images_reach_their_goals(batch: tuple[Any, Tensor, Tensor]) -> None:
    victim, images, targets = batch
    goals = (targets + 1) % 3
    attacked = JSMA(targeted=True)(victim, images, goals)
    with torch.no_grad():
        assert torch.equal(attacked.success, victim.eval()(attacked.images).argmax(1) == goals)
    assert float(attacked.success.double().mean()) > 0.6
    failed = ~attacked.success
    assert torch.equal(attacked.images[failed], images[failed])


@pytest.mark.parametrize("settings", [{}, {"goals": "every", "pixels": 1}, {"space": "probabilities"}], ids=str)
def test_sixteen_together_are_as_sixteen_alone(settings: Any, batch: tuple[Any, Tensor, Tensor]) -> None:
    victim, images, targets = batch
    attack, ids = JSMA(**settings), [str(i) for i in range(16)]
    together = attack(victim, images, targets, ids)
    alone = [attack(victim, images[i : i + 1], targets[i : i + 1], ids[i : i + 1]) for i in range(16)]
    assert [bool(one.success) for one in alone] == together.success.tolist()
    sizes = [changed(one.images, images[i : i + 1])[0] for i, one in enumerate(alone)]
    assert sum(sizes) == pytest.approx(sum(changed(together.images, images)), rel=0.01)
    assert sum(int(one.backwards) for one in alone) == pytest.approx(int(together.backwards.sum()), rel=0.01)


@pytest.mark.parametrize("settings", [{}, {"goals": "every"}, {"space": "probabilities"}, {"strict": True}], ids=str)
def test_the_counted_passes_are_those_that_an_image_needs_alone(
    settings: Any, linear: Any, counting: Any, images_of: Any
) -> None:
    images, tags = images_of(6, 2), torch.linspace(0.05, 0.95, 6)
    images[:, 0] = tags[:, None, None]
    victim = counting(linear(2, 3, tagged=True), tags)
    targets = victim.inner(images).argmax(1)
    attack = JSMA(steps=60, **settings)
    together = attack(victim, images, targets, list("abcdef"))
    for i, id in enumerate("abcdef"):
        victim.seen.clear(), victim.differentiated.clear()
        alone = attack(victim, images[i : i + 1], targets[i : i + 1], [id])
        assert int(alone.forwards) == sum(victim.seen.values()) == int(together.forwards[i])
        assert int(alone.backwards) == sum(victim.differentiated.values()) == int(together.backwards[i])


def test_torchattacks_chooses_the_same_pairs(conv_net: Any, images_of: Any) -> None:
    """Its settings as ours: one move a value, one way, as many steps as gamma allows."""
    torchattacks = pytest.importorskip("torchattacks", exc_type=ImportError)
    net = conv_net().eval()
    images = (images_of(8, 3, 1) * 0.97).contiguous()  # it takes 0.99 for white
    with torch.no_grad():
        goals = (net(images).argmax(1) + 1) % 3
    peer = torchattacks.JSMA(net, theta=0.3, gamma=0.5)
    peer.set_mode_targeted_by_label(quiet=True)
    theirs = peer(images, goals)
    ours = JSMA(step_size=0.3, changes=1, steps=48, direction="increase", targeted=True, strict=True)
    attacked = ours(as_victim(net), images, goals)
    with torch.no_grad():
        reached = net(theirs).argmax(1) == goals
    assert torch.equal(attacked.success, reached)
    assert int(reached.sum()) >= 3
    torch.testing.assert_close(attacked.images[reached], theirs[reached])
    lenient = JSMA(step_size=0.3, changes=1, steps=48, targeted=True)(as_victim(net), images, goals)
    assert int(lenient.success.sum()) >= int(reached.sum())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("step_size", 2, r"step_size is in units of the \[0, 1\] image range and lies in \(0, 1\], got 2"),
        ("step_size", 0, "step_size"),
        ("steps", 0, "steps counts gradient steps and is a whole number of at least 1, got 0"),
        ("changes", 0, "changes counts moves of a value and is a whole number of at least 1, got 0"),
        ("changes", 1.5, "got 1.5"),
        ("pixels", 3, "pixels is 1 or 2, got 3"),
        ("direction", "up", "direction is 'increase', 'decrease' or 'both', got 'up'"),
        ("goals", "all", "goals is 'every' or 'random', got 'all'"),
        ("space", "log", "space is 'logits' or 'probabilities', got 'log'"),
    ],
)
def test_a_field_out_of_range_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JSMA(**{field: value})


@pytest.mark.parametrize("targeted", [False, True], ids=["truths", "goals"])
@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 3]), "the victim distinguishes 3 classes, counted from 0, got class 3"),
        (torch.tensor([0, -1]), "classes are counted from 0, got -1"),
        (torch.tensor([[0], [1]]), r"one logit for each of 1 labels, the victim gave \(2, 3\)"),
        (torch.full((2, 3), 2), "knows the targets 0 and 1, got 2"),
        (torch.ones(2, 4, 4).long(), r"one class per image, \(N,\), got targets of shape \(2, 4, 4\)"),
        (torch.tensor([0]), "got 2 images, 1 targets and 2 ids: one of each is needed"),
        (torch.tensor([0.0, 1.0]), r"targets of whole numbers, one entry per image, got torch.float32 \(2,\)"),
        (torch.tensor(1), r"targets of whole numbers, one entry per image, got torch.int64 \(\)"),
        ([NO_BOXES, NO_BOXES], "one class per image, .* got a list of boxes"),
    ],
    ids=str,
)
@pytest.mark.parametrize("settings", [{}, {"goals": "every"}, {"space": "probabilities", "pixels": 1}], ids=str)
def test_targets_that_are_no_classes_of_the_victim_get_one_sentence(
    settings: dict[str, Any], targets: Any, message: str, targeted: bool
) -> None:
    victim = plane([LADDER, -LADDER, 0 * LADDER], [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=message):
        JSMA(**settings, targeted=targeted)(victim, GREY.repeat(2, 1, 1, 1), targets)


@pytest.mark.parametrize("settings", [{}, {"goals": "every"}, {"space": "probabilities", "pixels": 1}], ids=str)
@pytest.mark.parametrize("targeted", [False, True], ids=["truths", "goals"])
@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int32])
def test_classes_may_be_of_any_whole_type(kind: torch.dtype, targeted: bool, settings: dict[str, Any]) -> None:
    victim, images, targets = two_classes(7.0), GREY.repeat(2, 1, 1, 1), torch.tensor([0, 1])
    attack = JSMA(**settings, targeted=targeted)
    expected, attacked = attack(victim, images, targets), attack(victim, images, targets.to(kind))
    assert torch.equal(attacked.images, expected.images)
    assert torch.equal(attacked.success, expected.success)


@pytest.mark.parametrize("space", ["logits", "probabilities"])
def test_a_goal_that_is_the_current_class_is_reached_without_a_change(space: Any) -> None:
    attacked = JSMA(targeted=True, space=space)(two_classes(7.0), GREY, TRUTH)
    assert torch.equal(attacked.images, GREY)
    assert attacked.success.tolist() == [True]
    assert (attacked.forwards.tolist(), attacked.backwards.tolist()) == ([2], [0])


def test_images_of_one_value_move_alone() -> None:
    victim = as_victim(nn.Sequential(nn.Flatten(), nn.Linear(1, 2)))
    with torch.no_grad():
        victim.network[1].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        victim.network[1].bias.copy_(torch.tensor([1.1, 0.0]))  # 1.1 - x < x from 0.55
    attacked = JSMA()(victim, torch.full((1, 1, 1, 1), 0.4), TRUTH)
    assert attacked.success.tolist() == [True]
    assert float(attacked.images) == pytest.approx(0.6)
    assert JSMA().norm == "l0"
