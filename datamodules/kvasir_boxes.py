"""Kvasir-SEG (Jha et al., MMM 2020) as boxes: frames of colonoscopies with the boxes of the polyps."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.boxes import BoxDataModule
from datamodules.endoscopy import LAYOUT, Endoscopy, Videos
from datamodules.samples import Sample
from datamodules.tables import SUFFIXES, ImageFiles

BOXES = "kavsir_bboxes.json"  # as the archive spells it
CORNERS = ("xmin", "ymin", "xmax", "ymax")
FRAMES = "images"


class KvasirBoxes(Endoscopy):
    """Kvasir-SEG (Jha et al., MMM 2020, arXiv:1911.07069): 1,000 frames with the boxes of their polyps.

    The public layout is ``images/*.jpg`` and ``kavsir_bboxes.json``, an object with
    ``"NAME": {"bbox": [{"label": "polyp", "xmin": ..., "ymin": ..., "xmax": ..., "ymax": ...}, ...]}`` for each frame,
    in pixels. Where that file is missing, frames and boxes are read from the layout of `Endoscopy`. Nothing says which
    frames are of one patient, and each counts as one.

    Args:
        root: Folder of the dataset.
        videos: As `Endoscopy`; the names of the public frames carry no video.
        **kwargs: As `Endoscopy`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "kvasir_boxes"
    class_names = ("polyp",)

    def __init__(self, root: str | Path, videos: Videos = "none", **kwargs: Any) -> None:
        super().__init__(root, videos=videos, **kwargs)
        if (self.root / BOXES).is_file():
            self.class_names = type(self).class_names

    def index(self) -> list[Sample[Any]]:
        """All frames with their boxes, sorted by id; the boxes are read, the frames are not.

        Raises:
            FileNotFoundError: The folder is in neither layout.
            ValueError: A frame has no boxes, or boxes have no frame, or an entry is wrong; the message names it.
        """
        root = self.root.absolute()
        if not (root / BOXES).is_file():
            if not (root / self.folder).is_dir():
                raise FileNotFoundError(f"{root}: expected {FRAMES}/*.jpg and {BOXES}, or {LAYOUT}, found neither")
            return super().index()
        if not (root / FRAMES).is_dir():
            raise FileNotFoundError(f"{root}: expected the frames as {FRAMES}/*.jpg beside {BOXES}, found no folder")
        entries, frames = _entries(root / BOXES), ImageFiles(root, [root / FRAMES], SUFFIXES)
        self.class_names, self._labels = type(self).class_names, {}
        samples = []
        for stem in sorted(frames.ids.keys() | entries.keys()):
            try:
                id = frames.find(stem)
                if stem not in entries:
                    raise ValueError(f"expected boxes of the frame {stem!r} in {BOXES}, found none")
                boxes = _boxes(entries[stem])
            except ValueError as error:
                self.refuse_row(frames.ids.get(stem, stem), f"{root / frames.ids.get(stem, BOXES)}: {error}")
            else:
                samples.append(Sample(root / id, id, boxes, id))
                self._labels[id] = (0,) * len(boxes)
        return sorted(samples, key=lambda sample: sample.id)

    def read_boxes(self, sample: Sample[Any], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The boxes of a frame, which were read when it was found, or are in its text file.

        Raises:
            ValueError: A line of the text file is wrong; the message names it.
        """
        if isinstance(sample.target, list):
            return BoxDataModule.read_boxes(self, sample, height, width)
        return super().read_boxes(sample, height, width)


def _entries(path: Path) -> dict[str, Any]:
    """What the file of boxes holds for each frame."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: expected JSON with the boxes of each frame, but it cannot be read ({error})"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object with an entry for each frame, got {type(content).__name__}")
    return content


def _boxes(entry: Any) -> list[tuple[int, float, float, float, float]]:
    """The boxes of an entry, as class index and corners."""
    listed: Sequence[Any] | None = entry.get("bbox") if isinstance(entry, dict) else None
    if not isinstance(listed, list):
        raise ValueError(f"expected an entry with a list bbox in {BOXES}, got {str(entry)[:80]}")
    boxes = []
    for place, box in enumerate(listed, 1):
        corners: list[Any] = [box.get(name) for name in CORNERS] if isinstance(box, dict) else [None]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in corners):
            raise ValueError(f"expected {', '.join(CORNERS)} of box {place} in {BOXES}, got {str(box)[:80]}")
        if box.get("label", "polyp") != "polyp":
            raise ValueError(f"expected the label 'polyp' of box {place} in {BOXES}, got {box['label']!r}")
        x1, y1, x2, y2 = map(float, corners)
        boxes.append((0, x1, y1, x2, y2))
    return boxes
