"""SMIA: what follows on paper for its settings, what its steps cost, and what it refuses."""

from typing import Any

import pytest
import torch

from medrobust.attacks import BIM, SMIA
from medrobust.networks import as_victim
from medrobust.objectives import Margin
from medrobust.objectives.stabilization import smoothed

LITERAL = {"deviation": "cross_entropy", "through": False}


def test_the_hard_reading_stalls_and_says_so(conv_net: Any, images_of: Any) -> None:
    victim, images = as_victim(conv_net()), images_of(6, 3)
    targets = victim.eval()(images).argmax(1)
    crafted = SMIA(epsilon=0.05, steps=4, stabilization="hard", **LITERAL).craft(victim, images, targets)
    first = BIM(epsilon=0.05, steps=4).craft(victim, images, targets)
    stalled = crafted.zero_gradients > 0
    assert bool(stalled.any())
    moved, free = ((made.images - images).abs().amax((1, 2, 3)) for made in (crafted, first))
    assert bool((moved[stalled] < free[stalled] - 0.01).all())  # the first step is the deviation's alone
    assert crafted.forwards.tolist() == [7] * 6  # one, then two a step
    assert crafted.backwards.tolist() == [4] * 6


@pytest.mark.parametrize("distance", ["kl", "cross_entropy"])
@pytest.mark.parametrize("weight", [0.3, 0.75])
def test_of_two_classes_without_through_it_is_bim(distance: Any, weight: float, linear: Any, images_of: Any) -> None:
    victim, images, targets = linear(), images_of(5), torch.tensor([0, 1, 0, 1, 1])
    ours = SMIA(epsilon=0.02, steps=5, stabilization=distance, weight=weight, **LITERAL)
    expected = BIM(epsilon=0.02, steps=5).craft(victim, images, targets).images
    torch.testing.assert_close(ours.craft(victim, images, targets).images, expected)


def test_the_defaults_fool_a_saturated_victim(linear: Any, images_of: Any) -> None:
    victim, images = linear(constant_sign=True, scale=1e4, shift=-20.0), images_of(5)
    targets = victim(images).argmax(1)
    attacked = SMIA(epsilon=0.5, steps=10)(victim, images, targets)
    assert bool(attacked.success.all())
    assert attacked.forwards.tolist() == [20] * 5  # 10 + 9 smoothed + 1 that judges
    assert attacked.backwards.tolist() == [19] * 5


def test_the_stabilisation_lowers_the_variance_of_the_decision_between_the_branches(
    conv_net: Any, images_of: Any
) -> None:
    victim, images = as_victim(conv_net().eval()), images_of(8, 3)
    targets = victim(images).argmax(1)

    def apart(attack: Any) -> list[float]:
        made = attack.craft(victim, images, targets).images
        calm = images + smoothed(made - images, 3, 1.0)
        with torch.no_grad():
            p, q = victim(made).log_softmax(1), victim(calm).log_softmax(1)
        return [float((q.exp() * (q - p)).sum()), float((p.exp() * (p - q)).sum())]

    settings = {"epsilon": 0.1, "steps": 10}
    free = apart(SMIA(**settings, weight=0.0))
    assert apart(SMIA(**settings, weight=20.0))[0] < free[0]
    assert apart(SMIA(**settings, stabilization="kl_eq5", weight=20.0))[1] < free[1]


def test_it_runs_on_masks(segmenter: Any, images_of: Any) -> None:
    victim, images = segmenter(), images_of(3)
    masks = victim(images).argmax(1)
    attacked = SMIA(epsilon=0.3)(victim, images, masks)
    assert bool(attacked.images.isfinite().all())
    assert float((attacked.images - images).abs().max()) <= 0.3 + 1e-6


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stabilization": "soft"}, "'kl', 'kl_eq5', 'cross_entropy' or 'hard', got 'soft'"),
        ({"kernel": 4}, "odd side .* got 4"),
        ({"sigma": 0.0}, "positive, got 0"),
        ({"weight": -1.0}, "not negative, got -1"),
        ({"deviation": "loss"}, "'margin' or 'cross_entropy', got 'loss'"),
        ({"objective": Margin()}, "its own objective"),
        ({"diversity": 0.5}, "diversity"),
        ({"kappa": -1.0}, "not negative, got -1"),
    ],
)
def test_bad_settings_get_one_sentence(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SMIA(**fields)


def test_a_box_victim_without_proposals_is_refused_in_one_sentence(
    box_victim: Any, images_of: Any, boxes_of: Any
) -> None:
    with pytest.raises(
        ValueError,
        match="Stabilization looks into the stages .* BoxVictim lacks loss_parts, proposals, proposal_logits",
    ):
        SMIA(epsilon=0.1)(box_victim(), images_of(2), boxes_of(2))
