"""Evaluations by several processes, and evaluations that were killed: the records are those of one, uninterrupted."""

import json
import logging
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from medrobust.results.studied import read_studies
from tests.programs import ATTACKS, CONFIG, IMAGES, PAIR, end, evaluate, members, run, run_here, start, train

pytestmark = [pytest.mark.processes, pytest.mark.timeout(280)]

# alone in its batch an image gives the same bits on any number of processes, and t-SNE the same planes
DETECTION = """
model: {init_args: {options: {drop_rate: 0.3}}}
data: {init_args: {batch_size: 1}}
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
    dnn: {class_path: LayerNetworks, init_args: {hidden: 8, epochs: 20}}
    dnn-maps: {class_path: LayerConvolutions, init_args: {side: 4, hidden: 4, epochs: 10}}
    dfeat: {class_path: DeepFeatures, init_args: {trees: 10}}
    qfeat: {class_path: QuantizedFeatures}
  layers: [layer2.*.act2, global_pool]
  fit_on: [same, fgsm]
  passes: 5
  folds: 2
study:
  studies:
    embedding: {class_path: Embedding, init_args: {images: 12}}
    grad_cam: {class_path: GradCAM, init_args: {images: 5, layer: layer2.0.act2}}
    saliency: {class_path: Saliency, init_args: {images: 5}}
"""

DEFENCE = """
defence:
  class_path: Trades
  init_args: {attack: {class_path: PGD, init_args: {epsilon: 2/255, steps: 2}}, warm_up: 1}
ema: 0.9
trainer: {max_epochs: 4, callbacks: [{class_path: tests.rank_states.RankStates}]}
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a victim that two processes have fine-tuned, watching its robustness, and what they printed."""
    folder = tmp_path_factory.mktemp("processes")
    attack = ("--attack.attacks", '{"fgsm": {"class_path": "FGSM"}}', "--attack.fit_batches", "1")
    return folder, train(folder, *PAIR, *attack)


@pytest.fixture(scope="module")
def folder(fitted: tuple[Path, str]) -> Path:
    """The folder, with the victim's evaluation by one process."""
    run_here(fitted[0], "evaluate.py", *evaluate(fitted[0] / "one"))
    return fitted[0]


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


def assert_same_accuracies(one: Path, other: Path) -> None:
    """Compare the accuracies under attack in two summaries exactly."""
    first, second = (json.loads((runs / "small/evaluate/summary.json").read_text())["rows"] for runs in (one, other))
    for before, after in zip(first, second, strict=True):
        assert before["accuracy_under_attack"] == after["accuracy_under_attack"]


def assert_same_studies(one: Path, other: Path) -> None:
    """Compare what studies kept of each image, bit by bit, and the tables of their figures, byte by byte."""
    places = [runs / "small/evaluate" for runs in (one, other)]
    for first, second in zip(*map(read_studies, places), strict=True):
        assert (first.name, first.kind, first.images) == (second.name, second.kind, second.images)
        assert first.attacked.keys() == second.attacked.keys()
        assert len(first.clean) == len(first.images)
        kept_of_attacks = 0 if first.kind == "Saliency" else len(first.images)
        assert {len(kept) for kept in first.attacked.values()} == {kept_of_attacks}
        for key in (None, *first.attacked):
            mine, theirs = (found.clean if key is None else found.attacked[key] for found in (first, second))
            for kept, also in zip(mine, theirs, strict=True):
                assert (kept.id, kept.about) == (also.id, also.about) and kept.arrays.keys() == also.arrays.keys()
                for name, values in kept.arrays.items():
                    np.testing.assert_array_equal(values, also.arrays[name], err_msg=f"{first.name} {kept.id} {name}")
    tables = [{path.name: path.read_bytes() for path in place.glob("figures/*.csv")} for place in places]
    assert tables[0] == tables[1]
    figures = ("embedding_pca", "embedding_tsne", "grad_cam_maps", "grad_cam_overlap", "saliency_maps")
    assert {f"{name}.csv" for name in figures} <= tables[0].keys()


