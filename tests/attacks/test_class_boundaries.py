"""What attacks that cross class boundaries share: their rivals, leads, gradients and refusals."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.attacks import APGD, CWL2, FAB, JSMA, DeepFool, WorstCase
from medrobust.attacks.class_boundaries import class_gradients, class_leads, rival_classes
from medrobust.networks import Outcome, as_victim

LOGITS = torch.tensor([[3.0, 1.0, 2.0, -1.0], [-4.0, -1.0, -3.0, -2.0]])


class OneLogit(nn.Module):
    """Decides by the sign of a weighted sum of an image's values beyond 1/2."""

    def forward(self, images: Tensor) -> Tensor:
        values = (images - 0.5).flatten(1)
        return (values * torch.linspace(0.2, 1, values.shape[1]).to(values)).sum(1, keepdim=True)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(self(images)[:, 0], targets.to(images), reduction="none")

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        right = (outputs[:, 0] > 0) == (targets > 0)
        return Outcome(right, right.float())

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError


def test_rivals_are_the_other_classes_the_strongest_first() -> None:
    assert rival_classes(LOGITS, torch.tensor([0, 2])).tolist() == [[2, 1, 3], [1, 3, 0]]
    assert rival_classes(LOGITS, torch.tensor([1, 1]), candidates=3).tolist() == [[0, 2], [3, 2]]
    assert rival_classes(LOGITS, torch.tensor([1, 1]), candidates=9).shape == (2, 3)


def test_the_attack_leads_by_each_rival_over_the_truth_or_by_the_goal_over_all() -> None:
    targets = torch.tensor([0, 2])
    rivals = rival_classes(LOGITS, targets)
    assert class_leads(LOGITS, targets, rivals, targeted=False).tolist() == [[-1.0, -2.0, -4.0], [2.0, 1.0, -1.0]]
    assert class_leads(LOGITS, targets, rivals, targeted=True).tolist() == [[1.0], [-2.0]]


class Doubled(torch.autograd.Function):
    """A custom layer that vmap has no rule for."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return 2 * values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.from_numpy(2 * gradient.numpy())


@pytest.mark.parametrize("unbatched", [False, True], ids=["batched", "falls back"])
def test_gradients_of_all_classes_are_the_same_in_one_pass_and_in_several(
    unbatched: bool, conv_net: Any, images_of: Any
) -> None:
    net, images = conv_net().eval(), images_of(3, 3).requires_grad_()

    def values() -> Tensor:
        return Doubled.apply(net(images)) if unbatched else net(images)

    single = torch.stack([torch.autograd.grad(values()[:, k].sum(), images)[0] for k in range(3)], 1)
    for batched in (True, False, None):
        torch.testing.assert_close(class_gradients(values(), images, batched), single, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("attack", [CWL2(), DeepFool(), FAB(), JSMA()], ids=lambda attack: type(attack).__name__)
def test_targets_and_outputs_that_are_not_those_of_classes_are_refused(
    attack: Any, segmenter: Any, linear: Any, images_of: Any, boxes_of: Any
) -> None:
    images, classes = images_of(2), torch.tensor([0, 1])
    cases: list[tuple[Any, Any, str]] = [
        (segmenter(), torch.zeros(2, 8, 8).long(), r"one class per image, \(N,\), got targets of shape \(2, 8, 8\)"),
        (linear(), torch.zeros(2, 3).long(), r"one logit for each of 3 labels, the victim gave \(2, 2\)"),
        (linear(), boxes_of(2), r"one class per image, \(N,\), got a list of boxes"),
        (segmenter(), classes, r"needs logits \(N, K\), the victim gave \(2, 2, 8, 8\)"),
        (OneLogit(), torch.tensor([0, 2]), "the victim distinguishes 2 classes, counted from 0, got class 2"),
        (linear(), torch.tensor([0, 2]), "the victim distinguishes 2 classes, counted from 0, got class 2"),
    ]
    for victim, targets, message in cases:
        with pytest.raises(ValueError, match=message):
            attack(victim, images, targets)


class TwoLogits(nn.Module):
    """The same decision with the logits (0, z)."""

    def forward(self, images: Tensor) -> Tensor:
        lead = OneLogit()(images)
        return torch.cat([torch.zeros_like(lead), lead], 1)


@pytest.mark.parametrize(
    "attack",
    [
        CWL2(search_steps=2, steps=20),
        DeepFool(),
        FAB(steps=5),
        FAB(steps=5, goals=9),
        JSMA(),
        JSMA(space="probabilities"),
        APGD(epsilon=0.1, steps=5, goals=9),
        WorstCase(epsilon=0.02),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_one_logit_is_attacked_as_the_two_logits_that_it_stands_for(attack: Any, images_of: Any) -> None:
    images = (0.02 * images_of(4) + 0.49).clamp(0, 1)
    with torch.no_grad():
        targets = (OneLogit()(images)[:, 0] > 0).long()
    if isinstance(attack, WorstCase):
        attack = dataclasses.replace(attack, attacks=(APGD(steps=3, restarts=1), *attack.members[1:3]))
    one, two = (attack(victim, images, targets) for victim in (OneLogit(), as_victim(TwoLogits())))
    torch.testing.assert_close(one.images, two.images, atol=1e-5, rtol=0)
    assert one.success.tolist() == two.success.tolist()
