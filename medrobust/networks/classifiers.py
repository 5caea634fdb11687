"""Classifiers: any timm backbone by name, with its own linear head or the dense-128 head of Ma20."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import timm
import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import nn

Head = Literal["linear", "dense"]


def build_classifier(
    backbone: str,
    num_classes: int,
    head: Head = "linear",
    channels: int = 3,
    weights: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a network that maps normalised images ``(N, C, H, W)`` to logits ``(N, K)``.

    Args:
        backbone: Name of a timm network, such as ``resnet50`` or ``mobilenetv2_100``.
        num_classes: Number of classes K, at least 2.
        head: ``linear`` is the backbone's own; ``dense`` is 128 units, ReLU, dropout 0.2, K units (Ma20 section 3.3).
        channels: Channels C of the images; the first convolution of given weights is adapted to them.
        weights: ``hub`` downloads timm's weights, a path reads a local file, None starts from random ones. The
            classifier's own weights are dropped from a file, since they belong to other classes.
        options: Further arguments of the timm network, such as ``pad_type: same``.

    Raises:
        ValueError: The backbone or the file does not exist, the hub cannot be reached, or the file does not fit.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes counts the classes and is at least 2, got {num_classes}")
    if head not in get_args(Head):
        raise ValueError(f"head is one of {', '.join(map(repr, get_args(Head)))}, got {head!r}")
    if not timm.is_model(backbone):
        near = ", ".join(timm.list_models(f"*{backbone[:5]}*")[:5]) or "none"
        raise ValueError(f"timm has no network {backbone!r}; names that look alike: {near}")
    if weights is not None and weights != "hub" and not Path(weights).is_file():
        raise ValueError(f"weights is 'hub', a file or nothing, and there is no file {weights}")
    try:
        network = timm.create_model(
            backbone, pretrained=weights == "hub", num_classes=num_classes, in_chans=channels, **(options or {})
        )
    except TypeError as error:
        raise ValueError(f"{backbone} does not take these options, {dict(options or {})}: {error}") from error
    except Exception as error:
        if weights != "hub":
            raise
        raise ValueError(
            f"the weights of {backbone} could not be downloaded from timm's hub ({type(error).__name__}); "
            "give a local file as weights, or none"
        ) from error
    if weights is not None and weights != "hub":
        _load_weights(network, Path(weights), backbone)
    if head == "dense":
        _replace_head(network, num_classes)
    return network


def _classifier_name(network: nn.Module) -> str:
    name = getattr(network, "pretrained_cfg", {}).get("classifier")
    if not isinstance(name, str) or not isinstance(network.get_submodule(name), nn.Linear):
        raise ValueError(f"{type(network).__name__} has no single linear classifier, which head and weights need")
    return name


def _replace_head(network: nn.Module, num_classes: int) -> None:
    """Put the dense head of Ma20 in the place of the linear one."""
    name = _classifier_name(network)
    linear = network.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    parent, _, last = name.rpartition(".")
    dense = nn.Sequential(nn.Linear(linear.in_features, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, num_classes))
    setattr(network.get_submodule(parent), last, dense)


def _load_weights(network: nn.Module, file: Path, backbone: str) -> None:
    """Load a backbone's weights from a safetensors or torch file, all but its classifier.

    Raises:
        ValueError: The file cannot be read, or its tensors are not this backbone's.
    """
    try:
        state = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except Exception as error:
        raise ValueError(
            f"{file} is not a readable safetensors or torch weight file ({type(error).__name__})"
        ) from error
    held: Any = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(held, dict) or not all(isinstance(name, str) for name in held):
        raise ValueError(f"{file} holds a {type(held).__name__}, a dict of tensors by name is needed")
    if strange := [name for name, value in held.items() if not isinstance(value, torch.Tensor)]:
        raise ValueError(
            f"{file} holds a {type(held[strange[0]]).__name__} under {strange[0]!r}, expected tensors only"
        )
    classifier = _classifier_name(network) + "."
    state = {name: tensor for name, tensor in held.items() if not name.startswith(classifier)}
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(classifier)}
    for first in _first_convolution(network):
        if first in state and state[first].shape != own[first].shape:
            try:
                state[first] = adapt_input_conv(own[first].shape[1], state[first])
            except (NotImplementedError, AssertionError):
                came, wanted = state[first].shape[1], own[first].shape[1]
                raise ValueError(f"{file}: {first} is made for {came} channels and cannot adapt to {wanted}") from None
    lacking, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    differing = sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape)
    if lacking or unknown or differing:
        raise ValueError(
            f"{file} does not hold the weights of {backbone}: {len(lacking)} tensors are missing, {len(unknown)} "
            f"unknown and {len(differing)} of another shape (first: {(lacking + unknown + differing)[0]})"
        )
    network.load_state_dict(state, strict=False)


def _first_convolution(network: nn.Module) -> list[str]:
    names: Any = getattr(network, "pretrained_cfg", {}).get("first_conv")
    return [f"{name}.weight" for name in ([names] if isinstance(names, str) else names or [])]
