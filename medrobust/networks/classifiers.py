"""Classifiers: any timm backbone by name, with its own linear head, the dense-128 head or a graph of the labels."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import timm
from torch import nn

from medrobust.networks.graph_head import LabelEmbedding, LabelGraphHead
from medrobust.networks.weight_files import adapted_input, check_weights, read_weights

Head = Literal["linear", "dense", "label_graph"]


def build_classifier(
    backbone: str,
    num_classes: int,
    head: Head = "linear",
    channels: int = 3,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
    label_embedding: LabelEmbedding = "learnt",
    head_std: float | None = None,
) -> nn.Module:
    """Build a network that maps normalised images ``(N, C, H, W)`` to logits ``(N, K)``.

    Args:
        backbone: Name of a timm network, such as ``resnet50`` or ``mobilenetv2_100``.
        num_classes: Number of classes K, at least 2.
        head: ``linear`` is the backbone's own; ``dense`` is 128 units, ReLU, dropout 0.2, K units (Ma20 section 3.3);
            ``label_graph`` is a graph convolution over K ordered grades (SMIA21), see ``LabelGraphHead``.
        channels: Number of channels C of the images; the first convolution of pretrained weights is adapted to it.
        weights: ``hub`` downloads timm's weights, a path reads a local file, None starts from random weights. The
            classifier's weights in a file are ignored, since they belong to other classes.
        options: Further arguments of the timm network, such as ``pad_type: same``.
        label_embedding: What the grades of a label graph start from, ``learnt`` embeddings or ``one_hot`` ones; the
            other heads do not use it.
        head_std: Standard deviation of the linear head's first weights, with a bias of 0; None leaves timm's, which of
            some backbones are so large that the first steps of a training undo pretrained weights. The other heads do
            not use it.

    Raises:
        ValueError: An argument is out of range, the backbone or the file does not exist, the hub cannot be reached, or
            the file does not hold weights of the backbone.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes counts the classes and is at least 2, got {num_classes}")
    if head not in get_args(Head):
        raise ValueError(f"head is one of {', '.join(map(repr, get_args(Head)))}, got {head!r}")
    if head_std is not None and not 0 <= head_std < math.inf:
        raise ValueError(f"head_std is a standard deviation and at least 0, got {head_std}")
    if not timm.is_model(backbone):
        near = ", ".join(timm.list_models(f"*{backbone[:5]}*")[:5]) or "none"
        raise ValueError(f"timm has no network {backbone!r}; similar names: {near}")
    if weights is not None and weights != "hub" and not Path(weights).is_file():
        raise ValueError(f"weights is 'hub', a file or None, and there is no file {weights}")
    network = _backbone(backbone, num_classes, channels, weights == "hub", options or {})
    if weights is not None and weights != "hub":
        _load_weights(network, Path(weights), backbone)
    if head == "linear" and head_std is not None:
        _start_head(network, head_std)
    if head == "dense":
        _replace_head(network, lambda features: _dense(features, num_classes))
    if head == "label_graph":
        _replace_head(network, lambda features: LabelGraphHead(features, num_classes, label_embedding))
    return network


def _backbone(name: str, num_classes: int, channels: int, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    """The timm network, with the hub's weights or random ones.

    Raises:
        ValueError: The network does not take the options, or the hub cannot be reached.
    """
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=channels, **options
        )
    except TypeError as error:
        raise ValueError(f"{name} does not take the options {dict(options)}: {error}") from error
    except Exception as error:
        if not pretrained:
            raise
        raise ValueError(
            f"the weights of {name} could not be downloaded from timm's hub ({type(error).__name__}); "
            "give a local file as weights, or null for random ones"
        ) from error
    return network


def _classifier_name(network: nn.Module) -> str:
    name = getattr(network, "pretrained_cfg", {}).get("classifier")
    if not isinstance(name, str) or not isinstance(network.get_submodule(name), nn.Linear):
        raise ValueError(f"{type(network).__name__} has no single linear classifier, which head and weights need")
    return name


def _start_head(network: nn.Module, std: float) -> None:
    """Draw the weights of the linear head anew, with a bias of 0."""
    linear = network.get_submodule(_classifier_name(network))
    assert isinstance(linear, nn.Linear)
    nn.init.normal_(linear.weight, std=std)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def _dense(features: int, num_classes: int) -> nn.Module:
    """The dense head of Ma20 section 3.3."""
    return nn.Sequential(nn.Linear(features, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, num_classes))


def _replace_head(network: nn.Module, made: Callable[[int], nn.Module]) -> None:
    """Replace the linear head by the one that is made for its number of features."""
    name = _classifier_name(network)
    linear = network.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, made(linear.in_features))


def _load_weights(network: nn.Module, file: Path, backbone: str) -> None:
    """Load the weights of a backbone, except those of its classifier, from a safetensors or torch file.

    Raises:
        ValueError: The file cannot be read, or its tensors are not those of this backbone.
    """
    content = read_weights(file)
    classifier = _classifier_name(network) + "."
    state = {name: tensor for name, tensor in content.items() if not name.startswith(classifier)}
    expected = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(classifier)}
    for first in _first_convolution(network):
        if first in state and state[first].shape != expected[first].shape:
            state[first] = adapted_input(state[first], expected[first].shape[1], first, file)
    check_weights(expected, state, file, backbone)
    network.load_state_dict(state, strict=False)


def _first_convolution(network: nn.Module) -> list[str]:
    names: Any = getattr(network, "pretrained_cfg", {}).get("first_conv")
    return [f"{name}.weight" for name in ([names] if isinstance(names, str) else names or [])]
