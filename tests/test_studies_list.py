"""The list of make studies: every file that it names is there, and what is wanted decides what is made."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """What make says; nothing is made."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # not of an outer make
    options = {"cwd": ROOT, "env": own, "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(["make", "-n", *words], check=False, **options)


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_every_configuration_of_the_list_is_there(scale: str) -> None:
    said = make("studies", f"SCALE={scale}")
    assert said.returncode == 0, said.stderr
    named = set(re.findall(r"-c (configs/\S+)", said.stdout))
    assert {name for name in named if not (ROOT / name).is_file()} == set()
    assert "configs/studies/ma20_figure4.yaml" in named and "configs/victims/ham10000.yaml" in named
    assert any(name.endswith("_small.yaml") for name in named) == (scale == "small")


def test_a_victim_is_fine_tuned_once_and_only_for_the_sets_that_are_wanted() -> None:
    said = make("studies", "SETS=cifar10").stdout
    fits = re.findall(r"train\.py fit .* --name (\S+)", said)
    assert fits == ["cifar10"] and "chest_xray" not in said and said.count("evaluate.py test") > 1
    everything = re.findall(r"train\.py fit .* --name (\S+)", make("studies").stdout)
    assert len(everything) == len(set(everything)) > 5


def test_a_scale_that_does_not_exist_is_refused() -> None:
    said = make("studies", "SCALE=huge")
    assert said.returncode == 2 and "SCALE is small or paper, got 'huge'" in said.stderr
