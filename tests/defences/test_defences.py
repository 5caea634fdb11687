"""Losses of defences against values derived on paper, what they do to BatchNorm, and the passes that they count."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust import attacks
from medrobust.attacks import FGSM, PGD, SMIA, Attack, CWLinf, Square, UniformNoise
from medrobust.attacks.worst_case import WorstCase
from medrobust.defences import AdversarialTraining, Defence, Mart, Trades
from medrobust.networks import as_victim
from medrobust.objectives import CrossEntropy, Divergence, FeatureConstraint, Margin
from medrobust.objectives.divergence import divergence
from medrobust.random_streams import per_image_uniform

IDS = ["a", "b", "c", "d"]
TARGETS = torch.tensor([0, 1, 1, 0])


class Trained(nn.Module):
    """A victim of any kind with a loss to be trained by."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.passed: list[tuple[Tensor, bool]] = []  # images of each forward, and whether in training mode

    def forward(self, images: Tensor) -> Tensor:
        self.passed.append((images.detach().clone(), self.training))
        return self.inner(images)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(self(images), targets, reduction="none")

    def training_loss(self, images: Tensor, targets: Tensor, outputs: Tensor | None = None) -> Tensor:
        return functional.cross_entropy(self(images) if outputs is None else outputs, targets)

    def outcome(self, outputs: Tensor, targets: Tensor) -> Any:
        return self.inner.outcome(outputs, targets)

    def features(self, images: Tensor, layers: Any) -> Any:
        return self.inner.features(images, layers)


def images_of(count: int = 4, side: int = 8) -> Tensor:
    return 0.2 + 0.6 * torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(3))


