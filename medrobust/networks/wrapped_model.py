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
                self.register_buffer(name, _statistic(name, value, dtype, first.device), persistent=False)
        self.normalises = bool((self.mean != 0).any() or (self.std != 1).any())
        if not bool((self.std > 0).all()):
            raise ValueError(f"std divides the images and must be positive, got {std}")
        if bool((self.mean.abs() > 1).any()):
            raise ValueError(
                f"mean is subtracted from images in [0, 1], got {mean}: mean and std of images in [0, 255] are to be "
                "divided by 255"
            )

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
            self._looked = check_numbers(outputs, kind)
        return logits

    def normalised(self, images: Tensor) -> Tensor:
        """What the network is given for images ``(N, C, H, W)`` in [0, 1]: never these, which it might change."""
        check_given(images)
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


def check_given(images: Any) -> None:
    """Refuse what is no batch of floating point images ``(N, C, H, W)``, without looking at its values.

    Raises:
        ValueError: The message says the conversion.
    """
    if not isinstance(images, Tensor):
        steps = ".permute(0, 3, 1, 2)" if getattr(images, "ndim", 0) == 4 and images.shape[3] in (1, 3) else ""
        scaled = " / 255" if str(getattr(images, "dtype", "")).startswith(("uint", "int")) else ".float()"
        how = f": convert them by torch.from_numpy(images){steps}{scaled}" if hasattr(images, "dtype") else ""
        raise ValueError(f"expected a tensor of images (N, C, H, W) in [0, 1], got a {type(images).__name__}{how}")
    told = f"got {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
    if images.ndim != 4:
        hint = ": a batch of one image is images[None]" if images.ndim == 3 else ""
        raise ValueError(f"expected images (N, C, H, W) in [0, 1], {told}{hint}")
    if images.shape[3] in (1, 3) and images.shape[1] not in (1, 3, 4):
        raise ValueError(
            f"expected images (N, C, H, W) with the channels second, {told}: convert them by images.permute(0, 3, 1, 2)"
        )
    if not images.is_floating_point():
        raise ValueError(f"expected floating point images in [0, 1], {told}: convert them by images / 255")


def _statistic(name: str, value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A mean or a standard deviation as a buffer ``(C, 1, 1)`` of its own."""
    try:
        statistic = torch.as_tensor(value, dtype=dtype, device=device).reshape(-1, 1, 1).clone()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} is one number or one for each channel, got {value!r}") from None
    undefined = name == "mean" and bool(statistic.isnan().any())  # of a deviation it is said that it is not positive
    if not len(statistic) or undefined or bool(statistic.isinf().any()):
        raise ValueError(f"{name} is one finite number or one for each channel, got {value}")
    return statistic
