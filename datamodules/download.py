"""Downloads that are whole or not there: resumed after an interruption, verified, and only then given their name."""

import fcntl
import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from io import FileIO
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from datamodules.scratch import scratch_beside

Report = Callable[[int, int | None], None]  # bytes that are there, and how many there will be
BLOCK = 1 << 18  # bytes
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # as long as each brings something


class DownloadError(Exception):
    """What was to be downloaded is not there; the message is a sentence."""


def fetch(url: str, path: Path, md5: str, report: Report = lambda done, total: None) -> None:
    """Download a file unless it is there.

    The bytes go to ``.NAME.part`` beside it, which an interrupted download leaves and the next one continues; it gets
    its name once its checksum is right.

    Args:
        url: Where it is.
        path: Where it shall be.
        md5: Its MD5 checksum, 32 hexadecimal digits.
        report: Told after each block how many bytes are there, and the number of all if the server tells it.

    Raises:
        DownloadError: There is no network, the server refuses, the connection breaks again and again, another process
            is downloading the file, or the checksum of the file that is there or that has arrived is wrong.
        OSError: The file cannot be written.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"expected an address that begins with https:// or http://, got {url}")
    if path.exists():
        check_md5(path, md5)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with _held(part, path) as file:
        if path.exists():  # another process has been faster
            part.unlink(missing_ok=True)
            check_md5(path, md5)
            return
        _receive_all(url, file, md5, report)
        os.fsync(file.fileno())
        os.replace(part, path)


def md5_of(path: Path) -> str:
    """MD5 checksum of a file, 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check_md5(path: Path, md5: str) -> None:
    """Refuse a file with another checksum.

    Raises:
        DownloadError: It has another one.
    """
    if (found := md5_of(path)) != md5:
        raise DownloadError(f"{path}: expected the MD5 checksum {md5}, got {found}; move the file away and try again")


def unpack_folder(archive: Path, folder: Path, members: Mapping[str, str]) -> None:
    """Take a folder out of a tar archive, at once or not at all.

    Args:
        archive: The archive; its top folder has the name of `folder`.
        folder: Where the folder shall be; one that is there gets the files that it lacks, each at once.
        members: Checksums of the files that it has to hold, by their paths relative to it.

    Raises:
        DownloadError: The archive is damaged, or lacks a file, or a file has another checksum.
        OSError: A file cannot be written.
    """
    with scratch_beside(folder) as scratch:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise DownloadError(
                f"{archive}: expected a complete tar archive, but it cannot be read ({error})"
            ) from None
        fresh = scratch / folder.name
        for name, md5 in members.items():
            if not (fresh / name).is_file():
                raise DownloadError(f"{archive}: expected {folder.name}/{name} in it, found no such file")
            check_md5(fresh / name, md5)
        if not folder.exists():
            fresh.rename(folder)
            return
        for name in members:
            if not (folder / name).exists():
                (fresh / name).rename(folder / name)


@contextmanager
def _held(part: Path, path: Path) -> Iterator[FileIO]:
    """The unfinished file, which no other process writes meanwhile."""
    while True:
        with part.open("ab+", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DownloadError(f"{path} is being downloaded by another process") from None
            if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
                continue  # it has got its name just now
            try:
                yield file
            finally:
                if part.exists() and not part.stat().st_size:
                    part.unlink()
            return


def _receive_all(url: str, file: FileIO, md5: str, report: Report) -> None:
    """Append what is missing until the checksum is right."""
    name, reason = Path(urlsplit(url).path).name, ""
    for _ in range(ATTEMPTS):
        before = file.seek(0, os.SEEK_END)
        try:
            whole = _receive(url, file, report)
        except HTTPError as error:
            reason = f"{urlsplit(url).hostname} answers {error.code} {error.reason}"
            if error.code != 416:  # there is nothing behind what is there
                break
            whole = True
        except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
            cause = error.reason if isinstance(error, URLError) else error
            reason = f"{urlsplit(url).hostname} cannot be reached ({getattr(cause, 'strerror', None) or cause})"
            whole = False
        else:
            reason = "the connection broke off"
        after = file.seek(0, os.SEEK_END)
        if whole:
            file.seek(0)
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if found == md5:
                return
            file.truncate(0)
            if before == 0:
                raise DownloadError(f"{url}: expected the MD5 checksum {md5}, got {found}; nothing of it is kept")
        elif after <= before:
            break
    there = file.seek(0, os.SEEK_END)
    kept = f"; its first {there:,} bytes are kept, and the same command goes on from there" if there else ""
    raise DownloadError(f"{name} could not be downloaded: {reason}{kept}")


def _receive(url: str, file: FileIO, report: Report) -> bool:
    """Append the rest of a file, or all of it where the server gives no rest; tells whether that was all."""
    done = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": "medrobust", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as answer:
        if done and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {done}-"):
            file.truncate(0)
            done = 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        while block := answer.read1(BLOCK):  # what has come, without waiting for more
            file.write(block)
            done += len(block)
            report(done, total)
    return total is None or done >= total
