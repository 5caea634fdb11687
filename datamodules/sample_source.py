"""What a dataset and its task define of their samples: where they are found, and what a target is."""

import dataclasses
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic

import numpy as np
import torch

from datamodules.images import read_image, scaled
from datamodules.samples import Sample, Target
from datamodules.transforms import Scene


class SampleSource(ABC, Generic[Target]):
    """Samples of one dataset, and how each becomes an image and a target.

    A dataset has ``class_names`` and finds its samples with `index`. Its base class for the task, such as
    `ClassificationDataModule`, defines what a target is: how it is read, checked, transformed, batched and written
    down. The defaults here suit targets that the samples already hold and that no transform changes, such as several
    findings per image.
    """

    task: ClassVar[str]
    class_names: tuple[str, ...] = ()  # what the numbers in a target stand for
    channels: int  # 1 for grey or 3 for RGB

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @abstractmethod
    def index(self) -> list[Sample[Target]]:
        """All samples found under the root, sorted by id; no image is read."""

    def found(self) -> list[Sample[Target]]:
        """The samples that `index` finds; a task that renames classes or leaves some out overrides this."""
        return self.index()

    def stratum_of(self, sample: Sample[Target]) -> int | str:
        """The stratum of a sample, within which splits are balanced; by default the one that `index` gives it."""
        return sample.stratum

    def stratified(self, samples: Sequence[Sample[Target]]) -> list[Sample[Target]]:
        """The samples with their strata; a task whose strata depend on all samples overrides this."""
        return [dataclasses.replace(sample, stratum=self.stratum_of(sample)) for sample in samples]

    def stored(self, sample: Sample[Target]) -> np.ndarray | None:
        """The pixels of a sample whose file holds many; by default None, where each sample has a file of its own.

        Returns:
            ``(H, W)`` or ``(H, W, 3)``: uint8, uint16, or floating-point numbers in [0, 1].
        """
        return None

    def held(self, sample: Sample[Target]) -> tuple[np.ndarray, ...]:
        """All that files which hold many samples hold of this one; none where a sample has files of its own.

        Raises:
            ValueError: A file cannot be read; the message names it.
        """
        pixels = self.stored(sample)
        return () if pixels is None else (pixels,)

    def read(self, sample: Sample[Target]) -> Scene:
        """The image of a sample and what lies on it, as its files hold them.

        Raises:
            ValueError: A file cannot be read; the message names it.
        """
        pixels = self.stored(sample)
        return Scene(read_image(sample.path, self.channels) if pixels is None else scaled(pixels, self.channels))

    def check(self, sample: Sample[Target], scene: Scene) -> None:
        """Refuse a target that was read but is wrong; by default none is.

        Raises:
            ValueError: A class, a mask or a box is wrong; the message names the file.
        """

    def read_checked(self, sample: Sample[Target]) -> Scene:
        """The image of a sample and what lies on it, once both have passed `check`.

        Raises:
            ValueError: A file cannot be read, the image is a single pixel wide or high, or the target is wrong; the
                message names the file.
        """
        scene = self.read(sample)
        height, width = scene.image.shape[:2]
        if min(height, width) < 2:  # a single pixel shows nothing
            raise ValueError(f"{sample.path}: expected an image of at least 2 x 2 pixels, got {width} x {height}")
        self.check(sample, scene)
        return scene

    def target_of(self, sample: Sample[Target], scene: Scene) -> Any:
        """The target of a sample whose scene has been transformed; by default the one that the sample holds."""
        return sample.target

    def batch_targets(self, targets: Sequence[Any]) -> Any:
        """The targets of N images as a victim takes them; by default one tensor whose first dimension is N."""
        return torch.stack([torch.as_tensor(target) for target in targets])

    def written(self, sample: Sample[Target]) -> int | str:
        """A sample's target as split files and fingerprints state it, which does not depend on where the root lies.

        By default this is the path of a file relative to the image's folder, or JSON of any other target.
        """
        if isinstance(sample.target, Path):
            return Path(os.path.relpath(sample.target, sample.path.parent)).as_posix()
        return json.dumps(sample.target)

    def check_written(self, sample: Sample[Target], text: str) -> None:
        """Compare the target that a split file states with the sample's own.

        Raises:
            ValueError: They differ.
        """
        if text != str(self.written(sample)):
            raise ValueError(f"expected the target {self.written(sample)!r} as the dataset gives it, got {text!r}")

    def target_settings(self) -> list[Any]:
        """Whatever else decides the targets, such as the meaning of labels; part of the fingerprint, ready for JSON."""
        return []

    def missing_classes(self, samples: Sequence[Sample[Target]]) -> list[str]:
        """Names of the classes without a sample; by default none, since only some tasks know before reading."""
        return []

    def summarise(self, samples: Sequence[Sample[Target]]) -> dict[str, Any]:
        """Numbers of images and patients, ready for JSON; a task may count more."""
        return {"images": len(samples), "patients": len({sample.patient for sample in samples})}

    def files_of(self, sample: Sample[Target]) -> list[Path]:
        """The files that decide a sample: its image or the file in which it is stored, and its target if a path."""
        return [sample.path, *([sample.target] if isinstance(sample.target, Path) else [])]
