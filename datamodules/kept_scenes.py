"""The file of a cache: scenes that are decoded and square already, which all processes map into memory."""

import os
import struct
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from datamodules.transforms import Scene

ALIGNED = 64  # bytes to whose multiple every image is padded
ROW = 7  # numbers of the index for each scene, see `_index_row`
END = struct.Struct("<8s16sQQ")  # mark, key, number of scenes, size of the whole file
MARK = b"scenes 1"


class KeptScenes:
    """Scenes of a finished file, exactly as they were written, by their place; they are read when asked for.

    It can be sent to other processes of this machine, which map the same memory.

    Args:
        path: The file.
        key: 16 characters that name what it holds.
        places: The scenes to take of it, in this order; None for all.

    Raises:
        OSError: There is no such file.
        ValueError: It is not finished, or holds something else.
    """

    def __init__(self, path: Path, key: str, places: Sequence[int] | None = None) -> None:
        self.path, self.key, self.places = path, key, places
        self._whole: KeptScenes | None = None  # a file in memory lives as long as the one that it was opened by
        self._bytes = np.memmap(path, np.uint8, "r")
        size = len(self._bytes)
        mark, held, count, whole = END.unpack(self._bytes[-END.size :].tobytes()) if size >= END.size else (b"",) * 4
        if (mark, held, whole) != (MARK, key.encode(), size):
            raise ValueError(f"{path}: expected the finished scenes {key}")
        rows = self._bytes[size - END.size - 8 * ROW * count : size - END.size]
        self._index = np.frombuffer(rows.tobytes(), np.int64).reshape(count, ROW)
        if places is not None:
            self._index = self._index[list(places)]

    def at(self, places: Sequence[int]) -> "KeptScenes":
        """The scenes at some places, in this order; they share the memory, and must not be chosen from twice."""
        assert self.places is None
        chosen = object.__new__(KeptScenes)  # a copy would map the file anew
        chosen.__dict__ |= vars(self) | {"places": list(places), "_index": self._index[list(places)], "_whole": self}
        return chosen

    def keep_open(self, descriptor: int) -> None:
        """Let a file in memory live as long as this object, so that other processes can open it."""
        weakref.finalize(self, os.close, descriptor).atexit = False

    def __reduce__(self) -> tuple[Any, ...]:
        """What another process opens."""
        return KeptScenes, (self.path, self.key, self.places)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, place: int) -> Scene:
        """A scene, in memory of its own."""
        offset, stored, channels, height, width, masked, boxes = self._index[place].tolist()

        def values(dtype: type, *shape: int) -> np.ndarray:
            nonlocal offset
            start, offset = offset, offset + int(np.prod(shape)) * np.dtype(dtype).itemsize
            return self._bytes[start:offset].view(dtype).reshape(shape)

        # plane by plane, as a batch holds images, so that nothing has to be turned around again
        planes = np.array(np.broadcast_to(values(np.float32, stored, height, width), (channels, height, width)))
        corners = np.array(values(np.float32, boxes, 4)) if boxes >= 0 else None
        mask = np.array(values(np.int16, height, width)) if masked else None
        labels = None
        if boxes >= 0:
            offset += -offset % 8
            labels = np.array(values(np.int64, boxes))
        return Scene(planes.transpose(1, 2, 0), mask, corners, labels)


def write_scenes(file: IO[bytes], key: str, scenes: Iterator[Scene], count: int, room: Callable[[int], None]) -> None:
    """Write scenes one after the other, then an index, and last the mark of a finished file.

    Args:
        file: The file, empty.
        key: 16 characters that name what it holds.
        scenes: The scenes.
        count: Their number.
        room: Is told after the first scene how many bytes all of them will take, about, and raises an error if these
            are too many.

    Raises:
        ValueError: A scene is not what a transform gives.
    """
    rows: list[list[int]] = []
    at = 0
    for scene in scenes:
        row, data = _packed(scene, at)
        rows.append(row)
        file.write(data)
        at += len(data)
        if len(rows) == 1:
            room(count * (at + 8 * ROW))
    index = np.array(rows, np.int64).reshape(-1, ROW).tobytes()
    file.write(index)
    file.write(END.pack(MARK, key.encode(), len(rows), at + len(index) + END.size))


def _packed(scene: Scene, at: int) -> tuple[list[int], bytes]:
    """The row of the index, and the bytes, of a scene that begins at a place of the file.

    The row holds the place, how many channels are stored (one if all are equal), channels, height and width, whether
    there is a mask, and the number of boxes, or -1 without boxes.
    """
    kinds = (("image", scene.image, np.float32), ("mask", scene.mask, np.int16), ("boxes", scene.boxes, np.float32))
    for name, values, dtype in kinds:
        if values is not None and values.dtype != dtype:
            raise ValueError(f"a cache keeps {name} of the type {np.dtype(dtype)}, got {values.dtype}")
    height, width, channels = scene.image.shape
    grey = channels > 1 and (scene.image == scene.image[:, :, :1]).all()
    planes = (scene.image[:, :, :1] if grey else scene.image).transpose(2, 0, 1)
    parts = [planes.tobytes()]
    if scene.boxes is not None:
        parts.append(scene.boxes.tobytes())
    if scene.mask is not None:
        parts.append(scene.mask.tobytes())
    if scene.boxes is not None and scene.labels is not None:
        parts += [bytes(-sum(map(len, parts)) % 8), scene.labels.astype(np.int64).tobytes()]
    data = b"".join(parts)
    boxes = -1 if scene.boxes is None or scene.labels is None else len(scene.boxes)
    row = [at, len(planes), channels, height, width, int(scene.mask is not None), boxes]
    return row, data + bytes(-len(data) % ALIGNED)
