"""Taps: the activations of named layers, averaged over space, all from one forward."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from networks.deployment import DeployedNetwork


def pooled(activation: Tensor) -> Tensor:
    """Average an activation ``(N, C, ...)`` over everything behind its channels, giving ``(N, C)``."""
    return activation.flatten(2).mean(2) if activation.ndim > 2 else activation


@contextmanager
def tapped(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the named layers' outputs ``(N, C)`` of the forwards made inside the ``with`` block.

    Args:
        network: The module whose ``named_modules`` are meant.
        layers: Their names, as ``named_modules`` gives them.

    Raises:
        ValueError: A layer does not exist; the nearest names are listed.
    """
    while isinstance(network, DeployedNetwork):  # its layers go by the names that they had
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
                raise ValueError(f"layer {layer!r} returns {type(output).__name__}, a tensor (N, C, ...) is needed")
            taps[layer] = pooled(output)

        return hook

    handles = [modules[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()
