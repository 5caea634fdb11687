"""Grad-CAM: which regions of an image speak for a class, before and after an attack (Ma20 Fig. 11)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.metrics.concentration import top_overlap
from medrobust.networks.spatial_maps import last_spatial_layer, layout_of, own_prefixes, undeployed
from medrobust.networks.victims import EvaluatedVictim, Targets
from medrobust.studies.base import Study

Explained = Literal["prediction", "truth"]
SHARE = 0.1  # of the pixels whose overlap is measured


@dataclass(frozen=True, kw_only=True)
class GradCAM(Study):
    """Gradient-weighted class activation maps (Selvaraju et al., ICCV 2017) of clean and adversarial images (Fig. 11).

    Of the maps A_k of a layer it is ReLU(sum_k a_k A_k), a_k the mean over the places of dz_c / dA_k for the logit z_c
    of a class, enlarged to the image bilinearly; captum computes it. Tokens of a transformer are the places of their
    patches.

    The column ``grad_cam_overlap`` of the records is the intersection over union of the largest tenth of the clean
    image's map and of the adversarial one's, of places above 0 alone (``metrics.concentration.top_overlap``); it is
    missing where a map is 0 everywhere.

    Args:
        images: Number of images whose maps are kept, chosen evenly over the classes; None for all.
        attacks: Names of the attacks whose images it looks at; empty for all, with controls.
        layer: The layer; None for the last one that is spread over the image and decides the logits.
        explains: The class c: ``prediction``, the victim's for the clean and for the adversarial image, each for its
            own; or ``truth`` for both.

    Raises:
        ValueError: ``explains`` has another value; or (later) the layer does not exist, or is not spread over the
            image, or the data have no single class per image.
    """

    images: int | None = 64
    layer: str | None = None
    explains: Explained = "prediction"

    sees_controls = True
    of_classes = True

    def __post_init__(self) -> None:
        """Refuse unknown choices."""
        super().__post_init__()
        if self.explains not in get_args(Explained):
            raise ValueError(f"explains is 'prediction' or 'truth', got {self.explains!r}")

    def check(self, victim: EvaluatedVictim) -> None:
        """Refuse a layer that does not exist.

        Raises:
            ValueError: The message lists the nearest names.
        """
        if self.layer is not None:
            names = victim.layers_named([self.layer])
            if len(names) != 1:
                raise ValueError(f"Grad-CAM looks at one layer, and {self.layer!r} stands for {', '.join(names)}")

    def of_clean(
        self, victim: EvaluatedVictim, images: Tensor, targets: Targets, ids: Sequence[str]
    ) -> dict[str, Tensor]:
        """The image, its map ``(N, H, W)`` divided by its largest value, and the layer's sides ``(N, 2)``."""
        with torch.no_grad():
            predictions = victim(images).argmax(1)
        maps = self._maps(victim, images, targets, predictions)
        cells = torch.tensor(maps.shape[-2:]).expand(len(images), 2)
        return {"image": images.half(), "map": scaled(enlarged(maps, images)), "cells": cells}

    def of_attack(self, victim: EvaluatedVictim, batch: AdversarialBatch) -> dict[str, Tensor]:
        """The adversarial image, its map and its overlap with that of the clean image."""
        clean, adversarial = self._both(victim, batch)
        overlap = top_overlap(clean, adversarial, SHARE)
        return {"image": batch.adversarial.half(), "map": scaled(adversarial), "overlap": overlap}

    def columns(self, victim: EvaluatedVictim, batch: AdversarialBatch) -> dict[str, Tensor]:
        """The overlap of both maps of each image."""
        return {"grad_cam_overlap": top_overlap(*self._both(victim, batch), SHARE)}

    def _both(self, victim: EvaluatedVictim, batch: AdversarialBatch) -> tuple[Tensor, Tensor]:
        clean = self._maps(victim, batch.clean, batch.targets, batch.clean_outputs.argmax(1))
        adversarial = self._maps(victim, batch.adversarial, batch.targets, batch.adversarial_outputs.argmax(1))
        return enlarged(clean, batch.clean), enlarged(adversarial, batch.clean)

    def _maps(self, victim: EvaluatedVictim, images: Tensor, targets: Tensor, predictions: Tensor) -> Tensor:
        classes = predictions if self.explains == "prediction" else targets
        layer = last_spatial_layer(victim, images) if self.layer is None else victim.layers_named([self.layer])[0]
        return grad_cam(victim, images, classes, layer)


def grad_cam(victim: EvaluatedVictim, images: Tensor, classes: Tensor, layer: str) -> Tensor:
    """Grad-CAM maps ``(N, h, w)`` of images for a class each, of the size of the layer's.

    Args:
        victim: A victim whose outputs are logits ``(N, K)``, frozen.
        images: ``(N, C, H, W)`` in [0, 1].
        classes: Classes ``(N,)`` whose logits are explained.
        layer: Name of a layer of its network.

    Raises:
        ValueError: The layer's output is not spread over the image.
    """
    from captum.attr import LayerGradCam  # slow to import

    network = undeployed(victim.network)
    places, prefixes = nn.Identity(), own_prefixes(network)

    def through_places(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
        """Lead the output through a layer of maps, which captum can read whatever the layout."""
        layout = layout_of(output, prefixes)
        if layout is None:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"Grad-CAM needs a layer whose output is spread over the image, and {layer!r} gives {shape}"
            )
        return layout.output(places(layout.maps(output)), output)

    handle = network.get_submodule(layer).register_forward_hook(through_places)
    try:
        seen = images.detach().clone().requires_grad_()
        maps = LayerGradCam(victim, places).attribute(seen, classes.long(), relu_attributions=True)
    finally:
        handle.remove()
    found: Tensor = maps.detach().squeeze(1)
    return found


def enlarged(maps: Tensor, images: Tensor) -> Tensor:
    """Maps ``(N, h, w)`` bilinearly enlarged to the size of images, ``(N, H, W)``."""
    size = images.shape[-2:]
    return functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False).squeeze(1)


def scaled(maps: Tensor) -> Tensor:
    """Maps ``(N, H, W)`` divided by their largest values, as float16; those of zeros stay so."""
    largest = maps.amax((1, 2), keepdim=True)
    return (maps / torch.where(largest > 0, largest, 1)).half()
