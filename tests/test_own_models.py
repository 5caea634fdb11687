"""The page about one's own model is true: its Python runs as it is printed, and so do the docstrings' examples."""

import ast
import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from medrobust.one_call import Evaluated, Options, evaluate

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "own-models.md").read_text()
WITH_EXAMPLES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in (ROOT / "medrobust").rglob("*.py")
    if ">>> " in path.read_text()
)


def test_the_pages_python_runs_in_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        for block in blocks:
            exec(block, names)
    said = capsys.readouterr().out
    assert (
        "an attacker who knows the model makes it wrong about" in said
        and "convert them by torch.from_numpy(images).permute(0, 3, 1, 2) / 255" in said
    )
    assert torch.equal((names["converted"] * 255).round(), (names["images"] * 255).round())
    reports = {path.parent.name for path in tmp_path.glob("runs/*/report.html")}
    assert reports == {"mine", "transformers", "labels", "function", "scans", "detected", "lightning"}
    assert isinstance(names["result"], Evaluated)
    scored = names["result"].records.filter(pl.col("attack") == "pgd")["detector_mahalanobis_same"]
    assert scored.null_count() == 0
    assert pl.read_parquet(tmp_path / "runs" / "mine" / "records.parquet")["correct_before"].mean() > 0.6


def test_every_option_is_explained_and_every_kind_of_output_named() -> None:
    explained = evaluate.__doc__ or ""
    assert not [name for name in Options.__annotations__ if f"``{name}``" not in explained]
    from medrobust.networks.model_outputs import KINDS

    assert not [kind for kind in KINDS if f"| `{kind}` |" not in PAGE]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_docstrings_are_true(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted and not results.failed


def test_examples_are_looked_for_in_docstrings_that_have_some() -> None:
    tree = ast.parse((ROOT / "medrobust/networks/model_outputs.py").read_text())
    assert "medrobust.networks.model_outputs" in WITH_EXAMPLES and len(WITH_EXAMPLES) > 10
    assert any(
        ">>> " in (ast.get_docstring(node) or "") for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    )
