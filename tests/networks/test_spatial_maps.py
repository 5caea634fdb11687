"""Layers as maps: their layouts, and the last of them that decides, of convolutional networks and transformers."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from medrobust.networks import as_victim
from medrobust.networks.spatial_maps import last_spatial_layer, layout_of
from tests.tiny_networks import linear_victim

LAST = {
    "resnet10t": ("layer4", {}),
    "mobilenetv2_100": ("bn2", {}),
    "densenet121": ("features", {}),
    "convnext_atto": ("norm_pre", {}),
    # the class token asks the patches for the last time in the last block, whose norm1 is what attention reads
    "vit_tiny_patch16_224": ("blocks.11.norm1", {"img_size": 64}),
    "vit_tiny_patch16_224.average": ("norm", {"img_size": 64, "global_pool": "avg"}),
    "deit_tiny_distilled_patch16_224": ("blocks.11.norm1", {"img_size": 64}),
    "cait_xxs24_224": ("blocks_token_only.1.norm1", {"img_size": 64}),
    "swin_tiny_patch4_window7_224": ("norm", {"img_size": 64, "window_size": 2}),
}


@pytest.mark.parametrize("name", LAST)
def test_the_last_layer_that_is_spread_over_the_image(name: str) -> None:
    layer, options = LAST[name]
    torch.manual_seed(0)
    network = timm.create_model(name.split(".")[0], num_classes=3, **options)
    victim = as_victim(network)
    assert last_spatial_layer(victim, torch.zeros(2, 3, 64, 64)) == layer
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("shape", [(2, 5, 3, 3), (2, 3, 3, 5), (2, 9, 5), (2, 10, 5), (2, 11, 5), (2, 14, 5)])
def test_maps_become_the_output_again(shape: tuple[int, ...]) -> None:
    output = torch.rand(shape)
    layout = layout_of(output)
    assert layout is not None
    maps = layout.maps(output)
    assert maps.shape == (2, 5, 3, 3)
    assert torch.equal(layout.output(maps, output), output)
    if layout.kind == "tokens":  # a row of patches after the other
        assert torch.equal(maps[0, :, 1, 2], output[0, layout.prefix + 5])


@pytest.mark.parametrize("value", [torch.zeros(2, 5), torch.zeros(2, 5, 1, 1), torch.zeros(2, 8, 5), (1, 2), None])
def test_what_is_not_spread_over_the_image(value: Any) -> None:
    assert layout_of(value) is None


def test_a_layer_behind_which_the_image_has_no_say_does_not_count() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps = self.first(images)
            self.second(maps)  # nobody reads it
            return maps.mean((2, 3))

    assert last_spatial_layer(as_victim(Net()), torch.zeros(1, 1, 8, 8)) == "first"


def test_a_network_without_such_a_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="no output of a layer of LinearNet is spread over the image .* name a layer"):
        last_spatial_layer(linear_victim(), torch.zeros(1, 1, 8, 8))
