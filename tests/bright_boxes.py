"""Images with bright and dark boxes on a grey ground, as a data module, and a small detector that has learnt them."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules import BoxDataModule, Sample, Scene
from lightning_modules import BoxDetector

SIDE = 64
SETTINGS = {"backbone": "test_resnet", "width": 32, "anchor": 16, "proposals": 30}


def scene_of(number: int) -> Scene:
    """A scene of no, one, two or three boxes: of class 0 if they are bright, of class 1 if they are dark."""
    random = np.random.default_rng(number)
    image = 0.5 + random.normal(0, 0.02, (SIDE, SIDE, 1)).astype(np.float32).repeat(3, 2)
    boxes, labels = [], []
    for place in random.permutation(4)[: number % 4]:  # each in a quarter of its own
        side, corner = random.integers(14, 24, 2), random.integers(1, 8, 2)
        x1, y1 = corner + 32 * np.array([place % 2, place // 2])
        x2, y2 = np.minimum([x1, y1] + side, SIDE - 1)
        label = int(random.integers(2))
        image[y1:y2, x1:x2] = 0.2 if label else 0.8
        boxes.append([x1, y1, x2, y2])
        labels.append(label)
    return Scene(image, boxes=np.array(boxes, np.float64).reshape(-1, 4), labels=np.array(labels, np.int64))


class BrightBoxes(BoxDataModule):
    """Eighty of these scenes, each of a patient of its own."""

    name, class_names = "bright_boxes", ("bright", "dark")

    def index(self) -> list[Sample[Any]]:
        return [Sample(Path(id := f"{n:02d}"), id, None, id) for n in range(80)]

    def read(self, sample: Sample[Any]) -> Scene:
        return scene_of(int(sample.id))


def batch_of(numbers: Any) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Images ``(N, 3, 64, 64)`` and their targets."""
    scenes = [scene_of(number) for number in numbers]
    targets = [{"boxes": torch.tensor(one.boxes).float(), "labels": torch.tensor(one.labels)} for one in scenes]
    return torch.stack([torch.tensor(one.image).permute(2, 0, 1) for one in scenes]), targets


def untrained(seed: int = 0, **options: Any) -> BoxDetector:
    """A small detector of both classes with random weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BoxDetector(**{"num_classes": 2, **SETTINGS, **options}).eval()


@functools.cache
def _weights(steps: int) -> dict[str, Tensor]:
    victim = untrained()
    optimizer = torch.optim.AdamW(victim.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.zero_grad()
        victim.train().training_loss(*batch_of(range(100 + 8 * step, 108 + 8 * step))).backward()
        torch.nn.utils.clip_grad_norm_(victim.parameters(), 5.0)
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in victim.state_dict().items()}


def trained(steps: int = 60) -> BoxDetector:
    """The detector after some seconds of training, in eval mode."""
    victim = untrained()
    victim.load_state_dict(_weights(steps))
    return victim.eval()
