"""A small network that reads scikit-learn's handwritten digits: ten classes, and black pixels at their bound."""

import functools

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

TRAIN = 1400


@functools.cache
def digits_network() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, and the images ``(N, 1, 8, 8)`` that it was not trained on and gets right, with their classes."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    classes = torch.tensor(digits.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(384, 48), nn.ReLU(), nn.Linear(48, 10)),
        )
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(10):
            for batch in torch.randperm(TRAIN).split(64):
                optimizer.zero_grad()
                functional.cross_entropy(net(images[batch]), classes[batch]).backward()
                optimizer.step()
    net.eval().requires_grad_(False)
    images, classes = images[TRAIN:], classes[TRAIN:]
    right = net(images).argmax(1) == classes
    assert float(right.double().mean()) > 0.9
    return net, images[right], classes[right]
