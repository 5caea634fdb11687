"""Training and evaluation stopped at random moments, resumed, and compared with runs that nobody stopped."""

import logging
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from medrobust.results.records import read_records
from medrobust.results.same_records import differences
from tests.programs import PAIR, end, evaluate, members, run, start, train

MOMENTS = int(os.environ.get("MEDROBUST_MOMENTS", "20"))
SEED = int(os.environ.get("MEDROBUST_SEED", "10"))
logger = logging.getLogger(__name__)
pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(3 * 3600)]


@dataclass(frozen=True)
class Moment:
    """When a run is stopped, and how.

    Args:
        place: Share of the duration of an undisturbed run that has passed.
        number: The signal.
        victim: Rank of the process that gets it; None for all.
    """

    place: float
    number: signal.Signals
    victim: int | None

    def __str__(self) -> str:
        whom = "all processes" if self.victim is None else f"process {self.victim}"
        return f"{self.number.name} to {whom} at {self.place:.2f}"

    def strike(self, session: int) -> bool:
        """Send the signal, if that process is there."""
        processes = members(session)
        if not processes:
            return False
        if self.victim is None or self.victim >= len(processes):
            os.killpg(session, self.number)
        else:
            os.kill(processes[self.victim], self.number)
        return True


def moments(what: str, ranks: int) -> list[Moment]:
    """Moments spread over start, middle and end, one in each stretch of equal length; half of them SIGKILL."""
    draw = random.Random(f"{SEED}/{what}/{ranks}")
    numbers = [signal.SIGTERM, signal.SIGKILL]
    victims = [0, None] if ranks == 1 else [0, 1, None]
    return [
        Moment((stretch + draw.random()) / MOMENTS, numbers[stretch % 2], draw.choice(victims))
        for stretch in range(MOMENTS)
    ]


def longer(runs: Path, *more: str) -> tuple[str, ...]:
    """Arguments of a training of three epochs."""
    return ("fit", "-c", "small.yaml", "--runs", str(runs), "--trainer.max_epochs", "3", *more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned victim, with the data and the configurations."""
    folder = tmp_path_factory.mktemp("faults")
    train(folder)
    return folder


def stopped(folder: Path, moment: Moment, after: float, program: str, *arguments: str) -> tuple[int, str] | None:
    """Start a program and stop it after so many seconds; None if it had ended by itself."""
    process = start(folder, program, *arguments)
    time.sleep(after)
    if process.poll() is not None or not moment.strike(process.pid):
        status, printed = end(process)
        assert status == 0, printed
        return None
    struck = time.monotonic()
    ended = end(process, seconds=90)
    assert time.monotonic() - struck < 60, "the other processes went on for more than a minute"
    return ended


def check_ending(moment: Moment, status: int, printed: str) -> None:
    """The status is true, there is at most one sentence, and no traceback."""
    said = [line for line in printed.splitlines() if "stopped by SIG" in line or "was killed" in line]
    assert "Traceback" not in printed, printed
    assert len(said) <= 1, printed
    if moment.number == signal.SIGTERM and status != 0:  # 0: all was done when it came
        assert status == 143 or status == -signal.SIGTERM and not said, printed  # before Python could hear it
        assert status != 143 or said and "run the same command again" in said[0], printed
    if moment.number == signal.SIGKILL:
        assert status != 0 or not said, printed


@pytest.mark.parametrize("ranks", [1, 2])
def test_evaluations_stopped_at_any_moment_are_completed_by_the_same_command(folder: Path, ranks: int) -> None:
    more = PAIR if ranks == 2 else ()
    whole = folder / f"whole-{ranks}"
    begun = time.monotonic()
    run(folder, "evaluate.py", *evaluate(whole, *more))
    duration = time.monotonic() - begun
    expected = read_records(whole / "small" / "evaluate")
    for place, moment in enumerate(moments("evaluation", ranks)):
        logger.info("evaluation on %d: %s of %.0f s", ranks, moment, duration)
        runs = folder / f"evaluation-{ranks}-{place}"
        arguments = evaluate(runs, *more)
        if ended := stopped(folder, moment, moment.place * duration, "evaluate.py", *arguments):
            check_ending(moment, *ended)
            run(folder, "evaluate.py", *arguments)
        records = read_records(runs / "small" / "evaluate")
        assert not list(differences(expected, records)) and records.columns == expected.columns, moment
        assert (runs / "small/evaluate/report.html").is_file()
        left = {path.name for path in (runs / "small/evaluate").iterdir()}
        assert "writer.lock" not in left, moment
        shutil.rmtree(runs)


@pytest.mark.parametrize("ranks", [1, 2])
def test_trainings_stopped_at_any_moment_go_on_from_their_last_epoch(folder: Path, ranks: int) -> None:
    more = PAIR if ranks == 2 else ()
    whole = folder / f"trained-{ranks}"
    begun = time.monotonic()
    run(folder, "train.py", *longer(whole, *more))
    duration = time.monotonic() - begun
    expected = weights(whole)
    assert set(expected) == {"best", "last"}
    for place, moment in enumerate(moments("training", ranks)):
        logger.info("training on %d: %s of %.0f s", ranks, moment, duration)
        runs = folder / f"training-{ranks}-{place}"
        if ended := stopped(folder, moment, moment.place * duration, "train.py", *longer(runs, *more)):
            check_ending(moment, *ended)
            last = (runs / "small/checkpoints/last.ckpt").is_file()
            run(folder, "train.py", *longer(runs, *more, *(("--ckpt_path", "last") if last else ())))
        found = weights(runs)
        for name, tensors in expected.items():
            for key, tensor in tensors.items():
                assert torch.equal(tensor, found[name][key]), (moment, name, key)
        shutil.rmtree(runs)


def weights(runs: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a run's checkpoints."""
    paths = sorted((runs / "small" / "checkpoints").iterdir())
    return {path.stem: torch.load(path, map_location="cpu", weights_only=True)["state_dict"] for path in paths}
