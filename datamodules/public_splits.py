"""Datasets that are published in parts for training, validation and test, which may be pooled or kept."""

from pathlib import Path
from typing import Any, Literal, get_args

from datamodules.base import MedicalDataModule
from datamodules.samples import Sample, Target
from datamodules.splits import SPLITS, Fractions, split_by_patient

Public = Literal["pool", "keep"]

PARTS = ("train", "val", "test")


class PublicSplits(MedicalDataModule[Target]):
    """A dataset whose ids begin with the part in which an image is published: ``train``, ``val`` or ``test``.

    Args:
        root: Folder of the dataset.
        public: ``pool`` splits all images anew, by ``fractions``. ``keep`` takes Train from the published training part
            and Val from the validation part (or, without one, from the training part as ``fractions`` of Train and Val
            say); AdvTrain and AdvTest share the test part as their ``fractions`` say.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    def __init__(self, root: str | Path, public: Public = "pool", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        if public not in get_args(Public):
            raise ValueError(f"public is one of {', '.join(get_args(Public))}, got {public!r}")
        self.public = public

    def divide(self, samples: list[Sample[Target]]) -> dict[str, list[Sample[Target]]]:
        """The splits of the samples, if no file gives them.

        Raises:
            ValueError: A part is missing, or the fractions leave nothing to share it by.
        """
        if self.public == "pool" or not self.has_parts():
            return super().divide(samples)
        parts: dict[str, list[Sample[Target]]] = {part: [] for part in PARTS}
        for sample in samples:
            parts[self.part_of(sample)].append(sample)
        if missing := [part for part in ("train", "test") if not parts[part]]:
            raise ValueError(
                f"{self.root}: expected the published parts train and test for public: keep, found no image of "
                f"{missing[0]}; split all images anew by public: pool"
            )
        train = ("train",) if parts["val"] else ("train", "val")
        shared = self._shared(parts["train"], *train)
        tested = self._shared(parts["test"], "adv_train", "adv_test")
        splits = {split: shared[split] + tested[split] for split in SPLITS}
        return splits | {"val": sorted(shared["val"] + parts["val"], key=lambda sample: sample.id)}

    def has_parts(self) -> bool:
        """Whether the images are published in parts; a dataset of which only some copies are overrides this."""
        return True

    def part_of(self, sample: Sample[Target]) -> str:
        """The part in which an image is published: ``train``, ``val`` or ``test``."""
        return sample.id.split("/", 1)[0]

    def describe(self) -> dict[str, Any]:
        """Description of the data, ready for JSON, with the use of the published parts."""
        return super().describe() | {"public": self.public if self.has_parts() else None}

    def _shared(self, samples: list[Sample[Target]], *splits: str) -> dict[str, list[Sample[Target]]]:
        """The samples of a part, shared among some splits."""
        wanted = {split: getattr(self.fractions, split) for split in splits}
        total = sum(wanted.values())
        if not total:
            raise ValueError(
                f"fractions of {' or '.join(splits)} are expected above 0 for public: keep, got {self.fractions}"
            )
        shares = dict.fromkeys(SPLITS, 0.0) | {split: share / total for split, share in wanted.items()}
        return split_by_patient(samples, Fractions(**shares), self.split_seed)
