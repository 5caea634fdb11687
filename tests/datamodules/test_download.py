"""Downloads: whole or not there, whatever happens on the way."""

import fcntl
import hashlib
import io
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.download import DownloadError, fetch, unpack_folder
from tests.serving import Shelf, serving

CONTENT = bytes(range(256)) * 40  # 10,240 bytes
MD5 = hashlib.md5(CONTENT).hexdigest()
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    with serving(Shelf(files={"/set.bin": CONTENT})) as one:
        yield one


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_once(tmp_path: Path, shelf: Shelf) -> None:
    seen: list[tuple[int, int | None]] = []
    for _ in range(2):
        fetch(f"{shelf.address}/set.bin", tmp_path / "a/set.bin", MD5, lambda *numbers: seen.append(numbers))
    assert (tmp_path / "a/set.bin").read_bytes() == CONTENT and names(tmp_path / "a") == ["set.bin"]
    assert seen[-1] == (10240, 10240) and len(shelf.asked) == 1


def test_a_connection_that_breaks_off_is_resumed(tmp_path: Path, shelf: Shelf) -> None:
    shelf.break_after = [3000, 2000]
    fetch(f"{shelf.address}/set.bin", tmp_path / "set.bin", MD5)
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in shelf.asked] == [None, "bytes=3000-", "bytes=5000-"]


def test_a_truncated_download_is_kept_aside_and_never_taken_for_the_whole(tmp_path: Path, shelf: Shelf) -> None:
    shelf.break_after = [4000, 0]
    with pytest.raises(DownloadError, match=r"set.bin could not be downloaded: .* first 4,000 bytes are kept"):
        fetch(f"{shelf.address}/set.bin", tmp_path / "set.bin", MD5)
    assert names(tmp_path) == [".set.bin.part"]
    fetch(f"{shelf.address}/set.bin", tmp_path / "set.bin", MD5)
    assert shelf.asked[-1][1] == "bytes=4000-" and names(tmp_path) == ["set.bin"]


def test_a_server_without_ranges_sends_all_again(tmp_path: Path, shelf: Shelf) -> None:
    shelf.ranges, shelf.break_after = False, [4000]
    fetch(f"{shelf.address}/set.bin", tmp_path / "set.bin", MD5)
    assert (tmp_path / "set.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"x" * 4000, b"x" * 10240, CONTENT + b"x"])
def test_what_another_file_has_left_is_replaced(tmp_path: Path, shelf: Shelf, left: bytes) -> None:
    (tmp_path / ".set.bin.part").write_bytes(left)
    fetch(f"{shelf.address}/set.bin", tmp_path / "set.bin", MD5)
    assert (tmp_path / "set.bin").read_bytes() == CONTENT and names(tmp_path) == ["set.bin"]


def test_a_wrong_checksum_leaves_nothing(tmp_path: Path, shelf: Shelf) -> None:
    shelf.files["/set.bin"] = CONTENT[::-1]
    found = hashlib.md5(CONTENT[::-1]).hexdigest()
    with pytest.raises(DownloadError, match=f"expected the MD5 checksum {MD5}, got {found}; nothing of it is kept"):
        fetch(f"{shelf.address}/set.bin", tmp_path / "set.bin", MD5)
    assert names(tmp_path) == []


def test_a_file_with_another_checksum_is_left_alone(tmp_path: Path, shelf: Shelf) -> None:
    (tmp_path / "set.bin").write_bytes(b"mine")
    with pytest.raises(DownloadError, match="got .*; move the file away"):
        fetch(f"{shelf.address}/set.bin", tmp_path / "set.bin", MD5)
    assert (tmp_path / "set.bin").read_bytes() == b"mine" and not shelf.asked


def test_no_network_and_no_such_file(tmp_path: Path, shelf: Shelf) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/set.bin"
        with pytest.raises(DownloadError, match=r"set.bin could not be downloaded: 127.0.0.1 cannot be reached"):
            fetch(address, tmp_path / "set.bin", MD5)
    with pytest.raises(DownloadError, match="127.0.0.1 answers 404 Not Found"):
        fetch(f"{shelf.address}/other.bin", tmp_path / "set.bin", MD5)
    with pytest.raises(ValueError, match="expected an address that begins with https"):
        fetch("file:///etc/hostname", tmp_path / "set.bin", MD5)
    assert names(tmp_path) == []


def test_two_processes_do_not_write_the_same_file(tmp_path: Path, shelf: Shelf) -> None:
    with (tmp_path / ".set.bin.part").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="set.bin is being downloaded by another process"):
            fetch(f"{shelf.address}/set.bin", tmp_path / "set.bin", MD5)
    assert not shelf.asked


@pytest.mark.processes
def test_a_killed_download_goes_on_where_it_was(tmp_path: Path, shelf: Shelf) -> None:
    shelf.slow = 0.2
    program = (
        "import sys, types; from pathlib import Path; package = types.ModuleType('datamodules'); "  # without Lightning
        f"package.__path__ = [{str(ROOT / 'datamodules')!r}]; sys.modules['datamodules'] = package; "
        f"from datamodules.download import fetch; fetch({shelf.address + '/set.bin'!r}, "
        f"Path({str(tmp_path / 'set.bin')!r}), {MD5!r})"
    )
    child = subprocess.Popen([sys.executable, "-c", program])
    part = tmp_path / ".set.bin.part"
    while child.poll() is None and not (part.exists() and part.stat().st_size):
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    there = part.stat().st_size
    assert 0 < there < len(CONTENT) and names(tmp_path) == [".set.bin.part"]
    shelf.slow = 0
    fetch(f"{shelf.address}/set.bin", tmp_path / "set.bin", MD5)
    assert shelf.asked[-1][1] == f"bytes={there}-"
    assert (tmp_path / "set.bin").read_bytes() == CONTENT and names(tmp_path) == ["set.bin"]


def archive_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_an_archive_is_unpacked_as_a_whole(tmp_path: Path) -> None:
    members = {"one": hashlib.md5(b"1").hexdigest(), "two": hashlib.md5(b"2").hexdigest()}
    whole = archive_of(tmp_path / "whole.tar.gz", {"set/one": b"1", "set/two": b"2"})
    unpack_folder(whole, tmp_path / "out/set", members)
    assert (tmp_path / "out/set/two").read_bytes() == b"2" and names(tmp_path / "out") == ["set"]

    lacking = archive_of(tmp_path / "lacking.tar.gz", {"set/one": b"1"})
    other = archive_of(tmp_path / "other.tar.gz", {"set/one": b"1", "set/two": b"3"})
    outside = archive_of(tmp_path / "outside.tar.gz", {"set/one": b"1", "../two": b"2"})
    half = tmp_path / "half.tar.gz"
    half.write_bytes(whole.read_bytes()[:-60])
    for archive, words in (
        (lacking, "expected set/two in it, found no such file"),
        (other, "expected the MD5 checksum"),
        (outside, "cannot be read"),
        (half, "expected a complete tar archive"),
    ):
        with pytest.raises(DownloadError, match=words):
            unpack_folder(archive, tmp_path / "bad/set", members)
        assert names(tmp_path / "bad") == []
