"""Objectives of masks and boxes: their values by hand, and what they refuse."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch import Tensor
from torch.nn import functional

from medrobust.attacks import FGSM, SMIA
from medrobust.networks.watched_victim import WatchedVictim
from medrobust.objectives import (
    CrossEntropy,
    Invention,
    JensenShannon,
    LossParts,
    MaskedCrossEntropy,
    Objective,
    Stabilization,
    Step,
    Vanishing,
)
from medrobust.objectives.proposals import LIKELIEST, OVERLAP, clean_proposals, mean_of_each
from medrobust.objectives.stabilization import smoothed
from tests.two_stage import TwoStage, frames


def step_of(logits: Tensor, targets: Tensor, targeted: bool = False) -> Step:
    images = torch.zeros(len(targets), 1, 2, 2)
    victim: Any = lambda images: logits  # noqa: E731
    return Step(victim, images, images, targets, [str(place) for place in range(len(targets))], targeted)


def drawn() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn((4, 3, 5, 6), generator=generator, dtype=torch.float64)
    targets = torch.randint(-1, 3, (4, 5, 6), generator=generator)
    targets[3] = -1
    return logits, targets


@pytest.mark.parametrize("targeted", [False, True])
def test_masked_cross_entropy_counts_the_pixels_that_are_still_right(targeted: bool) -> None:
    logits, targets = drawn()
    values = MaskedCrossEntropy()(step_of(logits, targets, targeted))
    for value, of_image, truth in zip(values, logits, targets, strict=True):
        known = truth >= 0
        each = functional.cross_entropy(of_image[None], truth.clamp(min=0)[None], reduction="none")[0][known]
        right = (of_image.argmax(0) == truth)[known]
        expected = (each * (~right if targeted else right)).sum() / max(int(known.sum()), 1)
        assert float(value) == pytest.approx(-float(expected) if targeted else float(expected))


def test_balanced_classes_have_the_same_total_weight() -> None:
    """Four pixels are right with a cross-entropy of ln 2: three background ones at 4/6 each, and one organ's at 2."""
    logits = torch.zeros(1, 2, 1, 4)
    logits[0, 0, 0, :3], logits[0, 1, 0, 3] = 1e-6, 1e-6
    step = step_of(logits, torch.tensor([[[0, 0, 0, 1]]]))
    assert float(MaskedCrossEntropy(balanced=True)(step)) == pytest.approx(math.log(2), rel=1e-4)
    logits[0, 0, 0, 3] = 1.0  # the organ's pixel is wrong now: half of the weight is gone, of the plain mean a quarter
    assert float(MaskedCrossEntropy(balanced=True)(step)) == pytest.approx(math.log(2) / 2, rel=1e-4)
    assert float(MaskedCrossEntropy()(step)) == pytest.approx(math.log(2) * 3 / 4, rel=1e-4)


def test_the_jensen_shannon_divergence_is_scipys() -> None:
    logits, targets = drawn()
    values = JensenShannon()(step_of(logits, targets))
    for value, of_image, truth in zip(values, logits, targets, strict=True):
        each = [
            jensenshannon(of_image[:, y, x].softmax(0).numpy(), np.eye(3)[int(truth[y, x])]) ** 2
            for y in range(5)
            for x in range(6)
            if truth[y, x] >= 0
        ]
        assert float(value) == pytest.approx(np.mean(each) if each else 0.0)
    torch.testing.assert_close(JensenShannon()(step_of(logits, targets, targeted=True)), -values)


def test_the_slope_of_jensen_shannon_survives_certain_answers() -> None:
    logits = torch.tensor([[60.0, 0.0], [0.0, 60.0], [1.0, 0.0]], requires_grad=True)
    values = JensenShannon()(step_of(logits, torch.tensor([0, 0, 0])))
    (slope,) = torch.autograd.grad(values.sum(), logits)
    assert bool(slope.isfinite().all()) and float(slope[2, 0]) < 0
    assert float(values[0].detach()) == pytest.approx(0, abs=1e-6)
    assert float(values[1].detach()) == pytest.approx(math.log(2))


def box_step(images: Tensor, targets: Any, targeted: bool = False, index: int = 1) -> Step:
    victim = TwoStage()
    ids = [str(place) for place in range(len(images))]
    return Step(WatchedVictim(victim, images, targets), images, images, targets, ids, targeted, index=index)


def test_parts_of_the_loss_add_up_to_what_cross_entropy_raises() -> None:
    images, targets = frames(4)
    whole = CrossEntropy()(box_step(images, targets))
    torch.testing.assert_close(LossParts()(box_step(images, targets)), whole)
    step = box_step(images, targets)
    apart = LossParts(("objectness", "classes"))(step) + LossParts(("proposals", "boxes"))(step)
    torch.testing.assert_close(apart, whole)
    assert step.forwards == 2
    torch.testing.assert_close(
        LossParts(("classes",))(box_step(images, targets, True)), -TwoStage().loss_parts(images, targets)["classes"]
    )


