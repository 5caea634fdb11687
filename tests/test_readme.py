"""The documentation is true: README's Python runs as it is printed, and every file that a page names exists."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medrobust import attacks
from medrobust.attacks.budgets import Fraction
from medrobust.evaluation import EvaluationListener
from tests.tiny_networks import linear_victim

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("configs/**/*.yaml"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def test_the_readmes_python_runs_in_one_piece(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in blocks:
            exec(block, names)
    assert len(blocks) >= 2
    assert "tensor([" in capsys.readouterr().out
    assert names["result"].images.shape == (4, 3, 64, 64)
    assert (tmp_path / "runs/loop/evaluate/report.html").is_file()


def named_files(text: str) -> set[str]:
    """Files of the checkout that a text names; templates such as NAME.py are left out."""
    folders, endings = "benchmarks|callbacks|cli|configs|datamodules|docs|medrobust|tests", "json|md|png|py|yaml"
    found = re.findall(rf"(?<![\w/])(?:{folders})/[\w/.-]+\.(?:{endings})\b", text)
    return {name for name in found if "NAME" not in name}


@each_page
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    assert not [name for name in named_files(page.read_text()) if not (ROOT / name).is_file()]


def test_the_search_for_files_finds_some() -> None:
    assert {"docs/benchmarks.md", "configs/detectors/all.yaml"} <= named_files(README.read_text())
    assert named_files("tests/no/such.py, callbacks/NAME.py") == {"tests/no/such.py"}


@each_page
def test_a_small_study_is_given_after_its_big_one(page: Path) -> None:
    text = page.read_text()
    for place in re.finditer(r"-c (configs/studies/\w+)_small\.yaml", text):
        assert text[: place.start()].rstrip().endswith(f"-c {place[1]}.yaml"), place[0]


def test_the_examples_of_the_recipes_run() -> None:
    blocks = [textwrap.dedent(block) for block in re.findall(r"( *```python\n.*?) *```", CONTRIBUTING, re.DOTALL)]
    names: dict[str, Any] = {"dataclass": dataclass, "torch": torch, **vars(attacks), "Fraction": Fraction}
    for block in blocks:
        exec(block.removeprefix("```python\n"), names | {"EvaluationListener": EvaluationListener}, names)
    images = torch.full((2, 1, 8, 8), 0.5)
    result = names["Brighter"](epsilon=0.25)(linear_victim(), images, torch.tensor([0, 1]))
    assert torch.equal(result.images, images + 0.25)
    batch = SimpleNamespace(columns={}, clean=images, adversarial=result.images)
    names["Brightness"]().on_adversarial_batch(None, None, batch)
    assert batch.columns["brightness"].tolist() == [0.25, 0.25]
