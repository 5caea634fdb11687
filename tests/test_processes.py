"""Evaluations by several processes, and evaluations that were killed: the records are those of one, uninterrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [pytest.mark.processes, pytest.mark.timeout(280)]

IMAGES = 23  # of adv_test below: divisible neither by 2 ranks nor by the batch size
CONFIG = """
name: small
seed_everything: 7
model:
  class_path: Classifier
  init_args: {backbone: resnet10t, channels: 1}
data:
  class_path: PhantomChestXRay
  init_args:
    root: phantom
    patients: 100
    side: 32
    image_size: 32
    channels: 1
    batch_size: 4
    fractions: {train: 0.6, val: 0.1, adv_train: 0.14, adv_test: 0.16}
trainer: {max_epochs: 2, logger: false, accelerator: cpu, devices: 1, enable_progress_bar: false}
quality: {download: false}
"""
ATTACKS = """
attack:
  attacks:
    fgsm: {class_path: FGSM}
    pgd: {class_path: PGD, init_args: {steps: 3, step_size: 1/255, stop_when_fooled: true}}
    dim: {class_path: DIM, init_args: {steps: 2}}
  epsilons: [1/255, 4/255]
"""
DETECTION = """
model: {init_args: {options: {drop_rate: 0.3}}}
attack:
  attacks:
    fgsm: {class_path: FGSM, init_args: {epsilon: 24/255}}
    hide:
      class_path: BIM
      init_args:
        epsilon: 24/255
        steps: 3
        objective:
          class_path: WeightedSum
          init_args:
            terms: [{class_path: CrossEntropy}, {class_path: FeatureConstraint, init_args: {taps: [global_pool]}}]
            weights: [1.0, 0.01]
detection:
  detectors:
    kd: {class_path: KernelDensity}
    bu: {class_path: BayesianUncertainty}
    kd-bu: {class_path: KernelDensityUncertainty}
    lid: {class_path: LocalDimension, init_args: {neighbours: 5}}
    maha: {class_path: Mahalanobis}
    svm: {class_path: SupportVectors}
    dnn: {class_path: LayerNetworks}
    dnn-maps: {class_path: LayerConvolutions, init_args: {side: 4, hidden: 4, epochs: 20}}
    dfeat: {class_path: DeepFeatures, init_args: {trees: 20}}
    qfeat: {class_path: QuantizedFeatures}
  layers: [layer2.*.act2, global_pool]
  fit_on: [same, fgsm]
  passes: 10
