"""The campaign of broken configurations: each ends with exit status 2 and one sentence that a newcomer can act on."""

import re
from pathlib import Path

import pytest
import pytorch_lightning as pl

import cli.main
from datamodules import MedicalDataModule
from lightning_modules import Classifier
from tests.faults.broken_configurations import BROKEN, Broken

pytestmark = pytest.mark.slow
LONGEST = 320  # characters; a longer sentence is not read
INTERNAL = r"Union|Namespace|NestedArg|<class|typing\.|NoneType|Traceback"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the demo's victim, as Lightning writes it."""
    trainer = pl.Trainer(logger=False, accelerator="cpu", devices=1, enable_checkpointing=False, barebones=True)
    trainer.strategy.connect(Classifier("resnet10t", channels=1))
    path = tmp_path_factory.mktemp("checkpoints") / "demo.ckpt"
    trainer.save_checkpoint(path)
    return path


def test_every_mistake_has_its_own_description() -> None:
    assert len({case.what for case in BROKEN}) == len(BROKEN) >= 40


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.what)
def test_a_broken_configuration_gets_one_sentence(
    case: Broken,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("data were read before the mistake was seen")

    for kind in (MedicalDataModule, *MedicalDataModule.__subclasses__()):
        monkeypatch.setattr(kind, "setup", read)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [f"{case.program}.py"])
    arguments = case.command(tmp_path, checkpoint)
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main.main(case.program, arguments)
    lines = capfd.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert len(lines) <= 4 and lines[-1].startswith("error: "), "\n".join(lines)
    for word in case.words:
        assert word in lines[-1]
    assert len(lines[-1]) <= LONGEST and not re.search(INTERNAL, lines[-1]), lines[-1]
    assert not any(word in lines[-1] for word in case.absent), lines[-1]
    assert not (tmp_path / "runs").exists(), "a run's folder was made before the mistake was seen"
