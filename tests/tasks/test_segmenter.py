"""A segmenter goes through ``evaluate.py test``: a victim and a dataset, no file of the frame."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules import Sample, Scene, SegmentationDataModule
from lightning_modules import VictimModule
from medrobust.networks import Outcome


class Threshold(VictimModule):
    """Takes the pixels above one half for the organ; an image is right where its Jaccard index is at least one half."""

    def __init__(self) -> None:
        network = nn.Conv2d(1, 2, 1, bias=False)
        network.weight.data = torch.tensor([0.0, 10.0]).view(2, 1, 1, 1)
        super().__init__(network, mean=0.5, std=1.0)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(self(images), targets, reduction="none").mean((1, 2))

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        found, true = outputs.argmax(1) == 1, targets == 1
        jaccard = (found & true).sum((1, 2)) / (found | true).sum((1, 2))
        return Outcome(jaccard >= 0.5, jaccard)


class Organs(SegmentationDataModule):
    """An organ of 32 bright pixels, of which n are hardly brighter than one half, before a black background."""

    name, class_names = "organs", ("background", "organ")

    def index(self) -> list[Sample[Path]]:
        return [Sample(Path(f"{n:02d}"), f"{n:02d}", Path(f"{n:02d}"), f"{n:02d}") for n in range(32)]

    def read(self, sample: Sample[Path]) -> Scene:
        image = np.zeros((8, 8, 1), np.float32)
        image[:4], mask = 0.9, np.zeros((8, 8), np.int32)
        mask[:4] = 1
        image[:4].reshape(-1)[: int(sample.id)] = 0.55
        return Scene(image, mask=mask)


def test_pgd_takes_the_pixels_that_are_within_its_radius(evaluate: Any) -> None:
    records = evaluate(Threshold(), Organs, {"pgd": {"class_path": "PGD", "init_args": {"epsilon": 0.1}}})

    pgd = records.filter(attack="pgd")
    kept = 1 - torch.tensor([int(id) for id in pgd["id"]]) / 32  # Jaccard index without the hardly bright pixels
    assert len(records) == 2 * len(pgd) and pgd["quality_before"].eq(1).all()
    torch.testing.assert_close(torch.tensor(pgd["quality_after"].to_list()), kept)
    assert pgd["success"].to_list() == (kept < 0.5).tolist() and 0 < pgd["success"].sum() < len(pgd)
