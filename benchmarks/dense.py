"""Times attacks on masks and boxes against the passes that they must make, and watches their memory: ``make bench``."""

import argparse
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.contenders import EPSILON, Block, Run
from benchmarks.sign_gradient import DOCUMENTATION, RESULTS, against, described, interleave, store, timed
from benchmarks.tables import cost, heading, table, write_documentation
from medrobust.attacks import APGD, DAG, MIM, PGD, SMIA, Attack, Crafted
from medrobust.networks import frozen

LIBRARIES = ("torch", "torchvision", "segmentation-models-pytorch")
AIM = 1.05
TINY = 1e-6  # a radius at which nothing turns, so that no target of DAG is ever done
LONGER = 5  # how many times as many steps the memory is compared at


@dataclass(frozen=True)
class Case:
    """A victim, its images, and its passes.

    Args:
        name: What it is called.
        victim: The victim.
        images: Images, ``(N, C, H, W)``.
        targets: Their targets.
        goals: Goals for DAG, which never ends where these are not reached.
        passes: One pass of each kind, by name.
        attacks: Attacks, each with the numbers of its passes of each kind.
    """

    name: str
    victim: Any
    images: Tensor
    targets: Any
    goals: Any
    passes: dict[str, Callable[[], Tensor]]
    attacks: dict[str, tuple[Attack, dict[str, int]]]


def mask_case(device: torch.device, steps: int, quick: bool) -> Case:
    """A U-Net on a ResNet-18, with the masks that it predicts itself."""
    from lightning_modules import Segmenter

    torch.manual_seed(0)
    victim: Any = Segmenter(num_classes=2, encoder="resnet18", channels=1).to(device).eval().requires_grad_(False)
    number, side = (1, 64) if quick else (4, 128)
    images = torch.rand((number, 1, side, side), generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        masks = victim(images).argmax(1)

    def look() -> Tensor:
        with torch.no_grad():
            logits: Tensor = victim(images)
        return logits

    def step(twice: bool = False) -> Tensor:
        leaf = images.detach().requires_grad_()
        logits = torch.stack([victim(leaf) for _ in range(1 + twice)]).sum(0)
        return torch.autograd.grad(functional.cross_entropy(logits, masks, reduction="sum"), leaf)[0]

    settings: dict[str, Any] = {"epsilon": EPSILON, "steps": steps}
    attacks: dict[str, tuple[Attack, dict[str, int]]] = {
        "PGD": (PGD(**settings), {"step": steps}),
        "MIM": (MIM(**settings), {"step": steps}),
        "APGD": (APGD(**settings, stop_when_fooled=False), {"step": steps, "look": 1}),
        "SMIA": (SMIA(**settings), {"step": 1, "step with its smoothed image": steps - 1}),
        "DAG": (DAG(epsilon=TINY, steps=steps, step_size=None), {"step": steps, "look": 1}),
    }
    passes = {"look": look, "step": step, "step with its smoothed image": lambda: step(twice=True)}
    return Case("U-Net on ResNet-18", victim, images, masks, None, passes, attacks)


def box_case(device: torch.device, steps: int, quick: bool) -> Case:
    """A Faster R-CNN on a ResNet-50 with two boxes in each image; untrained, it finds something in every proposal."""
    from lightning_modules import BoxDetector

    torch.manual_seed(0)
    victim: Any = BoxDetector(num_classes=7, backbone="resnet50", channels=3).to(device).eval().requires_grad_(False)
    number, side = (1, 64) if quick else (1, 256)
    images = torch.rand((number, 3, side, side), generator=torch.Generator().manual_seed(0)).to(device)
    corners = side * torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.5, 0.4, 0.9, 0.9]], device=device)
    targets = [{"boxes": corners, "labels": torch.tensor([0, 1], device=device)} for _ in images]
    with torch.no_grad():
        proposals = victim.proposals(images, 0.7)
        named = [logits[:, :-1].argmax(1) for logits in victim.proposal_logits(images, [corners] * number)]
    goals = [{"boxes": corners, "labels": (labels + 1) % 7} for labels in named]

    def look() -> Tensor:
        with torch.no_grad():
            outputs: Any = victim(images)
        return torch.cat([one["scores"] for one in outputs])

    def proposing() -> Tensor:
        with torch.no_grad():
            return torch.cat(victim.proposals(images, 0.7))

    def step() -> Tensor:
        leaf = images.detach().requires_grad_()
        return torch.autograd.grad(victim.loss(leaf, targets).sum(), leaf)[0]

    def class_step() -> Tensor:
        leaf = images.detach().requires_grad_()
        return torch.autograd.grad(torch.cat(victim.proposal_logits(leaf, proposals)).sum(), leaf)[0]

    settings: dict[str, Any] = {"epsilon": EPSILON, "steps": steps}
    spent = {"step": steps, "step of the proposals' classes": 2 * (steps - 1), "proposals": 1}
    attacks: dict[str, tuple[Attack, dict[str, int]]] = {
        "PGD": (PGD(**settings), {"step": steps}),
        "MIM": (MIM(**settings), {"step": steps}),
        "APGD": (APGD(**settings, stop_when_fooled=False), {"step": steps, "look": steps + 2}),
        "SMIA": (SMIA(**settings), spent),
        "DAG": (
            DAG(epsilon=TINY, steps=steps, step_size=None, targeted=True, overlap=0.7),
            {"step of the proposals' classes": steps, "look": 2, "proposals": 1},
        ),
    }
    passes = {
        "look": look,
        "proposals": proposing,
        "step": step,
        "step of the proposals' classes": class_step,
    }
    return Case("Faster R-CNN on ResNet-50-FPN", victim, images, targets, goals, passes, attacks)


