"""The callback that averages a victim's weights over its training: the averages are measured, kept and evaluated."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from medrobust.evaluation.data import Batch
from medrobust.networks.batch_norm import share_buffers

STORED = "averaged_weights"


class AveragedWeights(Callback):
    """Keeps an exponential moving average of the weights, a <- d a + (1 - d) w after each step of the optimiser.

    The decay d grows to ``decay`` as min(decay, (1 + n) / (10 + n)) over the first steps n, so that random weights of
    the beginning are soon forgotten. Running statistics of BatchNorm are averaged alike. Val is measured on the
    averages, checkpoints hold them, and the victim has them when the training ends; a checkpoint also holds the weights
    that the training itself goes on with.

    Args:
        decay: Share of the former average that a step keeps, at least 0 and below 1.

    Raises:
        ValueError: ``decay`` is out of its range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        """Nothing is averaged yet."""
        if not 0 <= decay < 1:
            raise ValueError(f"decay is a share of at least 0 and below 1, such as 0.999, got {decay}")
        self.decay = decay
        self._averages: dict[str, Tensor] = {}
        self._held: dict[str, Tensor] = {}  # the training's own weights, while the victim has the averages
        self._updates = 0  # steps of the optimiser that are in the averages

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with the weights as they are, unless the training goes on."""
        if not self._updates:
            self._averages = _copied(_tensors(pl_module))
        self._averages = {name: average.to(pl_module.device) for name, average in self._averages.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Average, if the optimiser has made a step."""
        if trainer.global_step <= self._updates:
            return
        self._updates = trainer.global_step
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates))
        weights = _tensors(pl_module)
        torch._foreach_lerp_(list(self._averages.values()), [weights[name] for name in self._averages], 1 - decay)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the averages."""
        if trainer.state.fn == "fit" and self._updates:
            share_buffers(pl_module)  # or the training would go on with other statistics than a resumed one
            self._held = _copied(_tensors(pl_module))
            _put(pl_module, self._averages)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the training's own weights."""
        if self._held:
            _put(pl_module, self._held)
            self._held = {}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the victim with the averages."""
        if self._updates:
            _put(pl_module, self._averages)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the averages in the place of the weights, and these beside them."""
        if not self._updates:
            return
        state = checkpoint["state_dict"]
        weights = {**{name: state[name] for name in self._averages}, **self._held}
        checkpoint["state_dict"] = {**state, **self._averages}
        checkpoint[STORED] = {"weights": weights, "updates": self._updates, "decay": self.decay}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the training's own weights and the averages so far; an evaluation has the averages already."""
        held = checkpoint.get(STORED)
        if trainer.state.fn != "fit" or held is None:
            return
        self._averages = _copied({name: checkpoint["state_dict"][name] for name in held["weights"]})
        self._updates = int(held["updates"])
        _put(pl_module, held["weights"])


def _tensors(module: pl.LightningModule) -> dict[str, Tensor]:
    """The parameters and buffers that can be averaged and that a checkpoint holds, by name."""
    return {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def _put(module: pl.LightningModule, tensors: dict[str, Tensor]) -> None:
    """Give a victim these values; no tensor of it is replaced, since the optimiser holds them."""
    own = module.state_dict()
    for name, tensor in tensors.items():
        own[name].copy_(tensor)
