"""Victims for the benchmarks: seeded classifiers, trained for a few seconds on faint textures, without any defence."""

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES, TILE, CONTRAST, NOISE = 10, 8, 4 / 255, 0.015


def textures(number: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images whose class is a faint texture on a strong, uninformative background, and their classes.

    A class is a fixed tile of 8 x 8 pixels of +-4/255, repeated; the background is smooth and differs between images.
    The features that separate the classes are thus as small as perturbations, and the networks fall to PGD at 1/255, as
    networks without a defence generally do.

    Args:
        number: Number of images N.
        side: Height and width, a multiple of 8.
        seed: Seed of backgrounds and noise; the tiles are always the same.

    Returns:
        Images ``(N, 3, side, side)`` in [0, 1] and classes ``(N,)``.
    """
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.randn(CLASSES, 3, TILE, TILE, generator=torch.Generator().manual_seed(0)).sign()
    classes = torch.arange(number) % CLASSES
    coarse = 0.2 + 0.6 * torch.rand(number, 3, 4, 4, generator=generator)
    background = functional.interpolate(coarse, size=(side, side), mode="bilinear")
    noise = NOISE * torch.randn(number, 3, side, side, generator=generator)
    texture = CONTRAST * tiles[classes].repeat(1, 1, side // TILE, side // TILE)
    return (background + texture + noise).clamp(0, 1), classes


def trained_classifier(name: str, side: int, steps: int) -> nn.Module:
    """Train a timm network on batches of 32 textures of 32 x 32 pixels, with BatchNorm's statistics of the final size.

    Random weights would not do: many random networks predict the same class for every image.

    Args:
        name: Name of a timm network.
        side: Height and width at which it will be attacked.
        steps: Training steps of AdamW at 0.001.

    Returns:
        The network in eval mode, with trainable weights, as training leaves it.
    """
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=CLASSES)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    network.train()
    for step in range(steps):
        images, classes = textures(32, 32, seed=1 + step)
        optimizer.zero_grad()
        functional.cross_entropy(network(images), classes).backward()
        optimizer.step()
    optimizer.zero_grad()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average of the batches below
            module.reset_running_stats()
    with torch.no_grad():
        for batch in range(3):
            network(textures(10, side, seed=10_000 + batch)[0])
    return network.eval()