def test_vanishing_is_minus_invention_and_knows_no_truth() -> None:
    images, targets = frames(4)
    none = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}] * 4
    parts = TwoStage().loss_parts(images, none)
    step = box_step(images, targets)
    torch.testing.assert_close(Invention()(step), parts["objectness"] + parts["classes"])
    torch.testing.assert_close(Vanishing()(step), -Invention()(step))
    torch.testing.assert_close(Vanishing()(box_step(images, targets, True)), Vanishing()(step))

    def found(made: Tensor) -> list[int]:
        """Windows of each image that are likelier some object than background."""
        logits = TwoStage().proposal_logits(made, [TwoStage().windows(made)] * 4)
        return [int((one.softmax(1)[:, -1] < 0.5).sum()) for one in logits]

    more = FGSM(epsilon=0.2, objective=Invention())(TwoStage(), images, targets).images
    fewer = FGSM(epsilon=0.2, objective=Vanishing())(TwoStage(), images, targets).images
    assert max(found(images)) < 9 and found(fewer) == [0] * 4 and found(more) == [9] * 4


@pytest.mark.parametrize("objective", [LossParts(), Vanishing(), Invention()])
def test_objectives_of_boxes_refuse_other_tasks(
    objective: Objective, segmenter: Any, images_of: Any, box_victim: Any, boxes_of: Any
) -> None:
    attack, images = FGSM(objective=objective), images_of(2)
    with pytest.raises(ValueError, match=r"is for boxes, got targets \(2, 8, 8\) of another task"):
        attack(segmenter(), images, torch.ones(2, 8, 8).long())
    with pytest.raises(ValueError, match="finds boxes in two, and BoxVictim lacks loss_parts, proposals, proposal_log"):
        attack(box_victim(), images, boxes_of(2))


@pytest.mark.parametrize("objective", [MaskedCrossEntropy(), JensenShannon()])
def test_objectives_of_masks_refuse_boxes(objective: Objective) -> None:
    images, targets = frames(2)
    with pytest.raises(ValueError, match="compares logits with masks, labels or classes, and the victim gives none"):
        FGSM(objective=objective)(TwoStage(), images, targets)


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="parts lists some of objectness, proposals, classes, boxes, each once"):
        LossParts(("class",))  # type: ignore[arg-type]
    assert LossParts(["classes"]).parts == ("classes",)  # type: ignore[arg-type]


@pytest.mark.parametrize("distance", ["kl", "kl_eq5", "cross_entropy", "hard"])
def test_the_stabilisation_compares_the_classes_of_the_clean_images_proposals(distance: Any) -> None:
    clean, targets = frames(3)
    images = (clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    victim = TwoStage()
    step = Step(WatchedVictim(victim, clean, targets), images, clean, targets, ["a", "b", "c"], index=1)
    values = Stabilization(distance)(step)
    calm = (clean + smoothed(images - clean, 3, 1.0)).clamp(0, 1)
    proposals = victim.proposals(clean, OVERLAP)
    expected = []
    for p, q in zip(victim.proposal_logits(images, proposals), victim.proposal_logits(calm, proposals), strict=True):
        p, q = p.double().log_softmax(1), q.double().log_softmax(1)
        apart = {
            "kl": (q.exp() * (q - p)).sum(1),
            "kl_eq5": (p.exp() * (p - q)).sum(1),
            "cross_entropy": -(q.exp() * p).sum(1),
            "hard": -p.gather(1, q.argmax(1, keepdim=True)).squeeze(1),
        }
        expected.append(-apart[distance].mean())
    torch.testing.assert_close(values.double(), torch.stack(expected), atol=1e-5, rtol=1e-4)
    assert step.forwards == 3  # the proposals, and a look at each of the two images


@pytest.mark.parametrize(("fields", "backwards"), [({}, 3), ({"through": False}, 2), ({"stabilization": "hard"}, 2)])
def test_smia_on_boxes_counts_every_pass(fields: dict[str, Any], backwards: int) -> None:
    victim, (images, targets) = TwoStage(), frames(3)
    attacked = SMIA(epsilon=0.1, steps=4, **fields)(victim, images, targets)
    assert attacked.forwards.tolist() == [4 + 1 + 3 * 2 + 1] * 3  # losses, proposals, both branches, judgement
    assert victim.calls == int(attacked.forwards[0])
    assert attacked.backwards.tolist() == [1 + 3 * backwards] * 3
    assert bool(attacked.measures["cos"].isfinite().all())


def test_a_smaller_weight_of_the_stabilisation_is_closer_to_the_deviation_alone() -> None:
    victim, (images, targets) = TwoStage(), frames(4)
    alone = SMIA(epsilon=0.1, weight=0.0).craft(victim, images, targets).images
    little, much = (SMIA(epsilon=0.1, weight=weight).craft(victim, images, targets).images for weight in (1e-6, 50.0))
    assert torch.equal(little, alone) and not torch.equal(much, alone)


def test_only_the_likeliest_proposals_count() -> None:
    clean, targets = frames(2)
    victim = TwoStage()
    few, many = torch.rand(LIKELIEST, 4), torch.rand(7, 4)
    victim.proposals = lambda images, overlap: [torch.cat((few, many)), many]  # type: ignore[method-assign]
    step = Step(WatchedVictim(victim, clean, targets), clean, clean, targets, ["a", "b"], index=1)
    assert all(map(torch.equal, clean_proposals(step, "a test"), [few, many]))


def test_the_mean_of_no_proposals_is_zero() -> None:
    assert mean_of_each(torch.tensor([1.0, 3.0, 5.0]), [2, 0, 1]).tolist() == [2.0, 0.0, 5.0]
    assert mean_of_each(torch.zeros(0), []).shape == (0,)
