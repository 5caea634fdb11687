"""The project's programs as processes of their own, on phantoms and a network so small that it takes seconds."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 23  # of adv_test below: divisible neither by 2 ranks nor by the batch size


def small_config(
    more: str = "",
    *,
    root: str = "phantom",
    patients: int = 100,
    side: int = 32,
    batch_size: int = 4,
    fractions: tuple[float, float, float, float] = (0.6, 0.1, 0.14, 0.16),
    normalisation: str = "",
    trainer: str = "max_epochs: 2, logger: false",
) -> str:
    """The configuration of a small victim of phantoms: what tests change, and what else they say.

    Args:
        more: Further sections.
        root: Folder of the phantoms.
        patients: Their number.
        side: Side of the images, in pixels.
        batch_size: Images in a batch.
        fractions: Shares of Train, Val, AdvTrain and AdvTest.
        normalisation: Mean and standard deviation, as ``mean: 0.4, std: 0.3``; the victim's own if empty.
        trainer: What is special about the trainer.
    """
    train, val, adv_train, adv_test = fractions
    return f"""
name: small
seed_everything: 7
model:
  class_path: Classifier
  init_args: {{backbone: resnet10t, channels: 1{normalisation and f", {normalisation}"}}}
data:
  class_path: PhantomChestXRay
  init_args:
    root: {root}
    patients: {patients}
    side: {side}
    image_size: {side}
    channels: 1
    batch_size: {batch_size}
    fractions: {{train: {train}, val: {val}, adv_train: {adv_train}, adv_test: {adv_test}}}
trainer: {{{trainer}, accelerator: cpu, devices: 1, enable_progress_bar: false}}
{more}"""


CONFIG = small_config(
    """quality: {download: false}
""",
)
ATTACKS = """
attack:
  attacks:
    fgsm: {class_path: FGSM}
    pgd: {class_path: PGD, init_args: {steps: 3, step_size: 1/255, stop_when_fooled: true}}
    dim: {class_path: DIM, init_args: {steps: 2}}
  epsilons: [1/255, 4/255]
"""
PAIR = ("--trainer.devices", "2", "--trainer.strategy", "ddp")


def hear_all_signals() -> None:
    """Undo what the tests themselves may have been started with: a shell's & or nohup switch signals off."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(folder: Path, program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program of the project in a folder and a session of its own, with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [sys.executable, str(ROOT / program), *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=hear_all_signals,
    )


def end(process: subprocess.Popen[str], seconds: float = 200) -> tuple[int, str]:
    """Wait for a program and all that it has started; exit status and what was printed."""
    try:
        printed, _ = process.communicate(timeout=seconds)
        deadline = time.monotonic() + 60
        while left := members(process.pid):
            assert time.monotonic() < deadline, f"processes {left} were left behind:\n{printed[-3000:]}"
            time.sleep(0.1)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        pytest.fail(f"the program hung:\n{printed[-3000:]}")
    return process.returncode, printed


def run(folder: Path, program: str, *arguments: str) -> str:
    """Run a program to its end and give what it printed."""
    status, printed = end(start(folder, program, *arguments))
    assert status == 0, printed[-3000:]
    return printed


@contextmanager
def one_thread() -> Iterator[None]:
    """What is computed in one thread, as in the processes that tests start: bits depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_here(folder: Path, program: str, *arguments: str) -> None:
    """Run a program's command line in this process, with one thread: without a start, whose imports take seconds."""
    import cli.main

    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", [program])
        cli.main.main("train" if program == "train.py" else "evaluate", list(arguments))


def train(folder: Path, *more: str) -> str:
    """Write the configurations into a folder, fine-tune a victim there, and give what was printed."""
    (folder / "small.yaml").write_text(CONFIG)
    (folder / "attacks.yaml").write_text(ATTACKS)
    return run(folder, "train.py", "fit", "-c", "small.yaml", *more)


def members(session: int) -> list[int]:
    """Processes of a session that run, in the order in which they were started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[3]) == session and words[0] not in "ZX":
            found.append((int(words[19]), int(path.parent.name)))
    return [process for _, process in sorted(found)]


def evaluate(runs: Path, *more: str) -> tuple[str, ...]:
    """Arguments of an evaluation whose run lies in ``runs``, so that several can share one checkpoint."""
    best = runs.parent / "runs" / "small" / "checkpoints" / "best.ckpt"
    configs = ("-c", "small.yaml", "-c", "attacks.yaml", "--runs", str(runs), "--ckpt_path", str(best))
    return ("test", *configs, "--data.limit", str(IMAGES), *more)
