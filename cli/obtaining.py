"""Gets a dataset whole: looks at what is there, downloads or generates what is missing, and verifies it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cli.console import shown
from cli.endings import UnfinishedError
from datamodules.catalogue import PublicSet
from datamodules.download import Report, check_md5, fetch, unpack_folder
from datamodules.kaggle import take_from_kaggle, what_is_missing

Say = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """What lies at a root.

    Args:
        images: How many images of the set, and None if they were not counted.
        problem: What is missing or wrong, a sentence; empty if nothing is.
    """

    images: int | None
    problem: str = ""


def look(wanted: PublicSet, root: Path) -> Found:
    """Find out how much of a set lies at a root, by its data module's own index.

    Raises:
        DownloadError: A file whose checksum is known has another one.
        OSError: A file cannot be read.
    """
    for path, md5 in _known(wanted, root):
        if path.is_file():
            check_md5(path, md5)
    if not wanted.counted:
        lacking = next((file.name for file in wanted.files if not (root / file.name).is_file()), None)
        return (
            Found(wanted.images) if lacking is None else Found(None, f"{root}: expected {lacking}, found no such file")
        )
    module = wanted.at(root)
    try:
        images = len(module.index())
    except (FileNotFoundError, ValueError) as error:
        return Found(None, str(error))
    bad = f", first {module.bad_rows[0][1]}" if module.bad_rows else ""
    if wanted.images is not None and images != wanted.images:
        return Found(images, f"{root}: expected {wanted.images:,} images, found {images:,}{bad}")
    if module.bad_rows:
        return Found(images, f"{root}: expected an image for each row, found {len(module.bad_rows):,} bad rows{bad}")
    return Found(images)


def _known(wanted: PublicSet, root: Path) -> list[tuple[Path, str]]:
    """The files of a set whose checksums are known, with these."""
    files = [(root / file.name, file.md5) for file in wanted.files]
    if archive := wanted.archive:
        files += [(root / archive.folder / name, md5) for name, md5 in archive.members.items()]
    return files


def obtain(name: str, wanted: PublicSet, root: Path, say: Say) -> None:
    """Make sure that a root holds a whole set, and say what is there, what is missing and where it comes from.

    Args:
        name: Name of the set.
        wanted: The set.
        root: Where it shall be.
        say: Shows a sentence.

    Raises:
        UnfinishedError: It does not hold it, and cannot be made to here.
        DownloadError: A download has failed, or a checksum is wrong.
        ValueError: The root is not fit to hold it.
        OSError: A file cannot be read or written.
    """
    if wanted.generated:
        wanted.at(root).prepare_data()
    found = look(wanted, root)
    if found.problem:
        say(f"missing: {found.problem}")
        if not wanted.home:
            raise UnfinishedError(f"{name} is {wanted.title}: put them into {shown(root)} as {wanted.layout}")
        say(f"source: {wanted.home}")
        _download(name, wanted, root, say)
        found = look(wanted, root)
        if found.problem:
            raise UnfinishedError(found.problem)
    count = "" if found.images is None else f", {found.images:,} images"
    known = _known(wanted, root)
    checked = "; their checksums are right" if known and all(path.is_file() for path, _ in known) else ""
    say(f"complete: {wanted.title}{count}{' in ' + shown(root) if wanted.layout else ''}{checked}")


def _download(name: str, wanted: PublicSet, root: Path, say: Say) -> None:
    """Download what is missing."""
    for file in wanted.files:
        with _bar(file.name) as report:
            fetch(file.url, root / file.name, file.md5, report)
    if archive := wanted.archive:
        place = root / archive.file.name
        own = place.is_file()  # the user's, who may want to keep it
        place = place if own else place.with_name(f".{place.name}")
        with _bar(archive.file.name) as report:
            fetch(archive.file.url, place, archive.file.md5, report)
        unpack_folder(place, root / archive.folder, archive.members)
        if not own:
            place.unlink()
    if wanted.files or wanted.archive:
        return
    page = wanted.home if wanted.kaggle is None else wanted.kaggle.page
    by_hand = (
        f"open {page} in a browser, where you may need an account, download the set, and unpack it to {shown(root)}"
    )
    if wanted.kaggle is None:
        raise UnfinishedError(f"{name} can only be had by hand: {by_hand} as {wanted.layout}")
    if lacking := what_is_missing():
        say(f"either: {by_hand} as {wanted.layout}")
        say(f"or: let this command download it, with a free account of Kaggle: it still needs {' and '.join(lacking)}")
        raise UnfinishedError(f"{name} is not whole: get it in one of these two ways, and give this command again")
    say(f"downloading {page}")
    take_from_kaggle(wanted.kaggle, root)


@contextmanager
def _bar(name: str) -> Iterator[Report]:
    """A bar that shows how far a download is, on a terminal."""
    with tqdm(desc=name, unit="B", unit_scale=True, disable=not sys.stderr.isatty(), leave=False) as bar:

        def report(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report
