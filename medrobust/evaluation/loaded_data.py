"""Somebody's loaders or arrays as the data of an evaluation."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.data import Batch
from medrobust.evaluation.given_batches import batches_of
from medrobust.evaluation.loaded_split import LoadedSample, LoadedSplit

FITTED_ON = ("train", "adv_train")  # splits that detectors and hiding objectives learn from


class LoadedData:
    """Images from loaders or arrays, as ``EvaluationData``: every image is known by its content, whatever gives it.

    The images are gone through once to name and hash them, and again to attack them; none is kept.

    Args:
        context: The process.
        given: What is evaluated, as ``given_batches.batches_of`` takes it.
        split: Name of the split that it is.
        reference: What detectors and hiding objectives learn from: the same kind of thing, of which half of the
            patients become ``train`` and the others ``adv_train``, or a dictionary of these two. None for nothing.
        name: Name of the data in records and reports.
        class_names: Names of the classes or labels, in their order; numbers where there are none.
        batch_size: Images in a batch, where all are given at once.
        task: The task that the victim is known to have; None for what the targets look like.

    Raises:
        ValueError: There is no image, one is not in [0, 1], an image is in two splits, or the targets are those of
            another task.
    """

    def __init__(
        self,
        context: EvaluationContext,
        given: Any,
        split: str = "test",
        reference: Any = None,
        name: str = "images",
        class_names: Sequence[str] | None = None,
        batch_size: int = 32,
        task: str | None = None,
    ) -> None:
        """Go through all images once."""
        self.name, self.test_split = name, split
        self.class_names = None if class_names is None else [str(one) for one in class_names]
        tested = LoadedSplit(context, batches_of(given, batch_size), "data", task)
        self.task = tested.task
        self._splits = {split: tested} | self._referred(context, reference, batch_size)
        self._check_apart()

    @property
    def splits(self) -> Mapping[str, Sequence[LoadedSample]]:
        """The samples of each split."""
        return {name: split.samples for name, split in self._splits.items()}

    def split(self, name: str) -> LoadedSplit:
        """A split.

        Raises:
            ValueError: There is none of that name.
        """
        if name not in self._splits:
            raise ValueError(
                f"detectors and hiding objectives learn from clean images that are not evaluated ({name}), and none "
                "are given: name them as reference, a loader or arrays like data, or a dictionary of train and "
                "adv_train"
            )
        return self._splits[name]

    def fingerprint(self, split: str) -> str:
        """Text that changes with any image, target, id or patient of a split."""
        return self.split(split).fingerprint()

    def describe(self) -> dict[str, Any]:
        """What the data are, for the manifest and the report."""
        about: dict[str, Any] = {"name": self.name, "task": self.task}
        if self.class_names is not None:
            about["class_names"] = self.class_names
        shape = self.split(self.test_split).shape
        if shape is not None:
            about["channels"] = shape[0]
            about["image_size"] = shape[1] if shape[1] == shape[2] else None
            about["image_shape"] = list(shape[1:])
        return about

    def reference_dataloader(self, per_class: int | None = None) -> Iterable[Batch]:
        """Clean training images."""
        return self.dataloader_of("train", per_class)

    def dataloader_of(self, split: str, per_class: int | None = None) -> Iterable[Batch]:
        """The images of a split, each once over all processes."""
        return self.split(split).of_each(per_class)

    def _referred(self, context: EvaluationContext, reference: Any, size: int) -> dict[str, LoadedSplit]:
        """The splits that are learnt from."""
        if reference is None:
            return {}
        if isinstance(reference, Mapping) and set(reference) <= set(FITTED_ON):
            lacking = [name for name in FITTED_ON if name not in reference]
            if lacking:
                raise ValueError(f"reference is a dictionary of {' and '.join(FITTED_ON)}, and {lacking[0]} is missing")
            return {
                name: LoadedSplit(context, batches_of(reference[name], size, name), name, self.task)
                for name in FITTED_ON
            }
        whole = LoadedSplit(context, batches_of(reference, size, "reference"), "reference", self.task)
        halves = _halves(whole.samples)
        return {name: whole.part(ids) for name, ids in zip(FITTED_ON, halves, strict=True)}

    def _check_apart(self) -> None:
        """Refuse an image that is evaluated and learnt from, or learnt from twice."""
        seen: dict[str, tuple[str, str]] = {}
        for name, split in self._splits.items():
            for sample in split.samples:
                home, id = seen.get(sample.content, (name, ""))
                if home != name:
                    raise ValueError(
                        f"image {sample.id!r} of {name} is image {id!r} of {home}: what detectors and hiding "
                        "objectives learn from must not be evaluated, nor be in two splits"
                    )
                seen[sample.content] = name, sample.id


def _halves(samples: Sequence[LoadedSample]) -> tuple[list[str], list[str]]:
    """The ids of two halves, in turn by patients in the order of a hash, so that no patient is in both.

    Patients are taken stratum by stratum, so that each stratum of several patients is in both.
    """
    patients: dict[str, list[LoadedSample]] = {}
    for sample in samples:
        patients.setdefault(sample.patient, []).append(sample)
    order = sorted(patients, key=lambda one: (patients[one][0].stratum, hashlib.sha256(one.encode()).digest()))
    sides: tuple[list[str], list[str]] = ([], [])
    for number, patient in enumerate(order):
        sides[number % 2].extend(sample.id for sample in patients[patient])
    return sides
