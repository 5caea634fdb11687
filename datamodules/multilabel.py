"""Datasets of several labels per image, which do not exclude each other."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from datamodules.base import MedicalDataModule
from datamodules.samples import Sample
from datamodules.transforms import Scene

Labels = tuple[int, ...]

NO_LABEL = "none"


class MultiLabelDataModule(MedicalDataModule[Labels]):
    """Images each of which may have any of L labels; a sample's target holds a number for each of them.

    In a batch, ``target`` is int64 ``(N, L)``: 1 where an image has a label, 0 where it has not, -1 where nobody knows.
    ``class_names`` are the names of the labels.

    Splits are stratified by the rarest label that an image has, so that rare labels are in every split. Every label
    needs an image.
    """

    task: ClassVar[str] = "multilabel"

    def stratified(self, samples: Sequence[Sample[Labels]]) -> list[Sample[Labels]]:
        """The samples, whose stratum is the rarest of their labels in all of the samples."""
        counts = self.label_counts(samples)
        rarity = sorted(range(self.num_classes), key=lambda label: (counts[label], label))
        return [
            dataclasses.replace(
                sample,
                stratum=next((self.class_names[label] for label in rarity if sample.target[label] == 1), NO_LABEL),
            )
            for sample in samples
        ]

    def label_counts(self, samples: Sequence[Sample[Labels]], value: int = 1) -> list[int]:
        """How many samples have each label, or another value (0 or -1) in its place."""
        return [sum(sample.target[label] == value for sample in samples) for label in range(self.num_classes)]

    def check(self, sample: Sample[Labels], scene: Scene) -> None:
        """Refuse another number of labels, and anything but 0, 1 and -1.

        Raises:
            ValueError: The target is wrong; the message names the file.
        """
        if len(sample.target) != self.num_classes or not set(sample.target) <= {-1, 0, 1}:
            expected = f"{self.num_classes} labels, each 0, 1 or -1 if unknown"
            raise ValueError(f"{sample.path}: expected {expected}, got {list(sample.target)}")

    def missing_classes(self, samples: Sequence[Sample[Labels]]) -> list[str]:
        """Names of the labels that no sample has."""
        counts = self.label_counts(samples)
        return [name for name, count in zip(self.class_names, counts, strict=True) if not count]

    def summarise(self, samples: Sequence[Sample[Labels]]) -> dict[str, Any]:
        """Numbers of images and patients, of images with each label, and of those with none; ready for JSON."""
        counts = dict(zip(self.class_names, self.label_counts(samples), strict=True))
        without = sum(1 not in sample.target for sample in samples)
        return super().summarise(samples) | {"labels": counts, "without_label": without}

    def target_settings(self) -> list[Any]:
        """The names of the labels."""
        return [list(self.class_names)]

    def positive_weights(self) -> torch.Tensor:
        """Number of Train's images that lack each label for one image that has it, float32 ``(L,)``.

        Images of which nobody knows do not count.

        Raises:
            ValueError: No image of Train has a label.
        """
        samples = self._samples("train")
        if missing := self.missing_classes(samples):
            raise ValueError(f"positive weights need images with every label in train, none has {', '.join(missing)}")
        present, absent = self.label_counts(samples), self.label_counts(samples, 0)
        return torch.tensor(absent, dtype=torch.float64).div(torch.tensor(present)).float()
