"""DAG: two pixels worked out by hand, its targets among proposals, and what it leaves."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust.attacks import DAG
from medrobust.attacks.dense_targets import PlaceTargets, ProposalTargets, goal_labels, true_labels
from medrobust.networks import Outcome
from tests.two_stage import TwoStage, frames

SLOPES = torch.tensor([2.0, 1.0])


class TwoPixels(nn.Module):
    """Logits (0, g (x - 0.5)) of each pixel, with g = 2 for the first one and 1 for the second."""

    def forward(self, images: Tensor) -> Tensor:
        score = SLOPES.to(images) * (images[:, 0] - 0.5)
        return torch.stack([torch.zeros_like(score), score], 1)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        raise AssertionError

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        share = (outputs.argmax(1) == targets).double().mean((1, 2))
        return Outcome(share >= 0.5, share)

    def features(self, images: Tensor, layers: Any) -> Any:
        return self(images), {}


IMAGE = torch.tensor([0.6, 0.61]).view(1, 1, 1, 2)
BOTH = torch.ones(1, 1, 2, dtype=torch.long)


def test_two_pixels_by_hand() -> None:
    """z_wrong - z_true has the slopes (-2, -1): divided by 2, steps of (0.04, 0.02) until the first pixel is turned.

    That is after 3 steps, at (0.48, 0.55); then the second one goes on alone, by 0.04, to 0.51 and 0.47.
    """
    attacked = DAG(step_size=0.04)(TwoPixels(), IMAGE, BOTH)
    torch.testing.assert_close(attacked.images.flatten(), torch.tensor([0.48, 0.47]))
    assert (attacked.backwards.tolist(), attacked.forwards.tolist()) == ([5], [7])  # 6 looks and the judgement
    assert (attacked.measures["targets"].tolist(), attacked.measures["targets_left"].tolist()) == ([2.0], [0.0])
    assert attacked.success.tolist() == [True]


@pytest.mark.parametrize(("steps", "expected"), [(1, [0.56, 0.59]), (4, [0.48, 0.51])])
def test_an_image_that_is_not_done_keeps_what_is_left(steps: int, expected: list[float]) -> None:
    attacked = DAG(step_size=0.04, steps=steps)(TwoPixels(), IMAGE, BOTH)
    torch.testing.assert_close(attacked.images.flatten(), torch.tensor(expected))
    assert attacked.measures["targets_left"].tolist() == [2.0 if steps == 1 else 1.0]
    assert attacked.forwards.tolist() == [steps + 2]  # the last step is looked at, and judged


def test_the_budget_holds_and_may_set_the_step() -> None:
    attacked = DAG(step_size=0.04, epsilon=0.11)(TwoPixels(), IMAGE, BOTH)
    torch.testing.assert_close(attacked.images.flatten(), torch.tensor([0.49, 0.5]), atol=1e-6, rtol=0)
    assert attacked.measures["targets_left"].tolist() <= [1.0]
    assert DAG(epsilon=0.1, steps=10, step_size=None).step_length() == 0.01
    assert (DAG().norm, DAG(epsilon=0.1).norm) == ("none", "linf")


def test_pixels_without_a_label_are_no_targets() -> None:
    attacked = DAG(step_size=0.04)(TwoPixels(), IMAGE, torch.tensor([[[-1, 1]]]))
    torch.testing.assert_close(attacked.images.flatten(), torch.tensor([0.6, 0.49]))
    assert attacked.measures["targets"].tolist() == [1.0]


def test_towards_a_goal_only_what_is_not_there_yet_moves() -> None:
    attacked = DAG(step_size=0.04, targeted=True)(TwoPixels(), IMAGE, torch.tensor([[[0, 1]]]))
    torch.testing.assert_close(attacked.images.flatten(), torch.tensor([0.48, 0.61]))
    assert attacked.measures["targets_left"].tolist() == [0.0]


def test_images_leave_one_by_one_and_are_what_they_are_alone() -> None:
    images = torch.cat([IMAGE, IMAGE - 0.2, IMAGE + 0.2, IMAGE + 0.05])
    masks = BOTH.expand(4, 1, 2)
    together = DAG(step_size=0.04).craft(TwoPixels(), images, masks)
    for row in range(4):
        alone = DAG(step_size=0.04).craft(TwoPixels(), images[row : row + 1], masks[row : row + 1])
        torch.testing.assert_close(alone.images, together.images[row : row + 1])
        assert alone.forwards.tolist() == together.forwards[row : row + 1].tolist()
        assert alone.backwards.tolist() == together.backwards[row : row + 1].tolist()
    assert together.backwards.tolist()[1] == 0 and torch.equal(together.images[1], images[1])


def test_the_wrong_label_is_drawn_once_for_each_pixel_and_image() -> None:
    labels = torch.arange(60).view(1, 6, 10).repeat(3, 1, 1) % 4
    logits = torch.zeros(3, 4, 6, 10)

    def drawn(seed: int, ids: list[str]) -> Tensor:
        targets = PlaceTargets(labels[: len(ids)], ids, seed, targeted=False)
        targets.lead(logits[: len(ids)], labels[: len(ids)] >= 0)
        assert targets.wrong is not None
        return targets.wrong

    wrong = drawn(0, ["a", "b", "c"])
    assert not bool((wrong == labels).any()) and set(wrong.flatten().tolist()) == {0, 1, 2, 3}
    assert torch.equal(drawn(0, ["c", "a"]), wrong[[2, 0]])
    assert not torch.equal(drawn(1, ["a", "b", "c"]), wrong) and not torch.equal(wrong[0], wrong[1])


PROPOSALS = torch.tensor([[0.0, 0, 10, 10], [0.0, 5, 10, 15], [0.0, 0, 40, 40], [50.0, 50, 60, 60]])


def test_a_proposal_is_a_target_if_it_overlaps_a_true_box_and_finds_its_class() -> None:
    """IoU with the true box: 1, 1/3, 1/16 and 0; class 1 has e^2 / (e^2 + 2) = 0.79, or 1 / (2 + e^3) = 0.05."""
    truth = {"boxes": PROPOSALS[:1], "labels": torch.tensor([1])}
    finds, misses = [0.0, 2.0, 0.0], [3.0, 0.0, 0.0]
    sure = torch.tensor([finds] * 4)
    assert true_labels(PROPOSALS, sure, truth, 0.1, 0.1).tolist() == [1, 1, -1, -1]
    assert true_labels(PROPOSALS, sure, truth, 0.05, 0.1).tolist() == [1, 1, 1, -1]
    assert true_labels(PROPOSALS, torch.tensor([misses, finds, finds, finds]), truth, 0.1, 0.1).tolist() == [
        -1,
        1,
        -1,
        -1,
    ]
    two = {"boxes": PROPOSALS[:2], "labels": torch.tensor([0, 1])}
    assert true_labels(PROPOSALS[:2], sure[:2], two, 0.1, 0.1).tolist() == [0, 1]  # 0.106 is above 0.1: the nearest box
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    assert true_labels(PROPOSALS, sure, none, 0.1, 0.1).tolist() == [-1] * 4


def test_a_goal_is_a_class_where_a_box_is_wanted_and_background_where_something_is_found() -> None:
    finds, nothing = [0.0, 2.0, 0.0], [0.0, 0.0, 9.0]
    logits = torch.tensor([finds, nothing, nothing, finds])
    goal = {"boxes": PROPOSALS[1:2], "labels": torch.tensor([0])}
    assert goal_labels(PROPOSALS, logits, goal, 0.1).tolist() == [2, 0, -1, 2]
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    assert goal_labels(PROPOSALS, logits, none, 0.1).tolist() == [2, -1, -1, 2]


def test_proposals_go_on_when_the_image_with_most_of_them_leaves() -> None:
    """Of three and of one proposal, the image with three leaves; the other's is compared with its logits alone."""
    labels = [torch.tensor([0, 1, 0]), torch.tensor([1])]
    targets = ProposalTargets([PROPOSALS[:3], PROPOSALS[:1]], labels, ["a", "b"], seed=0, targeted=False)
    both = torch.zeros(2, 4, 3)
    targets.lead(both, targets.left(both))  # draws the wrong labels
    assert targets.wrong is not None
    wrong = int(targets.wrong[1, 0])
    targets.keep(torch.tensor([1]))
    logits = torch.tensor([[0.0, 3.0, 1.0, 0.0]]).unsqueeze(2)  # class 1 leads, and its target is class 1
    left = targets.left(logits)
    assert left.tolist() == [[True]]
    assert targets.lead(logits, left).tolist() == [float(logits[0, wrong, 0]) - 3.0]


