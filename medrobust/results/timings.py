"""How long attacks took: wall-clock seconds of each batch, beside the records and no part of them."""

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

TIMINGS = "timings"


class Timing(NamedTuple):
    """What an attack took.

    Args:
        seconds: Wall-clock seconds of all its batches, summed over processes and over runs that were resumed.
        images: How many images were attacked in them.
    """

    seconds: float
    images: int


class Timings:
    """The append-only file of one process, `timings/rank-<rank>-<n>.jsonl`, with a line for each attacked batch.

    It is created with the first line. Seconds are no column of the records, which are the same on every machine.

    Args:
        folder: The folder of the evaluation.
        rank: Rank of this process.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        """Keep what is given; nothing is written yet."""
        self.folder, self.rank = Path(folder) / TIMINGS, rank
        self._path: Path | None = None

    def append(self, key: str, images: int, seconds: float) -> None:
        """Write a line: the attack's key, and how long it took for so many images.

        Raises:
            OSError: It cannot be written.
        """
        if self._path is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            paths = (self.folder / f"rank-{self.rank}-{number}.jsonl" for number in count())
            self._path = next(path for path in paths if not path.exists())
        with self._path.open("a") as file:
            file.write(json.dumps({"key": key, "images": images, "seconds": round(seconds, 6)}) + "\n")


def read_timings(folder: str | Path) -> dict[str, Timing]:
    """What each attack took, by its key; lines that a killed process left incomplete do not count.

    Args:
        folder: The folder of the evaluation; one of an earlier version has no such files.
    """
    found: dict[str, Timing] = {}
    for path in sorted(Path(folder, TIMINGS).glob("*.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
                key, images, seconds = str(entry["key"]), int(entry["images"]), float(entry["seconds"])
            except (ValueError, KeyError, TypeError):
                continue
            if images > 0 and 0 <= seconds < float("inf"):
                before = found.get(key, Timing(0.0, 0))
                found[key] = Timing(before.seconds + seconds, before.images + images)
    return found


def timing_entries(timings: Mapping[str, Timing], key: str | None) -> dict[str, Any]:
    """Entries of a summary's row: mean seconds for an image, and how many images were timed; None if none was.

    >>> timing_entries({"a": Timing(3.0, 4)}, "a"), timing_entries({}, "a")
    ({'mean_seconds': 0.75, 'n_timed': 4}, {'mean_seconds': None, 'n_timed': 0})
    """
    timing = timings.get(str(key), Timing(0.0, 0))
    return {"mean_seconds": timing.seconds / timing.images if timing.images else None, "n_timed": timing.images}
