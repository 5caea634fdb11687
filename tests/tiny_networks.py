"""A network that is small enough for closed forms, and a victim around it."""

import torch
from torch import Tensor, nn

from medrobust.networks import WrappedClassifier, as_victim

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
