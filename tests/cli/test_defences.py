"""Defences on the command line: what a run is trained against, and input defences of an evaluation."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.programs import ATTACKS, CONFIG, run_here

DEFENCE = """
defence:
  class_path: AdversarialTraining
  init_args: {attack: {class_path: PGD, init_args: {epsilon: 2/255, steps: 2}}, warm_up: 1}
"""
SMALL = ("--data.patients", "40", "--trainer.logger", "false", "--trainer.max_epochs", "1")


def written(folder: Path) -> tuple[str, ...]:
    """Write the configurations, and give the options that name them."""
    (folder / "small.yaml").write_text(CONFIG)
    (folder / "attacks.yaml").write_text(ATTACKS)
    (folder / "defence.yaml").write_text(DEFENCE)
    return ("-c", "small.yaml", "-c", "defence.yaml", *SMALL)


def test_a_run_is_trained_against_an_attack_and_evaluated_behind_an_input_defence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = written(tmp_path)
    run_here(tmp_path, "train.py", "fit", *options)
    printed = " ".join(capsys.readouterr().out.split())
    assert "best checkpoint (val/robust_accuracy" in printed
    assert "trained by adversarial training against PGD at ε = 2/255, 2 steps, with 1 epoch of warm-up: 6.0" in printed
    run = tmp_path / "runs" / "small"
    config = yaml.safe_load((run / "train.yaml").read_text())
    assert (config["checkpoint"]["monitor"], config["checkpoint"]["mode"]) == ("val/robust_accuracy", "max")
    assert config["defence"]["init_args"]["attack"]["init_args"]["epsilon"] == "2/255"
    held = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert held["defence"]["defence"]["class"] == "AdversarialTraining" and held["defence"]["images"] > 0

    for changed in (("--defence.warm_up", "2"), ("--defence", "null")):  # another victim than that of the folder
        with pytest.raises(SystemExit) as refused:
            run_here(tmp_path, "train.py", "fit", *options, *changed)
        assert refused.value.code == 2 and "defence." in " ".join(capsys.readouterr().err.split())

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    run_here(tmp_path, "train.py", "fit", *options, "--trainer.fast_dev_run", "true")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert capsys.readouterr().out.count("a dry run (trainer.fast_dev_run): nothing of it is kept") == 1

    attacks = "attack: {attacks: {fgsm: {class_path: FGSM, init_args: {epsilon: 1/255}}}}"
    (tmp_path / "one.yaml").write_text(attacks)
    evaluation: Any = ("test", "-c", "runs/small/train.yaml", "-c", "one.yaml", "--ckpt_path", "best")
    capsys.readouterr()
    run_here(tmp_path, "evaluate.py", *evaluation, "--data.limit", "6", "--attack.input_defence", "BitDepth")
    shown = capsys.readouterr()
    printed = " ".join(shown.out.split())
    assert "without its input defence, on the same images: " in printed
    assert (
        "small: phantom_chest_xray adv_test victim trained by adversarial training against PGD at ε = 2/255" in printed
    )
    assert "victim behind reduced bit depth (bits 4): attacks see through it by straight-through gradients" in printed
    assert "add the following callbacks" not in shown.err
    manifest = json.loads((run / "evaluate" / "manifest.json").read_text())
    assert manifest["victim"]["input_defence"] == {"class": "BitDepth", "bits": 4}
    assert manifest["victim"]["defence"] == held["defence"]
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    run_here(tmp_path, "evaluate.py", *evaluation, "--trainer.fast_dev_run", "true")
    printed = " ".join(capsys.readouterr().out.split())
    assert "n: images attacked so far" in printed and re.search(r"clean – [1-4] of \d+ ", printed)  # a batch
    assert printed.endswith("a dry run (trainer.fast_dev_run): nothing of it is kept") and "report" not in printed
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert "quality" not in manifest["victim"] and "accuracy" in manifest["victim"]["quality_without_defence"]


def test_a_checkpoint_is_chosen_by_another_number_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = written(tmp_path)
    options += ("--checkpoint.monitor", "val/auroc", "--checkpoint.mode", "max", "--ema", "0.9")
    run_here(tmp_path, "train.py", "fit", *options, "--trainer.limit_train_batches", "2", "--defence.attack.steps", "1")
    assert "best checkpoint (val/auroc" in capsys.readouterr().out
    held = torch.load(tmp_path / "runs" / "small" / "checkpoints" / "best.ckpt", weights_only=True)
    assert held["averaged_weights"]["decay"] == 0.9 and held["averaged_weights"]["updates"] == 2
    with pytest.raises(SystemExit) as refused:
        run_here(tmp_path, "train.py", "fit", *options, "--ema", "null", "--ckpt_path", "last")
    assert refused.value.code == 2 and "ema was 0.9" in " ".join(capsys.readouterr().err.split())
