"""Networks that are small enough for closed forms, and victims around them."""

from typing import Any

import torch
from torch import Tensor, nn

from medrobust.networks import Outcome, WrappedClassifier, as_victim

SIDE = 8


class LinearNet(nn.Module):
    """Logits that are linear in an image of 8 x 8, with weights of both signs."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        weight = torch.randn(classes, SIDE * SIDE, generator=torch.Generator().manual_seed(classes)) / 8
        self.weight = nn.Parameter(weight - weight.mean(1, keepdim=True))
        self.dropout = nn.Dropout(0.5)  # in train mode it would change every output

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(images.flatten(1)) @ self.weight.T


def linear_victim(classes: int = 2) -> WrappedClassifier:
    """The linear network as a victim without Lightning, in train mode."""
    return as_victim(LinearNet(classes), mean=0.5, std=0.25)


class Recorded(nn.Module):
    """A victim that records the images it is shown and is never fooled."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images.detach().clone())
        return self.inner(images)

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        return Outcome(torch.ones(len(outputs), dtype=torch.bool), torch.ones(len(outputs)))
