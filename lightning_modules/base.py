"""What all victims share: normalisation inside, features in one forward, a description in the checkpoint."""

import inspect
import os
import sys
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import Metric, SumMetric

from medrobust.metrics.outcomes import MeanOutcome
from medrobust.networks import Outcome
from medrobust.networks.batch_norm import share_buffers
from medrobust.networks.features import layers_named, tapped
from medrobust.networks.seen_images import SeenImages, TrainingData
from medrobust.networks.victims import Outputs, Targets
from medrobust.random_streams import image_generator

# Lightning steps a schedule that watches a metric after an epoch's last checkpoint, so that a resumed training would
# lack that step: a schedule of this frequency is stepped before it, by the victim
NEVER = sys.maxsize


class TrainingDefence(Protocol):
    """What a victim asks of a defence that it is trained with."""

    def training_loss(self, victim: Any, batch: dict[str, Any]) -> Tensor:
        """What the training lowers on a batch, ``()``."""


class VictimModule(pl.LightningModule):
    """A network that is fine-tuned, attacked and evaluated. It takes images in [0, 1] and normalises them itself.

    Args:
        network: Maps normalised images ``(N, C, H, W)`` to outputs.
        mean: Mean to subtract, one number or one per channel.
        std: Standard deviation to divide by, one number or one per channel.

    Attributes:
        defence: What it is trained against; None for plain fine-tuning.
        defended: What its weights were trained against and what that cost, as the checkpoint says; None for nothing.

    Raises:
        ValueError: ``std`` is not positive.
    """

    mean: Tensor
    std: Tensor
    clean_metric: Metric  # measures the victim on clean images; ``compute`` gives numbers by name, among them ``loss``
    shown_metrics: tuple[str, ...] = ("accuracy", "quality")  # beside the progress bar

    def __init__(self, network: nn.Module, mean: float | list[float], std: float | list[float]) -> None:
        """Keep the network and its normalisation."""
        super().__init__()
        self.network = network
        self.clean_metric = MeanOutcome()
        self.tested_images = SumMetric()  # with ``limit_test_batches``, fewer than an evaluation may have recorded
        self._seen: SeenImages | None = None
        self.defence: TrainingDefence | None = None
        self.defended: dict[str, Any] | None = None
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))
        if not bool((self.std > 0).all()):
            raise ValueError(f"std divides the images and must be positive, got {std}")

    def forward(self, images: Tensor) -> Outputs:
        """Outputs for images ``(N, C, H, W)`` in [0, 1]."""
        return self.network(self.normalised(images))

    def normalised(self, images: Tensor) -> Tensor:
        """What the network is given for images ``(N, C, H, W)`` in [0, 1]."""
        for statistic in (self.mean, self.std):
            if len(statistic) not in (1, images.shape[1]):
                raise ValueError(f"mean and std have {len(statistic)} channels, the images {images.shape[1]}")
        return (images - self.mean) / self.std

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Outputs, dict[str, Tensor]]:
        """Outputs and the named layers of the network averaged over space, ``(N, C)`` each, in one forward."""
        with tapped(self.network, layers) as taps:
            return self(images), taps

    def layers_named(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Names of the network's layers that match patterns, as ``networks.features.layers_named`` reads them."""
        return layers_named(self.network, patterns)

    @abstractmethod
    def loss(self, images: Tensor, targets: Targets) -> Tensor:
        """Loss of each image, ``(N,)``."""

    @abstractmethod
    def outcome(self, outputs: Outputs, targets: Targets) -> Outcome:
        """How well outputs fit their targets, for each image."""

    def description(self) -> dict[str, Any]:
        """What the victim is, as plain values: its class, and the arguments of ``__init__`` that it is built from.

        It is kept in the checkpoint, compared when one is loaded, and is part of the records' keys.
        """
        return {"class": type(self).__name__}

    def seen_images(self) -> SeenImages | None:
        """The images that it was trained on and chosen by; None where its checkpoint does not say."""
        return self._seen

    def on_fit_start(self) -> None:
        """Note what the victim is trained on; its checkpoints keep it.

        Raises:
            ValueError: The training of a checkpoint is to go on with other images than it began with.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        before, self._seen = self._seen, None
        if not isinstance(data, TrainingData):
            return
        self._seen = now = SeenImages.stored(data.training_data())
        if before is None or now is None:
            self._seen = None if self.trainer.ckpt_path else now  # what the training began with is not known
            return
        for split in ("train", "val"):
            if any((counts := before.differences(split, now.splits[split])).values()):
                if not self.trainer.ckpt_path:  # it is trained anew, from the weights that it has
                    self._seen = before.joined(now)
                    return
                raise ValueError(
                    f"{self.trainer.ckpt_path} was trained on other data, and its training cannot go on with these: of "
                    f"{split}, " + ", ".join(f"{count} images are {what}" for what, count in counts.items())
                )

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Draw the random numbers of dropout from (seed, epoch, batch, rank): a resumed training draws the same.

        Where no seed was set (``seed_everything``) they are left alone.
        """
        if (seed := os.environ.get("PL_GLOBAL_SEED")) is not None:
            place = f"{self.current_epoch}/{batch_idx}"
            torch.manual_seed(image_generator(int(seed), f"training on rank {self.global_rank}", place).initial_seed())

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch: the task's own, or that of a defence."""
        if self.defence is None:
            loss = self.training_loss(batch["image"], batch["target"])
        else:
            loss = self.defence.training_loss(self, batch)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def training_loss(self, images: Tensor, targets: Targets, outputs: Outputs | None = None) -> Tensor:
        """What fine-tuning lowers on a batch, ``()``: the mean of the losses, unless a task weighs them.

        Args:
            images: Images ``(N, C, H, W)`` in [0, 1].
            targets: Their targets.
            outputs: The outputs for the images, where they are known; a task that needs no others saves a forward.
        """
        return self.loss(images, targets).mean()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Measure a batch of clean images."""
        self.measure(batch)
        self.tested_images.update(len(batch["image"]))

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Measure a batch of clean images, and count them."""
        self.measure(batch)
        self.tested_images.update(len(batch["image"]))

    def measure(self, batch: dict[str, Any]) -> None:
        """Give a batch to ``clean_metric``: loss, outcome and quality of each image; a task may measure more."""
        images, targets = batch["image"], batch["target"]
        outcome = self.outcome(self(images), targets)
        self.clean_metric.update(self.loss(images, targets), outcome.right, outcome.quality)

    def on_train_end(self) -> None:
        """Leave all processes with the same victim: each has followed BatchNorm's statistics of its own images."""
        share_buffers(self)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of all ranks' images, and tell schedules that watch one of them."""
        values = self._log_clean("val")
        if self.trainer.state.fn == "validate":
            self.log("val/images", self.tested_images.compute(), sync_dist=True)
        self.tested_images.reset()
        if self.trainer.state.fn != "fit" or self.trainer.sanity_checking or not self.trainer.is_last_batch:
            return
        for config in self.trainer.lr_scheduler_configs:
            watched = str(config.monitor).removeprefix("val/")
            if isinstance(config.scheduler, ReduceLROnPlateau) and config.frequency == NEVER and watched in values:
                config.scheduler.step(float(values[watched]))

    def on_test_epoch_end(self) -> None:
        """Log the metrics of all ranks' images, and how many these are."""
        self._log_clean("test")
        self.log("test/images", self.tested_images.compute(), sync_dist=True)
        self.tested_images.reset()

    def _log_clean(self, stage: str) -> dict[str, Tensor]:
        values: dict[str, Tensor] = self.clean_metric.compute()
        self.clean_metric.reset()
        for name, value in values.items():
            # every rank holds the same number, gathered by the metric: sync_dist only quiets Lightning's warning
            self.log(f"{stage}/{name}", value.float(), prog_bar=name in self.shown_metrics, sync_dist=True)
        return values

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """Build a victim of this class from a checkpoint alone.

        Args:
            path: A checkpoint that ``train.py`` has written.

        Raises:
            ValueError: The file is not such a checkpoint, or holds another kind of victim.
        """
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            state, held = checkpoint["state_dict"], dict(checkpoint["victim"])
        except Exception as error:
            raise ValueError(f"{path} is not a checkpoint that train.py wrote ({type(error).__name__})") from error
        kind = held.pop("class", None)
        if kind != cls.__name__:
            raise ValueError(f"{path} holds a {kind}, a {cls.__name__} is needed")
        taken = inspect.signature(cls).parameters
        try:
            statistics = {name: state[name].flatten().tolist() for name in ("mean", "std") if name in taken}
            victim = cls(**held, **statistics)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} does not say what its {cls.__name__} is built from: {error}") from error
        if differences := state_differences(victim.state_dict(), state):
            raise ValueError(f"{path} does not hold the {cls.__name__} that it describes: {differences}")
        victim.load_state_dict(state)
        victim.on_load_checkpoint(checkpoint)
        return victim

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store what the weights belong to: the network, and the images that they were trained on."""
        checkpoint["victim"] = self.description()
        if self._seen is not None:
            checkpoint["trained_on"] = self._seen.to_store()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over what the weights were trained on, and against what."""
        self.defended = checkpoint.get("defence")
        self._seen = SeenImages.stored(checkpoint.get("trained_on"))


def state_differences(wanted: Mapping[str, Tensor], found: Mapping[str, Any]) -> str:
    """In which tensors a checkpoint differs from a network, in words; empty if it does not."""
    parts = []
    for what, names in (("lacks", wanted.keys() - found.keys()), ("has besides", found.keys() - wanted.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            parts.append(f"it {what} {min(names)}{more}")
    shapes = [name for name in wanted if name in found and getattr(found[name], "shape", None) != wanted[name].shape]
    if shapes:
        more = f" and {len(shapes) - 1} more" if len(shapes) > 1 else ""
        parts.append(f"{shapes[0]}{more} has another shape")
    return ", ".join(parts)
