"""Datasets of classification: one class per image."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from datamodules.base import MedicalDataModule
from datamodules.samples import Sample
from datamodules.transforms import Scene


class ClassificationDataModule(MedicalDataModule[int]):
    """Images that each belong to one of K classes; a sample's target is the index of its class, in ``[0, K)``.

    In a batch, ``target`` is int64 ``(N,)``. Splits are stratified by class, and every class needs an image. Classes
    that are ordered, such as the grades of a disease from none on, say so by ``ordered``.
    """

    task: ClassVar[str] = "classification"
    ordered: bool = False

    def stratum_of(self, sample: Sample[int]) -> int:
        """The class."""
        return sample.target

    def check(self, sample: Sample[int], scene: Scene) -> None:
        """Refuse a class without a name.

        Raises:
            ValueError: There is no such class; the message names the file.
        """
        if not 0 <= sample.target < self.num_classes:
            names = ", ".join(self.class_names)
            expected = f"a class from 0 to {self.num_classes - 1} ({names})"
            raise ValueError(f"{sample.path}: expected {expected}, got {sample.target}")

    def written(self, sample: Sample[int]) -> int:
        """The index of the class."""
        return sample.target

    def check_written(self, sample: Sample[int], text: str) -> None:
        """Compare the class that a split file states with the sample's own.

        Raises:
            ValueError: There is no such class, or they differ.
        """
        if not text.strip().isdecimal() or int(text) >= self.num_classes:
            raise ValueError(f"expected a target from 0 to {self.num_classes - 1}, got {text!r}")
        if int(text) != sample.target:
            raise ValueError(f"expected target {sample.target} as the dataset gives it, got {text}")

    def missing_classes(self, samples: Sequence[Sample[int]]) -> list[str]:
        """Names of the classes without a sample."""
        present = {sample.target for sample in samples}
        return [name for target, name in enumerate(self.class_names) if target not in present]

    def summarise(self, samples: Sequence[Sample[int]]) -> dict[str, Any]:
        """Numbers of images, patients and images of each class, ready for JSON."""
        counts = Counter(sample.target for sample in samples)
        classes = {name: counts[target] for target, name in enumerate(self.class_names)}
        return super().summarise(samples) | {"classes": classes}

    def class_weights(self) -> torch.Tensor:
        """Weights (K,) float32 of the classes, inverse to their frequency in Train, with mean 1.

        Raises:
            ValueError: A class has no image in Train.
        """
        samples = self._samples("train")
        if missing := self.missing_classes(samples):
            raise ValueError(f"class weights need images of every class in train, found none of {', '.join(missing)}")
        counts = Counter(sample.target for sample in samples)
        weights = torch.tensor([1 / counts[target] for target in range(self.num_classes)], dtype=torch.float64)
        return (weights / weights.mean()).float()
