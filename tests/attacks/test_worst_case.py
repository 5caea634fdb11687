"""The worst case over attacks: the union of what each breaks alone, with its passes spared and its radius shared."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust.attacks import (
    APGD,
    BIM,
    FAB,
    FGSM,
    PGD,
    Attack,
    BasinHopping,
    Crafted,
    CWLinf,
    LogDomain,
    UniformNoise,
)
from medrobust.attacks.budgets import Fraction
from medrobust.attacks.kept_attempts import closeness
from medrobust.attacks.square import Square
from medrobust.attacks.worst_case import WorstCase, standard
from medrobust.evaluation.plan import lay_out
from medrobust.networks import Outcome, as_victim
from medrobust.objectives import CrossEntropy, DifferenceOfLogits, Margin
from tests.digits import digits_network
from tests.two_stage import TwoStage, frames

IDS = [f"image {i}" for i in range(8)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Breaks(Attack):
    """Adds epsilon to the images of these names, and a share of it to others; three forwards, two backwards."""

    names: tuple[str, ...] = ()
    share: float = 0.5
    epsilon: float = 0.2

    def perturb(self, victim: Any, images: Tensor, targets: Any, ids: Any) -> Crafted:
        chosen = torch.tensor([id in self.names for id in ids])
        move = torch.where(chosen, self.epsilon, self.epsilon * self.share)[:, None, None, None]
        each = torch.ones(len(images), dtype=torch.long)
        return Crafted(images + move, 3 * each, 2 * each, each)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unbounded(Attack):
    """An attack that has no radius."""

    def perturb(self, victim: Any, images: Tensor, targets: Any, ids: Any) -> Crafted:
        raise AssertionError


class Brightness(nn.Module):
    """Class 1 if the first pixel is brighter than 0.35: from 0.2, only a step of more than 0.15 gets there."""

    def forward(self, images: Tensor) -> Tensor:
        return (images[:, 0, 0, 0] - 0.35)[:, None] * torch.tensor([-1.0, 1.0])


@pytest.fixture
def batch(linear: Any, images_of: Any) -> tuple[Any, Tensor, Tensor]:
    """A linear victim of three classes, images, and the classes that it gives them."""
    victim, images = linear(3, 3), images_of(8, 3, 1)
    return victim, images, victim(images).argmax(1)


def test_the_first_success_comes_back_and_the_attacks_behind_it_are_spared() -> None:
    """Four images: the first attack breaks a and b, the second b and c, nobody d. Each attack is judged once."""
    victim, images = as_victim(Brightness()), torch.full((4, 1, 8, 8), 0.2)
    attacks = (Breaks(names=("a", "b")), Breaks(names=("b", "c")), Breaks(names=("x",)))
    attacked = WorstCase(attacks=attacks, epsilon=0.2)(victim, images, torch.zeros(4).long(), ["a", "b", "c", "d"])
    assert attacked.success.tolist() == [True, True, True, False]
    torch.testing.assert_close(attacked.images[:, 0, 0, 0], torch.tensor([0.4, 0.4, 0.4, 0.3]))
    first = attacked.measures["first_success"]
    assert first[:3].tolist() == [0, 0, 1]
    assert bool(first[3].isnan())
    assert attacked.forwards.tolist() == [5, 5, 9, 13]  # (3 + 1) for each attack that ran, and the last judgement
    assert attacked.backwards.tolist() == [2, 2, 4, 6]
    assert attacked.zero_gradients.tolist() == [1, 1, 2, 3]


def test_of_an_unbroken_image_the_attempt_with_the_largest_margin_comes_back() -> None:
    """From 0.15 nothing within 0.14 gets past 0.35. Shares of it: 1, 0.2, 0.6 for a, and 0.5, 0.2, 0.6 for b."""
    victim, images = as_victim(Brightness()), torch.full((2, 1, 8, 8), 0.15)
    attacks = (Breaks(names=("a",)), Breaks(share=0.2), Breaks(share=0.6))
    attacked = WorstCase(attacks=attacks, epsilon=0.14)(victim, images, torch.zeros(2).long(), ["a", "b"])
    assert not bool(attacked.success.any())
    torch.testing.assert_close(attacked.images[:, 0, 0, 0], 0.15 + 0.14 * torch.tensor([1.0, 0.6]))


MEMBERS = (FGSM(), CWLinf(steps=4), PGD(steps=3), Square(queries=60), UniformNoise())


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 4, 0, 3, 1)])
def test_it_breaks_what_any_attack_breaks_alone_in_any_order(
    order: tuple[int, ...], batch: tuple[Any, Tensor, Tensor]
) -> None:
    victim, images, targets = batch
    worst = WorstCase(attacks=tuple(MEMBERS[place] for place in order), epsilon=0.012, seed=5)
    alone = [attack(victim, images, targets, IDS) for attack in worst.running()]
    together = worst(victim, images, targets, IDS)

    broken = torch.stack([result.success for result in alone])
    assert 0 < int(broken.any(0).sum()) < 8
    assert len({tuple(row) for row in broken.tolist()}) > 1
    assert torch.equal(together.success, broken.any(0))
    for i in range(8):
        ran = [int(broken[:, i].int().argmax())] if broken[:, i].any() else [len(alone) - 1]
        if broken[:, i].any():
            assert together.measures["first_success"][i] == ran[0]
            torch.testing.assert_close(together.images[i], alone[ran[0]].images[i])
        assert int(together.forwards[i]) == sum(int(result.forwards[i]) for result in alone[: ran[0] + 1]) + 1
        assert int(together.backwards[i]) == sum(int(result.backwards[i]) for result in alone[: ran[0] + 1])
    assert float((together.images - images).abs().max()) <= 0.012 + 1e-6


def test_passes_that_are_counted_were_made(counting: Any, linear: Any) -> None:
    """Channel 0 names the image, in steps of 0.14; it has no weight."""
    victim = linear(3, tagged=True)
    images = torch.rand((6, 3, 8, 8), generator=torch.Generator().manual_seed(4)) * 0.4 + 0.3
    tags = 0.01 + 0.14 * torch.arange(6)
    images[:, 0] = tags.view(-1, 1, 1)
    targets = victim(images).argmax(1)
    worst = WorstCase(attacks=(UniformNoise(), Square(queries=5), PGD(stop_when_fooled=True)), epsilon=0.03)
    counter = counting(victim, tags)
    for i in range(6):
        worst(counter, images[i : i + 1], targets[i : i + 1], IDS[i : i + 1])
    attacked = worst(victim, images, targets, IDS[:6])
    assert attacked.forwards.tolist() == [counter.seen[i] for i in range(6)]
    assert attacked.backwards.tolist() == [counter.differentiated[i] for i in range(6)]
    assert len(attacked.forwards.unique()) > 1


def test_radius_and_goal_are_handed_down_and_seeds_are_moved() -> None:
    worst = WorstCase(attacks=(PGD(epsilon=0.5, seed=9), Square(targeted=True)), epsilon=0.1)
    expected = (PGD(epsilon=0.1, seed=9), Square(epsilon=0.1))
    assert worst.attacks == worst.running() == expected
    assert worst == WorstCase(attacks=expected, epsilon=0.1)
    turned = dataclasses.replace(worst, targeted=True, seed=1)
    assert turned.attacks == (PGD(epsilon=0.1, seed=9, targeted=True), Square(epsilon=0.1, targeted=True))
    assert [attack.seed for attack in turned.running()] == [1_000_012, 1_000_003]
    nested = WorstCase(attacks=(worst, FGSM()), epsilon=0.3)
    assert [attack.epsilon for attack in nested.attacks[0].attacks] == [0.3, 0.3]  # type: ignore[attr-defined]


def test_an_attack_that_is_named_again_is_a_restart() -> None:
    worst = WorstCase(attacks=(PGD(), FGSM(), PGD(seed=7), PGD(steps=3), PGD()), seed=2)
    assert [attack.seed for attack in worst.members] == [0, 0, 7, 0, 1]
    assert dataclasses.replace(worst, seed=0).attacks == worst.attacks
    assert [attack.seed - 2 * 1_000_003 for attack in worst.running()] == [0, 0, 7, 0, 1]


def test_a_sweep_over_radii_sets_every_attacks_radius() -> None:
    worst = WorstCase(attacks=(PGD(), Square(queries=10)))
    planned = lay_out({"worst": worst}, [Fraction("1/255"), Fraction("4/255")], controls=True)
    assert [name for name, _ in planned] == ["noise", "noise", "worst", "worst"]
    for (_, attack), radius in zip(planned[2:], (1 / 255, 4 / 255), strict=True):
        assert isinstance(attack, WorstCase)
        assert attack.epsilon == radius
        assert [member.epsilon for member in attack.attacks] == [radius, radius]  # type: ignore[attr-defined]


def test_a_larger_radius_breaks_no_fewer(batch: tuple[Any, Tensor, Tensor]) -> None:
    victim, images, targets = batch
    worst = WorstCase(attacks=(BIM(steps=5), Square(queries=100)))
    broken = [
        int(dataclasses.replace(worst, epsilon=radius)(victim, images, targets, IDS).success.sum())
        for radius in (0.004, 0.012, 0.1)
    ]
    assert broken[0] <= broken[1] <= broken[2] == 8


def test_goals_are_reached_by_attacks_that_were_not_told(batch: tuple[Any, Tensor, Tensor]) -> None:
    """From class 1 to 2 and back; class 0 of this victim never leads."""
    victim, images, targets = batch
    goals = 3 - targets
    worst = WorstCase(attacks=(UniformNoise(), BIM(steps=5)), epsilon=0.1, targeted=True)
    attacked = worst(victim, images, goals, IDS)
    assert bool(attacked.success.all())
    assert torch.equal(victim(attacked.images).argmax(1), goals)


def test_a_victim_that_hides_its_gradients_is_broken_by_the_attack_without(linear: Any, images_of: Any) -> None:
    plain, images = linear(1), images_of(8)

    class Rounded(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return plain((16 * images).round() / 16)

    victim = as_victim(Rounded())
    targets = victim(images).argmax(1)
    attacked = WorstCase(attacks=(BIM(steps=3), Square(queries=400)), epsilon=0.1)(victim, images, targets, IDS)
    assert int(attacked.success.sum()) >= 5
    assert set(attacked.measures["first_success"][attacked.success].tolist()) == {1.0}
    assert bool((attacked.zero_gradients == 3).all())


@pytest.mark.parametrize("task", ["masks", "boxes"])
def test_dense_victims(task: str, segmenter: Any, box_victim: Any, boxes_of: Any) -> None:
    victim = segmenter(3) if task == "masks" else box_victim(3)
    images = torch.rand((6, 3, 8, 8), generator=torch.Generator().manual_seed(4)) * 0.2 + 0.4
    targets: Any = boxes_of(6) if task == "boxes" else victim(images).argmax(1)
    worst = WorstCase(attacks=(UniformNoise(), Square(queries=3), BIM(steps=3)), epsilon=0.06)
    together = worst(victim, images, targets, IDS[:6])
    alone = [attack(victim, images, targets, IDS[:6]).success for attack in worst.attacks]
    assert torch.equal(together.success, torch.stack(alone).any(0))
    for i in range(6):
        single = worst(victim, images[i : i + 1], targets[i : i + 1], IDS[i : i + 1])
        assert bool(single.success[0]) == bool(together.success[i])
        torch.testing.assert_close(single.images[0], together.images[i])
        assert single.forwards[0] == together.forwards[i]


def test_standard_is_autoattacks_and_runs_by_default(conv_net: Any, images_of: Any) -> None:
    worst = WorstCase(epsilon=0.02)
    assert worst == WorstCase(attacks="standard", epsilon=0.02) == WorstCase(attacks=standard(), epsilon=0.02)
    assert worst.norm == "linf"
    described = json.loads(json.dumps(worst.parameters(), allow_nan=False))["attacks"]
    assert [member["class"] for member in described] == ["APGD", "APGD", "FAB", "Square", "BasinHopping"]
    assert {member["epsilon"] for member in described} == {0.02}
    assert [member["steps"] for member in described[:3]] == [100, 100, 100]
    assert [member["goals"] for member in described[:3]] == [0, 9, 9]
    assert [member["seed"] for member in described] == [0, 1, 0, 0, 0]
    assert described[1]["objective"]["class"] == "DifferenceOfLogits"
    assert (described[3]["queries"], described[4]["hops"], described[4]["steps"]) == (5000, 100, 50)
    victim, images = as_victim(conv_net()), images_of(8, 3, 1)
    targets = victim.eval()(images).argmax(1)
    short = (*worst.members[:3], Square(queries=100))
    attacked = WorstCase(attacks=short, epsilon=0.1)(victim, images, targets, IDS)
    alone = [dataclasses.replace(attack, epsilon=0.1)(victim, images, targets, IDS).success for attack in short]  # type: ignore[call-arg]
    assert int(attacked.success.sum()) >= max(int(success.sum()) for success in alone) > 0
    assert torch.equal(attacked.success, torch.stack(alone).any(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attacks": (Unbounded(),)}, "a worst case is one at a radius, and Unbounded has no epsilon"),
        ({"attacks": (PGD(), LogDomain())}, "one in a norm, got PGD with linf and LogDomain with log"),
        ({"attacks": ("PGD",)}, "attacks lists configured attacks, got 'PGD'"),
        ({"attacks": "strong"}, "attacks is a list of attacks or one of standard, masks, boxes, got 'strong'"),
        ({"attacks": ()}, "attacks lists at least one attack, or is one of standard, masks, boxes, got none"),
        ({"epsilon": 8}, r"epsilon is in units of .* and lies in \[0, 1\], got 8"),
        ({"attacks": (PGD(),), "epsilon": None}, "epsilon is a number, got None"),
    ],
)
def test_attacks_without_a_common_worst_case_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorstCase(**settings)


def test_the_norm_is_that_of_the_attacks() -> None:
    assert WorstCase(attacks=(LogDomain(), LogDomain(steps=3))).norm == "log"
    assert WorstCase(attacks=[PGD(objective=CrossEntropy()), PGD(objective=Margin())]).norm == "linf"  # type: ignore[arg-type]
    assert hash(WorstCase(attacks=[PGD()])) == hash(WorstCase(attacks=(PGD(),)))  # type: ignore[arg-type]


def test_an_image_keeps_the_measures_of_the_attack_that_is_returned_and_the_name_of_the_one_that_broke_it() -> None:
    """Four images: the first attack breaks a and b, the second c, and of d's attempts the second is the best."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Measured(Breaks):
        """The same attack with a measure: its number."""

        number: float = 1.0

        def perturb(self, victim: Any, images: Tensor, targets: Any, ids: Any) -> Crafted:
            crafted = super().perturb(victim, images, targets, ids)
            return dataclasses.replace(crafted, measures={f"is_{self.number:g}": torch.full((len(ids),), self.number)})

    attacks = (Measured(names=("a", "b"), share=0.1), Measured(names=("c",), number=2.0), Breaks(share=0.2))
    worst = WorstCase(attacks=attacks, epsilon=0.2)
    victim, images = as_victim(Brightness()), torch.full((4, 1, 8, 8), 0.2)
    attacked = worst(victim, images, torch.zeros(4).long(), ["a", "b", "c", "d"])
    nan = torch.nan
    expected = {"is_1": [1.0, 1.0, nan, nan], "is_2": [nan, nan, 2.0, 2.0], "first_success": [0.0, 0.0, 1.0, nan]}
    assert set(attacked.measures) == set(expected)
    for name, values in expected.items():
        torch.testing.assert_close(attacked.measures[name], torch.tensor(values), equal_nan=True)
    assert worst.names() == ("Measured", "Measured (2)", "Breaks")
    assert worst.recorded({}) == {}  # at a radius of 0 none of them runs
    recorded = worst.recorded(attacked.measures)
    assert set(recorded) == {"is_1", "is_2", "broken_by"}
    assert recorded["broken_by"] == ["Measured", "Measured", "Measured (2)", None]


