"""The margin up to a typical confidence: what it is fitted to, its value and slope, and the class that HFC takes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust.attacks import BIM
from medrobust.networks import as_victim
from medrobust.objectives import CleanFeatures, FeatureConstraint, TypicalMargin, fit_objectives
from medrobust.objectives.base import Step
from medrobust.objectives.clean_features import patterns_wanted

# margins of class 0: 4, 1, 2.5, -3 and of class 1: 2, 6, 1
TWO = torch.tensor([[4.0, 0], [0, 2], [1, 0], [3.5, 1], [1, 7], [0, 1], [-1, 2]])
LABELS = torch.tensor([0, 1, 0, 0, 1, 1, 0])


def clean_features_of(logits: Tensor | None, labels: Tensor = LABELS, **layers: Tensor) -> CleanFeatures:
    return CleanFeatures(layers, labels, [str(place) for place in range(len(labels))], {}, logits=logits)


def step_of(victim: Any, images: Tensor, targets: Tensor, targeted: bool = False) -> Step:
    ids = [str(place) for place in range(len(images))]
    return Step(victim, images, images.detach(), targets, ids, targeted)


def test_kappa_is_each_classs_median_clean_margin() -> None:
    objective = TypicalMargin().fit(clean_features_of(TWO))
    assert objective.layers == ()
    # sorted: -3, 1, 2.5, 4, whose median is 1.75; and 1, 2, 6
    assert objective.state.parts[0].tolist() == [1.75, 2.0]


def test_of_three_classes_the_strongest_rival_counts_and_a_class_that_is_mostly_wrong_has_kappa_0() -> None:
    logits = torch.tensor([[5.0, 1, 2], [0, 3, 1], [0, 3, -4], [4, 3, -1], [9, 3, 1], [1, 0, 8.5]])
    objective = TypicalMargin().fit(clean_features_of(logits, torch.tensor([0, 1, 1, 2, 2, 2])))
    # margins: 3; 2 and 3; -5, -8 and 7.5
    assert objective.state.parts[0].tolist() == [3.0, 2.5, 0.0]


@pytest.mark.parametrize("targeted", [True, False])
def test_it_rises_up_to_kappa_with_slope_1_and_then_not(targeted: bool, seen_victim: Any) -> None:
    objective = TypicalMargin().fit(clean_features_of(TWO))  # kappa of class 1 is 2
    images = torch.tensor([[3.0, 0], [0, 1.5], [0, 2], [0, 9]]).view(4, 1, 1, 2).requires_grad_()
    targets = torch.ones(4, dtype=torch.long) if targeted else torch.zeros(4, dtype=torch.long)
    values = objective(step_of(seen_victim(2, {}), images, targets, targeted))
    assert values.tolist() == [-3.0, 1.5, 2.0, 2.0]
    (gradient,) = torch.autograd.grad(values.sum(), images)
    # at kappa itself the slope is still 1, one step further it is 0
    assert gradient.flatten(1).tolist() == [[-1, 1], [-1, 1], [-1, 1], [0, 0]]


def test_its_class_is_the_one_that_the_feature_constraint_takes(seen_victim: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    labels, known = torch.arange(60) % 3, torch.randn(60, 4, generator=generator)
    logits = torch.zeros(60, 3).scatter(1, labels[:, None], labels[:, None] + 1.0)  # margins of 1, 2 and 3
    clean = CleanFeatures(
        {"layer": known}, labels, [str(k) for k in range(60)], {("layer*",): ("layer",)}, logits=logits
    )
    margin, constraint = TypicalMargin().fit(clean), FeatureConstraint(("layer*",)).fit(clean)
    images = torch.tensor([[5.0, 1, 2, 0], [1, 9, 0, 3], [4, 0, 5, 1]]).view(3, 1, 2, 2)
    victim = seen_victim(3, {"layer": 1.0})
    for targeted, targets, resembled in ((False, [0, 1, 0], [2, 0, 2]), (True, [1, 2, 0], [1, 2, 0])):
        step = Step(victim, images, images, torch.tensor(targets), ["a", "b", "c"], targeted, constraint.layers)
        rows = images.flatten(1)[:, :3]
        leads = [row[c] - max(row[j] for j in range(3) if j != c) for row, c in zip(rows, resembled, strict=True)]
        expected = [min(float(lead), c + 1.0) for lead, c in zip(leads, resembled, strict=True)]
        assert margin(step).tolist() == expected
        aimed = Step(victim, images, images, torch.tensor(resembled), ["a", "b", "c"], True, constraint.layers)
        torch.testing.assert_close(constraint(step), constraint(aimed))


def test_it_is_fitted_within_an_attack_beside_a_constraint(waves: Any) -> None:
    network, images, labels = waves
    victim = as_victim(network)
    attack = BIM(epsilon=0.1, steps=30, step_size=0.01, objective=TypicalMargin() + 0.0 * FeatureConstraint(("1",)))
    assert patterns_wanted(attack) == [(), ("1",)]
    attack = fit_objectives(attack, CleanFeatures.extract(victim, images, labels, ("1",)))
    assert patterns_wanted(attack) == []
    attacked = attack(victim, images, labels)
    assert bool(attacked.success.all())

    def margins(seen: Tensor, classes: Tensor) -> Tensor:
        with torch.no_grad():
            ranked = victim(seen).sort(descending=True)
        assert torch.equal(ranked.indices[:, 0], classes)
        return ranked.values[:, 0] - ranked.values[:, 1]

    clean = margins(images, labels)  # all are right
    kappas = torch.stack([clean[labels == label].quantile(0.5) for label in range(3)])
    taken = victim(attacked.images).argmax(1)
    beyond = margins(attacked.images, taken) - kappas[taken]
    assert float(beyond.min()) >= -1e-4 and float(beyond.max()) < 0.5 * float(kappas.min())
    longer = replace(attack, steps=60, objective=attack.objective)(victim, images, labels)
    torch.testing.assert_close(longer.images, attacked.images)  # no slope is left


def test_without_logits_it_says_so() -> None:
    for logits, received in ((None, "none"), (torch.zeros(7, 1), r"\(7, 1\) for 2 classes")):
        with pytest.raises(ValueError, match=rf"fitted to the clean images' logits \(M, K\), got {received}"):
            TypicalMargin().fit(clean_features_of(logits))
    with pytest.raises(ValueError, match="layers, labels, logits and ids of the same images"):
        clean_features_of(torch.zeros(6, 2))
    images = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="TypicalMargin is fitted to clean training images first"):
        TypicalMargin()(step_of(None, images, torch.tensor([0])))
