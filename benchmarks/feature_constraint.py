"""Times a step of PGD with the hierarchical feature constraint against a plain one: ``make bench``."""

import argparse
import os
import time
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.contenders import EPSILON, Block, Run, craft, floor
from benchmarks.sign_gradient import DOCUMENTATION, RESULTS, against, described, interleave, store, timed
from benchmarks.tables import cost, heading, table, write_documentation
from medrobust.attacks import PGD
from medrobust.networks import as_victim
from medrobust.objectives.base import WeightedSum
from medrobust.objectives.cross_entropy import CrossEntropy
from medrobust.objectives.feature_constraint import FeatureConstraint, mixture_state
from medrobust.objectives.fitted import FittedState
from medrobust.objectives.gaussian_mixture import maximised

LIBRARIES = ("torch", "torchvision", "timm")
TAPS = ("activations",)
CLASSES = 2
AIMS = {1: 1.25, 64: 1.6}


def synthetic(
    layers: Mapping[str, int], components: int, images: int, device: torch.device
) -> tuple[FittedState, dict[str, Any]]:
    """Mixtures of random features with components of equal size, as large as if they were fitted to that many images.

    Args:
        layers: Number of channels of each layer.
        components: Gaussians per class.
        images: Clean images per class.
        device: Device of the features.

    Returns:
        What an objective learns by fitting, and the time that took and its size.
    """
    start, generator = time.perf_counter(), torch.Generator().manual_seed(0)
    shares = functional.one_hot(torch.arange(images) % components, components).double().to(device)
    mixtures = {}
    for name, channels in layers.items():
        drawn = torch.rand((CLASSES, images, channels), generator=generator, dtype=torch.float64).to(device)
        mixtures[name] = [maximised(features, shares, 0.1) for features in drawn]
    state = mixture_state(mixtures, torch.zeros((), device=device))
    numbers = sum(
        tensor.numel() * tensor.element_size()
        for part in state.parts
        for tensor in vars(part.mixture).values()
        if isinstance(tensor, Tensor)
    )
    full = CLASSES * components * sum(channels**2 for channels in layers.values()) * 4
    return state, {"seconds": time.perf_counter() - start, "bytes": numbers, "bytes_in_full": full}


def widths(network: nn.Module, images: Tensor) -> dict[str, int]:
    """Number of channels of each layer on which the constraint acts."""
    victim = as_victim(network)
    with torch.no_grad():
        features = victim.features(images[:1], victim.layers_named(TAPS))[1]
    return {name: values.shape[1] for name, values in features.items()}


def measure(
    network: nn.Module, images: Tensor, targets: Tensor, steps: int, rounds: int, references: int
) -> dict[str, Any]:
    """Time PGD with and without the constraint, each contender once per round."""
    layers = widths(network, images)
    runs: dict[str, Run] = {
        "floor": floor(network, images, targets, steps),
        "plain": craft(PGD(epsilon=EPSILON, steps=steps), network, images, targets),
    }
    sizes = {}
    for components in AIMS:
        state, size = synthetic(layers, components, references, images.device)
        sizes[components] = size
        print(f"K = {components}: mixtures in {size['seconds']:.0f} s, {size['bytes'] / 2**20:.0f} MiB", flush=True)
        objective = WeightedSum((CrossEntropy(), FeatureConstraint(TAPS, components).with_state(state)), (1.0, 1.0))
        attack = PGD(epsilon=EPSILON, steps=steps, objective=objective, targeted=True)
        runs[f"K = {components}"] = craft(attack, network, images, targets)
    block = Block("PGD", steps, 1, runs)
    for run in runs.values():
        timed(run, 1, images.device)
    seconds, _ = interleave([block], rounds, images.device, "feature_constraint")
    spent = seconds[block.name]
    rows = [{"contender": key} | against(spent[key], spent["plain"]) for key in runs]
    for row, components in zip(rows[2:], AIMS, strict=True):
        row |= {"components": components, "aim": AIMS[components]} | sizes[components]
    return {
        "network": "resnet50",
        "images": list(images.shape),
        "layers": len(layers),
        "references": references,
        "steps": steps,
        "rounds": rounds,
        "rows": rows,
    }


def render(result: dict[str, Any]) -> str:
    """All results of one machine, as Markdown."""
    measured = result["measured"]
    number, channels, height, width = measured["images"]
    body = []
    for row in measured["rows"]:
        if "aim" not in row:
            body.append([row["contender"], cost(row), "–", "–", "–"])
            continue
        kept, full = (f"{row[name] / 2**20:,.0f}" for name in ("bytes", "bytes_in_full"))
        reached = "reached" if row["ratio"] <= row["aim"] else "missed"
        body.append([row["contender"], cost(row), f"{row['aim']:.2f}, {reached}", kept, full])
    head = ["PGD", "time per step", "at most", "mixtures, MiB", "as full matrices, MiB"]
    return "\n\n".join(
        [
            *heading(result),
            f"**{measured['network']}, {number} x {channels} x {height} x {width}**, all {measured['layers']} layers, "
            f"{CLASSES} classes of {measured['references']} clean images each, {measured['steps']} steps, "
            f"{measured['rounds']} rounds. Time as a multiple of plain PGD, median of the rounds (quartiles):",
            table(head, body),
        ]
    )


def main() -> None:
    """Read the command line, measure, store and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="steps of each attack; every step costs the same")
    parser.add_argument("--references", type=int, default=1500, help="clean images per class")
    parser.add_argument("--quick", action="store_true", help="a short trial with small sizes that stores nothing")
    arguments = parser.parse_args()
    device, load = torch.device(arguments.device), os.getloadavg()[0]
    torch.backends.cudnn.benchmark = False  # as in the other benchmarks
    torch.manual_seed(0)
    network = timm.create_model("resnet50", num_classes=CLASSES).eval().requires_grad_(False).to(device)
    number, side, references = (2, 64, 128) if arguments.quick else (8, 224, arguments.references)
    rounds = 2 if arguments.quick else arguments.rounds
    images = torch.rand((number, 3, side, side), generator=torch.Generator().manual_seed(0)).to(device)
    targets = (torch.arange(number) % CLASSES).to(device)
    measured = measure(network, images, targets, arguments.steps, rounds, references)
    result = described("feature_constraint", device, LIBRARIES, load) | {"measured": measured}
    print(render(result))
    if not arguments.quick:
        store(result)
        write_documentation(DOCUMENTATION, RESULTS, "feature_constraint", render)


if __name__ == "__main__":
    main()