def crafting(case: Case, attack: Attack) -> Run:
    """What crafts the images of a case, with its victim frozen."""
    targets = case.goals if attack.targeted else case.targets
    return lambda: attack.craft(case.victim, case.images, targets)


def measure(case: Case, rounds: int, steps: int) -> dict[str, Any]:
    """Time all attacks and all kinds of passes once per round; an attack's floor is the sum of its passes."""
    runs: dict[str, Run] = {f"pass: {kind}": made for kind, made in case.passes.items()}
    runs |= {name: crafting(case, attack) for name, (attack, _) in case.attacks.items()}
    device = case.images.device
    with frozen(case.victim):
        for run in runs.values():
            timed(run, 1, device)
        seconds, made = interleave([Block("dense", steps, 1, runs)], rounds, device, case.name)
    (spent,), (results,) = seconds.values(), made.values()
    rows = []
    for name, (_, kinds) in case.attacks.items():
        each = zip(
            *([count * second for second in spent[f"pass: {kind}"]] for kind, count in kinds.items()), strict=True
        )
        crafted = results[name]
        assert isinstance(crafted, Crafted)
        passes = {what: float(getattr(crafted, what).double().mean()) for what in ("forwards", "backwards")}
        rows.append({"attack": name, "passes": kinds} | against(spent[name], [sum(one) for one in each]) | passes)
    return {
        "victim": case.name,
        "images": list(case.images.shape),
        "steps": steps,
        "rounds": rounds,
        "rows": rows,
        "memory": {name: growth(case, attack) for name, (attack, _) in case.attacks.items()},
    }


def growth(case: Case, attack: Attack) -> dict[str, float]:
    """Largest memory of a few steps and of several times as many, in MiB: of the GPU, or of this process."""
    found = {}
    with frozen(case.victim):
        for what, times in (("few", 1), ("many", LONGER)):
            if case.images.is_cuda:
                torch.cuda.reset_peak_memory_stats()
            longer: Any = {"steps": vars(attack)["steps"] * times}
            crafting(case, replace(attack, **longer))()
            if case.images.is_cuda:
                found[what] = torch.cuda.max_memory_allocated() / 2**20
            else:
                found[what] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return found


def render(result: dict[str, Any]) -> str:
    """All results of one machine, as Markdown."""
    parts = heading(result)
    for measured in result["measured"]:
        number, channels, height, width = measured["images"]
        body = []
        for row in measured["rows"]:
            must = ", ".join(f"{count} x {kind}" for kind, count in row["passes"].items())
            memory = measured["memory"][row["attack"]]
            reached = "reached" if row["ratio"] <= AIM else "missed"
            body.append([row["attack"], must, cost(row), f"{AIM:.2f}, {reached}"])
            body[-1].append(f"{memory['few']:,.0f} / {memory['many']:,.0f}")
        parts += [
            f"**{measured['victim']}, {number} x {channels} x {height} x {width}**, {measured['steps']} steps, "
            f"{measured['rounds']} rounds. Time as a multiple of the passes that an attack must make, median of the "
            f"rounds (quartiles); largest memory in MiB of {measured['steps']} steps and of {LONGER} times as many:",
            table(["attack", "must make", "time", "at most", "memory"], body),
        ]
    return "\n\n".join(parts)


def main() -> None:
    """Read the command line, measure, store and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="steps of each attack")
    parser.add_argument("--tasks", nargs="+", choices=("masks", "boxes"), default=["masks", "boxes"])
    parser.add_argument("--quick", action="store_true", help="a short trial with small sizes that stores nothing")
    arguments = parser.parse_args()
    device, load = torch.device(arguments.device), os.getloadavg()[0]
    torch.backends.cudnn.benchmark = False  # as in the other benchmarks
    made = {"masks": mask_case, "boxes": box_case}
    rounds, steps = (2, 2) if arguments.quick else (arguments.rounds, arguments.steps)
    measured = [measure(made[task](device, steps, arguments.quick), rounds, steps) for task in arguments.tasks]
    result = described("dense", device, LIBRARIES, load) | {"measured": measured}
    print(render(result))
    if not arguments.quick:
        store(result)
        write_documentation(DOCUMENTATION, RESULTS, "dense", render)


if __name__ == "__main__":
    main()
