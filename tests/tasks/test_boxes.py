"""A victim that finds boxes goes through ``evaluate.py test``: a victim and a dataset, no file of the frame."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datamodules import BoxDataModule, Sample, Scene
from lightning_modules import VictimModule
from medrobust.networks import Outcome


class Spots(VictimModule):
    """Scores each of two fixed boxes by its mean brightness and finds those above one half."""

    def __init__(self) -> None:
        super().__init__(nn.AvgPool2d(4), mean=0.5, std=0.1)

    def forward(self, images: Tensor) -> Any:
        return [{"scores": scores.diagonal()} for scores in self.network(self.normalised(images))[:, 0]]

    def loss(self, images: Tensor, targets: Any) -> Tensor:
        return torch.stack([-scores.sum() for scores in self.scores(self(images), targets)])

    def outcome(self, outputs: Any, targets: Any) -> Outcome:
        found = torch.stack([(scores > 0).float().mean() for scores in self.scores(outputs, targets)])
        return Outcome(found > 0.5, found)

    def scores(self, outputs: Any, targets: Any) -> list[Tensor]:
        places = [target["boxes"][:, 0].gt(0).long() for target in targets]
        return [output["scores"][place] for output, place in zip(outputs, places, strict=True)]


class Specular(BoxDataModule):
    """One or two bright boxes; in every third image the first one is faint."""

    name, class_names = "specular", ("spot",)

    def index(self) -> list[Sample[Any]]:
        boxes = [(0, 0, 0, 4, 4), (0, 4, 4, 8, 8)]
        return [Sample(Path(id := f"{n:02d}"), id, boxes[: 1 + n % 2], id) for n in range(80)]

    def read(self, sample: Sample[Any]) -> Scene:
        image = np.zeros((8, 8, 1), np.float32)
        image[:4, :4], image[4:, 4:] = 0.9 if int(sample.id) % 3 else 0.52, 0.9 if len(sample.target) > 1 else 0
        return Scene(image, boxes=np.array(sample.target)[:, 1:], labels=np.zeros(len(sample.target), int))


def test_pgd_loses_the_faint_boxes(evaluate: Any) -> None:
    records = evaluate(Spots(), Specular, {"pgd": {"class_path": "PGD", "init_args": {"epsilon": 0.05}}})

    pgd = records.filter(attack="pgd")
    lost = [0.0 if int(id) % 3 else 1 / (1 + int(id) % 2) for id in pgd["id"]]  # share of the image's boxes
    assert len(records) == 2 * len(pgd) and pgd["correct_before"].all() and len(set(lost)) == 3
    assert pgd["success"].to_list() == [share > 0 for share in lost]
    assert pgd["quality_after"].to_list() == [1 - share for share in lost]
