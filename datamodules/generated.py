"""Datasets that are generated under their root: once, as a whole, and never over files of another origin."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from datamodules.base import MedicalDataModule
from datamodules.samples import Target
from datamodules.scratch import scratch_beside

MARKER = "phantom.json"


class GeneratedSet(MedicalDataModule[Target]):
    """A dataset whose files are drawn from a seed and written in a public layout when they are first needed.

    It is the first base of a class that also derives from the dataset whose layout it writes. The files are written
    into a folder beside the root that takes the root's place once it is whole, with a marker file that states what
    determines the images: a set of other parameters is replaced, and what a killed process had begun is removed.
    Images depend on the parameters alone; accuracies on them say something about the code, nothing about medicine.

    Attributes:
        layout: The public layout, as the marker states it.
        pictures: Pattern of the paths of its images.
        suffixes: Suffixes of its images.
    """

    layout: ClassVar[str]
    pictures: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = (".jpeg", ".jpg", ".png")
    generator_seed: int

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """Everything that determines the generated files, as the marker file states it."""

    @abstractmethod
    def written_files(self, parameters: Mapping[str, Any]) -> Iterator[str]:
        """Paths, relative to the root, of all files but the marker that generating with these parameters writes.

        Raises:
            ValueError: These are not the parameters of such a set; a KeyError or TypeError says the same.
        """

    @abstractmethod
    def generate(self, folder: Path) -> None:
        """Write all files but the marker into an empty folder."""

    def prepare_data(self) -> None:
        """Generate the images unless they exist; a process that is killed leaves no half-written set.

        Raises:
            ValueError: The root is a file, or a folder with anything but a phantom set in it.
        """
        root = self.root.absolute()
        if self.complete():
            return
        if root.exists() and not root.is_dir():
            raise ValueError(f"{root}: expected a folder to generate a phantom set into, got a file")
        if root.exists() and any(root.iterdir()) and not (root / MARKER).is_file():
            raise ValueError(f"{root}: expected an empty folder or a phantom set (with {MARKER}), got other files")
        if root.exists() and (foreign := self._foreign(root)):
            raise ValueError(
                f"{root} is a phantom set of other parameters that also holds files of another origin, which "
                f"generating it anew would delete, first {foreign[0]}; move them away, or give another root"
            )
        with scratch_beside(root) as scratch:
            fresh = scratch / "set"
            fresh.mkdir()
            self.generate(fresh)
            marker = json.dumps(self._marker(fresh), indent=2) + "\n"
            (fresh / MARKER).write_text(marker, encoding="utf-8")  # the last file
            if not self.complete():  # another process may have been faster
                if root.exists():
                    root.rename(scratch / "old")
                fresh.rename(root)

    def complete(self) -> bool:
        """Whether the root holds all files of these parameters."""
        root = self.root.absolute()
        try:
            marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if marker != self._marker(root):
            return False
        return all((root / name).is_file() for name in self.written_files(self.parameters()))

    def describe(self) -> dict[str, Any]:
        """Description of the data, ready for JSON, with the generator's parameters."""
        return super().describe() | {"generator": self.parameters()}

    def fingerprint(self, split: str) -> str:
        """16 hex digits as for every dataset, which also depend on the generator's parameters."""
        content = json.dumps([super().fingerprint(split), self.parameters()])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def random(self, *key: int) -> np.random.Generator:
        """The random stream of whatever these numbers name, such as a patient or an image."""
        digest = hashlib.blake2b("/".join(map(str, (self.generator_seed, *key))).encode(), digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "big"))

    def _marker(self, root: Path) -> dict[str, Any]:
        """What the marker of a whole set says, given the images that lie in a folder."""
        images = sum(path.suffix in self.suffixes for path in root.glob(self.pictures))
        return self.parameters() | {"images": images, "layout": self.layout}

    def _foreign(self, root: Path) -> list[str]:
        """Files under the root that generating the set which its marker describes would not have written."""
        try:
            written = set(self.written_files(json.loads((root / MARKER).read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError):
            written = set(self.written_files(self.parameters()))  # the best guess at what a damaged marker said
        files = (path for path in root.rglob("*") if not path.is_dir() or path.is_symlink())
        return sorted({path.relative_to(root).as_posix() for path in files} - written - {MARKER})
