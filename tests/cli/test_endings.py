"""How commands end: exit status, one sentence, and no process left behind; with programs that take no time to start."""

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.ranks import FirstProcess, OtherProcess
from tests.programs import ROOT, hear_all_signals

SHORT = """
import os, subprocess, sys, time, types
package = types.ModuleType("cli")  # without the imports of cli.main, which take seconds
package.__path__ = [{cli!r}]
sys.modules["cli"] = package
from cli import endings
from cli.endings import Ending
from cli.ranks import ADDRESS
endings.GRACE, endings.LAST = 1.0, 3.0
rank, ranks = int(os.environ.get("LOCAL_RANK", "0")), {ranks}
def deaf():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
with Ending() as ending:
    ending.kept = lambda: "7 of 9 records are kept; run the same command again"
    ending.release = lambda: open("released", "a").write(str(rank))
    children = []
    if ranks > 1 and rank == 0:
        os.environ[ADDRESS] = ending.launch(ranks, lambda: children)
        for other in range(1, ranks):
            environment = {{**os.environ, "LOCAL_RANK": str(other)}}
            children.append(subprocess.Popen([sys.executable, __file__], env=environment))
    ending.rank, ending.ranks = rank, ranks
    open(f"pid-{{rank}}.part", "w").write(str(os.getpid()))
    os.rename(f"pid-{{rank}}.part", f"pid-{{rank}}")
    while not all(os.path.exists(f"pid-{{other}}") for other in range(ranks)):
        time.sleep(0.01)
    {body}
"""


class Run:
    """A short program in a folder of its own, and the processes that it has started."""

    def __init__(self, folder: Path, body: str, ranks: int = 1) -> None:
        (folder / "short.py").write_text(SHORT.format(cli=str(ROOT / "cli"), ranks=ranks, body=body))
        self.folder, self.ranks = folder, ranks
        environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
        self.process = subprocess.Popen(
            [sys.executable, str(folder / "short.py")],
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=hear_all_signals,
        )

    def pid(self, rank: int) -> int:
        """Number of a process, once all of them are there."""
        deadline = time.monotonic() + 20
        while not all((self.folder / f"pid-{other}").exists() for other in range(self.ranks)):
            assert time.monotonic() < deadline and self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)
        time.sleep(0.2)
        return int((self.folder / f"pid-{rank}").read_text())

    def end(self) -> tuple[int, list[str]]:
        """Exit status and the lines on standard error, once no process is left."""
        printed = self.process.communicate(timeout=30)[1]
        deadline = time.monotonic() + 10
        while any(runs(int(path.read_text())) for path in self.folder.glob("pid-?")):
            assert time.monotonic() < deadline, "a process was left behind"
            time.sleep(0.05)
        return self.process.returncode, printed.splitlines()


