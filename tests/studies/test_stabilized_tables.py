"""The tables of SMIA21 on classes: all attacks of the shipped studies run on two images of three classes."""

from pathlib import Path

import pytest
import torch
import yaml

from medrobust import attacks
from medrobust.studies import Trajectory
from medrobust.studies.trajectory import has_iterations
from tests.tiny_networks import linear_victim

STUDIES = Path(__file__).parents[2] / "configs" / "studies"
FILES = [*sorted(STUDIES.glob("smia21_table*_classification.yaml")), STUDIES / "smia21_figure2.yaml"]


def configured(file: Path) -> dict[str, attacks.Attack]:
    given = yaml.safe_load(file.read_text())["attack"]["attacks"]
    return {name: getattr(attacks, one["class_path"])(**one["init_args"]) for name, one in given.items()}


def test_each_table_is_there() -> None:
    assert [file.stem for file in FILES[:-1]] == [f"smia21_table{table}_classification" for table in (1, 2, 3, 4, 6)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_attack_of_a_table_runs_on_three_classes(file: Path) -> None:
    victim = linear_victim(3).eval()
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
    targets = victim(images).argmax(1)
    clean = victim.loss(images, targets)
    for name, attack in configured(file).items():
        crafted = attack(victim, images, targets, ["a", "b"])
        assert (victim.loss(crafted.images, targets) >= clean).all(), name  # never the wrong way
        if name == "dev-sta-code":
            assert crafted.measures["positive_cosines"].isnan().all()  # stalls: the hard reading has no gradient here
        elif isinstance(attack, attacks.SMIA):
            assert (crafted.measures["positive_cosines"] == 1).all(), name  # on a linear victim no step turns round


def test_all_attacks_of_the_figure_have_iterations() -> None:
    assert all(has_iterations(attack) for attack in configured(FILES[-1]).values()) and Trajectory().images == 32
