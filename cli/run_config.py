"""The callback that keeps a run's whole configuration and its splits in its folder."""

from pathlib import Path

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback
from pytorch_lightning.trainer.states import TrainerFn

from cli.runs import SPLITS, HeldRun
from datamodules import MedicalDataModule
from medrobust.results.manifest import naming, replace_file


class RunConfig(SaveConfigCallback):
    """Keeps a run's whole configuration in its folder, where the next command takes it from."""

    def __init__(
        self, parser: LightningArgumentParser, config: Namespace, path: Path, held: HeldRun | None = None
    ) -> None:
        """Keep the path, and the run that the folder holds already; files are written when the trainer sets up."""
        super().__init__(parser, config, save_to_log_dir=False)
        self.path, self.held = path, held

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse data that are not those of the folder's checkpoints, in all processes; then write.

        Raises:
            ValueError: Train or Val have changed.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        if self.held is not None and not self.config.overwrite and isinstance(data, MedicalDataModule):
            self.held.check_data(data)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file, and the splits beside it."""
        config = self.config.clone()
        if trainer.state.fn == TrainerFn.FITTING:
            if self.held is not None and config.overwrite:
                self.held.remove_checkpoints()
            config.ckpt_path = None  # which weights an evaluation takes is for its own command to say
            config.overwrite = False  # once
        replace_file(self.path, self.parser.dump(config, skip_none=False).encode())
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, MedicalDataModule):
            splits = self.path.with_name(SPLITS)
            with naming(splits):
                data.export_splits(splits)
