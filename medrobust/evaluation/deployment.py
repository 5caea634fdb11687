"""Two forms of a victim: the deployment copy that is attacked, and the victim itself, which judges in float32."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medrobust.attacks import Attack
from medrobust.networks import frozen
from medrobust.networks.defended_victim import drawn_by
from medrobust.networks.deployment import BFloat16, DeployedNetwork, deployment_copy
from medrobust.networks.precision import exact_float32
from medrobust.networks.victims import EvaluatedVictim, Victim
from medrobust.objectives import Objective

Precision = Literal[32, "bf16"]


class Deployment:
    """Keeps deployment copies of networks, which are attacked in place of the originals.

    Args:
        enabled: Fold BatchNorm and use channels_last; with False the network itself is attacked.
        precision: ``32`` or ``bf16``, of the attack's forwards and gradients.
    """

    def __init__(self, enabled: bool = True, precision: Precision = 32) -> None:
        """Keep the settings; a copy is made when the first images arrive."""
        if precision not in (32, "bf16"):
            raise ValueError(f"precision is 32 or bf16, got {precision!r}")
        self.enabled, self.precision = enabled, precision
        self._copies: dict[int, nn.Module] = {}  # of victim and surrogate

    def identity(self) -> dict[str, Any]:
        """The settings that change the records by more than rounding."""
        return {} if self.precision == 32 else {"precision": self.precision}

    def forget(self) -> None:
        """Drop the copies, because the weights may have changed."""
        self._copies = {}

    @contextmanager
    def used(self, victim: EvaluatedVictim, attack: Attack, images: Tensor) -> Iterator[None]:
        """Run a victim on the copy of its network; its original network is put back, also after an exception.

        An attack that reads a layer which folding has changed runs on the original network.

        Args:
            victim: The victim.
            attack: The attack that is about to run.
            images: The images that it attacks, ``(N, C, H, W)``; the first two are used to check the copy.
        """
        if not self.enabled and self.precision == 32:
            yield
            return
        if id(victim) not in self._copies:
            self._copies[id(victim)] = self._built(victim, images)
        network, copy = victim.network, self._copies[id(victim)]
        if set(layers_read(attack)) & set(_folded(copy)):
            copy = BFloat16(network) if self.precision == "bf16" else network
        victim.network = copy
        try:
            yield
        finally:
            victim.network = network

    def _built(self, victim: EvaluatedVictim, images: Tensor) -> nn.Module:
        network: nn.Module = victim.network
        if self.enabled:
            try:
                with frozen(victim), torch.no_grad():
                    network, _ = deployment_copy(network, victim.normalised(images[:2]))
            except Exception as error:  # whatever a foreign network raises, it can still be attacked itself
                warnings.warn(
                    f"no deployment copy can be made, so the network itself is attacked: {error}", stacklevel=2
                )
                network = victim.network
        return BFloat16(network) if self.precision == "bf16" else network


def _folded(network: nn.Module) -> Sequence[str]:
    """Names of the layers that folding has changed."""
    names: list[str] = []
    while isinstance(network, DeployedNetwork):
        names += network.folded
        network = network.network
    return names


def layers_read(value: Any) -> list[str]:
    """Layers that an attack's objectives read, including those of the attacks inside it."""
    if isinstance(value, Objective):
        return list(value.layers)
    if isinstance(value, list | tuple):
        return [layer for inner in value for layer in layers_read(inner)]
    if is_dataclass(value) and not isinstance(value, type):
        return [layer for field in fields(value) for layer in layers_read(vars(value).get(field.name, field.default))]
    return []


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse bf16 on a CPU.

    Raises:
        ValueError: The precision is bf16 and the device is a CPU.
    """
    if precision == "bf16" and device.type == "cpu":
        raise ValueError(
            "precision: bf16 is for GPUs; on a CPU it is 13 to 15 times slower and flips 10 to 19 % of the gradients' "
            "signs: use precision: 32"
        )


@contextmanager
def judging(victim: Victim, ids: Sequence[str] | None = None) -> Iterator[None]:
    """Hold a victim for a forward that decides a record: frozen, without gradients, in float32 without TF32.

    Args:
        victim: The victim.
        ids: Ids of the images of each forward, from which a random input defence draws its numbers; None where the
            victim has none.
    """
    with exact_float32(), frozen(victim), drawn_by(victim, ids), torch.no_grad():
        yield
