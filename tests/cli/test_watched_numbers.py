"""Which way the numbers of each task are better, and that the clean ones give way to those under attack."""

import pytest

from cli.watched_numbers import OF_CLEAN, better


@pytest.mark.parametrize(
    ("monitor", "way"),
    [
        ("val/jaccard", "max"),
        ("val/jaccard_left lung", "max"),
        ("val/dice", "max"),
        ("val/pixel_accuracy", "max"),
        ("val/loss", "min"),
        ("val/auroc", "max"),
        ("val/calibration_error", "min"),
        ("val/mine", ""),
    ],
)
def test_which_way_a_number_is_better(monitor: str, way: str) -> None:
    assert better(monitor) == way


def test_configurations_choose_checkpoints_by_clean_numbers_that_a_defence_replaces() -> None:
    assert set(OF_CLEAN) == {"val/loss", "val/jaccard"} and better("val/robust_accuracy") == "max"
