"""Victims behind input defences: what attacks see, what is judged, and what records and manifests say of them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust.attacks import PGD, Oblivious, UniformNoise
from medrobust.evaluation.plan import weights_hash
from medrobust.networks import (
    BitDepth,
    GaussianSmoothing,
    JPEGCompression,
    MedianSmoothing,
    RandomResizing,
    as_victim,
    defended,
    is_evaluated_victim,
    is_stored_victim,
)
from medrobust.networks.defended_victim import ExpectedVictim, drawn_by, under_attack
from tests import recording
from tests.conftest import pattern
from tests.in_lightning import random_resnet
from tests.in_memory import InMemoryData, random_split
from tests.two_stage import TwoStage, frames

SIDE = 16
TARGETS = torch.tensor([0, 1, 1, 0])


class Linear(nn.Module):
    """Two logits that are linear in an image of 16 x 16."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(pattern(SIDE * SIDE).view(1, SIDE, SIDE))

    def forward(self, images: Tensor) -> Tensor:
        score = ((images - 0.5) * self.weight).sum((1, 2, 3))
        return torch.stack([-score, score], 1)


def victim_of() -> Any:
    return as_victim(Linear()).eval()


def images_of() -> Tensor:
    return 0.2 + 0.6 * torch.rand(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))


def test_attacks_see_through_a_step_function() -> None:
    victim = defended(victim_of(), BitDepth(bits=4))
    images = images_of()
    attacked = PGD(epsilon=0.1, step_size=0.1, steps=3)(victim, images, TARGETS, list("abcd"))
    uphill = torch.where(TARGETS == 0, 1.0, -1.0).view(-1, 1, 1, 1) * victim.network.weight.sign()
    torch.testing.assert_close(attacked.images, images + 0.1 * uphill.detach())
    real = victim.undefended((attacked.images * 15).round() / 15)
    assert torch.equal(attacked.success, real.argmax(1) != TARGETS)
    assert torch.equal(victim(attacked.images), real)


def test_a_random_defence_is_attacked_on_the_mean_of_its_draws_and_judged_on_another() -> None:
    victim, images = defended(victim_of(), RandomResizing(samples=3)), images_of()
    seen = under_attack(victim)
    assert isinstance(seen, ExpectedVictim)
    draws = [victim.undefended(victim.defence(images, f"attacked {number}")) for number in range(3)]
    torch.testing.assert_close(seen(images), torch.stack(draws).mean(0))
    losses = [nn.functional.cross_entropy(one, TARGETS, reduction="none") for one in draws]
    torch.testing.assert_close(seen.loss(images, TARGETS), torch.stack(losses).mean(0))
    outputs, features = seen.features(images, [])
    torch.testing.assert_close(outputs, seen(images))
    assert not features and not any(torch.allclose(victim(images), one, atol=1e-4) for one in draws)
    variable = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(seen(variable)[:, 1].sum(), variable)
    means = []
    for number in range(3):
        one = images.clone().requires_grad_()
        (part,) = torch.autograd.grad(victim.undefended(victim.defence(one, f"attacked {number}"))[:, 1].sum(), one)
        means.append(part)
    torch.testing.assert_close(gradient, torch.stack(means).mean(0))


def test_each_draw_counts_as_a_pass() -> None:
    victim = defended(victim_of(), RandomResizing(samples=3))
    attacked = PGD(epsilon=0.1, steps=2)(victim, images_of(), TARGETS)
    assert attacked.forwards.tolist() == [3 * 2 + 1] * 4 and attacked.backwards.tolist() == [3 * 2] * 4
    bare = Oblivious(attack=PGD(steps=2), epsilon=0.1)(victim, images_of(), TARGETS)
    assert bare.forwards.tolist() == [3] * 4 and bare.backwards.tolist() == [2] * 4


