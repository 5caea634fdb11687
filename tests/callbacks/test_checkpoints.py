"""Checkpoints: the best and the last epoch, whole whatever happens, and a training without a result is refused."""

import errno
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

import medrobust.results.manifest as manifest
from callbacks import Checkpoints
from cli.endings import UnfinishedError
from cli.work_kept import check_trained
from tests.in_lightning import trainer_of


class Given(pl.LightningModule):
    """A module whose validation losses are given, one for each epoch."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.weight, self.losses = nn.Parameter(torch.zeros(1)), losses

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.losses[self.current_epoch])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1.0)


def checkpoints(folder: Path, **options: Any) -> Checkpoints:
    """Checkpoints as the command line configures them."""
    given = {"monitor": "val/loss", "filename": "best", "save_last": True, "enable_version_counter": False}
    return Checkpoints(folder, **{**given, **options})


def fit(folder: Path, losses: list[float], resume: Path | None = None, **options: Any) -> pl.Trainer:
    """Train for as many epochs as there are losses, two steps each."""
    settings = {"max_epochs": len(losses), "enable_checkpointing": True, "num_sanity_val_steps": 0, **options}
    trainer = trainer_of(checkpoints(folder), **settings)
    trainer.fit(Given(losses), DataLoader(range(2)), DataLoader(range(1)), ckpt_path=resume)
    return trainer


def epochs(folder: Path) -> dict[str, int]:
    """The epoch that each checkpoint is of, from 0."""
    return {path.stem: torch.load(path, weights_only=False)["epoch"] for path in folder.glob("*.ckpt")}


@pytest.mark.parametrize(
    ("losses", "best"), [([1.0, 2.0, 3.0], 0), ([3.0, 1.0, 2.0], 1), ([3.0, 2.0, 1.0], 2), ([1.0, 1.0], 0)]
)
def test_last_is_the_last_epoch_whichever_was_the_best(tmp_path: Path, losses: list[float], best: int) -> None:
    fit(tmp_path, losses)
    assert epochs(tmp_path) == {"best": best, "last": len(losses) - 1}


def test_last_is_the_last_epoch_where_not_every_epoch_is_validated(tmp_path: Path) -> None:
    fit(tmp_path, [1.0, 2.0, 3.0], check_val_every_n_epoch=2)
    assert epochs(tmp_path)["last"] == 2


def test_a_training_goes_on_from_its_last_epoch_and_remembers_the_best(tmp_path: Path) -> None:
    fit(tmp_path, [2.0, 3.0])
    fit(tmp_path, [2.0, 3.0, 2.5, 4.0], resume=tmp_path / "last.ckpt")
    assert epochs(tmp_path) == {"best": 0, "last": 3}


def test_a_training_whose_folder_was_moved_remembers_the_best(tmp_path: Path) -> None:
    fit(tmp_path / "before", [0.5, 3.0])
    (tmp_path / "before").rename(tmp_path / "after")
    trainer = fit(tmp_path / "after", [0.5, 3.0, 2.5, 4.0], resume=tmp_path / "after" / "last.ckpt")
    assert epochs(tmp_path / "after") == {"best": 0, "last": 3} and not (tmp_path / "before").exists()
    best = trainer.checkpoint_callback
    assert best.best_model_path == str(tmp_path / "after" / "best.ckpt") and best.best_model_score == 0.5
    fit(tmp_path / "after", [0.5, 3.0, 2.5, 4.0, 0.25], resume=tmp_path / "after" / "last.ckpt")
    assert epochs(tmp_path / "after") == {"best": 4, "last": 4}


def test_a_training_that_goes_on_elsewhere_says_that_the_best_so_far_is_not_there(tmp_path: Path) -> None:
    fit(tmp_path / "here", [0.5, 3.0])
    with pytest.warns(UserWarning, match="does not hold best.ckpt of the training that goes on here"):
        fit(tmp_path / "there", [0.5, 3.0, 2.5, 4.0], resume=tmp_path / "here" / "last.ckpt")
    assert epochs(tmp_path / "there") == {"best": 2, "last": 3} and epochs(tmp_path / "here")["best"] == 0


def test_an_evaluation_of_another_folders_checkpoint_says_nothing_of_a_training(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    fit(tmp_path / "here", [0.5, 3.0])
    trainer = trainer_of(checkpoints(tmp_path / "there"), enable_checkpointing=True)
    trainer.validate(Given([0.5]), DataLoader(range(1)), str(tmp_path / "here" / "best.ckpt"), verbose=False)
    assert not [warning for warning in recwarn if "does not hold" in str(warning.message)]


def test_what_lightnings_own_callback_has_written_can_be_resumed_from(tmp_path: Path) -> None:
    ours, theirs = checkpoints(tmp_path), ModelCheckpoint(tmp_path, monitor="val/loss", filename="best")
    assert ours.state_key == theirs.state_key


@pytest.mark.parametrize("left", [0, 100])
def test_a_full_disk_leaves_the_former_checkpoint_and_is_named(
    tmp_path: Path, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path, [1.0])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def write(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:left])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifest.Path, "write_bytes", write)
    with pytest.raises(OSError) as refused:
        fit(tmp_path, [1.0, 0.5], resume=tmp_path / "last.ckpt")
    monkeypatch.undo()
    assert refused.value.errno == errno.ENOSPC and str(refused.value.filename).endswith("best.ckpt")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_training_that_diverged_is_refused_with_what_there_is(tmp_path: Path, bad: float) -> None:
    with pytest.raises(UnfinishedError, match=r"diverged: val/loss was inf from the first epoch on"):
        check_trained(fit(tmp_path / "all", [bad, bad]))
    with pytest.raises(UnfinishedError, match=rf"val/loss is {bad} after the last epoch; .*best\.ckpt.*\(0\.5000\)"):
        check_trained(fit(tmp_path / "late", [1.0, 0.5, bad]))
    check_trained(fit(tmp_path / "recovered", [1.0, bad, 0.5]))


def test_a_number_that_the_images_of_val_do_not_define_is_no_divergence(tmp_path: Path) -> None:
    class WithoutBoxes(Given):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            self.log("val/map50", math.nan)

    trainer = trainer_of(
        checkpoints(tmp_path, monitor="val/map50", mode="max"), max_epochs=2, enable_checkpointing=True
    )
    trainer.fit(WithoutBoxes([1.0, 0.5]), DataLoader(range(2)), DataLoader(range(1)))
    with pytest.raises(UnfinishedError, match=r"val/map50 is not defined for the images of val.*val/loss is 0\.5000"):
        check_trained(trainer)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_epochs": 0}, "no checkpoint, and val/loss was never measured: it ended after 0 steps"),
        ({"limit_train_batches": 0}, "no checkpoint"),
    ],
)
def test_a_training_without_a_checkpoint_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UnfinishedError, match=words):
        check_trained(fit(tmp_path, [1.0], **options))


def test_a_training_that_was_to_make_no_best_checkpoint_is_not_refused(tmp_path: Path) -> None:
    check_trained(fit(tmp_path / "dry", [1.0], fast_dev_run=True))
    assert not epochs(tmp_path / "dry")
    check_trained(fit(tmp_path / "unvalidated", [1.0, 1.0], limit_val_batches=0))
    assert epochs(tmp_path / "unvalidated") == {"last": 1}
    trainer = trainer_of(max_epochs=1)
    trainer.fit(Given([1.0]), DataLoader(range(2)), DataLoader(range(1)))
    check_trained(trainer)
