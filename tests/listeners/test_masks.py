"""Columns of masks: by hand, undefined where a class is missing, and none for other tasks."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medrobust.listeners.masks import mask_columns
from medrobust.results.columns import SCORE_PATTERNS

NAMES = ["background", "left lung", "right-lung"]
TRUE = torch.tensor([[1, 1, 1, 1, 0, 0, 2, -1], [0, 0, 0, 0, 0, 0, 0, -1], [-1] * 8])
BEFORE = torch.tensor([[1, 1, 0, 0, 0, 0, 2, 2], [0, 0, 0, 0, 0, 0, 0, 1], [1] * 8])
AFTER = torch.tensor([[1, 0, 0, 0, 1, 0, 0, 2], [2, 2, 0, 0, 0, 0, 0, 1], [0] * 8])


def logits_of(masks: Tensor, classes: int = 3) -> Tensor:
    """Logits ``(N, K, 1, W)`` of masks of one row."""
    return torch.nn.functional.one_hot(masks, classes).movedim(2, 1).unsqueeze(2).float()


def batch_of(targets: Any, before: Any, after: Any, names: Any = NAMES) -> Any:
    plan = SimpleNamespace(data={"class_names": names})
    return SimpleNamespace(targets=targets, clean_outputs=before, adversarial_outputs=after, plan=plan)


def test_the_columns_of_three_masks_by_hand() -> None:
    columns = mask_columns(batch_of(TRUE.unsqueeze(1), logits_of(BEFORE), logits_of(AFTER)))
    nan = float("nan")
    expected = {
        "pixel_accuracy_before": [5 / 7, 1, nan],
        "pixel_accuracy_after": [2 / 7, 5 / 7, nan],
        "flipped_pixels": [3 / 5, 2 / 7, nan],  # of the first image one left, one background and one right pixel
        "jaccard_left_lung_before": [2 / 4, nan, nan],
        "jaccard_left_lung_after": [1 / 5, nan, nan],
        "dice_left_lung_before": [4 / 6, nan, nan],
        "dice_left_lung_after": [2 / 6, nan, nan],
        # true borders 0 to 3: from 0 and 1 nothing is far, to them 2 and 3 are 1 and 2 away; 95 % of (0, 0, 1, 2)
        "hausdorff95_left_lung_before": [1.85, nan, nan],
        # found 0 and 4: 4 is one away from 3; true ones 0, 1, 1 and 2 (3 to 4 is 1): 95 % of (0, 1, 2, 1)
        "hausdorff95_left_lung_after": [1.85, nan, nan],
        "jaccard_right_lung_before": [1, nan, nan],
        "jaccard_right_lung_after": [0, 0, nan],
        "dice_right_lung_before": [1, nan, nan],
        "dice_right_lung_after": [0, 0, nan],
        "hausdorff95_right_lung_before": [0, nan, nan],
        "hausdorff95_right_lung_after": [nan, nan, nan],
    }
    assert set(columns) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(columns[name], values, atol=1e-6, err_msg=name)
        assert columns[name].shape == (3,) and any(re.match(pattern, name) for pattern in SCORE_PATTERNS)


def test_classes_without_names_have_numbers_and_one_logit_tells_two() -> None:
    columns = mask_columns(batch_of(TRUE.unsqueeze(1), logits_of(BEFORE), logits_of(AFTER), names=None))
    assert "jaccard_1_before" in columns and "dice_2_after" in columns
    sign = torch.tensor([[1.0, -1.0]]).view(1, 1, 1, 2)
    columns = mask_columns(batch_of(torch.tensor([[[1, 1]]]), sign, -sign, ["background", "lung"]))
    assert columns["jaccard_lung_before"].tolist() == columns["jaccard_lung_after"].tolist() == [0.5]
    assert columns["flipped_pixels"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("targets", "outputs"),
    [
        (torch.tensor([0, 1]), torch.zeros(2, 3)),
        (torch.zeros(2, 3), torch.zeros(2, 3)),
        ([{"boxes": torch.zeros(0, 4)}], [{"boxes": torch.zeros(0, 4)}]),
    ],
)
def test_other_tasks_have_no_such_columns(targets: Any, outputs: Any) -> None:
    assert mask_columns(batch_of(targets, outputs, outputs)) == {}
