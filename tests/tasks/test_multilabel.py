"""A victim of several findings per image goes through ``evaluate.py test``: no file of the frame knows of it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules import MedicalDataModule, Sample, Scene
from lightning_modules import VictimModule
from medrobust.networks import Outcome

MEANS = [(0.3, 0.9), (0.52, 0.1), (0.9, 0.56), (0.4, 0.2)]  # of the upper and the lower half; a finding is above 0.5


class Findings(VictimModule):
    """Finds something in the upper and in the lower half of an image where that is bright."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten()), mean=0.5, std=0.1)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        losses = functional.binary_cross_entropy_with_logits(self(images), targets.float(), reduction="none")
        return losses.mean(1)

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        hits = (outputs > 0) == (targets > 0)
        return Outcome(hits.all(1), hits.float().mean(1))


class Halves(MedicalDataModule[tuple[int, int]]):
    """Images of two even halves, several of each kind."""

    name, task, class_names = "halves", "multilabel", ("upper", "lower")

    def index(self) -> list[Sample[tuple[int, int]]]:
        targets = [tuple(int(mean > 0.5) for mean in MEANS[n % 4]) for n in range(40)]
        return [Sample(Path(f"{n:02d}"), f"{n:02d}", target, f"{n:02d}") for n, target in enumerate(targets)]

    def read(self, sample: Sample[tuple[int, int]]) -> Scene:
        return Scene(np.repeat(np.float32(MEANS[int(sample.id) % 4]), 32).reshape(8, 8, 1))


def test_pgd_turns_the_findings_that_are_within_its_radius(evaluate: Any) -> None:
    records = evaluate(Findings(), Halves, {"pgd": {"class_path": "PGD", "init_args": {"epsilon": 0.05}}})

    pgd = records.filter(attack="pgd")
    near = torch.tensor([[abs(mean - 0.5) < 0.05 for mean in MEANS[int(id) % 4]] for id in pgd["id"]])
    assert len(records) == 2 * len(pgd) and pgd["correct_before"].all() and pgd["quality_before"].eq(1).all()
    assert pgd["success"].to_list() == near.any(1).tolist() and 0 < pgd["success"].sum() < len(pgd)
    assert pgd["quality_after"].to_list() == (1 - near.float().mean(1)).tolist() and pgd["target"].null_count() == len(
        pgd
    )
