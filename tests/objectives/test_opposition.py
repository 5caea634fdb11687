"""Why untargeted cross-entropy fights a hiding objective, and that attacks which add them are named."""

import math
import warnings
from typing import Any

import pytest
import torch

from medrobust.attacks import BIM, PGD, Attack, WorstCase
from medrobust.networks import as_victim
from medrobust.objectives import (
    CleanFeatures,
    ClosestGuide,
    CrossEntropy,
    FeatureConstraint,
    Margin,
    Objective,
    TypicalMargin,
    WeightedSum,
)
from medrobust.objectives.base import Step
from medrobust.objectives.opposition import opposed, warn_of_opposition


@pytest.mark.parametrize("lead", [-8.0, 0.0, 8.0])
def test_targeted_cross_entropy_lets_go_of_an_image_that_fools_and_the_untargeted_one_does_not(
    lead: float, seen_victim: Any
) -> None:
    """With logits (0, m) and the true class 0: d/dm of -ln p_1 is -(1 - p_1), of -ln p_0 it is 1 - p_0 = p_1."""
    slopes = []
    for targeted, target in ((True, 1), (False, 0)):
        image = torch.tensor([[[[0.0, lead]]]], dtype=torch.float64, requires_grad=True)
        step = Step(seen_victim(2, {}), image, image.detach(), torch.tensor([target]), ["a"], targeted)
        (gradient,) = torch.autograd.grad(CrossEntropy()(step).sum(), image)
        slopes.append(float(gradient[0, 0, 0, 1]))
    fooled = 1 / (1 + math.exp(-lead))
    assert slopes == pytest.approx([1 - fooled, fooled])


OPPOSED: list[Objective] = [
    CrossEntropy() + FeatureConstraint(),
    2.0 * FeatureConstraint(components=3) + CrossEntropy(),
    WeightedSum((WeightedSum((CrossEntropy(),), (-1.0,)), WeightedSum((ClosestGuide(),), (-0.5,))), (-1.0, -1.0)),
]
AT_PEACE: list[Objective] = [
    CrossEntropy(),
    FeatureConstraint() * 1.0,
    Margin(3.0) + 2.0 * FeatureConstraint(),
    TypicalMargin() + 2.0 * FeatureConstraint(),
    TypicalMargin() + CrossEntropy(),
    CrossEntropy() - FeatureConstraint(),
    FeatureConstraint() - CrossEntropy(),
]


@pytest.mark.parametrize("objective", OPPOSED, ids=lambda one: repr(one)[:60])
def test_what_is_opposed(objective: Objective) -> None:
    assert opposed(BIM(objective=objective)) is not None
    assert opposed(BIM(objective=objective, targeted=True)) is None
    assert opposed(WorstCase(attacks=(PGD(), BIM(objective=objective)))) is not None
    assert opposed(WorstCase(attacks=(PGD(), BIM(objective=objective)), targeted=True)) is None


@pytest.mark.parametrize("objective", AT_PEACE, ids=lambda one: repr(one)[:60])
def test_what_is_not(objective: Objective) -> None:
    assert opposed(BIM(objective=objective)) is None


def test_one_sentence_names_the_attack() -> None:
    attack = BIM(objective=CrossEntropy() + ClosestGuide())
    with pytest.warns(UserWarning, match="^the attack 'mine' adds ClosestGuide to untargeted cross-entropy") as caught:
        warn_of_opposition(attack, "the attack 'mine'")
    assert len(caught) == 1


@pytest.mark.parametrize("targeted", [True, False])
def test_an_attack_that_is_called_warns_by_its_class(targeted: bool, waves: Any) -> None:
    network, images, labels = waves
    victim = as_victim(network)
    clean = CleanFeatures.extract(victim, images, labels, ("1",))
    attack: Attack = BIM(steps=1, targeted=targeted, objective=CrossEntropy() + FeatureConstraint(("1",)).fit(clean))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attack(victim, images, labels)
    words = [str(one.message) for one in caught]
    assert [word.startswith("BIM adds FeatureConstraint to untargeted") for word in words] == [True] * (not targeted)
