"""Measures attacks on classifiers against their floor and four libraries, in time, success and norm: ``make bench``."""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.classification_contenders import (
    THETA,
    Contest,
    Subject,
    few_pixels,
    full_budgets,
    libraries,
    nearest_boundary,
    small_norms,
    worst_cases,
)
from benchmarks.classification_tables import render
from benchmarks.sign_gradient import (
    DOCUMENTATION,
    LIBRARIES,
    RESULTS,
    against,
    answers,
    described,
    interleave,
    store,
    timed,
)
from benchmarks.tables import write_documentation
from benchmarks.trained_victims import textures, trained_classifier
from medrobust.attacks import JSMA, Crafted

PEERS = (*LIBRARIES, "adversarial-robustness-toolbox", "adv-lib")
OURS = ("floor", "ours")


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        batch: Number of images; a quarter of it for the search of CW-L2, half for the worst cases.
        side: Their height and width.
        training: Training steps of the network.
        steps: Steps of CW-L2; the other attacks take half as many.
        queries: Queries of Square in the worst case at 1/255.
        sides: Sides at which the memory of JSMA is measured.
        rounds: Default number of rounds, in each of which everything is measured once.
        limit: Seconds after which a peer is stopped and left out.
        slow: Seconds above which a peer is measured only once instead of in every round.
    """

    batch: int = 32
    side: int = 64
    training: int = 150
    steps: int = 20
    queries: int = 100
    sides: tuple[int, ...] = (56, 112, 224)
    rounds: int = 4
    limit: float = 40.0
    slow: float = 6.0


QUICK = Size(8, 32, 20, 4, 10, (32, 64), 1, 3.0, 1.0)


class FirstClasses(nn.Module):
    """A network's logits of its first classes only, since medical classifiers have few classes.

    Args:
        network: Maps images to logits.
        classes: Number of classes to keep.
    """

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network, self.classes = network, classes

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, classes)``."""
        logits: Tensor = self.network(images)[:, : self.classes]
        return logits


class OutOfTimeError(Exception):
    """A peer has exceeded its time limit."""


@dataclass
class Passes:
    """Images that went through a network forwards and backwards."""

    forwards: int = 0
    backwards: int = 0


@contextmanager
def watched(network: nn.Module, limit: float) -> Iterator[Passes]:
    """Count the images that pass through a network, and stop whoever uses it for longer than ``limit`` seconds."""
    passes, end = Passes(), time.perf_counter() + limit

    def forward(module: nn.Module, inputs: Any, outputs: Tensor) -> None:
        """Count a forward pass, and register the count of its backward pass."""
        if time.perf_counter() > end:
            raise OutOfTimeError(f"did not finish in {limit:.0f} s")
        number = len(outputs)
        passes.forwards += number

        def backward(gradient: Tensor) -> None:
            passes.backwards += number

        if outputs.requires_grad:
            outputs.register_hook(backward)

    handle = network.register_forward_hook(forward)
    try:
        yield passes
    finally:
        handle.remove()


@dataclass(frozen=True)
class Tried:
    """First run of a contender: it warms up, counts passes and shows whether the contender runs at all."""

    seconds: float
    made: Tensor | Crafted
    passes: Passes


def first_run(contest: Contest, key: str, limit: float, device: torch.device) -> Tried | str:
    """Run a contender once; return the reason instead if it is a peer that fails or takes too long."""
    if key in OURS:
        return Tried(*timed(contest.runs[key], 1, device), Passes())
    try:
        with watched(contest.network, limit) as passes:
            seconds, made = timed(contest.runs[key], 1, device)
    except Exception as error:  # a failing peer must not keep the others from being measured
        reason = str(error) if isinstance(error, OutOfTimeError) else f"failed: {type(error).__name__}"
        print(f"{contest.method} by {key} is left out: {error!r}", flush=True)
        return reason
    return Tried(seconds, made, passes)


