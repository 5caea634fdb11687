"""Caches of decoded scenes, on a disk or in memory: built once for all processes, and removed when room is short."""

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from datamodules.content import cache_folder
from datamodules.kept_scenes import KeptScenes, write_scenes
from datamodules.transforms import Scene

Cache = Literal["none", "ram", "disk"]

LIMIT = 50.0  # GB that all caches of scenes may take on the disk together
SHARE = 0.8  # of the memory that is left, which a cache may take
DEAD = 600  # seconds after which an unfinished file that no one writes to belongs to a process that was killed
GB = 1e9


class NoRoomError(OSError):
    """Scenes that are larger than what is left."""


class SceneCache:
    """One set of scenes, as one file that all processes of this machine share.

    A file appears under its name when it is finished, so that a process that is killed leaves nothing that could be
    taken for scenes. Of several processes that need the same scenes, one makes them and the others wait; where the
    file system has no locks, each makes them, and the last one's stay. In memory the scenes live as long as a process
    that uses them.

    Args:
        kind: ``disk``, or ``ram`` for memory.
        key: 16 characters that name all that decides the scenes.
        name: What the scenes are, for messages.
    """

    def __init__(self, kind: Literal["ram", "disk"], key: str, name: str) -> None:
        self.kind, self.key, self.name = kind, key, name

    def scenes(
        self, count: int, make: Callable[[], Iterator[Scene]], fit: Callable[[KeptScenes], bool]
    ) -> KeptScenes | None:
        """The scenes, made if nobody has made them; None, with a warning, where they cannot be kept.

        Args:
            count: Number of scenes.
            make: Gives them, in order.
            fit: Whether scenes that were found are still what `make` would give.

        Raises:
            ValueError: A file cannot be read; the message names it.
        """
        folder = cache_folder()
        if folder is None:
            rank_zero_warn(f"cache: {self.kind} is not used, since there is no folder for it: set MEDROBUST_CACHE")
            return None
        folder = folder / "scenes"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder / f".{self.key}.lock") as locked:
                found = self._found(folder)
                if found is None or len(found) != count or not fit(found):
                    rank_zero_info(f"decoding {count} images of {self.name} for cache: {self.kind}")
                    remove_unfinished(folder, self.key if locked else None)
                    build = self._on_disk if self.kind == "disk" else self._in_memory
                    found = build(folder, count, make)
        except OSError as error:
            reason = str(error) if isinstance(error, NoRoomError) else error.strerror or str(error)
            rank_zero_warn(
                f"cache: {self.kind} is not used for {self.name}, whose images are decoded each time: {reason}"
            )
            return None
        return found

    def _found(self, folder: Path) -> KeptScenes | None:
        """What a process has finished before; None if there is nothing, or something damaged."""
        try:
            path = self._file(folder) if self.kind == "disk" else Path(self._place(folder).read_text())
            found = KeptScenes(path, self.key)
            if self.kind == "disk":
                os.utime(path)  # the caches that nobody has used for longest are the first to go
        except (OSError, ValueError):
            return None
        return found

    def _file(self, folder: Path) -> Path:
        return folder / f"{self.key}.scenes"

    def _place(self, folder: Path) -> Path:
        """The file that says where in the memory of this machine the scenes are."""
        return folder / f".{self.key}.{socket.gethostname()}.ram"

    def _on_disk(self, folder: Path, count: int, make: Callable[[], Iterator[Scene]]) -> KeptScenes:
        limit = limit_in_bytes()

        def room(size: int) -> None:
            _need(size, limit, "a cache may have (MEDROBUST_CACHE_LIMIT)")
            make_room(folder, limit - size, but=self._file(folder))
            _need(size, shutil.disk_usage(folder).free, "the disk has left")

        handle, temporary = tempfile.mkstemp(prefix=f".{self.key}.", suffix=".part", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                write_scenes(file, self.key, make(), count, room)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._file(folder))
        finally:
            Path(temporary).unlink(missing_ok=True)
        return KeptScenes(self._file(folder), self.key)

    def _in_memory(self, folder: Path, count: int, make: Callable[[], Iterator[Scene]]) -> KeptScenes:
        if not hasattr(os, "memfd_create"):
            raise NoRoomError("this system has no files in memory; use cache: disk")
        descriptor = os.memfd_create("medrobust-scenes")
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                write_scenes(
                    file, self.key, make(), count, lambda size: _need(size, memory_left(), "the memory may give")
                )
            path = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
            found = KeptScenes(path, self.key)
        except BaseException:
            os.close(descriptor)
            raise
        found.keep_open(descriptor)
        place = self._place(folder)
        temporary = place.with_suffix(f".{os.getpid()}.part")
        with contextlib.suppress(OSError):  # then other processes make their own
            temporary.write_text(str(path))
            os.replace(temporary, place)
        return found


def limit_in_bytes() -> float:
    """What all caches of scenes may take on the disk: ``MEDROBUST_CACHE_LIMIT`` in GB, or 50.

    Raises:
        ValueError: It is not a number, or negative.
    """
    given = os.environ.get("MEDROBUST_CACHE_LIMIT") or str(LIMIT)
    try:
        limit = float(given)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise ValueError(f"MEDROBUST_CACHE_LIMIT is a number of gigabytes, at least 0, got {given!r}")
    return limit * GB


def make_room(folder: Path, limit: float, but: Path) -> None:
    """Remove the caches that have not been used for longest, until the others take at most so many bytes.

    Whoever is reading one of them goes on: its memory stays until then.
    """
    found = []
    for path in folder.glob("*.scenes"):
        with contextlib.suppress(OSError):
            if path != but:
                found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size


def remove_unfinished(folder: Path, key: str | None) -> None:
    """Remove files that processes were writing when they were killed.

    Args:
        folder: The folder of all caches of scenes.
        key: Scenes that nobody else can be writing, since this process has their lock; None if it has not.
    """
    for path in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            mine = key is not None and path.name.startswith(f".{key}.")
            if mine or time.time() - path.stat().st_mtime > DEAD:
                path.unlink()


def memory_left() -> float:
    """Bytes that a cache may take of this machine's memory, or of what its container has."""
    left = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        left.append(1024.0 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):
            group = Path("/sys/fs/cgroup")
            left.append(float((group / most).read_text()) - float((group / used).read_text()))
    return SHARE * min(left, default=0.0)


def _need(size: float, given: float, what: str) -> None:
    if size > given:
        raise NoRoomError(f"it takes {size / GB:.3g} GB, more than the {given / GB:.3g} GB that {what}")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Wait until no other process is inside; False, without waiting, where the file system has no locks."""
    locked = False
    while not locked:
        file = path.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            break
        with contextlib.suppress(FileNotFoundError):
            locked = os.path.samestat(os.fstat(file.fileno()), path.stat())
        if not locked:  # whoever was inside has removed this file
            file.close()
    try:
        yield locked
    finally:
        path.unlink(missing_ok=True)
        if locked:
            fcntl.flock(file, fcntl.LOCK_UN)  # workers that were started inside have the file open, too
        file.close()
