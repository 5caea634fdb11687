"""Attacks on labels that do not exclude each other: any label, a chosen one, all of them; closed forms on rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust import attacks
from medrobust.attacks import (
    APGD,
    BIM,
    CWL2,
    FAB,
    JSMA,
    PGD,
    Attack,
    BasinHopping,
    Crafted,
    DeepFool,
    Square,
    WorstCase,
)
from medrobust.attacks.class_boundaries import rival_classes
from medrobust.networks import Outcome
from medrobust.objectives import Margin, WeakestLabel
from tests.attacks.test_attack_contract import ATTACKS, BRIEF, in_ball

WEIGHTS = torch.tensor([[2.0, -1.0, 1.0, -2.0], [1.0, 1.0, -1.0, 1.0], [3.0, 1.0, 1.0, -1.0]])  # L1 norms 6, 4, 6
LENGTHS = WEIGHTS.square().sum(1).sqrt()


class Rows(nn.Module):
    """A victim of three labels: the logit of each is linear in its own row of an image of 3 x 4.

    Args:
        biases: The logits of an even grey image.
    """

    def __init__(self, biases: Sequence[float] = (0.6, -0.2, 0.9)) -> None:
        super().__init__()
        self.weights, self.biases = nn.Parameter(WEIGHTS.clone()), nn.Parameter(torch.tensor(biases))
        self.readout = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.readout(((images[:, 0] - 0.5) * self.weights).sum(2) + self.biases)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        raise AssertionError("the logits fit the targets, so that no attack needs the loss")

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        known = targets >= 0
        hits = ((outputs > 0) == (targets > 0)) & known
        right = (hits == known).all(1) & known.any(1)
        return Outcome(right, hits.sum(1) / known.sum(1).clamp(min=1))

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        return self(images), {layer: images.flatten(1) for layer in layers}


GREY, TRUTH = torch.full((1, 1, 3, 4), 0.5), torch.tensor([[1, 0, 1]])
# logits 0.6, -0.2 and 0.9 of grey: the L-infinity radii at which they turn are 0.1, 0.05 and 0.15
RADII = torch.tensor([0.1, 0.05, 0.15])


def changed(attacked: Any, order: float) -> float:
    return float(torch.linalg.vector_norm((attacked.images - GREY).flatten(), order))


def mixed(count: int = 6) -> tuple[Tensor, Tensor]:
    """Random images, and labels that the victim gets right for about half of them; some are not known."""
    images = torch.rand(count, 1, 3, 4, generator=torch.Generator().manual_seed(3)) * 0.6 + 0.2
    targets = (Rows()(images) > 0).long()
    targets[::3, 0] = 1 - targets[::3, 0]
    targets[1::3, 2] = -1
    return images, targets


@pytest.mark.parametrize("targeted", [False, True], ids=["any", "goals"])
@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.__name__)
def test_every_attack_runs_on_labels(cls: Any, targeted: bool) -> None:
    victim, (images, targets) = Rows(), mixed()
    aims = torch.where(targets < 0, -1, 1 - targets) if targeted else targets
    attack = cls(**BRIEF.get(cls, {}), targeted=targeted)
    attacked = attack(victim, images, aims, [str(n) for n in range(len(images))])

    assert attacked.images.shape == images.shape and in_ball(attack, images, attacked.images)
    right = victim.outcome(victim(attacked.images), aims).right
    assert attacked.success.tolist() == (right if targeted else ~right).tolist()
    if not targeted:  # what is wrong from the start is no less wrong
        assert attacked.success[::3].all()


@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.__name__)
def test_an_image_without_any_known_label_comes_to_no_harm(cls: Any) -> None:
    attacked = cls(**BRIEF.get(cls, {}), targeted=False)(Rows(), GREY, torch.full((1, 3), -1), ["a"])
    assert attacked.images.isfinite().all()


@pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.__name__)
def test_an_image_does_not_depend_on_its_batch_mates(cls: Any) -> None:
    victim, (images, targets) = Rows(), mixed(4)
    attack, ids = cls(**BRIEF.get(cls, {})), [str(n) for n in range(4)]
    together = attack(victim, images, targets, ids)
    alone = attack(victim, images[1:2], targets[1:2], ids[1:2])
    torch.testing.assert_close(together.images[1:2], alone.images, atol=1e-5, rtol=0)
    assert together.forwards[1] == alone.forwards[0] and together.backwards[1] == alone.backwards[0]


def test_deepfool_turns_the_label_whose_boundary_is_nearest() -> None:
    lengths = torch.tensor([0.6, 0.2, 0.9]) / LENGTHS
    attacked = DeepFool(overshoot=0.02)(Rows(), GREY, TRUTH)
    assert attacked.success.all() and changed(attacked, 2) == pytest.approx(1.02 * float(lengths.min()), rel=0.01)
    assert (Rows()(attacked.images) > 0).tolist() == [[True, True, True]]  # the second one has turned

    unknown = DeepFool(overshoot=0.02)(Rows(), GREY, torch.tensor([[1, -1, 1]]))
    assert unknown.success.all() and changed(unknown, 2) == pytest.approx(1.02 * float(lengths[0]), rel=0.01)
    assert unknown.backwards.tolist() == [2]  # one step, and nothing is asked of the label that is not known


@pytest.mark.parametrize(("distance", "order"), [("l2", 2), ("linf", torch.inf)])
def test_deepfool_reaches_a_chosen_label_and_all_of_them(distance: Any, order: float) -> None:
    norms = torch.linalg.vector_norm(WEIGHTS, 2 if distance == "l2" else 1, dim=1)
    needed = torch.tensor([0.6, 0.2, 0.9]) / norms
    attack = DeepFool(distance=distance, targeted=True, overshoot=0.02)
    for label in range(3):
        goals = torch.full((1, 3), -1)
        goals[0, label] = 1 - TRUTH[0, label]
        chosen = attack(Rows(), GREY, goals)
        assert chosen.success.all() and changed(chosen, order) == pytest.approx(1.02 * float(needed[label]), rel=0.01)
    every = attack(Rows(), GREY, 1 - TRUTH)
    # the labels read rows of their own, so that each is crossed once and none disturbs another
    expected = float(torch.linalg.vector_norm(needed, order))
    assert every.success.all() and changed(every, order) == pytest.approx(1.02 * expected, rel=0.01)


def test_cw_finds_the_nearest_label_and_a_chosen_one() -> None:
    lengths = torch.tensor([0.6, 0.2, 0.9]) / LENGTHS
    attack = CWL2(search_steps=9, steps=100)
    nearest = attack(Rows(), GREY, TRUTH)
    assert nearest.success.all() and changed(nearest, 2) == pytest.approx(float(lengths.min()), rel=0.05)
    chosen = CWL2(search_steps=9, steps=100, targeted=True)(Rows(), GREY, torch.tensor([[0, -1, -1]]))
    assert chosen.success.all() and changed(chosen, 2) == pytest.approx(float(lengths[0]), rel=0.05)


def test_fab_finds_the_nearest_label_and_a_chosen_one() -> None:
    nearest = FAB(steps=20)(Rows(), GREY, TRUTH)
    assert nearest.success.all() and changed(nearest, torch.inf) == pytest.approx(0.05, rel=0.01)
    for goals in (0, 2):
        each = FAB(steps=20, goals=goals)(Rows(), GREY, torch.tensor([[1, -1, 1]]))
        assert each.success.all() and changed(each, torch.inf) == pytest.approx(0.1, rel=0.01)
    chosen = FAB(steps=20, targeted=True)(Rows(), GREY, torch.tensor([[-1, -1, 0]]))
    assert chosen.success.all() and changed(chosen, torch.inf) == pytest.approx(0.15, rel=0.01)


@pytest.mark.parametrize("share", [0.98, 1.02])
def test_pgd_turns_all_labels_at_the_largest_of_their_radii_and_any_at_the_smallest(share: float) -> None:
    every = PGD(epsilon=share * 0.15, targeted=True)(Rows(), GREY, 1 - TRUTH)
    nearest = PGD(epsilon=share * 0.05)(Rows(), GREY, TRUTH)
    assert every.success.tolist() == nearest.success.tolist() == [share > 1]


def test_the_weakest_label_is_turned_where_the_mean_over_labels_pulls_the_other_way() -> None:
    # all read one row: the first turns when w (x - 0.5) falls by 0.3, the others when it rises by 0.8
    class Opposed(Rows):
        def forward(self, images: Tensor) -> Tensor:
            along = ((images[:, 0, 0] - 0.5) * self.weights[1]).sum(1)
            return along[:, None] * torch.tensor([1.0, 1.0, 1.0]) + torch.tensor([0.3, -0.8, -0.8])

    victim, truth = Opposed(), torch.tensor([[1, 0, 0]])
    # sigmoid(-0.3) = 0.43 for the first, 2 sigmoid(-0.8) = 0.62 for the other two
    mean = BIM(epsilon=0.1)(victim, GREY, truth)
    weakest = BIM(epsilon=0.1, objective=WeakestLabel())(victim, GREY, truth)
    assert mean.success.tolist() == [False] and weakest.success.tolist() == [True]


class Levels(Rows):
    """A victim of two labels whose logits are 20 times by how much the first two pixels are above 0.5."""

    def forward(self, images: Tensor) -> Tensor:
        return 20 * (images[:, 0, 0, :2] - 0.5)


@dataclass(frozen=True, kw_only=True)
class Sets(Attack):
    """Sets the two logits of ``Levels``."""

    logits: tuple[float, float]
    epsilon: float = 0.5

    def perturb(self, victim: Any, images: Tensor, targets: Any, ids: Any) -> Crafted:
        made, none = images.clone(), torch.zeros(len(images), dtype=torch.long)
        made[:, 0, 0, :2] = 0.5 + torch.tensor(self.logits) / 20
        return Crafted(made, none, none, none)


@pytest.mark.parametrize(
    ("targeted", "aims", "attempts", "closer"),
    [
        # truth 1 and 0: labels turn at logits 0; the first attempt lacks 1 and 1, the second 0.1 and 5
        (False, [1, 0], [(1.0, -1.0), (0.1, -5.0)], 1),
        (False, [1, -1], [(1.0, -1.0), (3.0, 9.0)], 0),  # nothing counts of a label that is not known
        (False, [-1, 0], [(1.0, -1.0), (0.1, -5.0)], 0),
        # both are to turn: 1 at most is lacking, and 5; 2 at most, and 3 where the other one has turned
        (True, [0, 1], [(1.0, -1.0), (0.1, -5.0)], 0),
        (True, [0, 1], [(2.0, -2.0), (3.0, 4.0)], 0),
        # one is to turn, and the other one may be what it likes
        (True, [0, -1], [(1.0, -1.0), (0.1, -5.0)], 1),
        (True, [-1, 1], [(1.0, -1.0), (0.1, -5.0)], 0),
    ],
)
def test_of_failed_attempts_the_one_whose_deciding_label_is_closest_comes_back(
    targeted: bool, aims: list[int], attempts: list[tuple[float, float]], closer: int
) -> None:
    expected = 0.5 + torch.tensor(attempts[closer]) / 20
    for order in (attempts, attempts[::-1]):
        worst = WorstCase(attacks=tuple(Sets(logits=pair) for pair in order), epsilon=0.5, targeted=targeted)
        attacked = worst(Levels(), GREY + 0.025 * torch.tensor([1.0, -1.0, 0.0, 0.0]), torch.tensor([aims]), ["a"])
        assert attacked.success.tolist() == [False]
        torch.testing.assert_close(attacked.images[0, 0, 0, :2], expected)


@pytest.mark.parametrize("attack", [BasinHopping(hops=2, steps=20), Square(queries=50)], ids=["hops", "square"])
def test_a_search_for_any_label_goes_to_the_one_that_turns_most_easily(attack: Any) -> None:
    class Opposed(Rows):
        """All read one row: the first turns when w (x - 0.5) falls by 0.3, the others when it rises by 0.8."""

        def forward(self, images: Tensor) -> Tensor:
            along = ((images[:, 0, 0] - 0.5) * self.weights[1]).sum(1)
            return along[:, None] + torch.tensor([0.3, -0.8, -0.8])

    images, targets, ids = GREY.expand(40, -1, -1, -1), torch.tensor([[1, 0, 0]] * 40), [str(n) for n in range(40)]
    found = [
        int(replace(attack, epsilon=0.1, objective=objective)(Opposed(), images, targets, ids).success.sum())
        for objective in (None, Margin())
    ]
    assert found[0] >= 30 and found[1] <= 10  # the mean over labels finds it by chance alone


def test_jsma_moves_the_value_that_its_label_depends_on_most() -> None:
    attack = JSMA(step_size=0.1, pixels=1, targeted=True)
    attacked = attack(Rows(), GREY, torch.tensor([[-1, -1, 0]]))
    # the third label lacks 0.9: three steps of 0.1 at the value of weight 3 give exactly that, a fourth is enough
    moved = (attacked.images - GREY)[0, 0]
    assert attacked.success.all() and int((moved != 0).sum()) == 1
    assert moved[2, 0].item() in (pytest.approx(-0.3, abs=1e-6), pytest.approx(-0.4, abs=1e-6))


def test_jsma_in_turn_keeps_the_label_that_needs_the_fewest_values() -> None:
    attacked = JSMA(step_size=0.3, pixels=1, goals="every")(Rows(), GREY, TRUTH)
    assert attacked.success.all() and int((attacked.images != GREY).sum()) == 1


def test_apgd_goes_to_labels_one_after_the_other() -> None:
    for epsilon, found in ((0.051, True), (0.049, False)):
        assert APGD(epsilon=epsilon, steps=10, goals=3)(Rows(), GREY, TRUTH).success.tolist() == [found]


def test_the_strength_check_runs_on_labels() -> None:
    suite = (APGD(steps=10), APGD(steps=10, goals=9), FAB(steps=10, goals=9), attacks.Square(queries=30))
    for epsilon, found in ((0.051, True), (0.049, False)):
        attacked = WorstCase(epsilon=epsilon, attacks=(*suite, attacks.BasinHopping(hops=2, steps=5)))
        assert attacked(Rows(), GREY, TRUTH).success.tolist() == [found]


def test_rivals_are_the_labels_that_turn_most_easily_with_unknown_ones_last() -> None:
    outputs = torch.tensor([[2.0, -0.5, 1.0], [2.0, -0.5, 1.0]])
    rivals = rival_classes(outputs, torch.tensor([[1, 0, 1], [1, -1, 0]]))
    assert rivals.tolist() == [[1, 2, 0], [2, 0, 1]]
    assert rival_classes(outputs, torch.tensor([[1, 0, 1]] * 2), candidates=2).tolist() == [[1], [1]]


@pytest.mark.parametrize("attack", [DeepFool(), CWL2(), FAB(), JSMA()], ids=lambda attack: type(attack).__name__)
def test_labels_that_the_victim_does_not_have_are_refused(attack: Any) -> None:
    with pytest.raises(ValueError, match=r"one logit for each of 2 labels, the victim gave \(1, 3\)"):
        attack(Rows(), GREY, torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="knows the targets 0 and 1, got 2"):
        attack(Rows(), GREY, torch.tensor([[0, 2, 1]]))
