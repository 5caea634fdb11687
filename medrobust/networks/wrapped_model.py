"""Somebody else's model as a victim: normalised inside, its outputs read as logits, its layers as they are named."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medrobust.networks.features import layers_named, tapped
from medrobust.networks.model_function import ModelFunction, code_hash, name_of
from medrobust.networks.model_outputs import Output, check_numbers, check_output, read_logits
from medrobust.networks.victims import Outcome, Targets


class WrappedModel(nn.Module):
    """A model of any origin as a victim; ``as_victim`` makes one of its subclasses, which know the task.

    Args:
        network: Maps normalised images ``(N, C, H, W)`` to outputs; a function is one, too.
        mean: Mean to subtract from images in [0, 1], one number or one per channel.
        std: Standard deviation to divide by, one number or one per channel.
        output: What the network returns, one of ``model_outputs.KINDS``, or a function that makes logits of it.

    Raises:
        ValueError: ``std`` is not positive, or ``output`` is none of these.
    """

    mean: Tensor
    std: Tensor
    task = "classification"

    def __init__(
        self,
        network: nn.Module | Callable[[Tensor], Any],
        mean: "float | Sequence[float]",
        std: "float | Sequence[float]",
        output: Output = "logits",
    ) -> None:
        """Keep the network and its normalisation."""
        super().__init__()
        check_output(output)
        self.network: nn.Module = network if isinstance(network, nn.Module) else ModelFunction(network)
        self.output, self._looked = output, False
        first = next(self.network.parameters(), torch.zeros(()))
        dtype = first.dtype if first.is_floating_point() else torch.float32
        with torch.inference_mode(False):
            for name, value in (("mean", mean), ("std", std)):
                statistic = torch.as_tensor(value, dtype=dtype, device=first.device).reshape(-1, 1, 1)
                self.register_buffer(name, statistic.clone(), persistent=False)
        self.normalises = bool((self.mean != 0).any() or (self.std != 1).any())
        if not bool((self.std > 0).all()):
            raise ValueError(f"std divides the images and must be positive, got {std}")

    def forward(self, images: Tensor) -> Tensor:
        """Logits for images ``(N, C, H, W)`` in [0, 1].

        Raises:
            ValueError: The network returns something else than ``output`` says.
        """
        outputs = self.network(self.normalised(images))
        kind = "logits"
        if callable(self.output):
            outputs = self.output(outputs)
        else:
            kind = self.output
        logits = read_logits(outputs, kind)
        if not self._looked and len(logits):
            check_numbers(outputs, kind)
            self._looked = True
        return logits

    def normalised(self, images: Tensor) -> Tensor:
        """What the network is given for images ``(N, C, H, W)`` in [0, 1]: never these, which it might change."""
        for statistic in (self.mean, self.std):
            if len(statistic) not in (1, images.shape[1]):
                raise ValueError(f"mean and std have {len(statistic)} channels, the images {images.shape[1]}")
        made = (images - self.mean) / self.std if self.normalises else images.clone()
        first = next(self.network.parameters(), made)
        return made.to(first.dtype) if first.is_floating_point() else made

    @abstractmethod
    def loss(self, images: Tensor, targets: Targets) -> Tensor:
        """Loss of each image, ``(N,)``."""

    @abstractmethod
    def outcome(self, outputs: Tensor, targets: Targets) -> Outcome:
        """How well outputs fit their targets, for each image."""

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits, and the named layers of the wrapped network averaged over space, in one forward."""
        with tapped(self.network, layers) as taps:
            return self(images), taps

    def layers_named(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Names of the network's layers that match patterns, as ``networks.features.layers_named`` reads them."""
        return layers_named(self.network, patterns)

    def description(self) -> dict[str, Any]:
        """What the victim is, as plain values: the names of its Python classes, its normalisation and its outputs."""
        network = self.network
        named = network.description() if isinstance(network, ModelFunction) else {"network": type(network).__name__}
        read: dict[str, Any] = {} if self.output == "logits" else {"output": self.output}
        if callable(self.output):
            read = {"output": name_of(self.output), "output_code": code_hash(self.output)}
        return {
            "class": type(self).__name__,
            **named,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            **read,
        }
