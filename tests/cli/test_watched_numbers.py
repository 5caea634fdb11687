"""Which way the numbers of each task are better, and that the clean ones give way to those under attack."""

from pathlib import Path

import pytest
import yaml

from cli.watched_numbers import OF_CLEAN, better

VICTIMS = sorted((Path(__file__).resolve().parents[2] / "configs/victims").glob("*.yaml"))


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


@pytest.mark.parametrize("path", VICTIMS, ids=lambda path: path.stem)
def test_a_defence_replaces_the_clean_number_by_which_a_victim_is_chosen(path: Path) -> None:
    chosen = yaml.safe_load(path.read_text()).get("checkpoint", {"monitor": "val/loss", "mode": "min"})
    assert chosen["monitor"] in OF_CLEAN and chosen["mode"] == better(chosen["monitor"])
