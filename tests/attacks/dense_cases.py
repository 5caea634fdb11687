"""One victim of each task, with images and targets that it gets right for about half of them."""

from typing import Any

import pytest
import torch
from torch import Tensor


def dense_case(
    task: str, channels: int, request: pytest.FixtureRequest, tagged: bool = False
) -> tuple[Any, Tensor, Any]:
    """A victim, eight images and targets that the victim gets right for about half of them."""
    images = request.getfixturevalue("images_of")(8, channels, 4)
    if task == "classes":
        return request.getfixturevalue("linear")(channels, 3, tagged=tagged), images, torch.arange(8) % 3
    if task == "masks":
        victim = request.getfixturevalue("segmenter")(channels, 2, tagged=tagged)
        masks = victim(images).argmax(1)
        masks[::3] = 1 - masks[::3]
        masks[:, 2] = -1
        return victim, images, masks
    images = images * 0.5
    images[:, 1 if tagged else 0] += torch.linspace(0.0, 0.5, 8).view(-1, 1, 1)
    return (
        request.getfixturevalue("box_victim")(channels, tagged=tagged),
        images,
        request.getfixturevalue("boxes_of")(8),
    )
