"""The backbones of the studies, without weights: grey images, every head, taps on all layers, folded copies."""

from typing import Any

import pytest
import timm
import torch

from medrobust.networks.classifiers import build_classifier
from medrobust.networks.deployment import deployment_copy
from medrobust.networks.features import layers_named, tapped
from medrobust.networks.wrapped_classifier import as_victim

# options that keep a network small where its classifier is large, the number of activation layers with the pooled one,
# and that of the BatchNorms that follow a convolution (DenseNet has others, which come before one)
BACKBONES: dict[str, tuple[dict[str, Any], int, int]] = {
    "resnet18": ({}, 17, 20),
    "resnet50": ({}, 49, 53),  # HFC21: 48 and the pooled one
    "vgg16": ({"mlp_ratio": 0.01}, 15, 0),  # HFC21: 13 and the dense ones
    "vgg16_bn": ({"mlp_ratio": 0.01}, 15, 13),
    "densenet121": ({}, 121, 59),
    "mobilenetv2_100": ({}, 35, 52),
    "mobilenetv3_large_100": ({}, 40, 46),
    "mobilenetv3_small_100": ({}, 33, 34),
}
HEADS = ("linear", "dense", "label_graph")


LARGE = ("resnet50", "vgg16_bn", "mobilenetv3_large_100")
EACH = [
    pytest.param(place, id=name, marks=pytest.mark.slow if name in LARGE else ())
    for place, name in enumerate(BACKBONES)
]


@pytest.mark.parametrize("place", EACH)
def test_a_backbone_takes_grey_images_and_shows_its_layers_and_folds(place: int) -> None:
    name, (options, layers, folds) = list(BACKBONES.items())[place]
    torch.manual_seed(place)
    head = HEADS[place % len(HEADS)]
    network = build_classifier(name, 5, head=head, channels=1, options=options).eval()  # type: ignore[arg-type]
    images = torch.rand(2, 1, 32, 32)
    activations = layers_named(network, ["activations"])
    victim = as_victim(network, 0.5, 0.25)
    with torch.no_grad():
        logits, features = victim.features(images, activations)
        copy, folded = deployment_copy(network, victim.normalised(images))
        assert logits.shape == (2, 5) and folded == folds
        assert len(activations) == layers + (head == "dense")  # whose own ReLU is one more
        torch.testing.assert_close(logits, victim(images))
        torch.testing.assert_close(copy(victim.normalised(images)), logits, rtol=1e-3, atol=1e-3)
        assert all(values.shape[0] == 2 and values.ndim == 2 for values in features.values())
        unfolded = [layer for layer in activations if layer not in getattr(copy, "folded", ())]
        with tapped(copy, unfolded) as taps:
            copy(victim.normalised(images))
    for layer in unfolded:
        torch.testing.assert_close(taps[layer], features[layer], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "resnet18"])
def test_grey_images_get_timms_own_first_layer(name: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    published = timm.create_model(name, num_classes=3)
    torch.save(published.state_dict(), tmp_path / "weights.pt")
    first = published.pretrained_cfg["first_conv"] + ".weight"
    network = build_classifier(name, 2, channels=1, weights=str(tmp_path / "weights.pt"))
    colours = published.state_dict()[first]
    torch.testing.assert_close(network.state_dict()[first], colours.sum(1, keepdim=True))
