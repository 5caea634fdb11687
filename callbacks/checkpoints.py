"""The checkpoints of a run: the best one, and always the last one, each of them replaced as a whole."""

import io
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_warn

from medrobust.results.manifest import replace_file


class Checkpoints(ModelCheckpoint):
    """Lightning's ModelCheckpoint, whose ``last.ckpt`` is that of the last epoch even if another one was better.

    Takes the arguments of ModelCheckpoint.
    """

    _trains = True  # an evaluation takes weights from wherever they lie, and writes no checkpoint

    @property
    def state_key(self) -> str:
        """As ModelCheckpoint's, so that its checkpoints can be resumed from."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write checkpoints beside their places, unless the trainer was given a way of its own."""
        super().setup(trainer, pl_module, stage)
        self._trains = stage == "fit"
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the scores of the checkpoints in the present folder, wherever they lay when they were written."""
        if state_dict.get("dirpath", self.dirpath) != self.dirpath:
            state_dict = self._moved(state_dict)
        super().load_state_dict(state_dict)

    def _moved(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state of another folder, with the files of the same names in this one and the scores that they hold."""
        here = Path(self.dirpath or "")
        before: dict[str, Any] = state.get("best_k_models") or {}
        held = {
            str(path): score
            for path in (here / Path(old).name for old in before)
            if path.is_file()
            if (score := self._score(path)) is not None
        }
        if self._trains and before and not held and self.save_top_k:
            rank_zero_warn(
                f"{here} does not hold {Path(state['best_model_path']).name} of the training that goes on here: what "
                "is written now is the best epoch from here on"
            )
        order = sorted(held, key=lambda path: float(held[path]), reverse=self.mode == "max")
        last = here / Path(state.get("last_model_path") or "last.ckpt").name
        return {
            **state,
            "dirpath": self.dirpath,
            "best_k_models": held,
            "best_model_path": order[0] if order else "",
            "best_model_score": held[order[0]] if order else None,
            "kth_best_model_path": order[-1] if order else "",
            "kth_value": held[order[-1]] if order else self.kth_value,
            "last_model_path": str(last) if last.is_file() else "",
        }

    def _score(self, path: Path) -> Any:
        """The score with which a checkpoint was written; None if it does not say."""
        try:
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return held["callbacks"][self.state_key]["current_score"]
        except Exception:  # a damaged file is no better than a new one
            return None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last checkpoint of an epoch that was not the best."""
        super().on_train_epoch_end(trainer, pl_module)
        if self.save_last and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the last checkpoint of a training that has none; a dry run would replace that of a real one."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().on_train_end(trainer, pl_module)


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
