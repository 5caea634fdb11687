"""Runs ``evaluate.py test`` on a toy victim and its data, as a user would, and gives the records."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest

from cli.main import main
from medrobust.results.records import read_records

OPTIONS = (
    "--name toy --ckpt_path best --data.root unused --data.image_size 8 --data.channels 1 --data.batch_size 4 "
    "--quality.download false --trainer.logger false --trainer.enable_progress_bar false --trainer.accelerator cpu"
)


@pytest.fixture
def evaluate(
    tmp_path: Path, run_of: Callable[[Path, Any], str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Any, type, dict[str, Any]], polars.DataFrame]:
    """``evaluate(victim, DataModule, {name: {"class_path": ...}})``: the attacks' and the noise's records."""

    def run(victim: Any, data: type, attacks: dict[str, Any]) -> polars.DataFrame:
        run_of(tmp_path / "toy", victim)
        model, module = (f"{kind.__module__}.{kind.__qualname__}" for kind in (type(victim), data))
        kinds = ["--model", model, "--data", module, "--runs", str(tmp_path)]
        monkeypatch.setattr("sys.argv", ["evaluate.py"])
        main("evaluate", ["test", *kinds, *OPTIONS.split(), "--attack.attacks", json.dumps(attacks)])
        evaluated = tmp_path / "toy" / "evaluate"
        assert (evaluated / "report.html").is_file() and list((evaluated / "journal").glob("*.jsonl"))
        return read_records(evaluated)

    return run
