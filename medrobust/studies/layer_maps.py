"""Maps of layers: what a network sees where, in clean and adversarial images (Ma20 Fig. 6 and 10)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.networks.features import map_layers, tapped
from medrobust.networks.victims import EvaluatedVictim, Targets
from medrobust.studies.base import Study

MOST = 4  # layers that are drawn below each other


@dataclass(frozen=True, kw_only=True)
class LayerMaps(Study):
    """The mean over the channels of a layer's activations, of clean and of adversarial images (Ma20 Fig. 6, 10).

    Ma20 show an intermediate layer and one near the end of a ResNet-50, ``res3a`` and ``res5b``. They hold that medical
    images have simpler maps than natural ones, and that attacks distort those near the end more.

    Args:
        images: Number of images, chosen evenly over the classes; None for all.
        attacks: Names of the attacks whose images it looks at; empty for all, without controls.
        layers: Names or patterns of layers, at most 4; empty for the activations at a quarter of the network's depth,
            which is Ma20's ``res3a`` in a ResNet-50, and for the last ones that are maps.

    Raises:
        ValueError: A number is out of its range; or (later, before images are read) a layer does not exist, or there
            are more than four.
    """

    images: int | None = 64
    layers: tuple[str, ...] = ()

    def check(self, victim: EvaluatedVictim) -> None:
        """Refuse a network without these layers, and more layers than a figure shows."""
        self._named(victim)

    def of_clean(
        self, victim: EvaluatedVictim, images: Tensor, targets: Targets, ids: Sequence[str]
    ) -> dict[str, Tensor]:
        """The image and each layer's map ``(N, h, w)``, by the layer's name."""
        return {"image": images.half(), **self._maps(victim, images)}

    def of_attack(self, victim: EvaluatedVictim, batch: AdversarialBatch) -> dict[str, Tensor]:
        """The same of the adversarial image."""
        return {"image": batch.adversarial.half(), **self._maps(victim, batch.adversarial)}

    @torch.no_grad()
    def _maps(self, victim: EvaluatedVictim, images: Tensor) -> dict[str, Tensor]:
        layers = self._named(victim)
        with tapped(victim.network, layers, channel_mean) as maps:
            victim(images)
        return {layer: maps[layer] for layer in layers}

    def _named(self, victim: EvaluatedVictim) -> tuple[str, ...]:
        if not self.layers:
            every = map_layers(victim.network)
            if not every:
                raise ValueError("the network has no activation layer that is a map; name the layers")
            return tuple(dict.fromkeys((every[len(every) // 4], every[-1])))
        named = victim.layers_named(self.layers)
        if len(named) > MOST:
            raise ValueError(f"layer maps show at most {MOST} layers, and {', '.join(self.layers)} are {len(named)}")
        return named


def channel_mean(activation: Tensor) -> Tensor:
    """Mean over the channels of an activation, ``(N, h, w)``.

    Maps are ``(N, C, H, W)`` or, as in some transformers, ``(N, H, W, C)``; the latter are recognised by equal second
    and third sizes but unequal last two. Tokens ``(N, L, C)`` are a square of patches, perhaps behind one of the class.

    Raises:
        ValueError: It has no place in the image.

    >>> channel_mean(torch.tensor([[[[1.0, 2.0]], [[3.0, 6.0]]]]))
    tensor([[[2., 4.]]])
    """
    if activation.ndim == 4:
        last = activation.shape[1] == activation.shape[2] != activation.shape[3]
        return activation.mean(3 if last else 1)
    if activation.ndim == 3:
        side = math.isqrt(activation.shape[1])
        if activation.shape[1] - side * side in (0, 1):
            return activation[:, -side * side :].mean(2).unflatten(1, (side, side))
    raise ValueError(f"layer maps need a layer with places in the image, got one of shape {tuple(activation.shape)}")
