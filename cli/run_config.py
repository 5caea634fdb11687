"""The callback that keeps a run's whole configuration and its splits in its folder."""

from itertools import count
from pathlib import Path

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback
from pytorch_lightning.trainer.states import TrainerFn

from cli.runs import SPLITS, HeldRun
from datamodules import MedicalDataModule
from medrobust.results.manifest import naming, replace_file


class RunConfig(SaveConfigCallback):
    """Keeps a run's whole configuration in its folder, where the next command takes it from.

    That of an evaluation is written when its attacks begin, so that a refused one leaves that of an earlier one alone.
    Where further attacks join an evaluation, the configurations of the earlier ones are kept under numbers:
    ``evaluate-1.yaml`` and so on beside ``evaluate.yaml``, which is the last one's.
    """

    def __init__(
        self,
        parser: LightningArgumentParser,
        config: Namespace,
        path: Path,
        held: HeldRun | None = None,
        anew: bool = False,
    ) -> None:
        """Keep the path, the run that the folder holds already, and whether an evaluation replaces an earlier one."""
        super().__init__(parser, config, save_to_log_dir=False)
        self.path, self.held, self.anew = path, held, anew

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse data that are not those of the folder's checkpoints, in all processes; then write.

        Raises:
            ValueError: Train or Val have changed.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        if self.held is not None and not self.config.overwrite and isinstance(data, MedicalDataModule):
            self.held.check_data(data)
        if trainer.state.fn == TrainerFn.FITTING:
            super().setup(trainer, pl_module, stage)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the configuration of an evaluation, which has not been refused."""
        super().setup(trainer, pl_module, "test")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same for Val; the epochs of a training begin here, too."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            super().setup(trainer, pl_module, "validate")

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file, and the splits beside it."""
        config = self.config.clone()
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting:
            if self.held is not None and config.overwrite:
                self.held.remove_checkpoints()
            config.ckpt_path = None  # which weights an evaluation takes is for its own command to say
            config.overwrite = False  # once
        text = self.parser.dump(config, skip_none=False)
        if not fitting:
            self._keep_earlier(text.encode())
        replace_file(self.path, text.encode())
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, MedicalDataModule):
            splits = self.path.with_name(SPLITS)
            with naming(splits):
                data.export_splits(splits)

    def _keep_earlier(self, now: bytes) -> None:
        """Keep the configuration that is there under the next number, unless it is this one or kept already."""
        kept = sorted(self.path.parent.glob(f"{self.path.stem}-*{self.path.suffix}"))
        if self.anew:
            for path in kept:
                path.unlink(missing_ok=True)
        elif self.path.is_file():
            before = self.path.read_bytes()
            if before not in [now, *(path.read_bytes() for path in kept)]:
                free = (self.path.with_stem(f"{self.path.stem}-{number}") for number in count(1))
                replace_file(next(path for path in free if not path.exists()), before)
