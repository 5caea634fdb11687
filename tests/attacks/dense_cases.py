"""One victim of each task, with images and targets that it gets right for about half of them."""

from typing import Any

import pytest
import torch
from torch import Tensor


def dense_case(
    task: str,
    channels: int,
    request: pytest.FixtureRequest,
    tagged: bool = False,
    images: Tensor | None = None,
    classes: Tensor | None = None,
) -> tuple[Any, Tensor, Any]:
    """A victim, eight images and targets that the victim gets right for about half of them.

    Args:
        task: "classes", "masks" or "boxes".
        channels: Channels of the images.
        request: Gives the victims.
        tagged: Let channel 0 carry an image's name.
        images: Other images than random ones with pixels at the bounds; darkened and brightened in turn for boxes.
        classes: Other classes than 0, 1 and 2 in turn.
    """
    images = request.getfixturevalue("images_of")(8, channels, 4) if images is None else images
    if task == "classes":
        targets = torch.arange(8) % 3 if classes is None else classes
        return request.getfixturevalue("linear")(channels, 3, tagged=tagged), images, targets
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
