"""Passes with dropout that repeat only the part of a network behind the dropout (Feinman et al., 2017)."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medrobust.networks.deployment import DeployedNetwork

KINDS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
ROWS, TOKENS = 256, 16384  # largest numbers of maps and of vectors in a batch of the repeated part: bound the memory


class Dropouts:
    """The dropout of a network, and the part of the network behind it.

    Dropout modules are found by their type. timm's networks apply dropout to what the classifier reads, some of them by
    a function instead of a module; then ``drop_rate`` gives its probability.

    Args:
        network: The network; it stays in eval mode throughout, and dropout is applied from outside.

    Raises:
        ValueError: The network has no dropout.
    """

    def __init__(self, network: nn.Module) -> None:
        """Find the dropout."""
        while isinstance(network, DeployedNetwork):
            network = network.network
        self.network = network
        self.modules = [module for module in network.modules() if isinstance(module, KINDS) and module.p > 0]
        self.classifier = _classifier(network)
        inside = set() if self.classifier is None else set(self.classifier.modules())
        # timm drops what the classifier reads by a module or by a function, never by both
        by_function = self.classifier is not None and inside.issuperset(self.modules)
        self.rate = float(getattr(network, "drop_rate", 0.0) or 0.0) if by_function else 0.0
        if not self.modules and not self.rate:
            raise ValueError(
                "the victim has no dropout, which passes with dropout need: add some, such as head: dense or "
                "options: {drop_rate: 0.2}, and fine-tune it"
            )
        self._in_classifier = bool(self.rate) or inside.issuperset(self.modules)
        self._has_head = callable(getattr(network, "forward_features", None)) and hasattr(network, "forward_head")
        self._inputs: Tensor | None = None
        self._tail: Callable[[Tensor], Tensor] = network

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note the inputs of the part behind the dropout during the forward pass inside the ``with`` block.

        That part is the classifier, or else the head behind timm's ``forward_features``; a network with dropout before
        these is repeated as a whole.
        """
        network: Any = self.network
        self._inputs, self._tail = None, network
        with ExitStack() as stack:
            if self._in_classifier and self.classifier is not None:
                self._tail = self.classifier
                stack.callback(self.classifier.register_forward_pre_hook(self._note).remove)
            elif self._has_head:
                trunk = network.forward_features
                dropped: list[nn.Module] = []

                def noting(*arguments: Any, **options: Any) -> Tensor:
                    inputs: Tensor = trunk(*arguments, **options)
                    if not dropped:
                        self._inputs, self._tail = inputs, network.forward_head
                    return inputs

                for module in self.modules:
                    stack.callback(module.register_forward_hook(lambda module, *_: dropped.append(module)).remove)
                network.forward_features = noting
                stack.callback(delattr, network, "forward_features")
            yield

    def _note(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._inputs = inputs[0]

    def draws(self, images: Tensor, ids: Sequence[str], passes: int, seed: int = 0) -> Tensor:
        """Class probabilities of several passes with dropout, after a forward pass inside ``watching``.

        The random numbers of each image are drawn from (seed, id), so its passes are the same in any batch.

        Args:
            images: Images ``(N, C, H, W)`` that the network was given; read only if the whole network is repeated.
            ids: Ids of the images.
            passes: Number of passes T.
            seed: Seed of the random numbers.

        Returns:
            Probabilities ``(N, T, K)``.
        """
        inputs, self._inputs = images if self._inputs is None else self._inputs, None
        generators = [torch.Generator().manual_seed(_seed(seed, id)) for id in ids]
        step = max(1, (TOKENS if inputs.ndim == 2 else ROWS) // passes)
        places = range(0, len(ids), step)
        return torch.cat([self._passes(inputs[i : i + step], generators[i : i + step], passes) for i in places])

    def _passes(self, inputs: Tensor, generators: list[torch.Generator], passes: int) -> Tensor:
        repeated = inputs.repeat_interleave(passes, 0)
        with ExitStack() as stack:
            for module in self.modules:
                hook = _dropping(module.p, generators, passes, isinstance(module, nn.Dropout))
                stack.callback(module.register_forward_hook(hook).remove)
            if self.rate:
                repeated = repeated * _kept(repeated, self.rate, generators, passes, elementwise=True)
            logits = self._tail(repeated)
        return logits.float().softmax(1).unflatten(0, (len(generators), passes))


def _classifier(network: nn.Module) -> nn.Module | None:
    """The last module of a timm network, which turns the penultimate features into logits."""
    find: Callable[[], Any] | None = getattr(network, "get_classifier", None)
    found = find() if find is not None else None
    return found if isinstance(found, nn.Module) and not isinstance(found, nn.Identity) else None


def _dropping(rate: float, generators: list[torch.Generator], passes: int, elementwise: bool) -> Any:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output * _kept(output, rate, generators, passes, elementwise)

    return hook


def _kept(values: Tensor, rate: float, generators: list[torch.Generator], passes: int, elementwise: bool) -> Tensor:
    """Factors 1 / (1 - rate) for values that are kept and 0 for others; per channel if dropout is not elementwise."""
    shape = values.shape[1:] if elementwise else (values.shape[1], *[1] * (values.ndim - 2))
    drawn = torch.cat([torch.rand((passes, *shape), generator=generator) for generator in generators])
    return (drawn >= rate).to(values) / (1 - rate) if rate < 1 else torch.zeros_like(values)


def _seed(seed: int, id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:dropout:{id}".encode()).digest()[:8]) >> 1
