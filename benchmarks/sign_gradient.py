"""Times the sign-gradient attacks against their floor and against torchattacks and foolbox: ``make bench``."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders import ALL_STEPS, Block, Run, Setting, build
from benchmarks.tables import render, write_documentation
from benchmarks.trained_victims import textures, trained_classifier
from medrobust.attacks import Crafted

RESULTS = Path(__file__).parent / "results"
DOCUMENTATION = Path(__file__).parent.parent / "docs" / "benchmarks.md"
LIBRARIES = ("torch", "torchvision", "timm", "torchattacks", "foolbox")


def settings(device: torch.device, quick: bool) -> dict[str, Setting]:
    """What is measured on each network; on a CPU, where a step of the large one takes a second, in fewer rounds."""
    if quick:
        steps = {"FGSM": 1, "PGD": 2}
        return {
            "resnet18": Setting("resnet18", 8, 64, 20, ALL_STEPS | {"BIM": 3, "PGD": 4, "MIM": 3}, rounds=2),
            "resnet50": Setting("resnet50", 1, 96, 10, steps, rounds=2),
        }
    return {
        "resnet18": Setting("resnet18", 32, 64, 150, ALL_STEPS, repeats=4),
        "resnet50": Setting("resnet50", 8, 224, 150, ALL_STEPS, repeats=4, rounds=5 if device.type == "cuda" else 3),
    }


def machine(device: torch.device) -> dict[str, Any]:
    """The hardware in words; nothing else about the machine."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    described = {"cpu": model, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        described |= {"gpu": torch.cuda.get_device_name(device), "cudnn_benchmark": torch.backends.cudnn.benchmark}
    return described


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Versions of Python and of the measured libraries."""
    found = {"python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def timed(run: Run, repeats: int, device: torch.device) -> tuple[float, Tensor | Crafted]:
    """Mean seconds of one run over the repeats, and its result."""
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        made = run()
    wait()
    return (time.perf_counter() - start) / repeats, made


def answers(network: nn.Module, made: Tensor | Crafted) -> Tensor:
    """Classes ``(N,)`` that the plain network gives the images in one float32 forward, the same for all contenders."""
    images = made.images if isinstance(made, Crafted) else made
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        return network(images).argmax(1)


def interleave(
    blocks: Sequence[Block], rounds: int, device: torch.device, name: str
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[str, Tensor | Crafted]]]:
    """Run each contender once per round, in an order that is rotated by one from round to round.

    Returns:
        Seconds in each round, and the results of the last round, both by block and contender.
    """
    seconds: dict[str, dict[str, list[float]]] = {block.name: {key: [] for key in block.runs} for block in blocks}
    made: dict[str, dict[str, Tensor | Crafted]] = {block.name: {} for block in blocks}
    for index in range(rounds):
        begun = time.perf_counter()
        for block in blocks:
            order = list(block.runs)
            shift = index % len(order)
            for key in order[shift:] + order[:shift]:
                spent, made[block.name][key] = timed(block.runs[key], block.repeats, device)
                seconds[block.name][key].append(spent)
        print(f"{name}: round {index + 1} of {rounds}, {time.perf_counter() - begun:.0f} s", flush=True)
    return seconds, made


def against(spent: Sequence[float], floors: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles, over the rounds, of the time divided by the floor of its round; and the median time."""
    ratios = [time / least for time, least in zip(spent, floors, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {
        "ratio": statistics.median(ratios),
        "quartiles": [quartiles[0], quartiles[2]],
        "seconds": statistics.median(spent),
    }


def measure(setting: Setting, rounds: int, device: torch.device) -> dict[str, Any]:
    """Measure all contenders on one network, each relative to the floor of the same round and method."""
    start = time.perf_counter()
    network = trained_classifier(setting.network, setting.side, setting.training).to(device)
    images, truths = (tensor.to(device) for tensor in textures(setting.batch, setting.side, seed=0))
    with torch.no_grad():
        targets = network(images).argmax(1)
    blocks = build(setting, network, images, targets)
    agreeing = float((targets == truths).float().mean())
    print(f"{setting.network}: trained in {time.perf_counter() - start:.0f} s, {agreeing:.0%} right", flush=True)

    for block in blocks if device.type == "cuda" else blocks[:1]:
        for run in block.runs.values():  # warm-up; on a CPU one step of each sets everything up
            timed(run, 1, device)
    seconds, made = interleave(blocks, rounds, device, setting.network)
    rows = [
        summarise(block, key, seconds[block.name], made[block.name][key], network, targets)
        for block in blocks
        for key in block.runs
    ]
    shape = [setting.batch, 3, setting.side, setting.side]
    return {"network": setting.network, "images": shape, "rounds": rounds, "accuracy": agreeing, "rows": rows}


def summarise(
    block: Block, key: str, seconds: dict[str, list[float]], made: Tensor | Crafted, network: nn.Module, targets: Tensor
) -> dict[str, Any]:
    """One contender's numbers, with its time as a multiple of a floor with the same number of steps."""
    steps = block.own_steps.get(key, block.steps)
    floors = [spent / block.steps * steps for spent in seconds["floor"]]
    row = {"method": block.method, "steps": steps, "contender": key} | against(seconds[key], floors)
    if key not in ("floor", "folded floor", "judging"):
        row["success"] = float((answers(network, made) != targets).float().mean())
    if isinstance(made, Crafted):
        row |= {name: float(getattr(made, name).double().mean()) for name in ("forwards", "backwards")}
    return row


def main() -> None:
    """Read the command line, measure, store and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--rounds", type=int, help="rounds per network; default 5, for resnet50 on a CPU 3, with --quick 2"
    )
    parser.add_argument("--networks", nargs="+", choices=("resnet18", "resnet50"), default=["resnet18", "resnet50"])
    parser.add_argument("--quick", action="store_true", help="a short trial with small sizes that stores nothing")
    parser.add_argument("--tables", action="store_true", help="measure nothing; only rewrite the documentation")
    arguments = parser.parse_args()
    if arguments.tables:
        write_documentation(DOCUMENTATION, RESULTS, "sign_gradient", render)
        return
    device = torch.device(arguments.device)
    # shapes change when images leave the batch; tuning for every new shape would dominate the measurement
    torch.backends.cudnn.benchmark = False
    chosen = settings(device, arguments.quick)
    load = os.getloadavg()[0]
    networks = [measure(chosen[name], arguments.rounds or chosen[name].rounds, device) for name in arguments.networks]
    result = described("sign_gradient", device, LIBRARIES, load) | {"networks": networks}
    print(render(result))
    if not arguments.quick:
        path = place(result)
        if path.is_file():  # results of the other networks are kept if the versions are the same
            earlier = json.loads(path.read_text())
            kept = [one for one in earlier["networks"] if one["network"] not in arguments.networks]
            same = (earlier["versions"], earlier["machine"]) == (result["versions"], result["machine"])
            result["networks"] = sorted(networks + (kept if same else []), key=lambda one: str(one["network"]))
        store(result)
        write_documentation(DOCUMENTATION, RESULTS, "sign_gradient", render)


def described(benchmark: str, device: torch.device, libraries: Sequence[str], load: float) -> dict[str, Any]:
    """Date, machine and versions of a measurement; ``load`` is the load average before it."""
    return {
        "schema": 1,
        "benchmark": benchmark,
        "date": datetime.date.today().isoformat(),
        "machine": machine(device),
        "versions": versions(libraries),
        "load": [load, os.getloadavg()[0]],
    }


def place(result: dict[str, Any]) -> Path:
    """File of a result, named after its benchmark and the hardware."""
    where = result["machine"]
    hardware = where.get("gpu") or f"{where['cpu']} {where['cores']} cores"
    slug = "-".join("".join(letter if letter.isalnum() else " " for letter in hardware.lower()).split())
    return RESULTS / f"{result['benchmark']}-{slug}.json"


def store(result: dict[str, Any]) -> None:
    """Write a result to its file."""
    RESULTS.mkdir(exist_ok=True)
    place(result).write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
