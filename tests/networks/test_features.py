"""Layers by pattern, and passes that repeat the part of a network behind its dropout."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from medrobust.networks import as_victim
from medrobust.networks.classifiers import build_classifier
from medrobust.networks.dropout import Dropouts
from medrobust.networks.features import ACTIVATIONS, layers_named, tapped


@pytest.mark.parametrize(
    ("backbone", "count", "last"),
    [("resnet50", 49, "global_pool"), ("vgg16", 15, "head.global_pool"), ("mobilenetv2_100", 35, "global_pool")],
)
def test_all_activation_layers_are_those_of_the_paper(backbone: str, count: int, last: str) -> None:
    """HFC21: 48 activations and the pooled one of ResNet-50; those of 13 convolutions and 2 dense layers of VGG-16."""
    with torch.device("meta"):
        network = timm.create_model(backbone)
    names = layers_named(network, [ACTIVATIONS])
    assert len(names) == count
    assert names[-1] == last


@pytest.mark.parametrize("backbone", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_the_last_layer_is_what_the_classifier_reads(backbone: str) -> None:
    network: Any = timm.create_model(backbone, num_classes=3).eval()
    names = layers_named(network, [ACTIVATIONS])
    read: list[Tensor] = []
    network.get_classifier().register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    with tapped(network, names) as taps, torch.no_grad():
        network(torch.rand(2, 3, 224, 224))
    assert list(taps) and set(taps) == set(names)
    # ConvNeXt and ViT normalise behind the pooling: there the last one is only of the same size
    assert taps[names[-1]].shape == read[0].shape
    if backbone == "resnet18":
        torch.testing.assert_close(taps[names[-1]], read[0])


def test_the_pooled_layer_is_the_mean_of_the_activation_that_it_replaces() -> None:
    network: Any = timm.create_model("resnet18").eval()
    with tapped(network, ["layer4.1.act2", "global_pool"]) as taps, torch.no_grad():
        network(torch.rand(2, 3, 64, 64))
    torch.testing.assert_close(taps["layer4.1.act2"], taps["global_pool"])


def test_the_dense_head_is_the_last_layer() -> None:
    network = build_classifier("mobilenetv2_100", 2, "dense")
    assert layers_named(network, [ACTIVATIONS])[-2:] == ("global_pool", "classifier.1")


def test_patterns_are_read_in_the_order_of_the_network() -> None:
    victim = as_victim(timm.create_model("resnet18"))
    assert victim.layers_named(["layer2.*.act1", "act1"]) == ("act1", "layer2.0.act1", "layer2.1.act1")


def test_a_pattern_without_a_layer_lists_the_nearest_names() -> None:
    network = timm.create_model("resnet18")
    with pytest.raises(ValueError, match=r"no layer 'layer1.0.act9'; the nearest names are layer1.0.act"):
        layers_named(network, ["layer1.0.act9"])
    with pytest.raises(ValueError, match="the network has no activation layer among its modules"):
        layers_named(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), [ACTIVATIONS])


def passes(network: nn.Module, images: Tensor, ids: list[str], count: int = 20) -> Tensor:
    dropouts = Dropouts(network)
    with torch.no_grad():
        with dropouts.watching():
            network(images)
        return dropouts.draws(images, ids, count)


@pytest.mark.parametrize(
    ("head", "options"), [("dense", {}), ("linear", {"drop_rate": 0.4})], ids=["a module", "timm's function"]
)
def test_only_the_classifier_is_repeated(head: Any, options: dict[str, Any]) -> None:
    network = build_classifier("resnet18", 3, head, options=options).eval()
    calls: list[int] = []
    network.get_submodule("conv1").register_forward_hook(lambda *_: calls.append(1))
    drawn = passes(network, torch.rand(2, 3, 32, 32), ["a", "b"])
    assert drawn.shape == (2, 20, 3)
    assert len(calls) == 1
    torch.testing.assert_close(drawn.sum(2), torch.ones(2, 20))
    assert bool((drawn.var(1) > 0).any())
    assert not any(module.training for module in network.modules())


def test_a_head_with_dropout_of_its_own_stands_behind_timms() -> None:
    dropouts = Dropouts(build_classifier("resnet18", 3, "dense", options={"drop_rate": 0.4}).eval())
    assert dropouts.rate == 0.4
    assert [module.p for module in dropouts.modules] == [0.2]
    vgg = Dropouts(build_classifier("vgg11", 3, "dense", options={"drop_rate": 0.4}).eval())
    assert vgg.rate == 0.0
    assert 0.4 in [module.p for module in vgg.modules]


def test_dropout_behind_the_trunk_repeats_the_head_alone() -> None:
    network = build_classifier("vgg11", 2, options={"drop_rate": 0.5}).eval()
    calls: list[int] = []
    network.get_submodule("features.0").register_forward_hook(lambda *_: calls.append(1))
    passes(network, torch.rand(1, 3, 32, 32), ["a"], 3)
    assert len(calls) == 1
    assert "forward_features" not in vars(network)


def test_dropout_in_the_trunk_repeats_the_network() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout2d(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    drawn = passes(network, torch.rand(3, 3, 8, 8), ["a", "b", "c"])
    assert bool((drawn.var(1) > 0).all())


def test_passes_have_the_variance_that_follows_on_paper() -> None:
    """One unit kept with probability 1/2: the logit is 0 or 2 h w, so the softmax takes two values."""
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(1, 2, bias=False)).eval()
    network[2].weight.data = torch.tensor([[0.0], [1.0]])
    drawn = passes(network, torch.full((1, 1, 1, 1), 0.5), ["a"], 4000)[0, :, 1]
    high = torch.tensor(1.0).sigmoid()
    torch.testing.assert_close(drawn.unique(), torch.stack([torch.tensor(0.5), high]))
    assert drawn.var(correction=0).item() == pytest.approx(float((high - 0.5) ** 2 / 4), rel=0.01)


def test_an_image_has_the_same_passes_alone_and_in_any_batch() -> None:
    network = build_classifier("resnet18", 3, "dense").eval()
    images = torch.rand(3, 3, 32, 32)
    together = passes(network, images, ["a", "b", "c"])
    alone = passes(network, images[1:2], ["b"])
    torch.testing.assert_close(alone[0], together[1])
    assert not torch.equal(passes(network, images[1:2], ["d"])[0], together[1])


def test_a_network_without_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match="the victim has no dropout, which passes with dropout need"):
        Dropouts(build_classifier("resnet18", 2))
