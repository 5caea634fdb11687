"""Networks that are small enough for closed forms, and a tiny ResNet whose BatchNorms do something."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules import Classifier
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


def with_network(network: nn.Module, **options: Any) -> Classifier:
    """A Lightning classifier of grey images around a network of the test's own, in eval mode."""
    victim = Classifier("resnet10t", **{"channels": 1, **options})
    victim.network = network
    return victim.eval()


def random_resnet(seed: int = 0, balanced: bool = False, **changes: Any) -> Classifier:
    """An untrained ResNet of 10 layers with BatchNorms that are not the identity, in eval mode.

    Args:
        seed: Seed of its weights.
        balanced: Spread the logits, so that neither of two classes always wins on noise of 32 x 32.
        changes: Arguments of ``Classifier``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        victim = Classifier(**{"backbone": "resnet10t", "channels": 1, **changes}).eval()
        for layer in victim.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.running_mean, -0.2, 0.2)
                nn.init.uniform_(layer.running_var, 0.5, 2.0)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
        if balanced:
            with torch.no_grad():
                victim.network.fc.weight.mul_(20)
                victim.network.fc.bias.sub_(victim(torch.rand(32, 1, 32, 32)).mean(0))
    return victim
