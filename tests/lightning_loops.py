"""What tests need of Lightning: data in memory as a data module, a recorder as a callback, a silent trainer."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch.utils.data import DataLoader

from tests.in_memory import InMemoryData
from tests.recording import Recorder


class InMemoryModule(InMemoryData, pl.LightningDataModule):
    """Images in memory as a data module; without a split of that name, every stage sees the tested one."""

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self.dataloader_of("train" if "train" in self.splits else self.test_split)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self.dataloader_of("val" if "val" in self.splits else self.test_split)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return self.dataloader_of(self.test_split)


class RecordingCallback(Recorder, Callback):
    """Records what the ``Robustness`` callback of the same trainer tells."""


def trainer_of(*callbacks: Callback, **options: Any) -> pl.Trainer:
    """A silent trainer on one CPU."""
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    settings = {"accelerator": "cpu", "devices": 1, "use_distributed_sampler": False}
    return pl.Trainer(**{**silent, **settings, **options}, callbacks=list(callbacks))
