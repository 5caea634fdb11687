"""What an evaluation asks of a data module."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypedDict, runtime_checkable

from torch import Tensor

from medrobust.networks.victims import Targets


class Batch(TypedDict):
    """A batch of images as loaders yield it."""

    image: Tensor
    target: Targets
    id: list[str]


class EvaluatedImage(Protocol):
    """One image of a split, before it is read."""

    @property
    def id(self) -> str:
        """Stable name of the image, unique within its dataset."""

    @property
    def patient(self) -> str:
        """The patient whose image it is."""

    @property
    def stratum(self) -> str:
        """The group of images that it is one of, such as its class: pictures are chosen from all groups in turn."""


@runtime_checkable
class EvaluationData(Protocol):
    """Images in splits, and what identifies them."""

    @property
    def splits(self) -> Mapping[str, Sequence[EvaluatedImage]]:
        """The images of each split, by its name."""

    @property
    def test_split(self) -> str:
        """Name of the split that is tested."""

    def fingerprint(self, split: str) -> str:
        """Hash of all that decides a split's images as an evaluation sees them."""

    def describe(self) -> dict[str, Any]:
        """What the data are, ready for JSON: ``name`` at least."""

    def dataloader_of(self, split: str, per_class: int | None = None) -> Iterable[Batch]:
        """This process's share of a split, each image once, at most ``per_class`` images of each class."""

    def reference_dataloader(self, per_class: int | None = None) -> Iterable[Batch]:
        """This process's share of the clean training images, at most ``per_class`` images of each class."""