def test_one_process_records_each_image_once_for_each_attack_and_radius(folder: Path) -> None:
    table = records(folder / "one")
    images = json.loads((folder / "one/small/evaluate/manifest.json").read_text())["data"]["images"]
    assert images == IMAGES
    assert images == table["id"].n_unique()
    assert len(table) == images * 4 * 2  # fgsm, pgd, dim and the added noise, at two radii
    assert table.select("key", "id").is_unique().all()
    assert table["success"].equals(table["correct_before"] & table["reached"])
    assert 0 < table["success"].sum() <= table["reached"].sum()


def test_an_evaluation_goes_on_with_another_number_of_processes_after_one_was_stopped(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = folder / "killed"
    process = start(folder, "evaluate.py", *evaluate(runs, *PAIR))
    journal = runs / "small/evaluate/journal"
    deadline = time.monotonic() + 150
    while min(written(journal), default=0) < 32 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    first, second = members(process.pid)
    assert first == process.pid
    os.kill(second, signal.SIGTERM)
    status, printed = end(process, seconds=60)
    assert status == 143 and printed.count("stopped by SIGTERM") == 1 and "Traceback" not in printed
    said = re.search(r"rank 1 of 2 was stopped by SIGTERM: (\d+) of (\d+) records are kept; run the same", printed)
    assert said is not None, printed
    kept = lines(journal)
    everything = len(records(folder / "one"))
    assert 64 <= kept < everything, "the kill came too early or too late to show anything"
    assert 0 <= kept - int(said[1]) <= 4 and int(said[2]) == everything  # a batch may have been written meanwhile
    first_file, second_file = sorted(journal.glob("*.jsonl"))
    assert (first_file.name, second_file.name) == ("rank-0-0.jsonl", "rank-1-0.jsonl")
    for path in (first_file, second_file):  # each process has made every attack at every radius
        whole = map(json.loads, path.read_text().split("\n")[:32])
        assert len({(record["attack"], record["epsilon"]) for record in whole}) == 4 * 2
    with first_file.open("a") as file:
        file.write('{"schema": 1, "key": "torn')  # what a kill in the middle of a line leaves

    with caplog.at_level(logging.INFO):
        run_here(folder, "evaluate.py", *evaluate(runs))

    assert "are there already and are kept" in caplog.text
    assert lines(journal) <= everything + 1, "images were attacked twice"
    assert_same_records(records(folder / "one"), records(runs))
    assert_same_accuracies(folder / "one", runs)


def test_a_kill_other_attacks_and_a_resume_give_the_tables_of_one_evaluation(folder: Path) -> None:
    """Some attacks, killed on the way; then another one, to its end; then the first again: as if made at once."""
    runs, suites = folder / "parts", {"first": ("fgsm", "pgd"), "other": ("dim",)}
    for name, attacks in suites.items():
        kept = {attack: yaml.safe_load(ATTACKS)["attack"]["attacks"][attack] for attack in attacks}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"attack": {"attacks": kept}}))
    process = start(folder, "evaluate.py", *evaluate(runs, "-c", "first.yaml"))
    journal = runs / "small/evaluate/journal"
    deadline = time.monotonic() + 150

    def begun() -> int:
        return sum(path.read_bytes().count(b"\n") for path in journal.glob("*.jsonl"))

    first_batch = 4 * 3 * 2  # by both attacks and the noise, at two radii
    while begun() < first_batch and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    end(process, seconds=60)
    assert first_batch <= begun() < IMAGES * 3 * 2, "the kill came too early or too late to show anything"

    run_here(folder, "evaluate.py", *evaluate(runs, "-c", "other.yaml"))
    part = records(runs)
    assert set(part["attack"]) == {"noise", "fgsm", "pgd", "dim"} and len(part) < IMAGES * 4 * 2
    run_here(folder, "evaluate.py", *evaluate(runs, "-c", "first.yaml"))

    assert_same_records(records(folder / "one"), records(runs))
    assert_same_accuracies(folder / "one", runs)
    summaries = [json.loads((place / "small/evaluate/summary.json").read_text()) for place in (folder / "one", runs)]
    for name in ("worst_case", "checks", "flags"):
        assert summaries[0][name] == summaries[1][name]
    found = [[(entry["attack"], entry["key"]) for entry in one["manifest"]["attacks"]] for one in summaries]
    assert found[0] == found[1]
    shown = records(runs).filter(pl.col("attack") == "dim")
    assert_same_records(part.filter(pl.col("attack") == "dim"), shown)


