"""Detections of which numbers would be wrong are refused with the image's name."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medrobust.listeners.boxes import box_columns
from medrobust.networks.finite import finite_outputs

FOUND = {
    "boxes": torch.tensor([[0.0, 0, 9, 9], [5, 5, 8, 8]]),
    "scores": torch.tensor([0.9, 0.9]),
    "labels": torch.tensor([0, 2]),
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": torch.tensor([0.8, 0.9])}, "'b': found boxes are listed with the most certain first"),
        ({"labels": torch.tensor([-1, 0])}, "'b': labels of found boxes count the classes from 0 on.* got -1 to 0"),
        ({"labels": torch.tensor([0])}, r"'b': found boxes are boxes \(D, 4\).* got boxes \(2, 4\)"),
        ({"labels": torch.tensor([0.0, 1.0])}, "the latter whole numbers.* torch.float32$"),
        ({"scores": torch.tensor([1.8, 0.9])}, r"'b': scores of found boxes lie in \[0, 1\].* got 0.9 to 1.8"),
        ({"scores": torch.tensor([0.9, -0.1])}, "got -0.1 to 0.9"),
        ({"boxes": torch.tensor([[0.0, 0, 9, 9], [8, 5, 5, 8]])}, r"x1 <= x2 and y1 <= y2, got \[8.0, 5.0, 5.0, 8.0\]"),
        ({"boxes": torch.zeros(2, 3)}, r"got boxes \(2, 3\)"),
    ],
)
def test_detections_of_another_form_are_refused(changed: dict[str, Any], message: str) -> None:
    nothing = {name: values[:0] for name, values in FOUND.items()}
    fine = [FOUND, nothing]
    assert finite_outputs(fine, ["a", "b"], "clean") is fine
    with pytest.raises(ValueError, match=message):
        finite_outputs([FOUND, FOUND | changed], ["a", "b"], "clean")


def test_a_label_that_the_victim_does_not_have_is_refused_before_it_is_written() -> None:
    target = {"boxes": torch.tensor([[0.0, 0, 9, 9]]), "labels": torch.tensor([0])}
    sides = {"clean_outputs": [FOUND], "adversarial_outputs": [FOUND]}

    class Batch(SimpleNamespace):
        def __len__(self) -> int:
            return 1

    def columns(victim: dict[str, Any]) -> Any:
        return box_columns(Batch(ids=["a"], targets=[target], plan=SimpleNamespace(victim=victim), **sides))

    assert columns({"num_classes": 3})["boxes_lost"].tolist() == [0]
    with pytest.raises(ValueError, match="'a': labels of found boxes count the classes from 0 to 1, .* got 0 to 2"):
        columns({"num_classes": 2})
