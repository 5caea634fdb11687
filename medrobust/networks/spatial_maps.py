"""Layers as maps: which outputs of a network are spread over the image, and the last of them that decides."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from medrobust.networks.deployment import DeployedNetwork
from medrobust.networks.freezing import frozen

PREFIXES = (0, 1, 2, 5)  # tokens before those of the patches: none; class; class and distillation; class and registers
ATTENTION = ("attention", "attn")  # in the names of classes inside which tokens are laid out in other ways


class Layout(NamedTuple):
    """How a layer's output ``(N, ...)`` is spread over the image.

    Args:
        kind: ``first`` is ``(N, C, h, w)``; ``last`` is ``(N, h, w, C)``; ``tokens`` is ``(N, prefix + h * w, C)``.
        height: h, at least 2.
        width: w, at least 2.
        prefix: Number of tokens that stand for no patch.
    """

    kind: Literal["first", "last", "tokens"]
    height: int
    width: int
    prefix: int = 0

    def maps(self, output: Tensor) -> Tensor:
        """The output as maps ``(N, C, h, w)``."""
        if self.kind == "tokens":
            return output[:, self.prefix :].mT.unflatten(2, (self.height, self.width))
        return output.permute(0, 3, 1, 2) if self.kind == "last" else output

    def output(self, maps: Tensor, like: Tensor) -> Tensor:
        """Maps ``(N, C, h, w)`` as the layer's output again, with the other tokens of ``like``."""
        if self.kind == "tokens":
            return torch.cat([like[:, : self.prefix], maps.flatten(2).mT], 1)
        return maps.permute(0, 2, 3, 1) if self.kind == "last" else maps


def layout_of(output: Any, prefixes: tuple[int, ...] = PREFIXES) -> Layout | None:
    """The layout of a layer's output; None if it is not spread over the image.

    Maps whose channels come last are recognised by equal second and third sizes but unequal last two, and tokens by a
    square number of them behind one of the numbers that stand for no patch: images are taken to be square.

    Args:
        output: Output of a layer.
        prefixes: Numbers of tokens that stand for no patch, of which the first that fits counts.

    >>> layout_of(torch.zeros(1, 8, 7, 7)), layout_of(torch.zeros(1, 7, 7, 8)), layout_of(torch.zeros(1, 50, 8))
    (Layout(kind='first', height=7, width=7, prefix=0), Layout(kind='last', height=7, width=7, prefix=0), \
Layout(kind='tokens', height=7, width=7, prefix=1))
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.ndim == 4:
        _, first, second, third = output.shape
        last = first == second != third
        height, width = (first, second) if last else (second, third)
        return Layout("last" if last else "first", height, width) if min(height, width) > 1 else None
    for prefix in prefixes if output.ndim == 3 else ():
        side = math.isqrt(max(output.shape[1] - prefix, 0))
        if side > 1 and side * side == output.shape[1] - prefix:
            return Layout("tokens", side, side, prefix)
    return None


def own_prefixes(network: nn.Module) -> tuple[int, ...]:
    """Numbers of tokens that stand for no patch: the network's own and none, or those that are usual if it has none."""
    own = getattr(network, "num_prefix_tokens", None)
    return (own, 0) if isinstance(own, int) else PREFIXES


def undeployed(network: nn.Module) -> nn.Module:
    """A network without the form that it was deployed in."""
    while isinstance(network, DeployedNetwork):
        network = network.network
    return network


def last_spatial_layer(victim: Any, images: Tensor) -> str:
    """Name of the last layer of a victim's network whose output is spread over the image and decides its logits.

    Of a convolutional network it is the last map before pooling, of a transformer that pools its patches the last norm,
    and of one that asks its class token the last layer before the patches are asked for the last time: behind it the
    patches have no gradient. Layers inside attention do not count. It is found by one look at a fixed noise image, so
    that it depends on the size of the images alone.

    Args:
        victim: A victim whose outputs are logits ``(N, K)``.
        images: Images ``(N, C, H, W)`` of the size in use.

    Raises:
        ValueError: There is no such layer.
    """
    while hasattr(victim, "undefended"):
        victim = victim.undefended
    network = undeployed(victim.network)
    generator = torch.Generator().manual_seed(0)
    probe = torch.rand((1, *images.shape[1:]), generator=generator).to(images).requires_grad_()
    with torch.inference_mode(False), torch.enable_grad(), frozen(victim), _outputs(network) as found:
        logits = victim(probe).flatten(1)
        weights = torch.arange(1, logits.shape[1] + 1, device=logits.device, dtype=logits.dtype)
        kept = [output for _, output, _ in found]
        gradients = torch.autograd.grad((logits @ weights).sum(), kept, allow_unused=True) if kept else ()
    for (name, _, layout), gradient in zip(reversed(found), reversed(gradients), strict=True):
        if gradient is not None and bool((layout.maps(gradient) != 0).any()):
            return name
    raise ValueError(
        f"no output of a layer of {type(network).__name__} is spread over the image and decides its logits at "
        f"{images.shape[-2]} x {images.shape[-1]} pixels: name a layer"
    )


@contextmanager
def _outputs(network: nn.Module) -> Iterator[list[tuple[str, Tensor, Layout]]]:
    """Outputs that are spread over the image, with their layers, in the order in which these return."""
    found: list[tuple[str, Tensor, Layout]] = []
    prefixes = own_prefixes(network)

    def keeping(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            layout = layout_of(output, prefixes)
            if layout is not None and len(output) == 1 and output.requires_grad:
                found.append((name, output, layout))

        return hook

    inside: list[str] = []
    handles = []
    for name, module in network.named_modules():
        if name and not any(name.startswith(f"{outer}.") for outer in inside):
            handles.append(module.register_forward_hook(keeping(name)))
        kind = type(module).__name__.lower()
        if any(word in kind for word in ATTENTION) and "block" not in kind:
            inside.append(name)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