def test_an_oblivious_attack_is_crafted_without_the_defence_and_judged_with_it() -> None:
    victim, images, ids = defended(victim_of(), GaussianSmoothing(sigma=2.0)), images_of(), list("abcd")
    pgd = PGD(epsilon=0.1, steps=3)
    found = Oblivious(attack=pgd, epsilon=0.1)(victim, images, TARGETS, ids)
    assert torch.equal(found.images, pgd(victim.undefended, images, TARGETS, ids).images)
    assert torch.equal(found.success, victim(found.images).argmax(1) != TARGETS)
    alone = Oblivious(attack=pgd, epsilon=0.1)(victim.undefended, images, TARGETS, ids)
    assert torch.equal(alone.images, found.images)
    with pytest.raises(ValueError, match="one with a radius"):
        from medrobust.attacks import DeepFool

        Oblivious(attack=DeepFool())


def test_an_evaluation_judges_by_the_real_defence_and_its_keys_name_it() -> None:
    data = InMemoryData({"adv_test": random_split(6, side=32)})
    bare, defence = random_resnet(balanced=True), BitDepth(bits=2)
    before = {name: value.clone() for name, value in bare.state_dict().items()}
    network = bare.network
    victim = defended(bare, defence)
    attacks = {"pgd": PGD(epsilon=0.1, steps=3), "blind": Oblivious(attack=PGD(steps=3), epsilon=0.1)}
    recorder = recording.evaluate(victim, data, attacks)
    for name in attacks:
        adversarial = recorder.of(name, "adversarial")
        with torch.no_grad():
            logits = bare((adversarial * 3).round() / 3)
        assert torch.equal(recorder.of(name, "after.prediction"), logits.argmax(1))
    assert bare.network is network and victim.network is network
    assert all(torch.equal(value, before[name]) for name, value in bare.state_dict().items())
    keys = recorder.keys()
    other = recording.evaluate(defended(bare, BitDepth(bits=3)), data, attacks).keys()
    plain = recording.evaluate(bare, data, attacks).keys()
    assert all(len({keys[name], other[name], plain[name]}) == 3 for name in attacks)
    assert recorder.plans[0].victim["input_defence"] == {"class": "BitDepth", "bits": 2}
    assert weights_hash(victim.state_dict()) == weights_hash(bare.state_dict())


def test_another_draw_of_a_random_defence_is_no_success_of_an_attack() -> None:
    data = InMemoryData({"adv_test": random_split(24, side=32)}, batch_size=5)
    victim = defended(random_resnet(balanced=True), RandomResizing(smallest=0.5, samples=1))
    hair = UniformNoise(epsilon=1e-7)
    recorder = recording.evaluate(victim, data, {"hair": hair, "pgd": PGD(epsilon=0.1, steps=2)})
    clean, moved = recorder.of("hair", "clean"), recorder.of("hair", "adversarial")
    assert not torch.equal(clean, moved)
    with torch.no_grad():
        assert not torch.equal(victim(clean).argmax(1), victim(moved).argmax(1))  # by their content the draws differ
    assert torch.equal(recorder.of("hair", "before.prediction"), recorder.of("hair", "after.prediction"))
    assert recorder.of("hair", "before.prediction").unique().tolist() == [0, 1]
    assert recorder.of("pgd", "success").any() and victim.draw == "judged"
    others = InMemoryData({"adv_test": random_split(24, side=32)}, batch_size=24)
    again = recording.evaluate(victim, others, {"hair": hair})
    assert torch.equal(again.of("hair", "before.prediction"), recorder.of("hair", "before.prediction"))


def test_an_image_meets_the_same_numbers_wherever_its_name_is_given() -> None:
    images, defence = images_of(), RandomResizing()
    named = defence(images, list("abcd"))
    torch.testing.assert_close(defence(images[2:3], ["c"]), named[2:3])
    assert not torch.allclose(defence(images, list("efgh")), named, atol=1e-3)
    victim = defended(victim_of(), defence)
    with pytest.raises(RuntimeError), drawn_by(victim, list("abcd")):
        torch.testing.assert_close(victim(images), victim.undefended(named))
        raise RuntimeError
    assert victim.draw == "judged"


