"""CT volumes in NIfTI files, read slice by slice in the view that radiologists look at."""

import json
import os
import tempfile
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import aff2axcodes, apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError

from datamodules.content import STILL, cache_folder

VERSION = 1  # of what is kept of a volume
EXPECTED = "a NIfTI volume"
ANATOMY = (0, 1, 2)  # background, left lung, right lung
EIGHT_BITS = 255.0


@dataclass(frozen=True)
class Volume:
    """A volume whose first axis leads to the patient's left, its second to the back and its third to the head.

    Args:
        voxels: Numbers as the file holds them, ``(X, Y, Z)``, in memory or mapped from an uncompressed file.
        slope: What they are multiplied by.
        intercept: What is added then.
        axes: Where the axes of the file lead, such as ``LAS``.
    """

    voxels: np.ndarray
    slope: float
    intercept: float
    axes: str

    @property
    def depth(self) -> int:
        """Number of axial slices."""
        return int(self.voxels.shape[2])

    def slice(self, place: int) -> np.ndarray:
        """An axial slice ``(H, W)`` float32, seen from the feet: front above, the patient's right on the left.

        Args:
            place: Its number, counted from the feet.
        """
        values = self.voxels[:, :, place].T.astype(np.float32, order="C")
        return values if (self.slope, self.intercept) == (1, 0) else values * self.slope + self.intercept


@dataclass(frozen=True)
class VolumeFacts:
    """What has to be known of a volume and its mask before a slice is read.

    Args:
        depth: Number of axial slices.
        lung: Numbers of the slices whose mask has lung, counted from the feet.
        labels: Labels that the mask holds.
        eight_bits: Whether all values lie from 0 to 255, as no CT in Hounsfield units has them, where air is -1000.
        crossed: Whether the left lung lies, on average, to the right of the right one.
    """

    depth: int
    lung: list[int]
    labels: list[int]
    eight_bits: bool
    crossed: bool = False


def open_volume(path: Path) -> Volume:
    """The volume of a NIfTI file, gzipped or not; that of an uncompressed file stays on the disk.

    Raises:
        ValueError: The file cannot be read, or is not a NIfTI volume of three axes; the message names it.
    """
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Pair):
            raise ValueError(f"{path}: expected {EXPECTED}, got another format of images")
        if len(image.shape) != 3:
            got = " x ".join(map(str, image.shape))
            raise ValueError(f"{path}: expected {EXPECTED} with three axes, got {len(image.shape)} ({got})")
        kind = image.get_data_dtype()
        if kind.names is not None or kind.kind not in "iuf":
            raise ValueError(f"{path}: expected {EXPECTED} of numbers, got {kind}")
        start = io_orientation(image.affine)
        if np.isnan(start).any() or not min(image.shape):
            raise ValueError(f"{path}: expected {EXPECTED} with three axes in space, got one that lacks an axis")
        proxy: Any = image.dataobj
        voxels = apply_orientation(proxy.get_unscaled(), ornt_transform(start, axcodes2ornt("LPS")))
        return Volume(voxels, float(proxy.slope), float(proxy.inter), "".join(map(str, aff2axcodes(image.affine))))
    except FileNotFoundError:
        raise ValueError(f"{path}: expected {EXPECTED}, found no file") from None
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error) as error:
        first = str(error).replace(f"{path}", "the file").splitlines()[:1]
        raise ValueError(f"{path}: expected {EXPECTED}, got one that cannot be read ({''.join(first)})") from None
    except ValueError as error:
        if str(error).startswith(f"{path}: expected"):
            raise
        raise ValueError(f"{path}: expected a complete NIfTI volume, got a shorter file ({error})") from None


class OpenVolumes:
    """The volumes that were read last, so that the next slice of one of them costs nothing.

    Threads share them; another process begins with none.

    Args:
        most: How many are held at a time.
    """

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self._held: OrderedDict[tuple[str, int, int], Volume] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, path: Path) -> Volume:
        """The volume of a file, as it is now.

        Raises:
            ValueError: The file cannot be read; the message names it.
        """
        try:
            stat = path.stat()
        except OSError as error:
            raise ValueError(f"{path}: expected {EXPECTED}, but the file cannot be read ({error.strerror})") from None
        key = (str(path), stat.st_size, stat.st_mtime_ns)
        with self._lock:
            if key not in self._held:
                while len(self._held) >= self.most:
                    self._held.popitem(last=False)
                self._held[key] = open_volume(path)
            self._held.move_to_end(key)
            return self._held[key]

    def __len__(self) -> int:
        """How many volumes are held."""
        return len(self._held)

    def __reduce__(self) -> tuple[Any, ...]:
        """Volumes are not sent to other processes."""
        return OpenVolumes, (self.most,)


