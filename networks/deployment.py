"""Deployment copies: a network frozen, with BatchNorm folded into its convolutions, in channels_last."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class ChannelsLast(nn.Module):
    """A network that takes its images in the channels_last memory format."""

    def __init__(self, network: nn.Module) -> None:
        """Wrap a network whose weights are in that format already."""
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        """Outputs of the network for images ``(N, C, H, W)``."""
        return self.network(images.contiguous(memory_format=torch.channels_last))


def deployment_copy(network: nn.Module, images: Tensor) -> tuple[nn.Module, int]:
    """Copy a network for inference: eval mode, no weight gradients, BatchNorm folded, channels_last.

    Which BatchNorm follows which convolution is read off one forward: a pair is folded if the very tensor that the
    convolution returned came into the BatchNorm, and if each of the two was called once.

    Args:
        network: The network; it is left alone.
        images: A small batch ``(N, C, H, W)`` of the size that it will see, N >= 1, on the network's device.

    Returns:
        The copy and the number of pairs folded.

    Raises:
        ValueError: The copy's outputs differ from the network's by more than 1e-3 of their spread.
    """
    duplicate = copy.deepcopy(network).eval().requires_grad_(False)
    with torch.no_grad():
        expected = duplicate(images)
        pairs = _convolutions_before_batch_norm(duplicate, images)
        for convolution, norm in pairs:
            _fold(duplicate, convolution, norm)
        deployed = ChannelsLast(duplicate.to(memory_format=torch.channels_last))
        error = float((deployed(images) - expected).abs().max())
        spread = float(expected.abs().max())
    if not error <= 1e-3 * max(spread, 1.0):
        raise ValueError(f"folding changed the outputs by {error:g} (they reach {spread:g}); attack the network itself")
    return deployed, len(pairs)


def _convolutions_before_batch_norm(network: nn.Module, images: Tensor) -> list[tuple[str, str]]:
    names = {module: name for name, module in network.named_modules()}
    makers: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept alive, so that its id stays its own
    calls: dict[str, int] = {}
    found: list[tuple[str, str]] = []

    def after_convolution(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[names[module]] = calls.get(names[module], 0) + 1
        makers[id(output)] = (names[module], output)

    def before_norm(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        calls[names[module]] = calls.get(names[module], 0) + 1
        maker = makers.get(id(inputs[0]))
        if maker is not None:
            found.append((maker[0], names[module]))

    handles = []
    for module in names:
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        network(images)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in found if calls[pair[0]] == calls[pair[1]] == 1]


def _fold(network: nn.Module, convolution: str, norm: str) -> None:
    old, following = network.get_submodule(convolution), network.get_submodule(norm)
    assert isinstance(old, nn.Conv2d) and isinstance(following, nn.BatchNorm2d)
    fused = fuse_conv_bn_eval(old, following)
    old.weight, old.bias = fused.weight.requires_grad_(False), fused.bias.requires_grad_(False)
    rest = [
        getattr(following, name) for name in ("drop", "act") if isinstance(getattr(following, name, None), nn.Module)
    ]
    parent, _, last = norm.rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Sequential(*rest) if rest else nn.Identity())
