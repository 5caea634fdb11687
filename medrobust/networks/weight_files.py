"""Weight files: tensors by name from a local safetensors or torch file, refused in one sentence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors by name of a safetensors or torch file; those under ``state_dict`` where it has that.

    Raises:
        ValueError: The file cannot be read, or holds anything but tensors by name.
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
    content: Any = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{file} is expected to hold a dict of tensors by name, got a {type(content).__name__}")
    if strange := [name for name, value in content.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"{file} is expected to hold only tensors, got a {type(content[strange[0]]).__name__} under {strange[0]!r}"
        )
    return content


def adapted_input(weight: Tensor, wanted: int, name: str, file: Path) -> Tensor:
    """The weight of a first convolution for another number of channels, as timm adapts it.

    Args:
        weight: ``(O, C, kH, kW)``.
        wanted: Number of channels C that the images have.
        name: Name of the weight, for the message.
        file: The file that it comes from, for the message.

    Raises:
        ValueError: Its channels are not those of colours.
    """
    try:
        adapted: Tensor = adapt_input_conv(wanted, weight)
    except (NotImplementedError, AssertionError):
        raise ValueError(f"{file}: {name} has {weight.shape[1]} channels and cannot adapt to {wanted}") from None
    return adapted


def check_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], file: Path, what: str) -> None:
    """Refuse tensors that are not those of a network.

    Args:
        expected: Tensors of the network by name.
        found: Tensors of the file by name.
        file: The file, for the message.
        what: Name of the network, for the message.

    Raises:
        ValueError: Tensors are missing, unknown or of another shape; the message counts them.
    """
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    differing = sorted(name for name in expected.keys() & found.keys() if expected[name].shape != found[name].shape)
    if missing or unknown or differing:
        raise ValueError(
            f"{file} does not hold the weights of {what}: {len(missing)} tensors are missing, {len(unknown)} are "
            f"unknown and {len(differing)} have another shape (first: {(missing + unknown + differing)[0]})"
        )
