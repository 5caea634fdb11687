"""The documentation is true: Python runs as it is printed, commands are understood, and named files exist."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import compare
from cli import prepare, quick_answers
from medrobust import attacks
from medrobust.attacks.budgets import Fraction
from medrobust.evaluation import EvaluationListener
from tests.tiny_networks import linear_victim

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("configs/**/*.yaml"))]
PROGRAMS = ("train.py", "evaluate.py", "compare.py", "prepare.py")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def run_python(page: Path, folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the Python of a page leaves, run in one piece in a folder."""
    patch.chdir(folder)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in blocks:
            exec(block, names)
    return names


def test_the_readmes_python_runs(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_python(README, tmp_path, monkeypatch)
    assert "report.html" in capsys.readouterr().out
    assert names["result"].summary["rows"][0]["n"] == 8 and (tmp_path / "runs/mine/report.html").is_file()


def test_the_librarys_python_runs_in_one_piece(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_python(ROOT / "docs/python.md", tmp_path, monkeypatch)
    assert "tensor([" in capsys.readouterr().out
    assert names["result"].images.shape == (4, 3, 64, 64)
    assert (tmp_path / "runs/loop/evaluate/report.html").is_file()


def commands(page: Path) -> list[list[str]]:
    """The words of each command of our programs in a page's blocks of shell."""
    found = []
    for block in re.findall(r"```(?:bash|sh)\n(.*?)```", page.read_text(), re.DOTALL):
        text = re.sub(r"<<END\n.*?\nEND\n", "\n", block.replace("\\\n", " "), flags=re.DOTALL)
        lines = [
            shlex.split(line, comments=True)
            for line in text.splitlines()
            if "'" not in line or line.count("'") % 2 == 0
        ]
        for words in lines:
            places = [place for place, word in enumerate(words) if word in PROGRAMS]
            found += [words[places[0] :]] if places else []
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".md" and commands(page)], ids=str)
def test_the_commands_of_a_page_are_understood(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options exist, also those of the classes that configurations name; commands and arguments fit."""
    monkeypatch.chdir(ROOT)
    stored = quick_answers.read()
    for program, *words in commands(page):
        words = [word for word in words if word not in ("...", ">")]
        if program in ("train.py", "evaluate.py") and words[0] != "replay":
            options = quick_answers.options_in(stored["help"][f"{program} {words[0]}"])
            assert not quick_answers.unknown_option(words[1:], options, stored["classes"]), words
        elif program == "compare.py":
            compare._parser().parse_args(words)
        elif program == "prepare.py" and words[0] != "describe":
            prepare.parser([]).parse_args(words)


def test_commands_are_found_in_pages(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```bash\nA=1 python train.py fit -c x.yaml \\\n  --name n  # so\ncat > f <<END\npython no.py\nEND\nls\n```\n"
    )
    assert commands(page) == [["train.py", "fit", "-c", "x.yaml", "--name", "n"]]


def test_the_site_is_built_without_a_warning_and_asks_for_nothing_outside(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-3000:]
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]*\ssrc=\"?([^\" >]+)|<link[^>]*\shref=\"?([^\" >]+)", page.read_text()
        )
        assert not [place for places in loaded for place in places if re.match(r"(https?:)?//", place)], page.name


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
        assert text[: place.start()].rstrip(" \\\n").endswith(f"-c {place[1]}.yaml"), place[0]


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
