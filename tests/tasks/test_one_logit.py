"""A classifier with a single logit goes through ``evaluate.py test``: a victim and a dataset, no file of the frame."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules import ClassificationDataModule, Sample, Scene
from lightning_modules import VictimModule
from medrobust.networks import Outcome


class OneLogit(VictimModule):
    """Calls an image bright or dark by its mean."""

    def __init__(self) -> None:
        network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1))
        nn.init.constant_(network[2].weight, 10.0)
        nn.init.zeros_(network[2].bias)
        super().__init__(network, mean=0.5, std=1.0)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(self(images)[:, 0], targets.float(), reduction="none")

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        bright = outputs[:, 0].sigmoid()
        prediction, confidence = (bright > 0.5).long(), torch.maximum(bright, 1 - bright)
        return Outcome(prediction == targets, torch.where(targets == 1, bright, 1 - bright), prediction, confidence)


class Brightness(ClassificationDataModule):
    """Images whose mean is 0.3 or 0.7, in turn further from and nearer to one half."""

    name, class_names = "brightness", ("dark", "bright")

    def index(self) -> list[Sample[int]]:
        return [Sample(Path(f"{n:02d}"), f"{n:02d}", n % 2, f"{n:02d}") for n in range(40)]

    def read(self, sample: Sample[int]) -> Scene:
        mean = 0.5 + (0.02 + 0.01 * (int(sample.id) // 2)) * (1 if sample.target else -1)
        return Scene(np.full((8, 8, 1), mean, np.float32))


def test_pgd_moves_the_logit_by_the_norm_of_the_weights(evaluate: Any) -> None:
    records = evaluate(OneLogit(), Brightness, {"pgd": {"class_path": "PGD", "init_args": {"epsilon": 0.1}}})

    pgd = records.filter(attack="pgd")
    assert len(records) == 2 * len(pgd) and set(records["attack"]) == {"noise", "pgd"}
    distance = 0.02 + 0.01 * (pgd["id"].cast(int) // 2).to_numpy()  # of the mean from one half, which moves by 0.1
    assert pgd["correct_before"].all() and (pgd["success"].to_numpy() == (distance < 0.0999)).all()
    np.testing.assert_allclose(pgd["quality_after"].to_numpy(), 1 / (1 + np.exp(-10 * (distance - 0.1))), atol=1e-3)
