"""Configurations with one mistake each: exit status 2, one sentence that names it, and no data read."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

import cli.main
from lightning_modules import Classifier

cases = pytest.importorskip("tests.faults.broken_configurations")
pytestmark = pytest.mark.slow
LONGEST = 300  # characters; a longer sentence is not read


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the demo's victim."""
    trainer = pl.Trainer(logger=False, accelerator="cpu", devices=1, enable_checkpointing=False, barebones=True)
    trainer.strategy.connect(Classifier("resnet10t", channels=1))
    path = tmp_path_factory.mktemp("checkpoints") / "demo.ckpt"
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize("case", cases.BROKEN, ids=lambda case: f"{case.program} {case.what}")
def test_a_broken_configuration_is_told_in_one_sentence(
    case: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = case.command(tmp_path, checkpoint)
    monkeypatch.setattr("sys.argv", [f"{case.program}.py"])
    before = {path.name for path in tmp_path.iterdir()}
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main(case.program, arguments)
    (said,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2, said
    assert all(word in said for word in case.words) and not any(word in said for word in case.absent), said
    assert len(said) <= LONGEST, said
    assert {path.name for path in tmp_path.iterdir()} - before <= {"runs"}, "data were read"
