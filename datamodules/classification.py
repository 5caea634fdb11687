"""Datasets of classification: one class per image."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from datamodules.base import MedicalDataModule
from datamodules.samples import Sample
from datamodules.splits import take
from datamodules.transforms import Scene


class ClassificationDataModule(MedicalDataModule[int]):
    """Images that each belong to one of K classes; a sample's target is the index of its class, in ``[0, K)``.

    In a batch, ``target`` is int64 ``(N,)``. Splits are stratified by class, and every class needs an image. Classes
    that are ordered, such as the grades of a disease from none on, say so by ``ordered``.

    Args:
        root: Folder of the dataset.
        class_map: Another name for some of the dataset's classes, such as ``{covid: PNEUMONIA}``; classes of equal
            names become one, and null leaves a class out. Data that a victim is judged on take its order of classes.
        balance: Keep as many images of each class in Train as it has of its rarest; a hash of ``split_seed`` and the
            image's id chooses them. The other splits stay as they are.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    task: ClassVar[str] = "classification"
    ordered: bool = False

    def __init__(
        self,
        root: str | Path,
        class_map: dict[str, str | None] | None = None,
        balance: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.class_map = class_map
        self.balance = balance
        self._of_victim: tuple[str, ...] | None = None

    def take_classes_of(self, class_names: Sequence[str]) -> None:
        """Number the classes as a victim does that was trained on other data, before `setup`.

        Raises:
            ValueError: The classes are not the victim's, by their names in ``class_map`` or their own.
        """
        self._of_victim = tuple(class_names)
        if self.class_names:  # some datasets find them with their images
            self._renamed()

    def found(self) -> list[Sample[int]]:
        """The samples that `index` finds, those of classes that ``class_map`` leaves out excepted.

        Raises:
            ValueError: ``class_map`` names a class that the dataset does not have, or leaves no image or one class.
        """
        samples, before = self.index(), tuple(self.class_names)
        names, numbers = self._renamed()
        if names == before and numbers == list(range(len(names))):
            return samples
        for sample in samples:
            self.check_class(sample)
        kept = [
            dataclasses.replace(sample, target=number)
            for sample in samples
            if (number := numbers[sample.target]) is not None
        ]
        if not kept:
            raise ValueError(f"class_map leaves out all {len(samples)} images of {self.root}")
        if len(names) < 2:
            raise ValueError(
                f"class_map is expected to leave at least two classes of {self.name}, got {names[0]} alone"
            )
        used = [number for number in numbers if number is not None]
        self.ordered = self.ordered and used == sorted(used)  # else distances of grades are those of other numbers
        self.class_names = names
        return kept

    def _renamed(self) -> tuple[tuple[str, ...], list[int | None]]:
        """The names of the classes after ``class_map``, and the number of each of the dataset's own among them."""
        own, given = tuple(self.class_names), self.class_map or {}
        if unknown := [name for name in given if name not in own]:
            raise ValueError(f"class_map renames classes of {self.name} ({', '.join(own)}), got {unknown[0]!r}")
        new = [given.get(name, name) for name in own]
        names = tuple(dict.fromkeys(name for name in new if name is not None))
        if self._of_victim is not None:
            fits = set(names) <= set(self._of_victim) if self.class_map else set(names) == set(self._of_victim)
            if not fits:
                strange = (name for name, now in zip(own, new, strict=True) if now not in (None, *self._of_victim))
                one = next(strange, own[0])
                other = one if one in self._of_victim else self._of_victim[0]
                raise ValueError(
                    f"the victim was trained on the classes {', '.join(self._of_victim)}, and {self.name} has "
                    f"{', '.join(names)}: give each of the latter one of the former, or null to leave it out, such as "
                    f"--data.class_map '{{{one}: {other}}}'"
                )
            names = self._of_victim
        return names, [None if name is None else names.index(name) for name in new]

    def thinned(self, splits: dict[str, list[Sample[int]]]) -> dict[str, list[Sample[int]]]:
        """With ``balance``, Train with as many images of each class as of its rarest."""
        if not self.balance or not splits.get("train"):
            return splits
        of_class: dict[int, list[Sample[int]]] = {}
        for sample in splits["train"]:
            of_class.setdefault(sample.target, []).append(sample)
        fewest = min(map(len, of_class.values()))
        kept = [sample for members in of_class.values() for sample in take(members, fewest, self.split_seed)]
        return {**splits, "train": sorted(kept, key=lambda sample: sample.id)}

    def stratum_of(self, sample: Sample[int]) -> int:
        """The class."""
        return sample.target

    def check(self, sample: Sample[int], scene: Scene) -> None:
        """Refuse a class without a name.

        Raises:
            ValueError: There is no such class; the message names the file.
        """
        self.check_class(sample)

    def check_class(self, sample: Sample[int]) -> None:
        """Refuse a class without a name, before anything is read.

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

    def describe(self) -> dict[str, Any]:
        """Description of the data, ready for JSON; it says whether the classes are ordered grades only if they are."""
        return super().describe() | ({"ordered": True} if self.ordered else {})

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
