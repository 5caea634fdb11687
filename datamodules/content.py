"""What the files of a dataset hold: hashes of bytes and of decoded pixels, kept from one start to the next."""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from datamodules.samplers import rank_and_world
from datamodules.samples import Sample
from datamodules.transforms import Scene

VERSION = 1  # of what a kept hash means
THREADS = 8
BLOCK = 4096  # samples that wait for a thread at a time: bounds the memory
STILL = 2e9  # nanoseconds after which a change of a file gets another time stamp, on any file system


class Content(NamedTuple):
    """Hashes of what is read for one sample.

    Args:
        data: 16 hex digits over all of it: the bytes of its files, its part of them where a file holds many images, or
            what a dataset without such files reads.
        pixels: 16 hex digits over the decoded image, rounded to eight bits, by which a copy is found whatever its name
            and format; empty for an image of a single colour, and for one that is neither in a file nor stored.
        error: Why the sample cannot be read; empty if it can.
    """

    data: str
    pixels: str
    error: str = ""


class ContentReader:
    """Reads what samples hold, with several threads, and keeps the hashes for the next start.

    What is kept of a file counts for as long as its size and its times of modification and of change are the same.
    A file that was changed within the last seconds is read again by the next start, since its times might not tell
    a further change. Several processes may keep hashes at once: the file is replaced as a whole, and what one of them
    loses is read again. Where nothing can be written, nothing is kept.

    Args:
        kept: The file that keeps the hashes; None for none.
        read: Reads a sample, and raises a ValueError that names the file if it cannot.
        files_of: The files that decide a sample.
        held: Gives what files that hold many samples hold of one; none for files that hold a single one.
    """

    def __init__(
        self,
        kept: Path | None,
        read: Callable[[Sample[Any]], Scene],
        files_of: Callable[[Sample[Any]], list[Path]],
        held: Callable[[Sample[Any]], tuple[np.ndarray, ...]] = lambda sample: (),
    ) -> None:
        """Keep the settings; nothing is read yet."""
        self.kept, self.read, self.files_of, self.held = kept, read, files_of, held

    def __call__(self, samples: Sequence[Sample[Any]]) -> dict[str, Content]:
        """What samples hold, by id. Every process reads its share, and all of them get all."""
        known, fresh = _kept(self.kept), {}
        rank, world = rank_and_world()
        mine, found = samples[rank::world], {}
        with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
            for start in range(0, len(mine), BLOCK):
                block = mine[start : start + BLOCK]
                for sample, (stamp, content, still) in zip(
                    block, threads.map(lambda one: self._one(one, known), block), strict=True
                ):
                    found[sample.id] = content
                    if still and known.get(sample.id, ("",))[0] != stamp:
                        fresh[sample.id] = (stamp, content.data, content.pixels)
        for part in _gathered((found, fresh)) if world > 1 else ():
            found, fresh = found | part[0], fresh | part[1]
        if fresh and rank == 0:
            _keep(self.kept, fresh)
        return found

    def _one(self, sample: Sample[Any], known: Mapping[str, Sequence[str]]) -> tuple[str, Content, bool]:
        """Stamp and content of a sample, and whether its files have been left alone for long enough to be kept."""
        now = time.time_ns()
        try:
            files = self.files_of(sample)
            if not files and (held := self.held(sample)):
                return "", Content(hash_of_arrays(held), _pixels_hash(self.read(sample).image)), False
            if not files or not all(file.is_file() for file in files):
                return "", Content(_scene_hash(self.read(sample)), ""), False
            stats = [(str(file), file.stat()) for file in files]
            text = "/".join(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}" for name, stat in stats)
            stamp = _short(text.encode())
            if (entry := known.get(sample.id)) and entry[0] == stamp:
                return stamp, Content(entry[1], entry[2]), True
            data = hash_of_arrays(held) if (held := self.held(sample)) else str(data_of_files(files))
            content = Content(data, _pixels_hash(self.read(sample).image))
        except (ValueError, OSError) as error:
            return "", Content("", "", str(error)), False
        still = max(max(stat.st_mtime_ns, stat.st_ctime_ns) for _, stat in stats) < now - STILL
        return stamp, content, still


def kept_hashes(name: str) -> Path | None:
    """The file that keeps the hashes of a dataset, in ``MEDROBUST_CACHE`` or the user's folder for caches.

    Args:
        name: All that decides what is read: the dataset's class, its root and its settings.
    """
    folder = cache_folder()
    return None if folder is None else folder / "content" / f"{_short(f'{VERSION} {name}'.encode())}.json"


