"""The data modules are what an evaluation asks for: seen by mypy, which reads this file, and at run time."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from datamodules import BoxDataModule, ChestXRay, MedicalDataModule, SegmentationDataModule
from medrobust.evaluation.data import EvaluationData


def as_evaluation_data(
    base: MedicalDataModule[Any], classes: ChestXRay, masks: SegmentationDataModule, boxes: BoxDataModule
) -> list[EvaluationData]:
    """Nobody calls this: that it type-checks is the assertion."""
    return [base, classes, masks, boxes]


def test_isinstance_tells_evaluation_data_from_other_data(tmp_path: Path) -> None:
    assert isinstance(ChestXRay(tmp_path), EvaluationData)
    assert not isinstance(pl.LightningDataModule(), EvaluationData)
