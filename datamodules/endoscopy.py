"""Endoscopy in the layout of EAD-2019: frames beside text files with the boxes of their artefacts."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from datamodules.boxes import ROUNDING, BoxDataModule
from datamodules.samples import Sample
from datamodules.tables import files_below
from datamodules.transforms import Augmentation

Missing = Literal["refuse", "no_boxes"]
Videos = Literal["names", "none"]

ARTEFACTS = ("specularity", "saturation", "artifact", "blur", "contrast", "bubbles", "instrument")
FOLDER = "trainingData_detection"
CLASS_LIST = "class_list.txt"
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
LAYOUT = f"{FOLDER}/*.jpg with *.txt, {CLASS_LIST}"
NO_BOX = "no box"  # stratum of frames without any
COLOURS = Augmentation(
    brightness=0.05, contrast=0.1, vertical_flip=0.5, saturation=0.2, hue=0.02, noise=0.03
)  # besides the geometry of all sets: an endoscope has no top, and its colours and its noise differ with the lamp

_LISTS = (CLASS_LIST, "classes.txt")  # which annotation tools write beside the frames
_VIDEO_FIRST = re.compile(r"(?P<video>.*[^\W\d_].*)_\d+")  # AN12_82, 1772_A_M62_00012, CT56_colitis_05496
_FRAME_FIRST = re.compile(r"\d+_(?P<video>[^\W\d_].*)")  # 375_EPFL2, 912_JR2_U1
_NO_VIDEO = re.compile(r"(.*_)?(batch\d*|frame(only)?|image|img)", re.IGNORECASE)  # 00060_batch2, frame_001


class Line(NamedTuple):
    """A line of a text file: a box as shares of its image.

    Args:
        number: Of the line, from 1.
        label: Class index.
        centre: x and y of the centre, as shares of the width and the height.
        size: Width and height, as shares of the image's.
    """

    number: int
    label: int
    centre: tuple[float, float]
    size: tuple[float, float]


class Endoscopy(BoxDataModule):
    """EAD-2019 (Ali et al., arXiv:1905.03209): endoscopic frames with the boxes of seven kinds of artefacts.

    The public layout is ``trainingData_detection/*.jpg`` (also PNG and TIFF, also in further folders), each beside a
    text file of the same name with a line ``class xc yc w h`` for each box: the class index, and the box's centre and
    size as shares of the image. An empty file says that a frame has no box. ``class_list.txt`` at the root names the
    classes, one a line, so that any set in this layout can be read; without it they are those of the challenge.

    Where the name of a frame carries its video (``AN12_82``, ``1772_A_M62_00012``, ``375_EPFL2``), all frames of a
    video are in one split; many names of the public set are mere numbers, and those frames count for themselves, so
    that neighbours may be in two splits. Splits are stratified by the class of a frame that is the rarest in the set.

    With ``augment: true``, training frames are also turned upside down and change their colours a little.

    Args:
        root: Folder of the dataset.
        folder: Folder of the frames and their text files, relative to the root.
        missing_text: What a frame without a text file is: ``refuse`` takes it for a mistake, ``no_boxes`` for a frame
            without boxes.
        videos: ``names`` takes videos from the names of the frames, ``none`` lets each frame count for itself.
        **kwargs: As `BoxDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "ead2019"
    class_names: tuple[str, ...] = ARTEFACTS

    def __init__(
        self,
        root: str | Path,
        folder: str = FOLDER,
        missing_text: Missing = "refuse",
        videos: Videos = "names",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        for argument, choice, allowed in (("missing_text", missing_text, Missing), ("videos", videos, Videos)):
            if choice not in get_args(allowed):
                raise ValueError(f"{argument} is one of {', '.join(get_args(allowed))}, got {choice!r}")
        self.folder, self.missing_text, self.videos = folder, missing_text, videos
        self._labels: dict[str, tuple[int, ...]] = {}
        with suppress(ValueError):  # which `index` raises; a checkpoint is compared with these names before it
            self.class_names = class_list(self.root.absolute() / CLASS_LIST, type(self).class_names)

    def index(self) -> list[Sample[Path | None]]:
        """All frames with a text file, sorted by id; the text files are read, the images are not.

        Raises:
            FileNotFoundError: The folder of frames does not exist.
            ValueError: A frame lacks its text file or the other way round, a line of a text file is wrong, or the
                classes have no proper names; the message names the file and the line.
        """
        root = self.root.absolute()
        if not (root / self.folder).is_dir():
            raise FileNotFoundError(
                f"{root}: expected the layout of EAD-2019, {self.folder}/*.jpg with *.txt, found no such folder"
            )
        self.class_names = class_list(root / CLASS_LIST, type(self).class_names)
        self._labels = {}
        samples = []
        for stem, (images, text) in self._pairs(root).items():
            try:
                sample = self._sample(root, stem, images, text)
                self._labels[sample.id] = tuple(line.label for line in read_lines(text, self.class_names) if text)
            except ValueError as error:
                self.refuse_row((images[0] if images else text or stem).relative_to(root).as_posix(), str(error))
            else:
                samples.append(sample)
        return sorted(samples, key=lambda sample: sample.id)

    def _pairs(self, root: Path) -> dict[Path, tuple[list[Path], Path | None]]:
        """The images and the text file of each name, by their path without suffix."""
        images: defaultdict[Path, list[Path]] = defaultdict(list)
        texts: dict[Path, Path] = {}
        for place, names in files_below(root / self.folder):
            for path in (Path(place, name) for name in names):
                if path.suffix.lower() in SUFFIXES:
                    images[path.with_suffix("")].append(path)
                elif path.suffix.lower() == ".txt" and path.name.lower() not in _LISTS:
                    texts[path.with_suffix("")] = path
        return {stem: (images.get(stem, []), texts.get(stem)) for stem in sorted(images.keys() | texts.keys())}

    def _sample(self, root: Path, stem: Path, images: Sequence[Path], text: Path | None) -> Sample[Path | None]:
        """The sample of a name."""
        if not images:
            raise ValueError(f"{text}: expected the frame {stem.name}.jpg beside its boxes, found none")
        if len(images) > 1:
            names = " and ".join(path.name for path in images)
            raise ValueError(f"{stem.parent}: expected one frame {stem.name}, found {names}")
        if text is None and self.missing_text == "refuse":
            raise ValueError(
                f"{images[0]}: expected its boxes in {stem.name}.txt (an empty file if it has none), found no such "
                "file; missing_text: no_boxes takes such frames for ones without boxes"
            )
        id = images[0].relative_to(root).as_posix()
        video = video_of(stem.name) if self.videos == "names" else None
        return Sample(images[0], id, text, video or id)

    def stratified(self, samples: Sequence[Sample[Any]]) -> list[Sample[Any]]:
        """The samples with their strata: of the classes of a frame, the one that the fewest frames have."""
        frames = Counter(label for sample in samples for label in set(self._labels[sample.id]))

        def stratum(sample: Sample[Any]) -> str:
            labels = self._labels[sample.id]
            return self.class_names[min(labels, key=lambda label: (frames[label], label))] if labels else NO_BOX

        return [replace(sample, stratum=stratum(sample)) for sample in samples]

    def labels_of(self, sample: Sample[Any]) -> Sequence[int] | None:
        """Classes of a frame's boxes, as its text file had them when it was found."""
        return self._labels.get(sample.id)

    def read_boxes(self, sample: Sample[Any], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """The boxes of a frame's text file.

        Raises:
            ValueError: A line is wrong, or its box is not inside the image; the message names the file and the line.
        """
        lines = read_lines(sample.target, self.class_names)
        boxes = np.zeros((len(lines), 4))
        for place, line in enumerate(lines):
            centre, half = np.multiply(line.centre, (width, height)), np.multiply(line.size, (width, height)) / 2
            x1, y1, x2, y2 = boxes[place] = [*(centre - half), *(centre + half)]
            if min(x1, y1) < -ROUNDING or x2 > width + ROUNDING or y2 > height + ROUNDING:
                raise ValueError(
                    f"{sample.target}, line {line.number}: expected a box inside its image of {width} x {height} "
                    f"pixels, got ({x1:g}, {y1:g}) to ({x2:g}, {y2:g})"
                )
        return boxes, np.array([line.label for line in lines], np.int64)

    def _augmentation(self) -> Augmentation | None:
        """Ranges of the random changes."""
        return self.augment if isinstance(self.augment, Augmentation) else COLOURS


def class_list(path: Path, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the classes that a file lists, one a line; others where there is no such file.

    Raises:
        ValueError: It cannot be read, or names none or one twice; the message names it.
    """
    if not path.is_file():
        return otherwise
    names = tuple(name for line in _text(path).splitlines() if (name := line.strip()))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{path}: expected different names of classes, one a line, got {', '.join(names) or 'none'}")
    return names


def read_lines(path: Path | None, class_names: Sequence[str]) -> list[Line]:
    """The lines of a text file of boxes that are not empty; none where there is no file.

    Args:
        path: The file; None for a frame without one.
        class_names: Names of the classes.

    Raises:
        ValueError: It cannot be read or a line is wrong; the message names the file and the line.
    """
    found = []
    for number, text in enumerate(_text(path).splitlines() if path else (), 1):
        fields = text.split()
        if not fields:
            continue
        try:
            found.append(Line(number, *_box(fields, class_names)))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return found


def _box(fields: Sequence[str], class_names: Sequence[str]) -> tuple[int, tuple[float, float], tuple[float, float]]:
    """Class, centre and size that the fields of a line state."""
    if len(fields) != 5:
        raise ValueError(f"expected class xc yc w h, 5 numbers, got {len(fields)} fields")
    try:
        label, x, y, width, height = map(float, fields)
    except ValueError:
        raise ValueError(f"expected class xc yc w h, 5 numbers, got {' '.join(fields)!r}") from None
    if not all(map(math.isfinite, (label, x, y, width, height))):
        raise ValueError(f"expected finite numbers, got {' '.join(fields)!r}")
    if label not in range(len(class_names)):
        expected = f"a class from 0 to {len(class_names) - 1} ({', '.join(class_names)})"
        raise ValueError(f"expected {expected}, got {fields[0]}")
    if not (width > 0 and height > 0):
        raise ValueError(f"expected a box with a width and a height above 0, got {width:g} x {height:g}")
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"expected a box whose centre is given as shares of the image, 0 to 1, got ({x:g}, {y:g})")
    return int(label), (x, y), (width, height)


def video_of(stem: str) -> str | None:
    """The video that the name of a frame carries; None if it carries none.

    Args:
        stem: The name without its suffix.

    >>> [video_of(stem) for stem in ("1772_A_M62_00012", "375_EPFL2", "00218", "00060_batch2")]
    ['1772_A_M62', 'EPFL2', None, None]
    """
    match = _VIDEO_FIRST.fullmatch(stem) or _FRAME_FIRST.fullmatch(stem)
    return None if match is None or _NO_VIDEO.fullmatch(match["video"]) else match["video"]


def _text(path: Path) -> str:
    """What a text file holds."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected text in UTF-8, got bytes that are none") from None
    except OSError as error:
        raise ValueError(f"{path}: expected a text file, but it cannot be read ({error.strerror})") from None
