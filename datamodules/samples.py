"""A sample: one image of a dataset with its target, its patient and an id that survives a move of the root."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

Target = TypeVar("Target")


@dataclass(frozen=True)
class Sample(Generic[Target]):
    """One image of a dataset before it is read.

    Args:
        path: Absolute path of the image file.
        id: Stable id: the POSIX path relative to the dataset's folder.
        target: What is known of the target without reading a file: a class index, the path of a mask, a list of boxes.
        patient: Id of the patient; images of one patient are never in two splits.
        stratum: Group of images that is spread evenly over the splits and that any choice of images represents in
            proportion. Classification sets it to the class.
    """

    path: Path
    id: str
    target: Target
    patient: str
    stratum: int | str = ""
