"""The checkpoints of a run: the best one, and always the last one, each of them replaced as a whole."""

import io
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO

from medrobust.results.manifest import replace_file


class Checkpoints(ModelCheckpoint):
    """Lightning's ModelCheckpoint, whose ``last.ckpt`` is that of the last epoch even if another one was better.

    Takes the arguments of ModelCheckpoint.
    """

    @property
    def state_key(self) -> str:
        """As ModelCheckpoint's, so that its checkpoints can be resumed from."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write checkpoints beside their places, unless the trainer was given a way of its own."""
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last checkpoint of an epoch that was not the best."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.save_last and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there: a kill or a full disk leaves the former one.

    Lightning's own way writes it into the system's temporary folder, and moving it from there to another file system
    overwrites the former one bit by bit.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; what lies on another machine is written in Lightning's way."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        replace_file(Path(path), buffer.getvalue())