def runs(pid: int) -> bool:
    """Whether a process runs, and is not merely one that nobody has asked about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture(autouse=True)
def _needs_proc() -> Iterator[None]:
    if not Path("/proc/self/stat").exists():
        pytest.skip("whether a process runs is read from /proc")
    yield


SIGNALLED = [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
KEPT = "7 of 9 records are kept; run the same command again"


@pytest.mark.parametrize(("number", "status"), SIGNALLED)
@pytest.mark.parametrize("body", ["time.sleep(60)", "deaf()"])
def test_a_signal_ends_a_command_with_its_own_status_and_what_is_kept(
    tmp_path: Path, number: signal.Signals, status: int, body: str
) -> None:
    run = Run(tmp_path, body)
    os.kill(run.pid(0), number)
    assert run.end() == (status, [f"stopped by {number.name}: {KEPT}"])
    assert (tmp_path / "released").exists()


def test_a_second_interrupt_does_not_wait(tmp_path: Path) -> None:
    run = Run(tmp_path, "endings.GRACE = 60; deaf()")
    pid = run.pid(0)
    for _ in range(2):
        os.kill(pid, signal.SIGINT)
        time.sleep(0.3)
    assert run.end() == (130, [f"stopped by SIGINT: {KEPT}"])


@pytest.mark.parametrize(
    ("body", "status", "lines"),
    [
        ("pass", 0, []),
        ("ending.fail(2, 'error: no such file')", 2, ["error: no such file"]),
        ("ending.fail(1, 'error: no space left', kept=True)", 1, [f"error: no space left; {KEPT}"]),
        ("ending.fail(2, 'error: a\\x1b[2Jb\\nc')", 2, ["error: a\\x1b[2Jb\\nc"]),
        ("sys.exit(2)", 2, []),
        ("sys.exit()", 0, []),
    ],
)
def test_a_command_that_ends_by_itself_says_how(tmp_path: Path, body: str, status: int, lines: list[str]) -> None:
    assert Run(tmp_path, body).end() == (status, lines)


def test_an_interrupt_that_a_library_has_taken_is_one_like_any_other(tmp_path: Path) -> None:
    """Polars takes SIGINT while it computes, and raises then."""
    assert Run(tmp_path, "raise KeyboardInterrupt").end() == (130, [f"stopped by SIGINT: {KEPT}"])


def test_an_interrupt_while_it_is_counted_what_is_kept_is_none_of_its_own(tmp_path: Path) -> None:
    kept = "def kept():\n        raise KeyboardInterrupt\n    ending.kept = kept\n    "
    body = f"{kept}ending.fail(1, 'error: full', kept=True)"
    assert Run(tmp_path, body).end() == (1, ["error: full; run the same command again"])


def test_an_unforeseen_error_keeps_its_traceback(tmp_path: Path) -> None:
    status, lines = Run(tmp_path, "raise KeyError('x')").end()
    assert (status, lines[0], lines[-1]) == (1, "Traceback (most recent call last):", "KeyError: 'x'")


@pytest.mark.parametrize("body", ["time.sleep(60)", "deaf()"])
@pytest.mark.parametrize(
    ("rank", "number", "status", "lines"),
    [
        (0, signal.SIGTERM, 143, [f"stopped by SIGTERM: {KEPT}"]),
        (1, signal.SIGTERM, 143, [f"rank 1 of 3 was stopped by SIGTERM: {KEPT}"]),
        (2, signal.SIGINT, 130, [f"rank 2 of 3 was stopped by SIGINT: {KEPT}"]),
        (2, signal.SIGKILL, 137, [f"rank 2 of 3 was killed by SIGKILL: {KEPT}"]),
        (0, signal.SIGKILL, -9, [f"rank 0 of 3 was killed: {KEPT}"]),
    ],
)
def test_the_end_of_one_process_ends_all_and_one_of_them_says_why(
    tmp_path: Path, rank: int, number: signal.Signals, status: int, lines: list[str], body: str
) -> None:
    run = Run(tmp_path, body, ranks=3)
    os.kill(run.pid(rank), number)
    assert run.end() == (status, lines)


def test_an_interrupt_of_all_processes_is_said_once(tmp_path: Path) -> None:
    run = Run(tmp_path, "time.sleep(60)", ranks=3)
    run.pid(0)
    os.killpg(run.process.pid, signal.SIGINT)
    status, lines = run.end()
    assert status == 130 and len(lines) == 1 and lines[0].endswith(f"stopped by SIGINT: {KEPT}")


@pytest.mark.parametrize(
    "others", ["time.sleep(60)", "deaf()", "time.sleep(0.2); raise RuntimeError('lost the others')"]
)
def test_a_mistake_that_one_process_finds_ends_all_with_its_sentence(tmp_path: Path, others: str) -> None:
    body = f"""if rank == 1:
        ending.fail(2, "error: images/a.png is damaged")
    {others}"""
    assert Run(tmp_path, body, ranks=3).end() == (2, ["error: images/a.png is damaged"])


def test_a_mistake_that_all_processes_find_is_said_once(tmp_path: Path) -> None:
    assert Run(tmp_path, "ending.fail(2, 'error: no images')", ranks=3).end() == (2, ["error: no images"])


def test_an_unforeseen_error_of_one_process_ends_all_with_one_traceback(tmp_path: Path) -> None:
    body = """if rank == 2:
        raise KeyError("x")
    deaf()"""
    status, lines = Run(tmp_path, body, ranks=3).end()
    assert status == 1 and sum("Traceback" in line for line in lines) == 1 and lines[-1] == "KeyError: 'x'"


def test_processes_that_are_through_wait_for_nobody_and_say_nothing(tmp_path: Path) -> None:
    assert Run(tmp_path, "time.sleep(0.3 * rank)", ranks=3).end() == (0, [])


@pytest.mark.parametrize(("status", "what"), [(5, "ended with status 5"), (143, "was stopped by SIGTERM")])
def test_a_process_that_ends_before_it_is_tied_ends_the_first_one(tmp_path: Path, status: int, what: str) -> None:
    body = f"""children.append(subprocess.Popen([sys.executable, "-c", "raise SystemExit({status})"]))
    ending.launch(2, lambda: children)
    deaf()"""
    assert Run(tmp_path, body).end() == (status, [f"rank 1 of 2 {what}: {KEPT}"])


def test_a_signal_while_modules_are_imported_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        SHORT.partition("endings.GRACE")[0].format(cli=str(ROOT / "cli"))
        + "with endings.while_importing():\n    print('now', flush=True)\n    time.sleep(30)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "slow.py"], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == "now\n"
    process.terminate()
    assert process.communicate(timeout=10)[1] == "stopped by SIGTERM: nothing was begun; run the same command again\n"
    assert process.returncode == 143


def test_a_process_that_comes_after_the_end_hears_of_it():
    heard: queue.Queue[tuple[int, object]] = queue.Queue()
    first = FirstProcess(lambda rank, message: heard.put((rank, message)))
    first.tell({"status": 143})
    OtherProcess(first.address(), 1, lambda rank, message: heard.put((rank, message)))
    assert heard.get(timeout=20) == (0, {"status": 143})
