"""A sample: one image file with its label, its patient and an id that survives a move of the root."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One image of a dataset before it is read.

    Args:
        path: Absolute path of the image file.
        id: Stable id: the POSIX path relative to the dataset's folder.
        target: Class index in ``[0, K)``.
        patient: Id of the patient; images of one patient never meet in two splits.
    """

    path: Path
    id: str
    target: int
    patient: str

    @property
    def stratum(self) -> str:
        """The group that the image belongs to: its class."""
        return str(self.target)
