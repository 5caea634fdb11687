"""The phantoms of dense tasks, from configuration to numbers: victims that are good, and attacks that break them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.programs import ROOT, start

ATTACKS = {"pgd": {"class_path": "PGD"}, "smia": {"class_path": "SMIA"}}
QUIET = "--trainer.enable_progress_bar false --trainer.accelerator cpu --trainer.logger false".split()


def ran(folder: Path, program: str, *arguments: str) -> None:
    """Run a program to its end, which has to be a good one."""
    process = start(folder, program, *arguments, *QUIET)
    said, _ = process.communicate(timeout=3000)
    assert process.returncode == 0, said[-3000:]


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(6000)
@pytest.mark.parametrize(
    ("name", "task", "measure", "reached"),
    [("phantom_ct", "masks", "jaccard", 0.9), ("phantom_endoscopy", "boxes", "map50", 0.6)],
)
def test_a_victim_is_good_and_attacks_halve_it(
    name: str, task: str, measure: str, reached: float, tmp_path: Path
) -> None:
    config = str(ROOT / f"configs/victims/{name}.yaml")
    ran(tmp_path, "train.py", "fit", "-c", config, "--attack.fit_batches", "0")
    attack = ["--attack.attacks", json.dumps(ATTACKS), "--attack.epsilons", "[8/255]", "--quality.download", "false"]
    few = ["--ckpt_path", "best", "--trainer.limit_test_batches", "2"]
    ran(tmp_path, "evaluate.py", "test", "-c", f"runs/{name}/train.yaml", *attack, *few)
    summary: Any = json.loads((tmp_path / f"runs/{name}/evaluate/summary.json").read_text())
    rows = {row["attack"] or "clean": row[measure] for row in summary[task]["rows"]}
    assert rows["clean"] >= reached and abs(rows["noise"] - rows["clean"]) < 0.05 * rows["clean"]
    assert max(rows["pgd"], rows["smia"]) <= rows["clean"] / 2
