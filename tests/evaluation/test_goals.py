"""Goals of targeted attacks: never the truth, and the same for an image in any batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from medrobust.attacks import FGSM
from medrobust.evaluation.dense_goals import goal_shares, nothing_to_do, read_goal_mask
from medrobust.evaluation.goals import choose_goals
from medrobust.objectives.base import Step
from medrobust.objectives.fitted import resembled_class

ATTACK = FGSM(targeted=True)
LOGITS = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 5.0, 0.0], [7.0, -8.0, -9.0], [0.0, 0.0, 1.0]])
TARGETS = torch.tensor([0, 1, 2, 1])
IDS = list("abcd")
MASKS = torch.tensor([[[1, 1, 0, 2], [2, 0, -1, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
BOXES = [
    {"boxes": torch.tensor([[5.0, 5.0, 20.0, 15.0], [30.0, 2.0, 40.0, 12.0]]), "labels": torch.tensor([0, 2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
]


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
    ("goals", "targets", "outputs", "message"),
    [
        ("next", torch.zeros(2, dtype=torch.long), torch.zeros(2, 1), r"among the classes of logits \(N, K\), K >= 2"),
        (
            "next",
            MASKS,
            torch.zeros(2, 3, 2, 4),
            "'next' is no goal of masks: set goals to 'erase' or 'shift' or goal_m",
        ),
        ("vanish", MASKS, torch.zeros(2, 3, 2, 4), "set goals to 'erase' or 'shift' or goal_mask to a file"),
        ("erase", MASKS, [{}, {}], r"need logits \(N, K, H, W\)"),
        ("random", BOXES, [{}, {}], "'random' is no goal of boxes: set goals to 'vanish', 'invent' or 'relabel'"),
        (
            "erase",
            TARGETS[:2],
            LOGITS[:2],
            "'erase' is no goal of classes and labels: set goals to 'next', 'random'",
        ),
    ],
)
def test_a_task_has_its_own_goals(goals: Any, targets: Any, outputs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_goals(goals, ATTACK, targets, outputs, IDS[:2])


def test_masks_are_erased_and_shifted_and_unlabelled_pixels_stay_so() -> None:
    logits = torch.zeros(2, 3, 2, 4)
    erased = choose_goals("erase", ATTACK, MASKS, logits, IDS[:2])
    assert erased.tolist() == [[[0, 0, 0, 0], [0, 0, -1, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]]
    shifted = choose_goals("shift", ATTACK, MASKS, logits, IDS[:2])  # a quarter of 4 columns: by one
    assert shifted.tolist() == [[[0, 1, 1, 0], [0, 2, -1, 0]], [[0, 0, 0, 0], [0, 0, 0, 0]]]
    assert nothing_to_do(erased, MASKS).tolist() == nothing_to_do(shifted, MASKS).tolist() == [False, True]


def test_a_given_mask_is_the_goal_of_every_image(tmp_path: Path) -> None:
    file, values = tmp_path / "goal.png", np.uint8([[0, 1, 2, 0], [1, 0, 0, 0]])
    Image.fromarray(values).save(file)
    mask = read_goal_mask(file)
    goals = choose_goals("next", ATTACK, MASKS, torch.zeros(2, 3, 2, 4), IDS[:2], goal_mask=mask)
    assert goals[1].tolist() == values.tolist()
    assert goals[0].tolist() == [[0, 1, 2, 0], [1, 0, -1, 0]]
    with pytest.raises(ValueError, match="has 2 x 4 pixels, and the masks that the victim is shown 3 x 4"):
        choose_goals("next", ATTACK, torch.zeros(1, 3, 4).long(), torch.zeros(1, 3, 3, 4), ["a"], goal_mask=mask)
    with pytest.raises(ValueError, match="has the label 2, and the victim knows 0 to 1"):
        choose_goals("next", ATTACK, MASKS, torch.zeros(2, 2, 2, 4), IDS[:2], goal_mask=mask)
    Image.fromarray(values.astype(np.int32) - 1).save(tmp_path / "below.tif")
    with pytest.raises(ValueError, match="has the label -1, and the victim knows 0 to 2"):
        below = read_goal_mask(tmp_path / "below.tif")
        choose_goals("next", ATTACK, MASKS, torch.zeros(2, 3, 2, 4), IDS[:2], goal_mask=below)
    with pytest.raises(ValueError, match="goal_mask is a goal for masks, and these are boxes"):
        choose_goals("next", ATTACK, BOXES, [{}, {}], IDS[:2], goal_mask=mask)
    with pytest.raises(ValueError, match="there is no file"):
        read_goal_mask(tmp_path / "none.png")
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(file)
    with pytest.raises(ValueError, match=r"in one channel, and .* has uint8 values \(2, 2, 3\)"):
        read_goal_mask(file)
    file.write_text("no image")
    with pytest.raises(ValueError, match="cannot be read as one"):
        read_goal_mask(file)


def test_vanishing_wants_no_box_and_relabelling_another_class_for_each() -> None:
    none = choose_goals("vanish", ATTACK, BOXES, [{}, {}], IDS[:2], names="abc")
    assert [(tuple(goal["boxes"].shape), tuple(goal["labels"].shape)) for goal in none] == [((0, 4), (0,))] * 2
    other = choose_goals("relabel", ATTACK, BOXES, [{}, {}], IDS[:2], names="abc")
    backwards = choose_goals("relabel", ATTACK, BOXES[::-1], [{}, {}], IDS[1::-1], names="abc")
    assert torch.equal(other[0]["boxes"], BOXES[0]["boxes"]) and torch.equal(backwards[1]["labels"], other[0]["labels"])
    assert bool((other[0]["labels"] != BOXES[0]["labels"]).all()) and set(other[0]["labels"].tolist()) <= {0, 1, 2}
    assert nothing_to_do(none, BOXES).tolist() == nothing_to_do(other, BOXES).tolist() == [False, True]
    with pytest.raises(ValueError, match="there is one class alone"):
        choose_goals("relabel", ATTACK, BOXES, [{}, {}], IDS[:2], names="a")


def test_invented_boxes_touch_nothing_lie_inside_and_are_the_only_ones_that_are_sought() -> None:
    ids = [f"image-{place}" for place in range(40)]
    targets = [BOXES[place % 2] for place in range(40)]
    goals = choose_goals("invent", ATTACK, targets, [{}] * 40, ids, names="abc", side=(40, 60))
    for goal, target in zip(goals, targets, strict=True):
        truths = len(target["boxes"])
        assert goal["sought"].tolist() == [False] * truths + [True] * 3
        assert torch.equal(goal["boxes"][:truths], target["boxes"])
        assert torch.equal(goal["labels"][:truths], target["labels"])
        assert int(((box_iou(goal["boxes"], goal["boxes"])) > 0).sum()) == truths + 3  # each overlaps itself alone
        drawn = goal["boxes"][truths:]
        assert float(drawn.min()) >= 0 and bool((drawn[:, 2] <= 60).all()) and bool((drawn[:, 3] <= 40).all())
    assert {label for goal in goals for label in goal["labels"][goal["sought"]].tolist()} == {0, 1, 2}
    alone = choose_goals("invent", ATTACK, targets[7:8], [{}], ids[7:8], names="abc", side=(40, 60))
    assert torch.equal(alone[0]["boxes"], goals[7]["boxes"])
    full = [{"boxes": torch.tensor([[0.0, 0.0, 60.0, 40.0]]), "labels": torch.tensor([0])}]
    crowded = choose_goals("invent", ATTACK, full, [{}], ["x"], names="abc", side=(40, 60))
    assert len(crowded[0]["boxes"]) == 1 and nothing_to_do(crowded, full).tolist() == [True]


def test_the_share_of_what_was_to_change() -> None:
    goals = torch.tensor([[[0, 0, 0, 1]], [[0, 0, 0, 0]]])
    truth = torch.tensor([[[1, 1, 0, 1]], [[0, 0, 0, 0]]])
    named = torch.tensor([[[0, 1, 1, 0]], [[1, 0, 0, 0]]])
    outputs = torch.nn.functional.one_hot(named, 2).movedim(-1, 1).float()
    shares = goal_shares(goals, truth, outputs, None)  # type: ignore[arg-type]
    assert shares[0] == 0.5 and bool(shares[1].isnan())  # one of two pixels; nothing to do


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