def test_boxes_are_relabelled_and_frames_without_one_come_back() -> None:
    victim, (images, targets) = TwoStage(), frames(8)
    attacked = DAG()(victim, images, targets)
    assert attacked.success.tolist() == [bool(len(target["boxes"])) for target in targets]
    assert not attacked.measures["targets_left"].any()
    assert torch.equal(attacked.images[3], images[3]) and attacked.backwards[3] == 0
    spent = attacked.forwards - attacked.backwards
    assert spent.tolist() == [4] * 8  # two choose, one looks at the last step, one judges
    for row in (0, 4):
        alone = DAG().craft(victim, images[row : row + 1], targets[row : row + 1])
        torch.testing.assert_close(alone.images, attacked.images[row : row + 1])


@pytest.mark.parametrize("targeted", [False, True])
def test_an_image_with_more_proposals_may_leave_before_the_others(targeted: bool) -> None:
    """Two spots that barely stand out, and one that stands out by far: the former have twice as many proposals."""
    images = torch.full((2, 3, 8, 8), 0.3)
    images[0, 0, :4, :4] = images[0, 0, 4:, 4:] = 0.52
    images[1, 0, :4, :4] = 0.7
    spots = [torch.tensor([[0.0, 0, 4, 4], [4.0, 4, 8, 8]]), torch.tensor([[0.0, 0, 4, 4]])]
    count = [0, 0] if targeted else [2, 1]
    targets = [{"boxes": b[:n], "labels": torch.zeros(n, dtype=torch.long)} for b, n in zip(spots, count, strict=True)]
    attack = DAG(targeted=targeted, overlap=0.3, least_score=0.3)
    attacked = attack(TwoStage(), images, targets)
    assert attacked.measures["targets"].tolist() == [2.0, 1.0] and not attacked.measures["targets_left"].any()
    assert attacked.backwards[0] < attacked.backwards[1]
    alone = attack.craft(TwoStage(), images[1:], targets[1:])
    torch.testing.assert_close(alone.images, attacked.images[1:])


