"""Networks to be timed: an honest classifier in seconds, without data or downloads."""

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


def blobs(count: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of ten smooth patterns with noise, ``(N, 3, S, S)`` in [0, 1], and their classes."""
    patterns = torch.rand(CLASSES, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    patterns = functional.interpolate(patterns, size=(side, side), mode="bicubic")
    noise = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
    classes = torch.arange(count) % CLASSES
    return (0.5 + 0.15 * patterns[classes] + 0.1 * noise).clamp(0, 1), classes


def classifier(name: str, side: int, device: torch.device) -> nn.Module:
    """A timm network with random convolutions, measured BatchNorm statistics and a fitted last layer, in eval mode.

    It takes images in [0, 1] as they are. Its convolutions cost what trained ones cost, and its decisions are real.
    """
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=CLASSES, zero_init_last=False).to(device)
    images, classes = (tensor.to(device) for tensor in blobs(40, side, seed=1))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        for part in images.split(8):
            network.train()(part)
        network.eval()
        parts = [network.forward_head(network.forward_features(part), pre_logits=True) for part in images.split(8)]
    features = torch.cat(parts).clone()
    head = network.get_classifier()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        functional.cross_entropy(head(features), classes).backward()
        optimizer.step()
    return network.requires_grad_(False)