"""


def start(folder: Path, program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program of the project in a folder of its own, with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / program), *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run(folder: Path, program: str, *arguments: str) -> str:
    """Run a program to its end and give what it printed."""
    process = start(folder, program, *arguments)
    try:
        printed, _ = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        process.kill()
        printed, _ = process.communicate()
        pytest.fail(f"{program} hung:\n{printed[-3000:]}")
    assert process.returncode == 0, printed[-3000:]
    return printed


def evaluate(runs: Path, *more: str) -> tuple[str, ...]:
    """Arguments of an evaluation whose run lies in ``runs``, so that several can share one checkpoint."""
    best = runs.parent / "runs" / "small" / "checkpoints" / "best.ckpt"
    configs = ("-c", "small.yaml", "-c", "attacks.yaml", "--runs", str(runs), "--ckpt_path", str(best))
    return ("test", *configs, "--data.limit", str(IMAGES), *more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned victim, and its evaluation by one process."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "small.yaml").write_text(CONFIG)
    (folder / "attacks.yaml").write_text(ATTACKS)
    run(folder, "train.py", "fit", "-c", "small.yaml")
    run(folder, "evaluate.py", *evaluate(folder / "one"))
    return folder


def records(runs: Path) -> pl.DataFrame:
    """Merged records of an evaluation."""
    return pl.read_parquet(runs / "small" / "evaluate" / "records.parquet")


def assert_same_records(one: pl.DataFrame, other: pl.DataFrame) -> None:
    """Compare all that rounding leaves alone exactly, and norms within rounding."""
    assert len(one) == len(other)
    exact = [
        "key",
        "id",
        "attack",
        "epsilon",
        "target",
        "clean_prediction",
        "correct_before",
        "correct_after",
        "reached",
        "success",
    ]
    assert one.select(exact).equals(other.select(exact))
    for norm in ("linf", "l2"):
        np.testing.assert_allclose(one[norm].to_numpy(), other[norm].to_numpy(), rtol=1e-2, atol=1e-6)
    assert one["forwards"].equals(other["forwards"])


def test_one_process_records_each_image_once_for_each_attack_and_radius(folder: Path) -> None:
    table = records(folder / "one")
    images = json.loads((folder / "one/small/evaluate/manifest.json").read_text())["data"]["images"]
    assert images == IMAGES
    assert images == table["id"].n_unique()
    assert len(table) == images * 4 * 2  # fgsm, pgd, dim and the added noise, at two radii
    assert table.select("key", "id").is_unique().all()
    assert table["success"].equals(table["correct_before"] & table["reached"])
    assert 0 < table["success"].sum() <= table["reached"].sum()


def test_two_processes_give_the_records_of_one(folder: Path) -> None:
    runs = folder / "two"
    run(folder, "evaluate.py", *evaluate(runs, "--trainer.devices", "2", "--trainer.strategy", "ddp"))
    files = sorted(path.name for path in (runs / "small/evaluate/journal").glob("*.jsonl"))
    assert files == ["rank-0-0.jsonl", "rank-1-0.jsonl"]
    assert_same_records(records(folder / "one"), records(runs))
    one, two = (
        json.loads((folder / name / "small/evaluate/summary.json").read_text())["rows"] for name in ("one", "two")
    )
    for before, after in zip(one, two, strict=True):
        assert before["accuracy_under_attack"] == after["accuracy_under_attack"]


def test_a_killed_evaluation_goes_on_where_it_was_with_another_number_of_processes(folder: Path) -> None:
    runs = folder / "killed"
    process = start(folder, "evaluate.py", *evaluate(runs, "--trainer.devices", "2", "--trainer.strategy", "ddp"))
    journal = runs / "small/evaluate/journal"
    deadline = time.monotonic() + 150
    while lines(journal) < 30 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for pid in (process.pid, *map(int, children)):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    kept = lines(journal)
    everything = len(records(folder / "one"))
    assert 30 <= kept < everything, "the kill came too early or too late to show anything"
    with next(iter(sorted(journal.glob("rank-0-*.jsonl")))).open("a") as file:
        file.write('{"schema": 1, "key": "torn')  # what a kill in the middle of a line leaves

    printed = run(folder, "evaluate.py", *evaluate(runs))

    assert "are there already and are kept" in printed
    assert lines(journal) <= everything + 1, "images were attacked twice"
    assert_same_records(records(folder / "one"), records(runs))


def lines(journal: Path) -> int:
    """Whole lines in all files of a journal."""
    return sum(path.read_bytes().count(b"\n") for path in journal.glob("*.jsonl"))


def test_fine_tuning_by_two_processes_ends_with_one_checkpoint_and_robustness_logged(folder: Path) -> None:
    runs = folder / "pair"
    more: list[Any] = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_epochs", "1"]
    attack = ["--attack.attacks", '{"fgsm": {"class_path": "FGSM"}}', "--attack.fit_batches", "1"]
    printed = run(folder, "train.py", "fit", "-c", "small.yaml", "--runs", str(runs), *more, *attack)
    assert "best checkpoint" in printed
    assert (runs / "small/checkpoints/best.ckpt").is_file()


def test_detectors_by_two_processes_are_those_of_one(folder: Path) -> None:
    (folder / "detection.yaml").write_text(DETECTION)
    tables, cells = [], []
    for name, more in (("one-detects", ()), ("two-detect", ("--trainer.devices", "2", "--trainer.strategy", "ddp"))):
        arguments = evaluate(folder / name, *more)
        at = arguments.index("attacks.yaml")
        printed = run(folder, "evaluate.py", *arguments[:at], "detection.yaml", *arguments[at + 1 :])
        assert "is left out" not in printed
        tables.append(records(folder / name))
        summary = json.loads((folder / name / "small/evaluate/summary.json").read_text())
        cells.append(summary["detection"]["rows"])
    assert len(tables[0]) == 3 * IMAGES  # fgsm, hide and the added noise
    assert tables[1].select("key", "id").is_unique().all()
    assert_same_records(*tables)
    one, two = (table.sort("key", "id") for table in tables)
    for column in ("detector_dnn_same", "detector_dnn_fgsm", "detector_dnn-maps_same", "detector_dnn-maps_fgsm"):
        assert (one[column] - two[column]).abs().max() < 1e-4 * one[column].std(), column  # rounding stays rounding
    assert len(cells[0]) == 2 * 2 * 10  # attacks, fits and detectors
    for cell, other in zip(*cells, strict=True):
        same = ("attack", "fit", "detector", "n_positive", "n_negative")
        assert [cell[name] for name in same] == [other[name] for name in same]
        assert cell["n_positive"] > 2
        place = (cell["attack"], cell["fit"], cell["detector"])
        assert cell["auroc"] == pytest.approx(other["auroc"], abs=1e-3), place
        assert cell["controls"]["signs"] == pytest.approx(other["controls"]["signs"], abs=1e-3), place
        assert cell["fitted_positives"] == other["fitted_positives"], place
        assert cell["threshold"] == pytest.approx(other["threshold"], rel=1e-3, abs=1e-3), place
