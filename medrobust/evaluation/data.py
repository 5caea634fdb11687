"""What an evaluation asks of the data, whoever loads them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypedDict, runtime_checkable

from torch import Tensor


class Batch(TypedDict):
    """N images of a split.

    Args:
        image: Images ``(N, C, H, W)``, float32 in [0, 1].
        target: What the images show, as the task has it: classes ``(N,)``, masks ``(N, H, W)``, findings ``(N, L)``, or
            a list of N dictionaries of boxes and labels.
        id: The images' ids.
    """

    image: Tensor
    target: Any
    id: list[str]


class EvaluationSample(Protocol):
    """One image of a split, before it is read."""

    @property
    def id(self) -> str:
        """Stable id, the same on every machine."""
        ...

    @property
    def target(self) -> Any:
        """What is known of its target without reading a file."""
        ...

    @property
    def patient(self) -> str:
        """Id of the patient; intervals of rates are drawn over patients, not over images."""
        ...

    @property
    def stratum(self) -> int | str:
        """Group that gets its share of any choice of images, such as the class."""
        ...


@runtime_checkable
class DataOffered(Protocol):
    """What shows an evaluation other data than itself, such as images beside those that detectors are fitted on."""

    def for_evaluation(self) -> "EvaluationData":
        """The data that are evaluated."""
        ...


def evaluation_data(value: object) -> "EvaluationData":
    """The value itself, or what it offers, if that has what an evaluation asks of the data.

    Raises:
        ValueError: It does not; the message names what is missing.
    """
    if isinstance(value, DataOffered):
        value = value.for_evaluation()
    if isinstance(value, EvaluationData):
        return value
    lacking = sorted(name for name in vars(EvaluationData) if not name.startswith("_") and name not in dir(value))
    found = "none is given" if value is None else f"{type(value).__name__} lacks {', '.join(lacking)}"
    raise ValueError(f"an evaluation needs data such as datamodules.MedicalDataModule, and {found}")


@runtime_checkable
class EvaluationData(Protocol):
    """Images in splits, which an evaluation attacks, fits detectors and objectives on, and names in its records.

    Data that also have ``hashes`` (``networks.seen_images.HashedData``) are compared with what a victim says that it
    was trained on (``TellsSeenImages``): images that it has seen are refused.

    ``isinstance`` tells whether an object has all of it; the types are for a static checker.
    """

    @property
    def name(self) -> str:
        """Name of the dataset, as records state it."""
        ...

    @property
    def task(self) -> str:
        """What a victim does with the images, such as ``classification``, ``segmentation`` or ``boxes``."""
        ...

    @property
    def splits(self) -> Mapping[str, Sequence[EvaluationSample]]:
        """The samples of each split: ``train``, ``val``, ``adv_train`` and ``adv_test``."""
        ...

    @property
    def test_split(self) -> str:
        """Name of the split that a test evaluates."""
        ...

    def fingerprint(self, split: str) -> str:
        """Short text that changes with whatever decides the images and targets of a split, their content included."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the data are, ready for JSON, for the manifest and the report.

        The report also shows ``class_names``, and of the victim's input ``image_size`` and
        ``channels``, where the description has them.
        """
        ...

    def reference_dataloader(self, per_class: int | None = None) -> Iterable[Batch]:
        """Clean training images, in fixed order and without augmentation: what detectors take as normal.

        Args:
            per_class: At most that many images of each stratum; None for all.
        """
        ...

    def dataloader_of(self, split: str, per_class: int | None = None) -> Iterable[Batch]:
        """The images of a split in fixed order without augmentation, each once over all processes.

        Args:
            split: Name of the split.
            per_class: At most that many images of each stratum; None for all.
        """
        ...
