"""A plain module that returns logits, wrapped so that it can be attacked and evaluated without Lightning."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.networks.features import layers_named, tapped
from medrobust.networks.victims import Outcome, class_outcome


class WrappedClassifier(nn.Module):
    """A classifier that returns logits, as a victim; ``as_victim`` makes it.

    Args:
        network: Maps normalised images ``(N, C, H, W)`` to logits ``(N, K)``, K >= 2.
        mean: Mean to subtract from images in [0, 1], one number or one per channel.
        std: Standard deviation to divide by, one number or one per channel.

    Raises:
        ValueError: ``std`` is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: "float | Sequence[float]", std: "float | Sequence[float]") -> None:
        """Keep the network and its normalisation."""
        super().__init__()
        self.network = network
        first = next((tensor for tensor in network.parameters()), torch.zeros(()))
        with torch.inference_mode(False):
            for name, value in (("mean", mean), ("std", std)):
                statistic = torch.tensor(value, dtype=first.dtype, device=first.device).reshape(-1, 1, 1)
                self.register_buffer(name, statistic, persistent=False)
        self.normalises = bool((self.mean != 0).any() or (self.std != 1).any())
        if not bool((self.std > 0).all()):
            raise ValueError(f"std divides the images and must be positive, got {std}")

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` of images ``(N, C, H, W)`` in [0, 1]."""
        logits = self.network(self.normalised(images))
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
            received = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"as_victim wraps classifiers that return logits (N, K) with K >= 2, this one returned {received}"
            )
        return logits

    def normalised(self, images: Tensor) -> Tensor:
        """What the network is given for images ``(N, C, H, W)`` in [0, 1]: never these, which it might change."""
        for statistic in (self.mean, self.std):
            if len(statistic) not in (1, images.shape[1]):
                raise ValueError(f"mean and std have {len(statistic)} channels, the images {images.shape[1]}")
        return (images - self.mean) / self.std if self.normalises else images.clone()

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each image, ``(N,)``."""
        return functional.cross_entropy(self(images), targets, reduction="none")

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        """Whether the largest logit is that of the target ``(N,)``, and the probability of the target."""
        return class_outcome(outputs, targets)

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the named layers of the wrapped network averaged over space, in one forward."""
        with tapped(self.network, layers) as taps:
            return self(images), taps

    def layers_named(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Names of the network's layers that match patterns, as ``networks.features.layers_named`` reads them."""
        return layers_named(self.network, patterns)

    def description(self) -> dict[str, Any]:
        """What the victim is, as plain values: the names of its Python classes and its normalisation."""
        return {
            "class": type(self).__name__,
            "network": type(self.network).__name__,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
        }


def as_victim(
    module: nn.Module, mean: "float | Sequence[float]" = 0.0, std: "float | Sequence[float]" = 1.0
) -> WrappedClassifier:
    """Wrap a classifier that returns logits, so that it can be attacked without Lightning.

    Attacks run and judge it in eval mode, whatever its mode; what you compute with it yourself is computed in the mode
    in which it is, so call ``eval()`` first.

    Args:
        module: Maps normalised images ``(N, C, H, W)`` to logits ``(N, K)``, K >= 2.
        mean: Mean that the module expects to be subtracted from images in [0, 1]; one number or one per channel.
        std: Standard deviation by which it expects them to be divided; one number or one per channel.

    Raises:
        ValueError: ``std`` is not positive, or (when called) the module does not return logits.
    """
    return WrappedClassifier(module, mean, std)
