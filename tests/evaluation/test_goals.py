"""Goals of targeted attacks: never the truth, and the same for an image in any batch."""

from typing import Any

import pytest
import torch

from medrobust.attacks import FGSM
from medrobust.evaluation.goals import choose_goals
from medrobust.objectives.base import Step
from medrobust.objectives.fitted import resembled_class

ATTACK = FGSM(targeted=True)
LOGITS = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 5.0, 0.0], [7.0, -8.0, -9.0], [0.0, 0.0, 1.0]])
TARGETS = torch.tensor([0, 1, 2, 1])
IDS = list("abcd")


def test_the_next_class_follows_the_true_one_and_the_first_the_last() -> None:
    assert choose_goals("next", ATTACK, TARGETS, LOGITS, IDS).tolist() == [1, 2, 0, 2]


def test_the_least_likely_class_has_the_smallest_logit_of_the_others() -> None:
    # image c: its own class 2 has the smallest logit, so that of the others counts
    assert choose_goals("least_likely", ATTACK, TARGETS, LOGITS, IDS).tolist() == [1, 0, 1, 0]


def test_the_likeliest_class_is_the_one_that_hiding_objectives_would_resemble() -> None:
    goals = choose_goals("likeliest", ATTACK, TARGETS, LOGITS, IDS)
    assert goals.tolist() == [2, 2, 0, 2]  # image c: its own class 2 does not count, and -8 is less than 7
    step = Step(lambda images: images.flatten(1), LOGITS[:, None, None], LOGITS[:, None, None], TARGETS, IDS)
    assert torch.equal(resembled_class(step), goals)


def test_a_random_goal_is_another_class_that_depends_on_image_and_seed_alone() -> None:
    ids = [f"image-{place}" for place in range(200)]
    targets, logits = torch.arange(200) % 3, torch.zeros(200, 3)
    goals = choose_goals("random", ATTACK, targets, logits, ids)
    shifts = ((goals - targets) % 3).bincount(minlength=3)
    assert shifts[0] == 0
    assert all(70 <= int(shift) <= 130 for shift in shifts[1:])  # 100 each on average, with a deviation of 7
    backwards = choose_goals("random", ATTACK, targets.flip(0), logits, ids[::-1])
    assert torch.equal(goals, backwards.flip(0))
    assert not torch.equal(goals, choose_goals("random", FGSM(targeted=True, seed=1), targets, logits, ids))


def test_of_two_classes_every_kind_of_goal_is_the_other_one() -> None:
    targets = torch.tensor([0, 1, 1])
    for goals in ("next", "random", "likeliest", "least_likely"):
        assert choose_goals(goals, ATTACK, targets, torch.zeros(3, 2), IDS[:3]).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("targets", "outputs"),
    [
        (torch.zeros(2, 4, 4, dtype=torch.long), torch.zeros(2, 3, 4, 4)),  # masks
        ([{}, {}], [{}, {}]),  # boxes
        (torch.zeros(2, dtype=torch.long), torch.zeros(2, 1)),  # a single logit
    ],
    ids=["masks", "boxes", "one logit"],
)
def test_a_task_without_classes_of_images_has_no_goals(targets: Any, outputs: Any) -> None:
    with pytest.raises(ValueError, match=r"chooses goals among the classes of logits \(N, K\), K >= 2"):
        choose_goals("next", ATTACK, targets, outputs, IDS[:2])


OUTPUTS = torch.tensor([[2.0, -0.5, 1.0], [-3.0, 0.2, 4.0], [1.0, 1.0, 1.0]])
LABELS = torch.tensor([[1, 0, 1], [-1, 0, 1], [-1, -1, -1]])


@pytest.mark.parametrize(
    ("goals", "expected"),
    [
        ("next", [[0, 1, 0], [-1, 1, 0]]),
        ("likeliest", [[-1, 1, -1], [-1, 1, -1]]),  # -0.5 is nearest to 0; 0.2 has turned already
        ("least_likely", [[0, -1, -1], [-1, -1, 0]]),
    ],
)
def test_goals_of_labels_turn_all_of_them_or_one(goals: Any, expected: list[list[int]]) -> None:
    assert choose_goals(goals, ATTACK, LABELS, OUTPUTS, IDS[:3]).tolist() == [*expected, [-1, -1, -1]]


def test_a_random_label_is_a_known_one_and_the_images_own() -> None:
    ids = [f"image-{place}" for place in range(90)]
    labels = LABELS[torch.arange(90) % 3]
    goals = choose_goals("random", ATTACK, labels, OUTPUTS[torch.arange(90) % 3], ids)
    assert (goals >= 0).sum(1).tolist() == [1, 1, 0] * 30
    assert torch.equal(goals[goals >= 0], (1 - labels)[goals >= 0]) and set(goals[0::3].argmax(1).tolist()) == {0, 1, 2}
    assert torch.equal(choose_goals("random", ATTACK, labels[3:4], OUTPUTS[:1], ids[3:4]), goals[3:4])


def test_a_chosen_label_is_the_only_one_to_turn() -> None:
    names = ["Mass", "Nodule", "Effusion"]
    goals = choose_goals("next", ATTACK, LABELS, OUTPUTS, IDS[:3], "Effusion", names)
    assert goals.tolist() == [[-1, -1, 0], [-1, -1, 0], [-1, -1, -1]]
    with pytest.raises(ValueError, match="label is one of Mass, Nodule, Effusion, got 'mass'"):
        choose_goals("next", ATTACK, LABELS, OUTPUTS, IDS[:3], "mass", names)
    with pytest.raises(ValueError, match="these have one class each, got 'Mass'"):
        choose_goals("next", ATTACK, torch.tensor([0, 1]), torch.zeros(2, 2), IDS[:2], "Mass", names)