def test_a_victim_behind_a_defence_is_still_one() -> None:
    wrapped, stored = defended(victim_of(), BitDepth()), defended(random_resnet(), BitDepth())
    assert is_evaluated_victim(wrapped) and not is_stored_victim(wrapped)
    assert is_evaluated_victim(stored) and is_stored_victim(stored) and stored.seen_images() is None
    assert stored.layers_named(["fc"]) == ("fc",)
    images = torch.rand(2, 1, 32, 32)
    outputs, features = stored.features(images, ["layer1"])
    torch.testing.assert_close(outputs, stored.undefended(BitDepth()(images)))
    assert set(features) == {"layer1"}
    with pytest.raises(ValueError, match="an evaluation needs a victim"):
        defended(nn.Flatten(), BitDepth())  # type: ignore[arg-type]


def test_of_several_defences_each_acts_and_is_named_in_the_order_in_which_they_act() -> None:
    victim = defended(defended(defended(victim_of(), JPEGCompression()), BitDepth(bits=3)), MedianSmoothing())
    images = images_of()
    expected = JPEGCompression()(BitDepth(bits=3)(MedianSmoothing()(images)))
    torch.testing.assert_close(victim(images), victim_of()(expected))
    named = [{"class": "MedianSmoothing", "size": 3}, {"class": "BitDepth", "bits": 3}]
    assert victim.description()["input_defence"] == [*named, {"class": "JPEGCompression", "quality": 75}]
    assert victim.seen_by_attacks() == [{"gradient": "straight_through", "samples": None}] * 3


def test_a_random_defence_comes_first_or_attacks_would_see_the_draws_that_judge() -> None:
    victim = defended(defended(victim_of(), BitDepth()), RandomResizing(samples=5))
    seen = [{"gradient": "exact", "samples": 5}, {"gradient": "straight_through", "samples": None}]
    assert victim.seen_by_attacks() == seen
    with pytest.raises(ValueError, match="a random defence comes first, and BitDepth was to come before RandomR"):
        defended(defended(victim_of(), RandomResizing()), BitDepth())


class TwoStageVictim(TwoStage):
    """The toy victim of boxes, as an evaluation wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Identity()

    def normalised(self, images: Tensor) -> Tensor:
        return images

    def layers_named(self, patterns: Any) -> Any:
        return tuple(patterns)

    def description(self) -> dict[str, Any]:
        return {}


def test_the_stages_of_a_box_victim_are_seen_through_the_defence() -> None:
    images, targets = frames(3)
    inner = TwoStageVictim()
    victim = defended(inner, GaussianSmoothing())
    smooth = victim.defence(images)
    assert not torch.equal(smooth, images)
    proposals = victim.proposals(images, 0.5)
    assert all(map(torch.equal, proposals, inner.proposals(smooth, 0.5)))
    found, expected = victim.proposal_logits(images, proposals), inner.proposal_logits(smooth, proposals)
    assert all(map(torch.equal, found, expected))
    parts, whole = victim.loss_parts(images, targets), victim.loss(images, targets)
    torch.testing.assert_close(torch.stack(list(parts.values())).sum(0), whole)
    assert not hasattr(defended(victim_of(), GaussianSmoothing()), "proposals")
    with pytest.raises(AttributeError, match="nothing"):
        _ = victim.nothing


def test_the_stages_behind_a_random_defence_are_means_over_draws_that_do_not_judge() -> None:
    images, targets = frames(2)
    inner = TwoStageVictim()
    victim = defended(inner, RandomResizing(smallest=0.7, samples=3))
    seen = under_attack(victim)
    draws = [victim.defence(images, f"attacked {number}") for number in range(3)]
    proposals = seen.proposals(images, 0.5)
    assert all(map(torch.equal, proposals, inner.proposals(draws[0], 0.5)))
    logits = seen.proposal_logits(images, proposals)
    for place in range(2):
        each = torch.stack([inner.proposal_logits(draw, proposals)[place] for draw in draws])
        torch.testing.assert_close(logits[place], each.mean(0))
    parts = seen.loss_parts(images, targets)
    for name in ("objectness", "classes"):
        each = torch.stack([inner.loss_parts(draw, targets)[name] for draw in draws])
        torch.testing.assert_close(parts[name], each.mean(0))
