"""Numbers that are not finite: outputs with NaN or infinity are refused, such entries of gradients are replaced."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from medrobust.networks.box_outputs import checked_boxes
from medrobust.networks.victims import Outputs


def all_finite(values: Any) -> Tensor:
    """Whether all floating point numbers in a tensor, or in lists and dicts of tensors, are finite, bool ``()``."""
    parts = [leaf.detach() for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not parts:
        return torch.tensor(True)
    joined = parts[0] if len(parts) == 1 else torch.cat([part.reshape(-1) for part in parts])
    return joined.isfinite().all()


def finite_outputs(outputs: Outputs, names: Sequence[str], when: str) -> Outputs:
    """Outputs unchanged, if all their numbers are finite and boxes have their form; rates of others would be wrong.

    Args:
        outputs: A victim's outputs, a tensor or a list of dicts of tensors.
        names: The images' names.
        when: What the images are, for the message.

    Raises:
        ValueError: An output is not finite, or its boxes are no list with the most certain first; the message names
            the image.
    """
    is_list = isinstance(outputs, list) and all(isinstance(output, dict) for output in outputs)
    if not (is_list or isinstance(outputs, Tensor)) or len(outputs) != len(names):
        received = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        received = f"a list of {len(outputs)}" if is_list else received
        raise ValueError(
            f"a victim's outputs for {len(names)} images are a tensor or a list of as many dicts, got {received}"
        )
    if isinstance(outputs, Tensor):
        good = outputs.isfinite().unsqueeze(-1).flatten(1).all(1)
    else:
        good = torch.stack([all_finite(output) for output in outputs]) if outputs else torch.ones(0, dtype=torch.bool)
    if not bool(good.all()):
        bad = [name for name, fine in zip(names, good.tolist(), strict=True) if not fine]
        raise ValueError(
            f"the victim's outputs ({when}) are not finite for {len(bad)} of {len(names)} images, first {bad[0]!r}"
        )
    for name, output in zip(names, outputs, strict=True) if is_list else ():
        try:
            checked_boxes(output)
        except ValueError as error:
            raise ValueError(f"the victim's outputs ({when}) for {name!r}: {error}") from None
    return outputs


def mended(gradients: Tensor, leading: int = 1) -> tuple[Tensor, Tensor]:
    """Gradients of images in which every entry is finite, and which of them had others.

    The sign of an infinite entry is known, as that of d sqrt(x) / dx at a black pixel: it gets the largest finite
    magnitude of its image's gradient, or 1 where there is none. NaN has no sign and becomes 0.

    Args:
        gradients: ``(N, C, H, W)``, or several of each image, ``(N, R, C, H, W)``.
        leading: Number of dimensions before those of an image, 1 or 2.

    Returns:
        The gradients, and bool ``(N,)`` or ``(N, R)``: True where an entry was replaced.
    """
    image = tuple(range(leading, gradients.ndim))
    if gradients.device.type == "cpu":  # where looking costs no wait, a sum spares the four passes below
        sums = torch.linalg.vector_norm(gradients, ord=1, dim=image)
        if bool(sums.isfinite().all()):
            return gradients, torch.zeros_like(sums, dtype=torch.bool)
    finite = gradients.isfinite()
    largest = torch.where(finite, gradients, 0).abs().amax(image, keepdim=True)
    signs = gradients.nan_to_num(0.0, 1.0, -1.0)
    return torch.where(finite, gradients, signs * torch.where(largest > 0, largest, 1)), ~finite.flatten(leading).all(
        -1
    )