def test_members_have_names_that_tell_them_apart() -> None:
    attacks = (PGD(), PGD(), APGD(objective=Margin()), APGD(objective=Margin(), goals=3), APGD(objective=Margin()))
    assert WorstCase(attacks=attacks).names() == (
        "PGD",
        "PGD (2)",
        "APGD with Margin",
        "APGD with Margin towards 3 goals",
        "APGD with Margin (2)",
    )


def test_of_two_classes_the_second_ascent_is_no_copy_of_the_first(images_of: Any) -> None:
    """Another start and another objective, or the second APGD of the strength check would repeat the first."""
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 2))
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 4
    images = images_of(6)
    targets = net(images).argmax(1)
    first, second = WorstCase(epsilon=0.1).members[:2]
    changed: dict[str, Any] = {"steps": 10, "stop_when_fooled": False}
    made = [
        dataclasses.replace(attack, **changed)(as_victim(net), images, targets).images for attack in (first, second)
    ]
    assert int((made[0] != made[1]).flatten(1).any(1).sum()) >= 4  # on a single linear piece all ascents end alike
    same_start = dataclasses.replace(second, seed=0, **changed)
    assert bool((same_start(as_victim(net), images, targets).images != made[0]).any())


class Squashed(nn.Module):
    """The digits' network with tanh on its logits: its slopes vanish, its decisions are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.network, _, _ = digits_network()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).tanh()


@pytest.mark.slow
def test_on_squashed_logits_goals_break_what_no_untargeted_attack_and_no_peer_does() -> None:
    """Of 100 digits the untargeted reading left 69, torchattacks' AutoAttack 66, as APGD-T did, and `standard` 62."""
    torchattacks = pytest.importorskip("torchattacks", exc_type=ImportError)
    _, images, labels = digits_network()
    images, labels, squashed = images[:40], labels[:40], Squashed().eval()
    victim, epsilon = as_victim(squashed), 0.09
    untargeted: tuple[Attack, ...] = (APGD(), APGD(objective=DifferenceOfLogits()), FAB(stop_when_fooled=True))
    before = WorstCase(attacks=untargeted, epsilon=epsilon)(victim, images, labels)
    members = standard()
    ours = WorstCase(attacks=(*members[:3], BasinHopping(hops=3)), epsilon=epsilon)(victim, images, labels)
    goals = APGD(goals=9, objective=DifferenceOfLogits(), epsilon=epsilon)(victim, images, labels)
    made = torchattacks.APGDT(squashed, eps=epsilon, n_classes=10, seed=0, steps=100)(images, labels)
    theirs = int((squashed(made).argmax(1) != labels).sum())
    assert int(ours.success.sum()) >= max(int(goals.success.sum()), theirs)
    assert int(ours.success.sum()) > int(before.success.sum())
    assert bool((ours.success | ~before.success).all())
    assert float((ours.images - images).abs().max()) <= epsilon + 1e-6


