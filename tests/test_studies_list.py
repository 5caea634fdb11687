"""The list of make studies: every file that it names is there, and what is wanted decides what is made."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import timm
import yaml

ROOT = Path(__file__).resolve().parents[1]


def make(*words: str) -> subprocess.CompletedProcess[str]:
    """What make says; nothing is made."""
    return run_make("-n", *words)


def run_make(*words: str) -> subprocess.CompletedProcess[str]:
    """Run make with some words."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # not of an outer make
    options = {"cwd": ROOT, "env": own, "capture_output": True, "text": True, "timeout": 60}
    return subprocess.run(["make", *words], check=False, **options)


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


def test_what_is_left_follows_from_what_make_would_do(tmp_path: Path) -> None:
    """All seven are left without anything; what is done of a victim that was fine-tuned later is left again."""

    def left() -> list[str]:
        return run_make("studies-left", "SETS=cifar10", f"PLACE={tmp_path}", "DATA=.").stdout.split()

    every = left()
    assert "cifar10/evaluations/ma20_figure4" in every and len(every) == 7
    for number, name in enumerate(("cifar10/checkpoints", *every)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "done").touch()
        os.utime(tmp_path / name / "done", (number + 1, number + 1))
    assert left() == []
    os.utime(tmp_path / "cifar10/checkpoints/done", (3.5, 3.5))
    assert left() == every[:2]


def test_a_scale_that_does_not_exist_is_refused() -> None:
    said = make("studies", "SCALE=huge")
    assert said.returncode == 2 and "SCALE is small or paper, got 'huge'" in said.stderr


@pytest.mark.parametrize("sets", ["chest_xry", "cifar10 chest", ""])
def test_a_set_that_does_not_exist_is_refused(sets: str) -> None:
    said = make("studies", f"SETS={sets}")
    assert said.returncode == 2 and f"phantom_endoscopy, got '{sets}'" in said.stderr and not said.stdout


def test_the_folder_of_the_data_may_have_blanks() -> None:
    said = make("studies", "SETS=cifar10", "DATA=my data").stdout
    (fit,) = re.findall(r"train\.py (fit .*)", said)
    assert "my data/cifar10" in shlex.split(fit) and "test -d 'my data'/$set" in said


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_the_layers_of_the_stress_test_are_those_of_the_victims(scale: str) -> None:
    said = make("studies", f"SCALE={scale}").stdout.replace("\\\n", " ")
    fits = {
        words[words.index("--name") + 1]: words for words in map(shlex.split, re.findall(r"train\.py (fit .*)", said))
    }
    stressed = [shlex.split(line) for line in re.findall(r"evaluate\.py (test .*hfc21_table1.*)", said)]
    assert len(stressed) == 3
    for words in stressed:
        fit = fits[Path(words[words.index("-c") + 1]).parent.name]
        victim = yaml.safe_load((ROOT / fit[fit.index("-c") + 1]).read_text())["model"]["init_args"]["backbone"]
        option = "--model.init_args.backbone"
        network = timm.create_model(fit[fit.index(option) + 1] if option in fit else victim, pretrained=False)
        study = yaml.safe_load((ROOT / "configs" / "studies" / "hfc21_table1.yaml").read_text())
        layers = study["representation"]["layers"]
        if "--representation.layers" in words:
            layers = yaml.safe_load(words[words.index("--representation.layers") + 1])
        assert set(layers) <= dict(network.named_modules()).keys()


def test_figures_that_cannot_be_drawn_are_told(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho $*\ntest $2 = dashboard\n")
    program.chmod(0o755)
    (tmp_path / "victim" / "evaluations" / "one" / "studies" / "sweep").mkdir(parents=True)
    (tmp_path / "victim" / "evaluations" / "one" / "studies" / "sweep" / "settings.json").touch()
    (tmp_path / "victim" / "evaluations" / "two").mkdir()
    done = [str(tmp_path / "victim" / "evaluations" / name / "done") for name in ("one", "two")]
    for path in done:
        Path(path).touch()
    words = (f"PLACE={tmp_path}", f"BIN={program.parent}", f"STUDIES={' '.join(done)}")
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    options = {"cwd": ROOT, "env": own, "capture_output": True, "text": True, "timeout": 60}
    said = subprocess.run(["make", "studies", *words], check=False, **options)
    assert said.returncode == 2 and "error: without all of their figures: one\n" in said.stderr
    assert said.stdout.count("compare.py figures") == 1
