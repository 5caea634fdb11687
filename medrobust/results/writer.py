"""The one writer of a folder: a lock that names host and process, and that a killed process leaves to the next one."""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LOCK = "writer.lock"
TOUCHED = 30.0  # seconds after which a writer shows again that it is alive
STALE = 300.0  # seconds without such a sign after which a writer on another machine counts as ended

logger = logging.getLogger(__name__)
_held: dict[Path, "Writer"] = {}


class Writer:
    """The right to write into a folder, which one process has at a time, on any machine that shares the folder.

    The file ``writer.lock`` is created exclusively and holds host, process and time. A process that no longer runs on
    this machine leaves its lock to the next one; of a process on another machine it is known only that it touches the
    file every half minute, so that its lock counts as left after five minutes without that. The process that has the
    lock may take it again.

    Args:
        folder: The folder, which is created if necessary.
        what: What is written there, as a sentence names it, such as "an evaluation".
    """

    def __init__(self, folder: str | Path, what: str) -> None:
        """Keep the names; nothing is locked yet."""
        self.folder, self.what = Path(folder), what
        self.path = self.folder / LOCK
        self._owner = False
        self._token = secrets.token_hex(8)
        self._released = threading.Event()

    def take(self) -> Self:
        """Lock the folder.

        Raises:
            ValueError: Another process is writing there; names its host, its number and since when. Or the lock is
                damaged, so that nobody can tell.
            OSError: The folder cannot be written.
        """
        place = self.path.absolute()
        if place in _held:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(5):
            if self._create():
                self._owner, _held[place] = True, self
                threading.Thread(target=self._touch, daemon=True).start()
                return self
            holder = self._holder()
            if self.path.is_dir() or (holder == {} and not self._is_left(holder)):
                raise ValueError(
                    f"{self.path} is damaged: expected a file that says which process writes into {self.folder}, got "
                    f"{'a folder' if self.path.is_dir() else 'something else'}; delete it if nobody is writing there"
                )
            if holder is not None and not self._is_left(holder):
                raise ValueError(
                    f"{self.what} is being written into {self.folder} already, by process {holder.get('process')} on "
                    f"{holder.get('host')} since {holder.get('since')}; wait until it ends, or give this one another "
                    f"name (a process that was killed on another machine leaves {self.path.name} to the next one after "
                    f"{STALE / 60:.0f} minutes)"
                )
            self._remove(holder)
        raise ValueError(f"{self.path} is taken and left by other processes again and again; try once more")

    def release(self) -> None:
        """Leave the folder to others; does nothing if this object does not hold the lock."""
        if not self._owner:
            return
        self._owner = False
        self._released.set()
        _held.pop(self.path.absolute(), None)
        holder = _read(self.path)
        if holder and holder.get("token") == self._token:
            with suppress(OSError):
                self.path.unlink()

    def _create(self) -> bool:
        """Whether the file did not exist and is now this process's."""
        try:
            file = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        about = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "what": self.what,
            **_identity(os.getpid()),
            "token": self._token,
        }
        try:
            os.write(file, json.dumps(about).encode())
        except OSError as error:
            self.path.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        finally:
            os.close(file)
        return True

    def _holder(self) -> Mapping[str, Any] | None:
        """Whose lock it is; None if it has just been released, ``{}`` if its file has been damaged."""
        for _ in range(20):
            holder = _read(self.path)
            if holder is None or holder:
                return holder
            time.sleep(0.1)  # another process may be about to write it
        return {}

    def _is_left(self, holder: Mapping[str, Any]) -> bool:
        """Whether a lock's process no longer runs, as far as can be known from here."""
        here = _identity(os.getpid())
        if holder.get("host") == socket.gethostname() and holder.get("namespace") == here["namespace"]:
            process = holder.get("process")
            if not isinstance(process, int) or process < 1 or not _runs(process):
                return True
            return _identity(process)["started"] != holder.get("started")
        return self._age() > STALE

    def _age(self) -> float:
        """Seconds since the lock was touched, by the clock of the file system that it lies on."""
        probe = self.path.with_name(f".{self.path.name}.{self._token}")
        try:
            probe.touch()
            return probe.stat().st_mtime - self.path.stat().st_mtime
        except FileNotFoundError:
            return 0.0
        finally:
            probe.unlink(missing_ok=True)

    def _remove(self, holder: Mapping[str, Any] | None) -> None:
        """Take away a lock that has been left, unless another process was faster."""
        if holder is None:
            return
        aside = self.path.with_name(f".{self.path.name}.{self._token}")
        with suppress(FileNotFoundError):
            self.path.rename(aside)
            taken = _read(aside) or {}
            if taken.get("token") != holder.get("token"):
                aside.rename(self.path)  # another process's, that was created a moment ago
                return
            aside.unlink(missing_ok=True)
            logger.warning(
                "%s of process %s on %s (since %s) did not finish in %s; this one takes over",
                str(holder.get("what", "something")),
                holder.get("process", "?"),
                holder.get("host", "?"),
                holder.get("since", "?"),
                self.folder,
            )

    def _touch(self) -> None:
        while not self._released.wait(TOUCHED):
            with suppress(OSError):
                os.utime(self.path)

    def __enter__(self) -> Self:
        """Lock the folder."""
        return self.take()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the folder to others."""
        self.release()


def _read(path: Path) -> Mapping[str, Any] | None:
    """What a lock says; None if there is none, ``{}`` if it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and {"host", "process", "since", "token"} <= found.keys() else {}


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return (_status(process) or ["?"])[0] not in "ZX"  # a killed process that nobody has asked about yet


def _identity(process: int) -> dict[str, str]:
    """What tells a process from a later one of the same number, where the system says so."""
    status, namespace = _status(process), ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return {"started": status[19] if len(status) > 19 else "", "namespace": namespace}


def _status(process: int) -> list[str]:
    """State of a process and what follows in Linux's list of processes; nothing on other systems."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