def lines(journal: Path) -> int:
    """Whole lines in all files of a journal."""
    return sum(written(journal))


def written(journal: Path) -> list[int]:
    """Whole lines in each file of a journal, which two processes write or have written; empty until both do."""
    files = list(journal.glob("*.jsonl"))
    return [path.read_bytes().count(b"\n") for path in files] if len(files) > 1 else []


def test_fine_tuning_by_two_processes_ends_with_one_checkpoint_and_robustness_logged(fitted: tuple[Path, str]) -> None:
    folder, printed = fitted
    assert "best checkpoint" in printed
    assert (folder / "runs/small/checkpoints/best.ckpt").is_file()


@pytest.mark.slow
def test_training_against_an_attack_by_two_processes_goes_on_with_the_same_curve_and_ends_with_the_same_victim(
    tmp_path: Path,
) -> None:
    (tmp_path / "defence.yaml").write_text(DEFENCE)
    (tmp_path / "small.yaml").write_text(CONFIG)
    options = ("fit", "-c", "small.yaml", "-c", "defence.yaml", *PAIR, "--data.patients", "40")
    printed = run(tmp_path, "train.py", *options)
    assert "9.0 passes per image and epoch" in printed
    assert not (tmp_path / "killed/small/rank-0.pt").exists()
    run(tmp_path, "train.py", *options, "--runs", "killed", "--ckpt_path", "last")
    first, *others = (
        torch.load(tmp_path / runs / "small" / f"rank-{rank}.pt", weights_only=True)
        for runs in ("runs", "killed")
        for rank in (0, 1)
    )
    for other in others:
        assert [name for name, tensor in first.items() if not torch.equal(tensor, other[name])] == []
    kept = [
        torch.load(tmp_path / runs / "small/checkpoints/last.ckpt", weights_only=True) for runs in ("runs", "killed")
    ]
    assert kept[0]["epoch"] == kept[1]["epoch"] == 3 and kept[0]["defence"] == kept[1]["defence"]
    assert all(torch.equal(kept[0]["state_dict"][name], first[name]) for name in first)  # the averages of the first


def test_detectors_and_studies_by_two_processes_are_those_of_one(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "detection.yaml").write_text(DETECTION)
    tables, cells = [], []
    one_detects, two_detect = (
        tuple("detection.yaml" if word == "attacks.yaml" else word for word in evaluate(folder / name, *more))
        for name, more in (("one-detects", ()), ("two-detect", PAIR))
    )
    run_here(folder, "evaluate.py", *one_detects)
    said = caplog.text + run(folder, "evaluate.py", *two_detect)
    assert not re.search(r"detector [^\n]* is left out", said)
    assert_same_accuracies(folder / "one-detects", folder / "two-detect")
    for name in ("one-detects", "two-detect"):
        tables.append(records(folder / name))
        summary = json.loads((folder / name / "small/evaluate/summary.json").read_text())
        cells.append(summary["detection"]["rows"])
    assert len(tables[0]) == 3 * IMAGES  # fgsm, hide and the added noise
    assert tables[1].select("key", "id").is_unique().all()
    assert_same_records(*tables)
    one, two = (table.sort("key", "id") for table in tables)
    for column in ("detector_dnn_same", "detector_dnn_fgsm", "detector_dnn-maps_same", "detector_dnn-maps_fgsm"):
        assert (one[column] - two[column]).abs().max() < 1e-3 * one[column].std(), column  # rounding stays rounding
    assert one["grad_cam_overlap"].equals(two["grad_cam_overlap"])  # also where a map has no place above 0
    assert_same_studies(folder / "one-detects", folder / "two-detect")
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
