"""Datasets of box detection: the boxes of objects in each image."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import numpy as np
import torch
from torch import Tensor

from datamodules.base import MedicalDataModule
from datamodules.images import read_image
from datamodules.samples import Sample
from datamodules.transforms import LEAST_VISIBLE, Scene, Transform, evaluation_transform, training_transform

ROUNDING = 0.01  # pixels that a corner may lie outside its image, as files state few decimals; shortest side of a box


class BoxTarget(TypedDict):
    """The boxes of one image.

    Args:
        boxes: Corners x1, y1, x2, y2, float32 ``(B, 4)``, in pixels of the transformed image, whose upper left
            corner is (0, 0) and whose lower right corner is (W, H).
        labels: Class index of each box, int64 ``(B,)``.
    """

    boxes: Tensor
    labels: Tensor


class BoxDataModule(MedicalDataModule[Any]):
    """Images with any number of boxes, including none; each box belongs to one of K classes.

    In a batch, ``target`` is a list of N dictionaries ``{"boxes": float32 (B, 4), "labels": int64 (B,)}``, see
    `BoxTarget`. A sample's target is a list of ``(class index, x1, y1, x2, y2)`` in pixels of the file, or anything
    else that the dataset's own `read_boxes` understands, such as the path of a text file. All images belong to one
    stratum unless `index` assigns others.

    Boxes move along with their images. ``resize: squash`` and ``pad`` keep all of them; ``crop`` clips those at the
    border and drops those outside. Training images that are rotated or shifted get a black border instead of a mirror
    image, in which objects would appear twice.

    Args:
        root: Folder of the dataset.
        least_visible: A box is dropped if cropping or augmentation leaves a smaller share of its area inside the
            image, above 0 and below 1; the others are clipped.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    task: ClassVar[str] = "boxes"

    def __init__(self, root: str | Path, least_visible: float = LEAST_VISIBLE, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        if not 0 < least_visible < 1:
            raise ValueError(f"least_visible is a share above 0 and below 1, got {least_visible}")
        self.least_visible = least_visible

    def read(self, sample: Sample[Any]) -> Scene:
        """The image of a sample and its boxes.

        Raises:
            ValueError: A file cannot be read; the message names it.
        """
        image = read_image(sample.path, self.channels)
        boxes, labels = self.read_boxes(sample, *image.shape[:2])
        return Scene(image, boxes=boxes, labels=labels)

    def read_boxes(self, sample: Sample[Any], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The boxes of a sample; datasets whose boxes are in files override this.

        Args:
            sample: The sample.
            height: Height of its image, in pixels.
            width: Width of its image, in pixels.

        Returns:
            Corners x1, y1, x2, y2 in pixels, ``(B, 4)`` float64, and class indices, ``(B,)`` int64.

        Raises:
            ValueError: The boxes cannot be read; the message names their file.
        """
        rows = np.array(sample.target, np.float64).reshape(-1, 5)
        return rows[:, 1:], rows[:, 0].astype(np.int64)

    def check(self, sample: Sample[Any], scene: Scene) -> None:
        """Refuse boxes that are empty, as good as empty or outside the image, and classes without a name.

        Raises:
            ValueError: A box is wrong; the message names the file.
        """
        file = sample.target if isinstance(sample.target, Path) else sample.path
        if scene.boxes is None or scene.labels is None or scene.boxes.shape != (len(scene.labels), 4):
            raise ValueError(
                f"{file}: expected boxes (B, 4) with labels (B,), got {_shape(scene.boxes)} with {_shape(scene.labels)}"
            )
        height, width = scene.image.shape[:2]
        for place, (box, label) in enumerate(zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True), 1):
            x1, y1, x2, y2 = box
            corners = f"got ({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
            if not (x1 < x2 and y1 < y2):
                raise ValueError(f"{file}: expected x1 < x2 and y1 < y2 in box {place}, {corners}")
            if min(x2 - x1, y2 - y1) < ROUNDING:  # the loss of a box without a side in float32 is infinite
                sides = f"got {x2 - x1:g} x {y2 - y1:g}"
                raise ValueError(f"{file}: expected sides of at least {ROUNDING} pixels of box {place}, {sides}")
            if not all(
                -ROUNDING <= low < side and 0 < high <= side + ROUNDING
                for low, high, side in ((x1, x2, width), (y1, y2, height))
            ):
                raise ValueError(
                    f"{file}: expected box {place} inside its image of {width} x {height} pixels, {corners}"
                )
            if not 0 <= label < self.num_classes:
                names = ", ".join(self.class_names)
                raise ValueError(
                    f"{file}: expected a class from 0 to {self.num_classes - 1} ({names}) in box {place}, got {label}"
                )

    def target_of(self, sample: Sample[Any], scene: Scene) -> BoxTarget:
        """The transformed boxes that are still visible, with their classes."""
        assert scene.boxes is not None  # `check` has refused the others
        assert scene.labels is not None
        return {"boxes": torch.from_numpy(scene.boxes).float(), "labels": torch.from_numpy(scene.labels).long()}

    def batch_targets(self, targets: Sequence[BoxTarget]) -> list[BoxTarget]:
        """The list of N targets: images differ in their number of boxes."""
        return list(targets)

    def labels_of(self, sample: Sample[Any]) -> Sequence[int] | None:
        """Classes of a sample's boxes, where they are known before its image is read; None where they are not.

        By default those of a target that is a list of boxes.
        """
        return [int(row[0]) for row in sample.target] if isinstance(sample.target, list | tuple) else None

    def summarise(self, samples: Sequence[Sample[Any]]) -> dict[str, Any]:
        """Numbers of images and patients and, where `labels_of` tells, of boxes of each class and images without any.

        Ready for JSON. The boxes are those of the files: a crop to a square may leave fewer.
        """
        known = [self.labels_of(sample) for sample in samples]
        counted = super().summarise(samples)
        if not all(labels is not None for labels in known):
            return counted
        counts = Counter(label for labels in known for label in labels or ())
        boxes = {name: counts[label] for label, name in enumerate(self.class_names)}
        return counted | {"boxes": boxes, "without_box": sum(not labels for labels in known)}

    def target_settings(self) -> list[Any]:
        """The names of the classes, and the visible share below which a box is dropped."""
        return [list(self.class_names), self.least_visible]

    def transform_for_evaluation(self) -> Transform:
        """How scenes become square, except those of the training loader."""
        return evaluation_transform(self.image_size, self.resize, self.least_visible)

    def transform_for_training(self) -> Transform:
        """How training scenes become square and are changed at random."""
        return training_transform(self.image_size, self.resize, self._augmentation(), "black", self.least_visible)


def _shape(values: np.ndarray | None) -> str:
    return "none" if values is None else str(values.shape)
