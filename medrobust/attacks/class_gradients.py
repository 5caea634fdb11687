"""What attacks on class scores share: the check of what they are given, and several scores' gradients at once."""

from typing import Any

import torch
from torch import Tensor


def check_classes(targets: Any) -> None:
    """Refuse targets that are not one class an image.

    Raises:
        ValueError: The targets are masks or boxes.
    """
    if not isinstance(targets, Tensor) or targets.ndim != 1:
        came = f"masks {tuple(targets.shape)}" if isinstance(targets, Tensor) else "a list of boxes"
        raise ValueError(f"this attack moves between classes and takes one class an image, (N,), got {came}")


def check_logits(outputs: Any, targets: Tensor) -> None:
    """Refuse outputs that are not logits of classes that include the targets; asks the device once.

    Raises:
        ValueError: Says what was expected and what came.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[1] < 2:
        came = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"this attack needs logits (N, K) with K >= 2, the victim gave {came}")
    if len(targets) and int(targets.max()) >= outputs.shape[1]:
        raise ValueError(f"the victim tells {outputs.shape[1]} classes, counted from 0, got class {int(targets.max())}")


def class_gradients(values: Tensor, images: Tensor, batched: bool | None = None) -> Tensor:
    """Gradients of several values of each image, all from the one forward that made them.

    Args:
        values: ``(N, R)``; those of one image depend on that image alone.
        images: ``(N, C, H, W)``, part of the values' graph, which is given up.
        batched: One backward for all R, which needs R times the memory, instead of one after the other. None means
            where it pays: on the CPU it saves nothing. A network that cannot do it falls back to the other.

    Returns:
        ``(R, N, C, H, W)``.
    """
    count = values.shape[1]
    if count == 1:
        return torch.autograd.grad(values.sum(), images)[0].unsqueeze(0)
    if images.device.type != "cpu" if batched is None else batched:
        chosen = torch.eye(count, dtype=values.dtype, device=values.device)[:, None].expand(-1, len(values), -1)
        try:
            (gradients,) = torch.autograd.grad(values, images, chosen, retain_graph=True, is_grads_batched=True)
        except RuntimeError:  # an autograd.Function without a rule for vmap, or too little memory for R at once
            pass
        else:
            return gradients.detach()
    columns = values.sum(0).unbind()
    return torch.stack(
        [torch.autograd.grad(column, images, retain_graph=place < count - 1)[0] for place, column in enumerate(columns)]
    )
