"""Datasets from Kaggle through its package kagglehub, for users who have it and an account."""

import importlib
import importlib.util
import os
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from io import RawIOBase
from pathlib import Path

from datamodules.catalogue import KaggleSource
from datamodules.download import DownloadError
from datamodules.scratch import scratch_beside

PACKAGE = "kagglehub"  # optional: whoever downloads by hand needs none of it
TOKEN = "an API token, which kaggle.com/settings makes, as ~/.kaggle/kaggle.json (or in KAGGLE_USERNAME and KAGGLE_KEY)"


def what_is_missing() -> list[str]:
    """What has to be there before anything can be downloaded from Kaggle, and is not."""
    folder = Path(os.environ.get("KAGGLE_CONFIG_DIR") or Path.home() / ".kaggle")
    variables = os.environ.get("KAGGLE_API_TOKEN") or all(map(os.environ.get, ("KAGGLE_USERNAME", "KAGGLE_KEY")))
    token = variables or any((folder / name).is_file() for name in ("kaggle.json", "access_token"))
    package = importlib.util.find_spec(PACKAGE)
    return [*([] if package else ["the package kagglehub (pip install kagglehub)"]), *([] if token else [TOKEN])]


def take_from_kaggle(source: KaggleSource, root: Path) -> None:
    """Download a dataset, and give it its place as a whole.

    Kaggle's package keeps downloads in a folder of its own and continues those that were interrupted. Files are linked
    from there where both folders are on the same file system, and copied otherwise.

    Args:
        source: What Kaggle has.
        root: Where it shall be: absent, or an empty folder.

    Raises:
        DownloadError: Something is missing here, Kaggle refuses, or what has come lacks a file.
        ValueError: The root is not empty.
        OSError: A file cannot be written.
    """
    if missing := what_is_missing():
        raise DownloadError(f"a download from Kaggle needs {' and '.join(missing)}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root}: expected an absent or empty folder to download into, got one that holds files")
    found = _downloaded(source)
    with scratch_beside(root.absolute()) as scratch:
        fresh = scratch / "set"
        for path, name in found:
            place = fresh / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, place, copy_function=_link)
            elif not source.archives:
                _link(path, place)
        if source.archives:
            _unpack([path for path, _ in found], fresh)
        if root.exists():
            root.rmdir()
        fresh.rename(root)


def _downloaded(source: KaggleSource) -> list[tuple[Path, Path]]:
    """Where the wanted files and folders are, and their paths in the set."""
    hub = importlib.import_module(PACKAGE)
    try:
        if source.archives:
            paths = [Path(hub.competition_download(source.handle, path=name)) for name in source.wanted]
            return [(path, Path(name)) for path, name in zip(paths, source.wanted, strict=True)]
        download = hub.competition_download if source.competition else hub.dataset_download
        folder = Path(download(source.handle))
    except Exception as error:  # of many kinds: the network's, Kaggle's, its package's
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        rules = " (have you accepted the competition's rules on its page?)" if source.competition else ""
        raise DownloadError(f"{source.page} could not be downloaded: {first}{rules}") from error
    found = []
    for pattern in source.wanted:
        matches = sorted(folder.glob(pattern))
        if not matches:
            raise DownloadError(f"{source.page}: expected {pattern} in what was downloaded, found no such file")
        found += [(path, path.relative_to(folder)) for path in matches]
    return found


def _link(source: str | Path, target: str | Path) -> None:
    """Give a file a second name, or copy it to another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _unpack(paths: Sequence[Path], folder: Path) -> None:
    """Unpack zip archives, of which some come in parts ``NAME.zip.001`` and so on."""
    whole: dict[str, list[Path]] = {}
    for path in sorted(paths):
        whole.setdefault(path.name if path.suffix == ".zip" else path.stem, []).append(path)
    for name, parts in whole.items():
        try:
            with _Joined(parts) as joined, zipfile.ZipFile(joined) as archive:  # type: ignore[arg-type]
                archive.extractall(folder)
        except (zipfile.BadZipFile, EOFError) as error:
            raise DownloadError(f"{name}: expected a complete zip archive, but it cannot be read ({error})") from None


class _Joined(RawIOBase):
    """Files, one after the other, as one file to read.

    Args:
        paths: The files in their order.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self._closing = ExitStack()
        self._files = [self._closing.enter_context(path.open("rb")) for path in paths]
        self._ends: list[int] = []
        for file in self._files:
            self._ends.append((self._ends[-1] if self._ends else 0) + file.seek(0, os.SEEK_END))
        self._place = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a place."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._ends[-1]}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        """The place."""
        return self._place

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, across the borders of files."""
        left = self._ends[-1] - self._place if size is None or size < 0 else size
        blocks = []
        for file, end in zip(self._files, self._ends, strict=True):
            if left <= 0:
                break
            if self._place >= end:
                continue
            begin = end - file.seek(0, os.SEEK_END)
            file.seek(self._place - begin)
            blocks.append(file.read(min(left, end - self._place)))
            self._place += len(blocks[-1])
            left -= len(blocks[-1])
        return b"".join(blocks)

    def close(self) -> None:
        """Close the files."""
        self._closing.close()
        super().close()