def with_norm() -> Trained:
    """A small network with BatchNorm and dropout, in training mode, whose running statistics are far from a batch's."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    nn.init.uniform_(network[1].running_mean, -0.3, 0.3)
    nn.init.uniform_(network[1].running_var, 0.05, 0.2)
    return Trained(as_victim(network)).train()


def norm_of(victim: Trained) -> Any:
    return victim.inner.network[1]


def test_divergence_of_two_classes_is_what_paper_says() -> None:
    clean, moved = torch.zeros(1, 2), torch.tensor([[0.0, 3.0]]).log1p()  # p = (1/2, 1/2), q = (1/5, 4/5)
    expected = 0.5 * torch.log(torch.tensor([2.5])) + 0.5 * torch.log(torch.tensor([0.625]))
    torch.testing.assert_close(divergence(clean, moved, torch.tensor([0])), expected)


def test_divergence_of_labels_is_the_mean_over_those_that_are_known() -> None:
    labels = torch.tensor([[1, 0, -1]])
    clean, moved = torch.tensor([[0.0, 1.0, 5.0]]), torch.tensor([[2.0, 1.0, -5.0]])

    def two(logits: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(logits), logits], 1)

    p, q = torch.tensor(0.5), torch.tensor(2.0).sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()) / 2  # the second label has not moved
    torch.testing.assert_close(divergence(two(clean), two(moved), labels), expected[None])


def test_the_divergence_is_raised_towards_the_side_on_which_the_start_lies(linear: Any) -> None:
    victim, images = linear(), images_of()
    attacked = PGD(epsilon=0.05, steps=20, objective=Divergence())(victim, images, TARGETS, IDS)
    noise = per_image_uniform(IDS, images.shape[1:], 0, "PGD", images)
    side = (noise * victim.weight).sum((1, 2, 3)).sign().view(-1, 1, 1, 1)
    expected = images + 0.05 * side * victim.weight.detach().sign()
    torch.testing.assert_close(attacked.images, expected)
    assert attacked.forwards.tolist() == [20 + 1 + 1] * 4  # the steps, the clean images once, and the judge
    assert attacked.backwards.tolist() == [20] * 4


def test_the_divergence_needs_logits(linear: Any) -> None:
    class Silent(linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)[:, 0]

    with pytest.raises(ValueError, match="Divergence compares logits"):
        PGD(objective=Divergence())(Silent(), images_of(), TARGETS)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_adversarial_training_is_the_loss_at_the_corner_of_the_ball(weight: float, linear: Any) -> None:
    victim, images = Trained(linear()), images_of()
    attack = PGD(epsilon=0.05, step_size=0.05, steps=3)
    found = AdversarialTraining(attack=attack, weight=weight)(victim, images, TARGETS, IDS, epoch=0)
    worst = images + 0.05 * victim.inner.uphill(TARGETS)
    losses = [functional.cross_entropy(victim.inner(one), TARGETS) for one in (images, worst)]
    expected = (1 - weight) * losses[0] + weight * losses[1]
    torch.testing.assert_close(found.loss, expected)
    (gradient,) = torch.autograd.grad(found.loss, victim.inner.weight)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, victim.inner.weight)[0])
    own = 1 if weight == 1 else 2
    assert (found.forwards, found.backwards) == (4 * (3 + own), 4 * (3 + own))


def test_trades_is_the_clean_loss_and_the_weighted_divergence() -> None:
    victim, images = with_norm(), images_of()
    defence = Trades(attack=PGD(epsilon=0.05, steps=2), weight=3.0)
    found = defence(victim, images, TARGETS, IDS, epoch=1)
    adversarial = victim.passed[-1][0]
    assert 0.04 < (adversarial - images).abs().amax() <= 0.05 + 1e-6
    clean, attacked = victim.inner(images), victim.inner(adversarial)
    moved = functional.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="batchmean")
    torch.testing.assert_close(found.loss, functional.cross_entropy(clean, TARGETS) + 3.0 * moved)
    assert (found.forwards, found.backwards) == (4 * (2 + 1 + 2), 4 * (2 + 2))
    assert len(victim.passed) == 5


def test_mart_is_the_loss_of_its_authors_up_to_their_constants() -> None:
    victim, images = with_norm(), images_of()
    found = Mart(attack=PGD(epsilon=0.05, steps=2), weight=5.0)(victim, images, TARGETS, IDS, epoch=0)
    clean, attacked = victim.inner(images), victim.inner(victim.passed[-1][0])
    before, after = clean.softmax(1), attacked.softmax(1)
    rows, wrong = torch.arange(4), after.sort(1).indices
    rival = torch.where(wrong[:, -1] == TARGETS, wrong[:, -2], wrong[:, -1])
    boosted = functional.cross_entropy(attacked, TARGETS) + functional.nll_loss((1.0001 - after + 1e-12).log(), rival)
    divergences = functional.kl_div((after + 1e-12).log(), before, reduction="none").sum(1)
    expected = boosted + 5.0 * (divergences * (1.0000001 - before[rows, TARGETS])).mean()
    torch.testing.assert_close(found.loss, expected)
    assert (found.forwards, found.backwards) == (4 * (2 + 2), 4 * (2 + 2))


METHODS: list[Defence] = [
    AdversarialTraining(attack=PGD(epsilon=0.05, steps=2)),
    AdversarialTraining(attack=PGD(epsilon=0.05, steps=2), weight=0.5),
    Trades(attack=PGD(epsilon=0.05, steps=2)),
    Mart(attack=PGD(epsilon=0.05, steps=2)),
]


@pytest.mark.parametrize("defence", METHODS, ids=lambda one: f"{type(one).__name__}-{one.weight:g}")
def test_running_statistics_follow_the_clean_images_alone_where_asked(defence: Defence) -> None:
    victim, alone, images = with_norm(), with_norm(), images_of()
    replace(defence, running_statistics="clean")(victim, images, TARGETS, IDS, epoch=0)
    alone(images)
    assert norm_of(alone).num_batches_tracked == norm_of(victim).num_batches_tracked == 1
    for name in ("running_mean", "running_var"):
        assert torch.equal(getattr(norm_of(victim), name), getattr(norm_of(alone), name))
    assert norm_of(victim).track_running_stats and victim.training and norm_of(victim).training


def test_running_statistics_of_all_images_are_those_that_the_loss_passes() -> None:
    victim, alone, images = with_norm(), with_norm(), images_of()
    METHODS[0](victim, images, TARGETS, IDS, epoch=0)
    alone(victim.passed[-1][0])
    assert torch.equal(norm_of(victim).running_mean, norm_of(alone).running_mean)
    assert norm_of(victim).num_batches_tracked == 1


def test_crafting_sees_the_victim_as_it_is_evaluated_and_leaves_its_statistics_alone() -> None:
    victim, images = with_norm(), images_of()
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    defence = METHODS[2]
    adversarial, _, _ = defence.craft(victim, images, TARGETS, IDS, 0)
    assert not any(training for _, training in victim.passed)
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())
    assert all(parameter.requires_grad for parameter in victim.parameters())
    alone, _, _ = defence.craft(victim, images[2:3], TARGETS[2:3], IDS[2:3], 0)  # without batch mates
    assert ((alone - adversarial[2:3]).abs() > 1e-6).float().mean() < 0.02  # signs of gradients near 0


def test_in_the_loss_an_adversarial_batch_is_normalised_by_its_own_statistics() -> None:
    victim, images = with_norm(), images_of()
    found = METHODS[0](victim, images, TARGETS, IDS, epoch=0)
    adversarial, trained = victim.passed[-1]
    assert trained
    convolved = victim.inner.network[0](adversarial)
    own = functional.batch_norm(convolved, None, None, norm_of(victim).weight, norm_of(victim).bias, training=True)
    logits = victim.inner.network[2:](own)
    torch.testing.assert_close(found.loss, functional.cross_entropy(logits, TARGETS))


def test_an_image_has_other_random_numbers_in_another_epoch_and_the_same_in_another_batch(linear: Any) -> None:
    victim, images = Trained(linear()), images_of()
    defence = AdversarialTraining(attack=PGD(epsilon=0.05, steps=1, step_size=1e-6))  # the start, but for a hair
    first, again, later = (defence.craft(victim, images, TARGETS, IDS, epoch)[0] for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.isclose(first, later, atol=1e-4).all(dim=3).any()
    turned = defence.craft(victim, images.flip(0), TARGETS.flip(0), IDS[::-1], 0)[0]
    assert torch.equal(turned.flip(0), first)
    twice = defence.craft(victim, images[:1].expand(2, -1, -1, -1), TARGETS[[0, 0]], ["a", "a"], 0)[0]
    assert torch.equal(twice[0], first[0]) and not torch.isclose(twice[1], twice[0], atol=1e-4).all()


def test_the_radius_and_the_steps_grow_over_the_warm_up() -> None:
    defence = AdversarialTraining(attack=PGD(epsilon=0.04, step_size=0.02), warm_up=3)
    attacks = [defence.at(epoch) for epoch in range(5)]
    assert [vars(attack)["epsilon"] for attack in attacks] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.04])
    assert [vars(attack)["step_size"] for attack in attacks] == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.02])
    assert vars(AdversarialTraining(attack=PGD(epsilon=0.04), warm_up=1).at(0))["step_size"] is None
    assert defence.at(3) is defence.attack


@pytest.mark.parametrize(
    "attack",
    [FGSM(epsilon=0.05), CWLinf(epsilon=0.05, steps=2), Square(epsilon=0.05, queries=5)],
    ids=lambda one: type(one).__name__,
)
def test_any_attack_crafts_the_images(attack: Attack, linear: Any) -> None:
    found = AdversarialTraining(attack=attack)(Trained(linear()), images_of(), TARGETS, IDS, 0)
    assert found.loss.requires_grad and found.loss.isfinite()


def test_trades_leaves_an_objective_alone_that_was_configured() -> None:
    own = PGD(objective=CrossEntropy())
    assert Trades(attack=own).crafting() is own
    assert Trades(attack=UniformNoise()).crafting() == UniformNoise()
    assert vars(Trades(attack=PGD()).crafting())["objective"] == Divergence()
    assert Trades(attack=SMIA()).crafting() == SMIA()  # it refuses another objective than its own


def test_what_trades_raises_moves_the_outputs_of_every_attack_that_it_takes(linear: Any) -> None:
    victim, images = linear(), images_of()
    truths = victim(images).argmax(1)  # some attacks leave an image alone that is wrong already
    for name in attacks.__all__:
        kind: Any = getattr(attacks, name)
        if not isinstance(kind, type) or not issubclass(kind, Attack) or "objective" not in kind.__dataclass_fields__:
            continue
        options = {"random_start": True} if "random_start" in kind.__dataclass_fields__ else {}
        brief: dict[Any, Any] = {attacks.Square: {"queries": 20}, attacks.BasinHopping: {"hops": 2, "steps": 3}}
        if kind.starts_clean:
            with pytest.raises(ValueError, match=f"give {name} an objective"):
                Trades(attack=kind())
            assert Trades(attack=kind(objective=Margin())).crafting() == kind(objective=Margin())
            continue
        attack = Trades(attack=kind(**options, **brief.get(kind, {}))).crafting()
        crafted = attack.craft(victim, images, truths, IDS)
        assert (divergence(victim(images), victim(crafted.images), truths) > 1e-4).all(), name


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: AdversarialTraining(attack=PGD(), weight=0), "weight is a share above 0"),
        (lambda: AdversarialTraining(attack=PGD(), weight=1.5), "weight is a share above 0"),
        (lambda: Trades(attack=PGD(), weight=0), "weight is a positive number"),
        (lambda: Mart(attack=PGD(), weight=float("inf")), "weight is a positive number"),
        (lambda: Mart(attack=PGD(), warm_up=-1), "warm_up counts epochs"),
        (lambda: Mart(attack=PGD(), running_statistics="none"), "running_statistics is 'clean' or 'all'"),
        (lambda: Mart(attack=PGD(targeted=True)), "this one is targeted"),
        (lambda: Mart(attack="PGD"), "attack is an Attack"),
        (lambda: Trades(attack=FGSM()), "no slope at the clean image"),
        (lambda: Mart(attack=PGD(objective=FeatureConstraint(taps=("fc",)))), "fitted to clean features"),
    ],
)
def test_settings_that_cannot_work_are_refused(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        build()
    assert "\n" not in str(refused.value)


def test_parameters_are_plain_and_name_the_classes() -> None:
    described = Trades(attack=WorstCase(attacks=(PGD(steps=2),), epsilon=0.05), weight=2, warm_up=1).parameters()
    assert described["class"] == "Trades" and described["attack"]["class"] == "WorstCase"
    assert (described["weight"], described["warm_up"], described["running_statistics"]) == (2, 1, "all")
