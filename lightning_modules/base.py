"""What all victims share: normalisation inside, features in one forward, a description in the checkpoint."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from medrobust.networks.features import layers_named, tapped


class VictimModule(pl.LightningModule):
    """A network to be fooled. It takes images in [0, 1] and normalises them itself.

    Args:
        network: Maps normalised images ``(N, C, H, W)`` to outputs.
        mean: Mean to subtract, one number or one per channel.
        std: Standard deviation to divide by, likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: float | list[float], std: float | list[float]) -> None:
        """Keep the network and its normalisation."""
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))
        if not bool((self.std > 0).all()):
            raise ValueError(f"std divides the images and is positive, got {std}")

    def forward(self, images: Tensor) -> Any:
        """Outputs for images ``(N, C, H, W)`` in [0, 1]."""
        return self.network(self.normalised(images))

    def normalised(self, images: Tensor) -> Tensor:
        """What the network is given for images ``(N, C, H, W)`` in [0, 1]."""
        for statistic in (self.mean, self.std):
            if len(statistic) not in (1, images.shape[1]):
                raise ValueError(f"mean and std have {len(statistic)} channels, the images {images.shape[1]}")
        return (images - self.mean) / self.std

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Any, dict[str, Tensor]]:
        """Outputs and the named layers of the network averaged over space, ``(N, C)`` each, in one forward."""
        with tapped(self.network, layers) as taps:
            return self(images), taps

    def layers_named(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Names of the network's layers by patterns, as ``networks.features.layers_named`` reads them."""
        return layers_named(self.network, patterns)

    @abstractmethod
    def loss(self, images: Tensor, targets: Any) -> Tensor:
        """Loss of each image, ``(N,)``."""

    @abstractmethod
    def fooled(self, outputs: Any, targets: Any) -> Tensor:
        """Whether each output is wrong about its target, bool ``(N,)``."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What the network is, as plain values: kept in the checkpoint, compared when one is loaded."""

    def decisions(self, outputs: Any) -> tuple[Tensor, Tensor] | None:
        """Predicted class and its probability, ``(N,)`` each; None for victims that do not name one class."""
        return None

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """Build a victim of this class from a checkpoint alone.

        Args:
            path: A checkpoint that ``train.py`` has written.

        Raises:
            ValueError: It is no such checkpoint, or of another kind of victim.
        """
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            state, held = checkpoint["state_dict"], dict(checkpoint["victim"])
        except Exception as error:
            raise ValueError(f"{path} is not a checkpoint that train.py wrote ({type(error).__name__})") from error
        kind = held.pop("class", None)
        if kind != cls.__name__:
            raise ValueError(f"{path} holds a {kind}, a {cls.__name__} is needed")
        statistics = {name: state[name].flatten().tolist() for name in ("mean", "std")}
        victim = cls(**held, **statistics)
        victim.load_state_dict(state)
        return victim

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down what the weights belong to."""
        checkpoint["victim"] = self.description()
