"""Data that a victim is judged on, beside the data that it was trained on."""

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.samples import Sample

if TYPE_CHECKING:
    from datamodules.base import MedicalDataModule

ALL = "all"  # the split that holds every image of data without splits of their own


class DataBeside:
    """What an evaluation asks of data whose images are all judged, while other data are there to fit on.

    The other data are those that the victim was trained on. They are set up when something is fitted on them.

    Args:
        judged: The data that the victim is judged on, set up.
        home: Those that it was trained on, which need not be.
    """

    def __init__(self, judged: "MedicalDataModule[Any]", home: "MedicalDataModule[Any]") -> None:
        self.judged, self.home = judged, home
        self.name, self.task, self.test_split = judged.name, judged.task, judged.test_split
        self.splits = _SplitsBeside(self)

    def holding(self, split: str) -> "MedicalDataModule[Any]":
        """The data that have a split; every process calls this at the same time.

        Raises:
            ValueError: They cannot be read, or share images with those that are judged.
        """
        if split == ALL:
            return self.judged
        if not self.home.splits:
            self.home.batch_size = self.judged.batch_size
            try:
                self.home.setup()
            except (OSError, ValueError) as error:
                raise ValueError(
                    "detectors and attacks that imitate clean images are fitted on the victim's own data, which cannot "
                    f"be read: {error}"
                ) from error
            self._refuse_shared()
        return self.home

    def fingerprint(self, split: str) -> str:
        """As `MedicalDataModule.fingerprint`."""
        return self.holding(split).fingerprint(split)

    def hashes(self, split: str) -> dict[str, Tensor]:
        """As `MedicalDataModule.hashes`."""
        return self.holding(split).hashes(split)

    def describe(self) -> dict[str, Any]:
        """The data that are judged, and the name of those that something may be fitted on."""
        return self.judged.describe() | {"references": self.home.alias or self.home.name}

    def reference_dataloader(self, per_class: int | None = None) -> DataLoader[dict[str, Any]]:
        """Train of the data that the victim was trained on."""
        return self.holding("train").reference_dataloader(per_class)

    def dataloader_of(self, split: str, per_class: int | None = None) -> DataLoader[dict[str, Any]]:
        """As `MedicalDataModule.dataloader_of`."""
        return self.holding(split).dataloader_of(split, per_class)

    def _refuse_shared(self) -> None:
        """Refuse images that are judged and that something is fitted on."""
        home = {content.pixels: id for id, content in self.home.contents.items() if content.pixels}
        shared = [(id, home[one.pixels]) for id, one in self.judged.contents.items() if one.pixels in home]
        if shared:
            images = "1 image of" if len(shared) == 1 else f"{len(shared)} images of"
            raise ValueError(
                f"{images} {self.name} {'is' if len(shared) == 1 else 'are'} also in the victim's own data, on which "
                f"detectors and attacks that imitate clean images are fitted, first {shared[0][0]}, which is "
                f"{shared[0][1]} there"
            )


class _SplitsBeside(dict[str, list[Sample[Any]]]):
    """The split of all images, and those of the other data when they are asked for."""

    def __init__(self, data: DataBeside) -> None:
        super().__init__(data.judged.splits)
        self.data = data

    def __missing__(self, split: str) -> list[Sample[Any]]:
        return self.data.holding(split).splits[split]

    def get(self, split: str, default: Any = None) -> Any:
        try:
            return self[split]
        except KeyError:
            return default