def measure(contests: list[Contest], size: Size, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Measure all contenders of all contests, each compared with the floor of the same round and contest."""
    tried: dict[tuple[str, str], Tried | str] = {}
    regular = []
    for contest in contests:
        begun, kept = time.perf_counter(), dict(contest.runs)
        for key in contest.runs:
            outcome = tried[contest.method, key] = first_run(contest, key, size.limit, device)
            if isinstance(outcome, str) or (key not in OURS and outcome.seconds > size.slow):
                del kept[key]
        regular.append(replace(contest, runs=kept))
        print(f"{contest.method}: tried in {time.perf_counter() - begun:.0f} s", flush=True)
    seconds, made = interleave(regular, rounds, device, "classification")
    rows = []
    for contest in contests:
        floors = [spent / contest.steps * contest.unit for spent in seconds[contest.method]["floor"]]
        for key in contest.runs:
            outcome, row = tried[contest.method, key], {"method": contest.method, "contender": key}
            if isinstance(outcome, str):
                rows.append(row | {"left_out": outcome})
                continue
            once = key not in seconds[contest.method]
            spent = [outcome.seconds] if once else seconds[contest.method][key]
            row |= against(spent, [statistics.median(floors)] if once else floors) | {"once": once}
            if key != "floor":
                row |= weighed(contest, outcome.made if once else made[contest.method][key], outcome.passes)
            rows.append(row)
    return rows


def weighed(contest: Contest, made: Tensor | Crafted, passes: Passes) -> dict[str, Any]:
    """Success, median norm of the images that succeeded, and passes per image."""
    images = made.images if isinstance(made, Crafted) else made
    wrong = answers(contest.network, made) != contest.targets
    success = ~wrong if contest.targeted else wrong
    row: dict[str, Any] = {"success": float(success.float().mean())}
    change = (images - contest.images).flatten(1)[success]
    if contest.norm != "none" and len(change):
        norms = change.norm(dim=1) if contest.norm == "l2" else (change != 0).sum(1).float()
        row["norm"] = statistics.median(norms.tolist())
    for name in ("forwards", "backwards"):
        is_ours = isinstance(made, Crafted)
        row[name] = float(getattr(made, name).double().mean()) if is_ours else getattr(passes, name) / len(images)
    return row


def peak(run: Callable[[], Any], device: torch.device) -> int:
    """Peak number of bytes that a run holds in tensors, beyond those that existed before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    held = largest = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        largest = max(largest, held)
    return largest


def memory(network: nn.Module, side: int, device: torch.device) -> dict[str, Any]:
    """Memory and time of three steps of our JSMA on one image, next to the memory of a floor step."""
    images, classes = (tensor.to(device) for tensor in textures(1, side, seed=0))
    subject = Subject(network, images, classes, {})
    goals = (answers(network, images) + 1) % subject.classes
    attack = JSMA(targeted=True, step_size=THETA, changes=1, direction="increase", steps=3)
    (run,), (least,) = subject.ours(attack, goals).values(), subject.floor(1).values()
    seconds, _ = timed(run, 1, device)
    row = {"side": side, "values": images[0].numel(), "seconds": seconds}
    return row | {"bytes": peak(run, device), "floor": peak(least, device)}


def main() -> None:
    """Read the command line, measure, store and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, help="default 4, quick 1")
    parser.add_argument("--quick", action="store_true", help="a short trial with small sizes that stores nothing")
    parser.add_argument("--tables", action="store_true", help="measure nothing; only rewrite the documentation")
    arguments = parser.parse_args()
    if arguments.tables:
        write_documentation(DOCUMENTATION, RESULTS, "classification", render)
        return
    device, size = torch.device(arguments.device), QUICK if arguments.quick else Size()
    torch.backends.cudnn.benchmark = False  # shapes change when images leave the batch
    load = os.getloadavg()[0]
    network = trained_classifier("resnet18", size.side, size.training).requires_grad_(False).to(device)
    found = libraries()

    def subject(attacked: nn.Module, number: int, side: int, classes: int = 10) -> Subject:
        """The first images of the first classes, with the network's own predictions as targets."""
        images, truths = (tensor.to(device) for tensor in textures(10 * number, side, seed=0))
        images = images[truths < classes][:number]
        return Subject(attacked, images, answers(attacked, images), found)

    main_one = subject(network, size.batch, size.side)
    contests = [
        *small_norms(main_one, main_one.first(size.batch // 4), size.steps, 5),
        nearest_boundary(main_one, size.steps // 2),
        nearest_boundary(subject(FirstClasses(network, 2).eval(), size.batch, size.side, 2), size.steps // 2),
        few_pixels(subject(network, 4, size.side // 2)),
        *full_budgets(main_one, size.steps // 2),
        *worst_cases(main_one.first(size.batch // 2), size.steps // 4, size.queries),
    ]
    rounds = arguments.rounds or size.rounds
    rows = measure(contests, size, rounds, device)
    result = described("classification", device, PEERS, load) | {
        "rounds": rounds,
        "contests": [
            {"method": one.method, "images": list(one.images.shape), "unit": one.unit, "norm": one.norm}
            | {"about": one.about, "rows": [row for row in rows if row["method"] == one.method]}
            for one in contests
        ],
        "memory": [memory(network, side, device) for side in size.sides],
    }
    print(render(result))
    if not arguments.quick:
        store(result)
        write_documentation(DOCUMENTATION, RESULTS, "classification", render)


if __name__ == "__main__":
    main()
