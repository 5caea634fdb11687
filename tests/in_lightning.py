"""What tests need of Lightning: a silent trainer, its data module in memory and recorder, and small victims."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader

from lightning_modules import Classifier
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


def with_network(network: nn.Module, **options: Any) -> Classifier:
    """A Lightning classifier of grey images around a network of the test's own, in eval mode."""
    victim = Classifier("resnet10t", **{"channels": 1, **options})
    victim.network = network
    return victim.eval()


def random_resnet(seed: int = 0, balanced: bool = False, **changes: Any) -> Classifier:
    """An untrained ResNet of 10 layers with BatchNorms that are not the identity, in eval mode.

    Args:
        seed: Seed of its weights.
        balanced: Spread the logits, so that neither of two classes always wins on noise of 32 x 32.
        changes: Arguments of ``Classifier``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        victim = Classifier(**{"backbone": "resnet10t", "channels": 1, **changes}).eval()
        for layer in victim.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.running_mean, -0.2, 0.2)
                nn.init.uniform_(layer.running_var, 0.5, 2.0)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
        if balanced:
            with torch.no_grad():
                victim.network.fc.weight.mul_(20)
                victim.network.fc.bias.sub_(victim(torch.rand(32, 1, 32, 32)).mean(0))
    return victim
