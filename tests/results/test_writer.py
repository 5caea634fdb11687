"""The one writer of a folder: who is refused, and whose lock is taken over."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medrobust.results.writer import LOCK, STALE, Writer

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from medrobust.results.writer import Writer
Writer(sys.argv[1], "an evaluation").take()
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == "taken\n"
    yield process
    process.kill()
    process.communicate()


def forge(folder: Path, age: float = 0.0, **changes: object) -> Path:
    """A lock of another process, touched some seconds ago."""
    about = {
        "host": "elsewhere",
        "process": 4321,
        "since": "2026-01-02T03:04:05Z",
        "what": "an evaluation",
        "token": "x",
    }
    path = folder / LOCK
    path.write_text(json.dumps({**about, **changes}))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_a_folder_has_one_writer_at_a_time_and_none_after_it(tmp_path: Path) -> None:
    with Writer(tmp_path / "new", "a training") as writer:
        about = json.loads(writer.path.read_text())
        assert (about["host"], about["process"], about["what"]) == (socket.gethostname(), os.getpid(), "a training")
        again = Writer(tmp_path / "new", "a training").take()  # the same process may
        again.release()
        assert writer.path.is_file()
    assert not list((tmp_path / "new").iterdir())


def test_a_second_process_is_refused_with_host_process_and_time(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    since = json.loads((tmp_path / LOCK).read_text())["since"]
    with pytest.raises(ValueError) as refused:
        Writer(tmp_path, "an evaluation").take()
    assert f"process {holder.pid} on {socket.gethostname()} since {since}" in str(refused.value)
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("waited_for", [True, False])
def test_what_a_killed_process_left_is_taken_over_with_a_sentence(
    tmp_path: Path, holder: subprocess.Popen[str], caplog: pytest.LogCaptureFixture, waited_for: bool
) -> None:
    holder.kill()
    if waited_for:
        holder.wait()
    else:  # it stays in the list of processes until then
        time.sleep(0.5)
    with caplog.at_level(logging.WARNING), Writer(tmp_path, "an evaluation"):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    assert len(caplog.messages) == 1 and f"process {holder.pid} on" in caplog.messages[0]
    assert "this one takes over" in caplog.messages[0]
    assert not list(tmp_path.iterdir())


def test_a_later_process_of_the_same_number_is_not_taken_for_the_one_that_has_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = Writer(tmp_path, "an evaluation").take()
    about = json.loads(here.path.read_text())
    here.release()
    if not about["started"]:
        pytest.skip("when a process was started is read from /proc")
    forge(tmp_path, **{**about, "started": "1", "token": "x"})
    with caplog.at_level(logging.WARNING), Writer(tmp_path, "an evaluation") as writer:
        assert json.loads(writer.path.read_text()) | {"token": "", "since": ""} == about | {"token": "", "since": ""}
    assert len(caplog.messages) == 1 and "this one takes over" in caplog.messages[0]


def test_another_machines_lock_counts_until_it_has_not_been_touched_for_long(tmp_path: Path) -> None:
    forge(tmp_path, age=STALE - 60)
    with pytest.raises(ValueError, match="process 4321 on elsewhere since 2026-01-02T03:04:05Z.*after 5 minutes"):
        Writer(tmp_path, "an evaluation").take()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    forge(tmp_path, age=STALE + 60)
    with Writer(tmp_path, "an evaluation"):
        assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_a_lock_is_touched_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medrobust.results.writer.TOUCHED", 0.05)
    with Writer(tmp_path, "a training") as writer:
        os.utime(writer.path, (0, 0))
        time.sleep(0.5)
        assert writer.path.stat().st_mtime > 1e9


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00\x01", '{"process": 1}'])
def test_a_damaged_lock_counts_until_it_has_not_been_touched_for_long(tmp_path: Path, content: str) -> None:
    path = forge(tmp_path)
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"{LOCK} is damaged: .* delete it if nobody is writing there") as refused:
        Writer(tmp_path, "an evaluation").take()
    assert "None" not in str(refused.value) and path.read_text() == content
    path.write_text(content)
    os.utime(path, (time.time() - STALE - 60,) * 2)
    with Writer(tmp_path, "an evaluation"):
        pass


@pytest.mark.parametrize("age", [0.0, STALE + 60])
def test_a_folder_in_the_place_of_a_lock_is_left_alone(tmp_path: Path, age: float) -> None:
    path = tmp_path / LOCK
    (path / "inside").mkdir(parents=True)
    os.utime(path, (time.time() - age,) * 2)
    with pytest.raises(ValueError, match=rf"{LOCK} is damaged: .*got a folder; delete it if nobody is writing there"):
        Writer(tmp_path, "an evaluation").take()
    assert [one.name for one in tmp_path.rglob("*")] == [LOCK, "inside"]


def test_of_many_processes_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    forge(tmp_path, age=STALE + 60)
    script = (
        "import sys, time\nfrom medrobust.results.writer import Writer\n"
        "while time.time() < float(sys.argv[2]): pass\n"
        "try:\n    Writer(sys.argv[1], 'an evaluation').take()\n    print('taken', flush=True)\n    time.sleep(8)\n"
        "except ValueError as error: print('refused')\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(time.time() + 4)]
    processes = [subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) for _ in range(6)]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in processes)
    assert said == ["refused"] * 5 + ["taken"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as refused:
        Writer(tmp_path / "file" / "run", "a training").take()
    assert "file" in str(refused.value.filename)