class Half(nn.Module):
    """Two pixels, each of class 1 above 0.5; the quality is the share that is right, and one of two is right enough."""

    def forward(self, images: Tensor) -> Tensor:
        lead = images[:, 0] - 0.5
        return torch.stack([-lead, lead], 1)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        raise AssertionError

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        share = (outputs.argmax(1) == targets).float().mean((1, 2))
        return Outcome(share > 0.4, share)

    def features(self, images: Tensor, layers: Any) -> Any:
        return self(images), {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adds(Attack):
    """Adds shares of epsilon to two pixels, at two forwards (no paper)."""

    shares: tuple[float, float] = (0.0, 0.0)
    epsilon: float = 0.2

    def perturb(self, victim: Any, images: Tensor, targets: Any, ids: Any) -> Crafted:
        passes = torch.full((len(images),), 2)
        marks = {"mark": torch.full((len(images),), self.shares[0])}
        return Crafted(images + self.epsilon * torch.tensor(self.shares), passes, passes, 0 * passes, marks)


def test_the_lowest_quality_of_all_attempts_is_kept() -> None:
    """Of (0.6, 0.65), -0.1 and more turn the first pixel, -0.15 and more the second."""
    images = torch.tensor([[0.6, 0.65], [0.3, 0.4]]).view(2, 1, 1, 2)
    masks = torch.ones(2, 1, 2).long()
    none, one, both = Adds(shares=(0.1, 0.1)), Adds(shares=(-0.9, 0.0)), Adds(shares=(-0.8, -0.9))
    worst = WorstCase(attacks=(one, none, both, one), keep="lowest_quality", epsilon=0.2)
    attacked = worst(Half(), images, masks)
    torch.testing.assert_close(attacked.images[0].flatten(), torch.tensor([0.44, 0.47]))
    assert attacked.success.tolist() == [True, True]
    assert attacked.measures["mark"].tolist()[0] == pytest.approx(-0.8)
    assert attacked.measures["first_success"].tolist()[0] == 2
    # every attack runs on every image and is judged, and so is the clean image
    assert attacked.forwards.tolist() == [4 * (2 + 1) + 2] * 2
    # quality 0 and a margin beyond 0 whatever is done: the clean image is kept
    torch.testing.assert_close(attacked.images[1], images[1])
    first = WorstCase(attacks=(one, none, both, one), epsilon=0.2)(Half(), images, masks)
    torch.testing.assert_close(first.images[0].flatten(), torch.tensor([0.44, 0.47]))
    goals = WorstCase(attacks=(both, one, none), keep="lowest_quality", epsilon=0.2, targeted=True)
    torch.testing.assert_close(goals(Half(), images, masks).images[1].flatten(), torch.tensor([0.32, 0.42]))


def test_no_image_is_better_after_the_worst_case_than_before() -> None:
    """Of (0.45, 0.6) the first pixel is wrong; the only attack turns it right."""
    images, masks = torch.tensor([[[[0.45, 0.6]]]]), torch.ones(1, 1, 2).long()
    helps = Adds(shares=(0.9, 0.0))
    assert helps(Half(), images, masks).images.flatten().tolist() == pytest.approx([0.63, 0.6])
    attacked = WorstCase(attacks=(helps,), keep="lowest_quality", epsilon=0.1)(Half(), images, masks)
    assert torch.equal(attacked.images, images) and attacked.measures["mark"].isnan().all()


def test_the_lowest_quality_takes_no_attack_that_stops() -> None:
    with pytest.raises(ValueError, match="takes attacks that go on after a success, and PGD stops"):
        WorstCase(attacks=(PGD(stop_when_fooled=True),), keep="lowest_quality")
    with pytest.raises(ValueError, match="the suite 'standard' stops at the first success"):
        WorstCase(keep="lowest_quality")
    with pytest.raises(ValueError, match="keep is 'first_success' or 'lowest_quality', got 'best'"):
        WorstCase(keep="best")  # type: ignore[arg-type]


def test_the_suites_of_masks_and_boxes() -> None:
    masks, boxes = (WorstCase(attacks=name, keep="lowest_quality") for name in ("masks", "boxes"))  # type: ignore[arg-type]
    assert masks.names() == (
        "APGD with balanced MaskedCrossEntropy",
        "APGD with MaskedCrossEntropy",
        "APGD with JensenShannon",
        "PGD with Margin",
        "DAG",
    )
    assert boxes.names() == (
        "APGD",
        "APGD with LossParts objectness",
        "APGD with LossParts classes",
        "APGD with LossParts proposals and boxes",
        "APGD with Vanishing",
        "APGD with Invention",
        "DAG",
    )
    for worst in (masks, boxes):
        climbs = [one for one in worst.members if isinstance(one, APGD)]
        assert all((one.keep, one.stop_when_fooled) == ("lowest_quality", False) for one in climbs)
        assert all(vars(one)["epsilon"] == worst.epsilon for one in worst.members)
    assert all((one.steps, one.radii) == (300, (2.0, 1.5, 1.0)) for one in masks.members[:3])  # type: ignore[attr-defined]
    assert all(one.stop_when_fooled for one in WorstCase(attacks="masks").members[:4])  # type: ignore[attr-defined]
    assert not masks.members[3].stop_when_fooled  # type: ignore[attr-defined]
    json.dumps(masks.parameters(), allow_nan=False)


def test_the_suite_of_boxes_breaks_at_least_what_each_of_its_attacks_breaks() -> None:
    victim, (images, targets) = TwoStage(), frames(6)
    listed = tuple(
        dataclasses.replace(one, steps=4) for one in WorstCase(attacks="boxes", keep="lowest_quality").members
    )  # type: ignore[call-arg]
    worst = WorstCase(attacks=listed, keep="lowest_quality", epsilon=0.16)(victim, images, targets)
    qualities = [
        closeness(victim.outcome(victim(one(victim, images, targets).images), targets), False)
        for one in WorstCase(attacks=listed, keep="lowest_quality", epsilon=0.16).members
    ]
    kept = closeness(victim.outcome(victim(worst.images), targets), False)
    assert torch.equal(kept, torch.stack(qualities).amax(0)) and bool(worst.success.any())
