"""Taps: the activations of named layers, averaged over space, all from one forward pass."""

import difflib
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.networks.deployment import DeployedNetwork

ACTIVATIONS = "activations"  # pattern that stands for every activation layer and the pooled one
ENCODER = "encoder_activations"  # pattern that stands for those of the part that turns an image into features
_ENCODERS = {"encoder", "backbone"}  # how U-Nets and detectors of boxes name that part
_GATES = (nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.MultiheadAttention)
_HOMES = ("torch.nn.modules.activation", "timm.layers.activations", "timm.layers.activations_me")
_POOLED = ("global_pool", "head.global_pool", "head.norm", "fc_norm")  # timm's names of the layer before the classifier


def pooled(activation: Tensor) -> Tensor:
    """Average an activation over all dimensions except images and channels, giving ``(N, C)``.

    Tokens ``(N, L, C)`` are averaged over L. Maps are ``(N, C, H, W)`` or, as in some transformers, ``(N, H, W, C)``;
    since images are taken to be square, the latter are recognised by equal second and third sizes but unequal last two.
    """
    if activation.ndim == 3:
        return activation.mean(1)
    if activation.ndim == 4 and activation.shape[1] == activation.shape[2] != activation.shape[3]:
        return activation.mean((1, 2))
    return activation.flatten(2).mean(2) if activation.ndim > 2 else activation


def reduced_maps(activation: Tensor, side: int) -> Tensor:
    """Maps ``(N, C, H, W)`` of an activation, averaged over cells so that neither side is longer than ``side``.

    They are float16, clipped to its range. A vector ``(N, C)`` is a map of one cell, and tokens ``(N, L, C)`` are one
    column of cells. Of an image, they take at most ``2 * side ** 2`` bytes for each channel.

    Args:
        activation: As ``pooled`` takes it.
        side: Longest side of a map, at least 1.
    """
    maps = activation.mT.unsqueeze(3) if activation.ndim == 3 else activation
    if maps.ndim == 4 and activation.ndim == 4 and maps.shape[1] == maps.shape[2] != maps.shape[3]:
        maps = maps.permute(0, 3, 1, 2)
    maps = maps.flatten(4).mean(4) if maps.ndim > 4 else maps
    maps = maps[:, :, None, None] if maps.ndim == 2 else maps
    height, width = (min(side, size) for size in maps.shape[2:])
    if (height, width) != tuple(maps.shape[2:]):
        maps = functional.adaptive_avg_pool2d(maps, (height, width))
    largest = torch.finfo(torch.float16).max
    return maps.clamp(-largest, largest).half()


def layers_named(network: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the layers of a network that match patterns, each once, in the network's order.

    Args:
        network: The network.
        patterns: Names as in ``named_modules``, patterns such as ``layer3.*.act3``, or ``activations``, which stands
            for every activation layer and the pooled one before the classifier (HFC21 section 4: 48 and the pooled one
            of ResNet-50, 13 and the dense ones of VGG-16). The pooled layer replaces the last activation, of which it
            is the mean. ``encoder_activations`` stands for those activation layers of a network for masks or boxes that
            are inside its ``encoder`` or ``backbone``.

    Raises:
        ValueError: A pattern matches no layer; the message lists the nearest names.
    """
    while isinstance(network, DeployedNetwork):
        network = network.network
    names = [name for name, _ in network.named_modules() if name]
    found: set[str] = set()
    for pattern in patterns:
        if pattern in (ACTIVATIONS, ENCODER):
            every = activation_layers(network)
            matching = every if pattern == ACTIVATIONS else [name for name in every if _ENCODERS & {*name.split(".")}]
        else:
            matching = fnmatch.filter(names, pattern)
        if not matching and pattern == ACTIVATIONS:
            raise ValueError("the network has no activation layer among its modules; name the layers")
        if not matching and pattern == ENCODER:
            raise ValueError("the network has no activation layer in an encoder or a backbone; name the layers")
        if not matching:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3)
            raise ValueError(f"the network has no layer {pattern!r}; the nearest names are {', '.join(near) or 'none'}")
        found.update(matching)
    return tuple(name for name in names if name in found)


def activation_layers(network: nn.Module) -> list[str]:
    """Names of all activation layers, except gates and attention, and of timm's pooled layer.

    The pooled layer of a convolutional network replaces the activation whose mean it is.
    """
    found: list[str] = []
    for name, module in network.named_modules():
        if type(module).__module__ in _HOMES and not isinstance(module, _GATES):
            found.append(name)
        elif name in _POOLED:
            found = [*(found if found[-1:] and ".mlp." in found[-1] else found[:-1]), name]
    return found


def map_layers(network: nn.Module) -> list[str]:
    """Names of the activation layers before timm's pooled layer, which are maps, without the one that it averages.

    Those inside squeeze-and-excitation see one number for each channel and are left out.
    """
    while isinstance(network, DeployedNetwork):
        network = network.network
    before = takewhile(lambda name: name not in _POOLED, activation_layers(network))
    return [name for name in before if ".se." not in name]


@contextmanager
def tapped(
    network: nn.Module, layers: Sequence[str], reduce: Callable[[Tensor], Tensor] = pooled
) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of named layers, averaged to ``(N, C)``, in forward passes inside the ``with`` block.

    Args:
        network: The module that has the layers.
        layers: Names of the layers, as in the module's ``named_modules``.
        reduce: What is kept of an output; ``pooled`` averages it.

    Raises:
        ValueError: A layer does not exist, and the message lists the nearest names; a layer was changed by folding; or
            (during the forward pass) a layer does not return a tensor.
    """
    while isinstance(network, DeployedNetwork):  # its layers have kept their names
        if changed := [layer for layer in layers if layer in network.folded]:
            raise ValueError(f"layer {changed[0]!r} of the folded copy does not compute what it did in the network")
        network = network.network
    modules = dict(network.named_modules())
    for layer in layers:
        if layer not in modules or not layer:
            near = difflib.get_close_matches(layer, modules, n=3, cutoff=0.3)
            raise ValueError(f"the network has no layer {layer!r}; the nearest names are {', '.join(near) or 'none'}")
    taps: dict[str, Tensor] = {}

    def keep(layer: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if not isinstance(output, Tensor):
                raise ValueError(f"layer {layer!r} is expected to return a tensor, got {type(output).__name__}")
            taps[layer] = reduce(output)

        return hook

    handles = [modules[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()
