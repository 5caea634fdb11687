"""The callback that trains a victim against a defence's attack, measures it on Val, and counts the passes."""

from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from medrobust.defences import Defence, TrainedVictim
from medrobust.evaluation.data import Batch
from medrobust.evaluation.deployment import judging
from medrobust.evaluation.engine import cloned
from medrobust.networks.finite import finite_outputs
from medrobust.networks.victims import evaluated_victim

ROBUST_ACCURACY = "val/robust_accuracy"
COUNTED = ("images", "forwards", "backwards", "choosing_forwards", "choosing_backwards")


@runtime_checkable
class AsksDefence(Protocol):
    """A victim whose training step asks a defence for its loss."""

    defence: Any


class Hardening(Callback):
    """Trains the victim with a defence, and logs its accuracy under the defence's attack on Val after each epoch.

    ``val/robust_accuracy`` is measured at the full radius from the first epoch on, with the same random numbers in each
    epoch, so that it can choose a checkpoint. What the training costs is logged as ``train/passes_per_image`` (forward
    and backward passes of each image in an epoch, those of the crafting included; 2 without a defence), and the sums of
    all processes are kept in the checkpoint under ``defence``, beside what the victim was trained against.

    Args:
        defence: The defence.
    """

    def __init__(self, defence: Defence) -> None:
        """Nothing is counted yet."""
        self.defence = defence
        self._counts = dict.fromkeys(COUNTED, 0)
        self._epoch: Tensor | None = None  # images, forwards, backwards of this process
        self._judged: Tensor | None = None  # right, images, forwards, backwards on Val
        self._number = 0

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on counting."""
        held = checkpoint.get("defence") or {}
        self._counts.update({name: int(held[name]) for name in COUNTED if name in held})

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let the victim's training step ask for the loss here.

        Raises:
            ValueError: The module is no victim that can be trained with a defence.
        """
        if stage != "fit":
            return
        evaluated_victim(pl_module)
        if not isinstance(pl_module, TrainedVictim) or not isinstance(pl_module, AsksDefence):
            raise ValueError(
                f"a defence trains a victim such as lightning_modules.VictimModule, and {type(pl_module).__name__} "
                "has no training_loss or does not ask a defence for it"
            )
        pl_module.defence = self  # type: ignore[assignment]

    def training_loss(self, victim: TrainedVictim, batch: Batch) -> Tensor:
        """The defence's loss of a batch, ``()``."""
        images, ids = batch["image"], list(batch["id"])
        lowered = self.defence(victim, images, batch["target"], ids, self._number)
        if self._epoch is not None:
            self._epoch += torch.stack(
                [torch.full_like(lowered.forwards, len(ids)), lowered.forwards, lowered.backwards]
            )
        return lowered.loss

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count the passes of an epoch."""
        self._number = trainer.current_epoch
        self._epoch = torch.zeros(3, dtype=torch.long, device=pl_module.device)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count what is right on Val under the attack."""
        fits = trainer.state.fn == "fit" and not trainer.sanity_checking
        self._judged = torch.zeros(4, dtype=torch.long, device=pl_module.device) if fits else None

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Attack a batch of Val with the defence's attack at full radius."""
        if self._judged is None:
            return
        victim = evaluated_victim(pl_module)
        with torch.inference_mode(False), torch.enable_grad():
            images, targets, ids = cloned(batch["image"]), cloned(batch["target"]), list(batch["id"])
            crafted = self.defence.attack.craft(victim, images, targets, ids)
            with judging(victim):
                outputs = finite_outputs(victim(crafted.images), ids, f"under {type(self.defence.attack).__name__}")
                right = victim.outcome(outputs, targets).right
            found = (right.sum(), torch.full_like(right.sum(), len(ids)), crafted.forwards.sum() + len(ids))
            self._judged += torch.stack([*found, crafted.backwards.sum()])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the accuracy under attack over the images of all processes."""
        if self._judged is None:
            return
        right, images, forwards, backwards = _summed(trainer, self._judged)
        self._judged = None
        self._counts["choosing_forwards"] += forwards
        self._counts["choosing_backwards"] += backwards
        if images:
            pl_module.log(ROBUST_ACCURACY, right / images, prog_bar=True, sync_dist=True)
        self._add_up(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add up the passes of an epoch; those before a validation are in already."""
        self._add_up(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say in the checkpoint what its weights were trained against, and what that cost."""
        checkpoint["defence"] = {"defence": self.defence.parameters(), **self._counts}

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the victim, so that the command line can say it."""
        pl_module.defended = {"defence": self.defence.parameters(), **self._counts}  # type: ignore[assignment]

    def _add_up(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the passes since the last time, before a checkpoint may be written."""
        if self._epoch is None:
            return
        images, forwards, backwards = _summed(trainer, self._epoch)
        self._epoch.zero_()
        for name, count in {"images": images, "forwards": forwards, "backwards": backwards}.items():
            self._counts[name] += count
        if images:
            pl_module.log("train/passes_per_image", (forwards + backwards) / images, sync_dist=True)
            pl_module.log("train/passes", float(self._counts["forwards"] + self._counts["backwards"]), sync_dist=True)


def _summed(trainer: pl.Trainer, counts: Tensor) -> list[int]:
    """Counts of all processes together."""
    total = trainer.strategy.reduce(counts, reduce_op="sum")
    assert isinstance(total, Tensor)
    numbers: list[int] = total.tolist()
    return numbers