def test_boxes_vanish_and_others_are_invented_where_it_is_the_goal() -> None:
    victim, (images, targets) = TwoStage(), frames(4)
    none = [{"boxes": target["boxes"][:0], "labels": target["labels"][:0]} for target in targets]
    gone = DAG(targeted=True)(victim, images, none)
    assert gone.success.all() and torch.equal(gone.images[3], images[3])
    wanted = [{"boxes": torch.tensor([[2.0, 2.0, 6.0, 6.0]]), "labels": torch.tensor([2])} for _ in targets]
    drawn = DAG(targeted=True)(victim, images, wanted)
    named = [logits.argmax(1) for logits in victim.proposal_logits(drawn.images, [goal["boxes"] for goal in wanted])]
    assert torch.cat(named).tolist() == [2] * 4 and not drawn.measures["targets_left"].any()


def test_a_victim_without_proposals_is_refused(box_victim: Any, images_of: Any, boxes_of: Any) -> None:
    with pytest.raises(
        ValueError, match="DAG looks into the stages of a victim that finds boxes in two, and BoxVictim"
    ):
        DAG()(box_victim(), images_of(2), boxes_of(2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step_size": None}, "there is no epsilon: give one of them"),
        ({"overlap": 1.0}, r"overlap is an IoU and lies in \(0, 1\), got 1.0"),
        ({"least_score": 1.0}, r"least_score lies in \[0, 1\), got 1.0"),
        ({"steps": 0}, "whole number of at least 1"),
    ],
)
def test_bad_settings_get_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DAG(**fields)
