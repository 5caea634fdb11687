"""Disks that are full, file systems that are read-only and names that are too long: one sentence, nothing lost."""

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from medrobust.results.records import finished, read_records
from medrobust.results.same_records import differences
from tests.programs import PAIR, end, evaluate, run, start, train

logger = logging.getLogger(__name__)
pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(3600)]
ROOM = 256 * 2**20  # two checkpoints, and one that replaces another


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned victim and its evaluation on a disk with room."""
    folder = tmp_path_factory.mktemp("disk")
    train(folder)
    run(folder, "evaluate.py", *evaluate(folder / "whole"))
    return folder


@pytest.fixture
def disk(folder: Path) -> Iterator[Path]:
    """A file system of its own, in memory."""
    place = folder / "disk"
    place.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        place.rmdir()
        pytest.skip(f"no file system can be mounted here ({error})")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
    place.rmdir()


def fill(disk: Path, left: int) -> Path:
    """Leave so many bytes of a disk."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        count = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - left
        while count > 0:
            count -= file.write(bytes(min(count, 2**20)))
    return filler


def sentence(folder: Path, program: str, *arguments: str, status: int = 1) -> str:
    """The one sentence with which a program ends."""
    found, printed = end(start(folder, program, *arguments))
    assert found == status and "Traceback" not in printed, printed[-3000:]
    (said,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    return said


@pytest.mark.parametrize("left", [0, 12_000, 30_000, 60_000, 100_000])
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_evaluation_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    folder: Path, disk: Path, left: int, ranks: int
) -> None:
    arguments = evaluate(disk, *(PAIR if ranks == 2 else ()))
    arguments = tuple(argument.replace(str(disk.parent / "runs"), str(folder / "runs")) for argument in arguments)
    filler = fill(disk, left)
    said = sentence(folder, "evaluate.py", *arguments)
    assert "no space left on device" in said and str(disk) in said and "run the same command again" in said
    kept = sum(map(len, finished(disk / "small" / "evaluate").values()))
    filler.unlink()
    run(folder, "evaluate.py", *arguments)
    expected, records = read_records(folder / "whole/small/evaluate"), read_records(disk / "small/evaluate")
    logger.info("%d bytes on %d: %d of %d records were kept", left, ranks, kept, len(expected))
    assert not list(differences(expected, records, 1e-6 if ranks == 2 else 0.0))


@pytest.mark.parametrize("left", [0, 10_000, 1_000_000, 25_000_000])
def test_a_training_on_a_full_disk_says_so(folder: Path, disk: Path, left: int) -> None:
    filler = fill(disk, left)
    arguments = ("fit", "-c", "small.yaml", "--runs", str(disk))
    said = sentence(folder, "train.py", *arguments)
    assert "no space left on device" in said and str(disk) in said and "run the same command again" in said
    filler.unlink()
    run(folder, "train.py", *arguments)


def test_phantoms_on_a_full_disk_say_so_and_leave_nothing(folder: Path, disk: Path) -> None:
    filler = fill(disk, 50_000)
    arguments = ("fit", "-c", "small.yaml", "--data.root", str(disk / "set"), "--runs", str(folder / "elsewhere"))
    assert "no space left on device" in sentence(folder, "train.py", *arguments)
    assert list(disk.iterdir()) == [filler]


def test_a_read_only_file_system_is_named(folder: Path, disk: Path) -> None:
    shutil.copytree(folder / "runs", disk / "runs")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for program, arguments in (
        ("train.py", ("fit", "-c", "small.yaml", "--runs", str(disk / "new"))),
        ("evaluate.py", evaluate(disk / "runs")),
    ):
        said = sentence(folder, program, *arguments)
        assert str(disk) in said and "read-only" in said


def test_a_name_that_is_too_long_is_told(folder: Path) -> None:
    for option in ("--runs", "--data.root"):
        said = sentence(folder, "train.py", "fit", "-c", "small.yaml", option, "x" * 300)
        assert "too long" in said and len(said) < 300
