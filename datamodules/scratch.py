"""Folders in which something is made whole before it takes its place: a process that is killed leaves no half of it."""

import glob
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_beside(place: Path) -> Iterator[Path]:
    """A new folder beside a place, on the same file system, which is gone afterwards.

    What a process that was killed on this machine had begun for the same place is removed first.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(place)
    owner = f"{socket.gethostname()}.{os.getpid()}"
    scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}.{owner}.", dir=place.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_left(place: Path) -> None:
    """Remove the folders of processes that were killed."""
    for folder in place.parent.glob(f".{glob.escape(place.name)}.*"):
        host, _, process = folder.name.removeprefix(f".{place.name}.").rpartition(".")[0].rpartition(".")
        if not folder.is_dir() or host != socket.gethostname() or not process.isdigit():
            continue  # perhaps another machine's, which may be at work
        try:
            os.kill(int(process), 0)
        except (ProcessLookupError, OverflowError):
            shutil.rmtree(folder, ignore_errors=True)
        except PermissionError:
            pass