def cache_folder() -> Path | None:
    """The folder of all that is kept: ``medrobust`` in ``MEDROBUST_CACHE`` or in the user's folder for caches."""
    folder = os.environ.get("MEDROBUST_CACHE") or os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(folder) if folder else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None
    return base / "medrobust"


def image_hashes(name: str, samples: Sequence[Sample[Any]], contents: Mapping[str, Content]) -> dict[str, Tensor]:
    """Hashes by which images are recognised: ``ids``, ``patients``, ``data`` and ``pixels``, each int64 ``(N,)``.

    Ids and patients are those of the dataset: equal names in another one are other images. 0 means unknown.

    Args:
        name: Name of the dataset.
        samples: The N samples.
        contents: What they hold, by id.
    """
    columns = {
        "ids": [_short(f"{name}/id/{sample.id}".encode()) for sample in samples],
        "patients": [_short(f"{name}/patient/{sample.patient}".encode()) for sample in samples],
        "data": [contents[sample.id].data for sample in samples],
        "pixels": [contents[sample.id].pixels for sample in samples],
    }
    return {
        column: torch.tensor([_number(digits) for digits in values], dtype=torch.int64)
        for column, values in columns.items()
    }


def copies_in_later_splits(
    splits: Mapping[str, Sequence[Sample[Any]]], contents: Mapping[str, Content]
) -> list[tuple[str, str, Sample[Any], str]]:
    """Images whose pixels an earlier split holds under another name: id, split, and the sample and split there."""
    first: dict[str, tuple[Sample[Any], str]] = {}
    copies = []
    for split, members in splits.items():
        for sample in members:
            if pixels := contents[sample.id].pixels:
                twin, home = first.setdefault(pixels, (sample, split))
                if home != split:
                    copies.append((sample.id, split, twin, home))
    return copies


def contradictions(
    samples: Sequence[Sample[Any]], contents: Mapping[str, Content], written: Callable[[Sample[Any]], object]
) -> list[tuple[str, str]]:
    """Ids of images whose pixels another one has that says something else of them, each with the first such one."""
    first: dict[str, Sample[Any]] = {}
    found = []
    for sample in samples:
        if pixels := contents[sample.id].pixels:
            twin = first.setdefault(pixels, sample)
            if written(twin) != written(sample):
                found.append((sample.id, twin.id))
    return found


def data_of_files(files: Sequence[Path]) -> str | None:
    """Hash of the bytes of files, as `Content.data` has it; None where there is none to read.

    Raises:
        OSError: One of them cannot be read.
    """
    if not files or not all(file.is_file() for file in files):
        return None
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def hash_of_arrays(arrays: Sequence[np.ndarray]) -> str:
    """Hash of what files hold of one sample among many, as `Content.data` has it."""
    return _short(b"".join(f"{one.dtype} {one.shape}".encode() + np.ascontiguousarray(one).tobytes() for one in arrays))


def _scene_hash(scene: Scene) -> str:
    """Hash of an image and of what lies on it, as they were read."""
    digest = hashlib.sha256()
    for values in (scene.image, scene.mask, scene.boxes, scene.labels):
        if values is not None:
            digest.update(f"{values.dtype} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


def _pixels_hash(image: np.ndarray) -> str:
    """Hash of an image ``(H, W, C)`` in [0, 1]; grey is the same in one channel and in three."""
    pixels = np.rint(image * 255).astype(np.uint8)
    if (pixels == pixels[:, :, :1]).all():
        pixels = pixels[:, :, :1]
    if (pixels == pixels[:1, :1]).all():
        return ""
    return _short(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes())


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _number(digits: str) -> int:
    return int.from_bytes(bytes.fromhex(digits), "big", signed=True) if digits else 0


def _gathered(value: Any) -> Iterable[Any]:
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, value)
    return parts


def _kept(path: Path | None) -> dict[str, Sequence[str]]:
    """Kept stamps and hashes by id; none where there is no such file, or a damaged one."""
    if path is None:
        return {}
    try:
        entries = json.loads(path.read_bytes())
        whole = isinstance(entries, dict) and all(
            isinstance(entry, list) and len(entry) == 3 and all(isinstance(part, str) for part in entry)
            for entry in entries.values()
        )
    except (OSError, ValueError):
        return {}
    return entries if whole else {}


def _keep(path: Path | None, fresh: Mapping[str, Sequence[str]]) -> None:
    """Add hashes to those that are kept, by replacing the file as a whole."""
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(_kept(path) | {id: list(entry) for id, entry in fresh.items()})
        handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(content)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
