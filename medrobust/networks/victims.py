"""What an attack may ask of a victim, the wrapper that makes one of a plain module, and its protection."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from medrobust.networks.features import layers_named, tapped


@runtime_checkable
class Victim(Protocol):
    """A model under attack. Images are float ``(N, C, H, W)`` in [0, 1]; normalisation lives inside the victim.

    Targets are classes ``(N,)``, masks ``(N, H, W)`` (negative labels are ignored) or a list of N boxes' dicts.
    """

    def __call__(self, images: Tensor) -> Any:
        """Outputs: logits ``(N, K)``, ``(N, K, H, W)``, or a list of N detections."""

    def loss(self, images: Tensor, targets: Any) -> Tensor:
        """Loss of each image, ``(N,)``, never averaged over the batch."""

    def fooled(self, outputs: Any, targets: Any) -> Tensor:
        """Whether each output is wrong about its target, bool ``(N,)``."""

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Any, dict[str, Tensor]]:
        """Outputs and the named layers' activations averaged over space, ``(N, C)`` each, in one forward."""


class ModuleVictim(nn.Module):
    """A classifier that returns logits, as a victim: ``as_victim`` makes it."""

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: "float | Sequence[float]", std: "float | Sequence[float]") -> None:
        """Keep the module and its normalisation."""
        super().__init__()
        self.module = module
        first = next((tensor for tensor in module.parameters()), torch.zeros(()))
        with torch.inference_mode(False):
            for name, value in (("mean", mean), ("std", std)):
                statistic = torch.tensor(value, dtype=first.dtype, device=first.device).reshape(-1, 1, 1)
                self.register_buffer(name, statistic, persistent=False)
        self.normalises = bool((self.mean != 0).any() or (self.std != 1).any())
        if not bool((self.std > 0).all()):
            raise ValueError(f"std divides the images and must be positive, got {std}")

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` of images ``(N, C, H, W)`` in [0, 1]."""
        for statistic in (self.mean, self.std):
            if len(statistic) not in (1, images.shape[1]):
                raise ValueError(f"mean and std have {len(statistic)} channels, the images {images.shape[1]}")
        logits = self.module((images - self.mean) / self.std if self.normalises else images)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
            came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"as_victim wraps classifiers that return logits (N, K) with K >= 2, this one gave {came}")
        return logits

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each image, ``(N,)``."""
        return functional.cross_entropy(self(images), targets, reduction="none")

    def fooled(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether the largest logit is another class than the target, ``(N,)``."""
        return outputs.argmax(1) != targets

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and named layers of the wrapped module, averaged over space."""
        with tapped(self.module, layers) as taps:
            return self(images), taps

    def layers_named(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Names of the wrapped module's layers by patterns, as ``networks.features.layers_named`` reads them."""
        return layers_named(self.module, patterns)


def as_victim(
    module: nn.Module, mean: "float | Sequence[float]" = 0.0, std: "float | Sequence[float]" = 1.0
) -> ModuleVictim:
    """Wrap a classifier that returns logits, so that it can be attacked without Lightning.

    Args:
        module: Maps normalised images ``(N, C, H, W)`` to logits ``(N, K)``, K >= 2.
        mean: Mean that the module expects to be subtracted from images in [0, 1]; one number or one per channel.
        std: Standard deviation by which it expects them to be divided; likewise.

    Raises:
        ValueError: ``std`` is not positive, or (when called) the module does not return logits.
    """
    return ModuleVictim(module, mean, std)


@contextmanager
def frozen(victim: Victim) -> Iterator[None]:
    """Hold a victim in eval mode, without weight gradients, and give it back as it was, also after an exception.

    Restored are each submodule's mode, and each tensor's ``requires_grad``, ``grad`` and, for buffers, values. Only
    an ``nn.Module`` can be held so; any other victim has to be in eval mode already.
    """
    modules = list(victim.modules()) if isinstance(victim, nn.Module) else []
    training = [module for module in modules if module.training]
    parameters = [parameter for module in modules for parameter in module._parameters.values() if parameter is not None]
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [parameter.grad for parameter in parameters]
    with torch.no_grad():
        buffers = [
            (owner, name, buffer, None if buffer is None or buffer.is_inference() or still else buffer.clone())
            for owner in modules
            for still in (isinstance(owner, _BatchNorm),)  # in eval mode it does not touch its many small buffers
            for name, buffer in owner._buffers.items()
        ]
    try:
        for module in training:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in modules:
            if module.training:
                module.training = False
        for module in training:
            module.training = True
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.requires_grad_(False)
        for parameter in trainable:
            parameter.requires_grad_(True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if parameter.grad is not gradient:
                parameter.grad = gradient
        with torch.no_grad():
            for owner, name, buffer, values in buffers:
                if buffer is not None and values is not None:
                    buffer.copy_(values)
                if owner._buffers[name] is not buffer:
                    owner._buffers[name] = buffer
