"""Masks and boxes evaluated by two processes: the records are those of one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from medrobust.results.same_records import differences
from tests.dense_toys import TASKS
from tests.programs import PAIR, run, run_here

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(280)]

ATTACKS = """
attack:
  attacks:
    pgd: {class_path: PGD, init_args: {epsilon: 0.15, steps: 3, step_size: 0.1, random_start: true}}
"""
OPTIONS = (
    "--name toy --data.root unused --data.image_size 8 --data.channels 1 --data.batch_size 4 --data.limit 23 "
    "--data.test_split all --quality.download false --trainer.logger false --trainer.enable_progress_bar false "
    "--trainer.accelerator cpu"
).split()


@pytest.mark.parametrize("task", ["masks", "boxes"])
def test_two_processes_leave_the_records_of_one(task: str, tmp_path: Path, run_of: Callable[[Path, Any], str]) -> None:
    victim, data = TASKS[task]
    best = Path(run_of(tmp_path / "run", victim())) / "checkpoints" / "best.ckpt"
    (tmp_path / "attacks.yaml").write_text(ATTACKS)
    kinds = ("--model", f"tests.dense_toys.{victim.__name__}", "--data", f"tests.dense_toys.{data.__name__}")
    options = ("test", *kinds, *OPTIONS, "-c", "attacks.yaml", "--ckpt_path", str(best))
    run(tmp_path, "evaluate.py", *options, *PAIR, "--runs", "two")
    run_here(tmp_path, "evaluate.py", *options, "--trainer.devices", "1", "--runs", "one")
    one, two = (pl.read_parquet(*tmp_path.glob(f"{runs}/toy/evaluate_on/*/records.parquet")) for runs in ("one", "two"))
    assert len(one) == 2 * one["id"].n_unique() and one["success"].sum() > 0 and not one["success"].all()
    assert len(list(tmp_path.glob("two/toy/evaluate_on/*/journal/*.jsonl"))) == 2
    assert not list(differences(one, two, 1e-6))
    pictures = [
        sorted(path.name for path in tmp_path.glob(f"{runs}/toy/evaluate_on/*/panels/*")) for runs in ("one", "two")
    ]
    assert pictures[0] == pictures[1] and len(pictures[0]) > 0