def facts_of(scan: Path, mask: Path) -> VolumeFacts:
    """What has to be known of a volume and its mask, kept for as long as neither file changes.

    Raises:
        ValueError: A file cannot be read, the two do not fit, a value is not finite, or a label is unknown.
    """
    folder, stamp, latest = cache_folder(), [], 0
    for path in (scan, mask):
        with suppress(OSError):
            stat = path.stat()
            stamp.append(f"{path} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}")
            latest = max(latest, stat.st_mtime_ns, stat.st_ctime_ns)
    text = "/".join([f"{VERSION}", *stamp])
    kept = None if folder is None else folder / "volumes" / f"{sha256(text.encode()).hexdigest()[:16]}.json"
    if kept is not None:
        with suppress(OSError, ValueError, TypeError, KeyError):
            held = json.loads(kept.read_bytes())
            if held.pop("stamp") == text:
                return VolumeFacts(**held)
    still = latest < time.time_ns() - STILL  # otherwise a further change might leave the same time
    facts = examined(scan, mask)
    if kept is not None and still:
        _keep(kept, {"stamp": text, **vars(facts)})
    return facts


def examined(scan: Path, mask: Path) -> VolumeFacts:
    """What has to be known of a volume and its mask, from their files.

    Raises:
        ValueError: As `facts_of`.
    """
    volume, labels = open_volume(scan), open_volume(mask)
    if volume.voxels.shape != labels.voxels.shape or volume.axes != labels.axes:
        expected, got = (" x ".join(map(str, one.voxels.shape)) for one in (volume, labels))
        raise ValueError(
            f"{mask}: expected a mask of {expected} voxels with the axes {volume.axes} as its volume {scan.name}, "
            f"got {got} with the axes {labels.axes}"
        )
    lung, found = [], set[int]()
    columns = np.zeros((len(ANATOMY), labels.voxels.shape[0]))
    for place in range(labels.depth):
        values = labels.slice(place)
        known = [values == label for label in ANATOMY]
        if not np.logical_or.reduce(known).all():
            strange = values[~np.logical_or.reduce(known)][0]
            raise ValueError(
                f"{mask}: expected the labels 0 (background), 1 (left lung) and 2 (right lung), got {strange:g} in "
                f"slice {place}"
            )
        here = [label for label, pixels in zip(ANATOMY, known, strict=True) if pixels.any()]
        found.update(here)
        columns += np.stack([pixels.sum(axis=0) for pixels in known])
        if here[-1] > 0:
            lung.append(place)
    del labels
    middles = [np.average(np.arange(len(one)), weights=one) if one.any() else np.nan for one in columns]
    low, high = np.inf, -np.inf
    for place in range(volume.depth):
        part = volume.slice(place)
        if not np.isfinite(part).all():
            wrong = part[~np.isfinite(part)][0]
            raise ValueError(f"{scan}: expected a volume of finite numbers, got {wrong} in slice {place}")
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    crossed = bool(middles[1] < middles[2])  # columns lead to the patient's left; not where a lung is missing
    return VolumeFacts(volume.depth, lung, sorted(found), low >= 0 and high <= EIGHT_BITS, crossed)


def windowed(values: np.ndarray, window: Sequence[float]) -> np.ndarray:
    """Hounsfield units as grey in [0, 1]: 0 at the lower end of the window and below, 1 at the upper end and above.

    >>> windowed(np.array([-2000.0, -1250.0, -500.0, 250.0, 3000.0]), (-1250, 250)).tolist()
    [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    low, high = window
    return ((values - low) / (high - low)).clip(0, 1)


def checked_window(window: Sequence[float]) -> tuple[float, float]:
    """A window as two numbers.

    Raises:
        ValueError: It is not two finite numbers, the lower one first.
    """
    if len(window) != 2 or not np.isfinite(window).all() or not window[0] < window[1]:
        raise ValueError(f"window is two numbers in Hounsfield units, the lower one first, got {list(window)}")
    return float(window[0]), float(window[1])


def _keep(path: Path, entry: dict[str, Any]) -> None:
    """Write a file as a whole; where that is impossible, nothing is kept."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(entry, file)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
