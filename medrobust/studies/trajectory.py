"""How an attack's perturbation grows, iteration by iteration (SMIA21 Fig. 2)."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.attacks import Attack
from medrobust.evaluation.batch import AdversarialBatch
from medrobust.networks.victims import EvaluatedVictim
from medrobust.studies.base import Study

SHOWN = (1, 4, 9)  # iterations whose perturbation is kept, those of SMIA21 Fig. 2


@dataclass(frozen=True, kw_only=True)
class Trajectory(Study):
    """The variance of the perturbation, and the cosine between consecutive updates, at each iteration (SMIA21 Fig. 2).

    Iteration t is the same attack with t steps of the same length, by the victim itself in float32: an attack of n
    steps is made again with 1, 2, ..., n of them, which costs n (n + 1) / 2 steps of each image. Attacks without steps
    of a fixed length are passed over, and so are those that are no sum of steps from the clean image or a random start.

    Args:
        images: Number of images, chosen evenly over the classes; None for all.
        attacks: Names of the attacks whose images it looks at; empty for all, without controls.
    """

    images: int | None = 32

    def of_attack(self, victim: EvaluatedVictim, batch: AdversarialBatch) -> dict[str, Tensor]:
        """At each iteration ``var``, ``cos``, ``l2`` and whether the victim is ``right``, ``(N, n)``.

        ``var`` is the variance of the perturbation divided by epsilon, over the image's values; ``cos`` is undefined,
        NaN, at the first iteration, where an update is 0, and at the second from a random start.
        ``perturbations`` ``(N, 3, C, H, W)`` are those of iterations 1, 4 and 9 divided by epsilon.
        """
        attack = batch.planned.attack
        if not has_iterations(attack):
            return {}
        radius, steps = float(attack.epsilon), int(attack.steps)  # type: ignore[attr-defined]
        goals = batch.targets if batch.goals is None else batch.goals
        update: Tensor | None = None
        last = torch.zeros_like(batch.clean)
        found: dict[str, list[Tensor]] = {"var": [], "cos": [], "l2": [], "right": []}
        kept = []
        for step in range(1, steps + 1):
            images = shortened(attack, step).craft(victim, batch.clean, goals, batch.ids).images
            change = images - batch.clean
            moved = (change - last).flatten(1)
            starts = step == 1 and getattr(attack, "random_start", False)  # where it starts is not known
            found["cos"].append(_cosines(moved, update))
            found["var"].append((change.double() / radius).flatten(1).var(1, correction=0))
            found["l2"].append(torch.linalg.vector_norm(change.flatten(1), dim=1, dtype=torch.float64))
            with torch.no_grad():
                found["right"].append(victim.outcome(victim(images), batch.targets).right)
            update, last = None if starts else moved, change
            if step in SHOWN:
                kept.append((change / radius).half())
        return {name: torch.stack(values, 1) for name, values in found.items()} | {
            "perturbations": torch.stack(kept, 1)
        }


def has_iterations(attack: Attack) -> bool:
    """Whether an attack with fewer steps of the same length is the beginning of the attack."""
    known = {item.name for item in fields(attack)}
    if not {"epsilon", "steps", "step_size"} <= known or not hasattr(attack, "step_length"):
        return False
    settings: Any = attack
    repeats = getattr(settings, "diversity", 0) or getattr(settings, "restarts", 1) > 1
    return attack.norm == "linf" and bool(settings.epsilon) and not repeats


def shortened(attack: Attack, steps: int) -> Attack:
    """The same attack after some of its steps."""
    settings: Any = attack
    if settings.steps == steps:
        return attack
    changed: Attack = replace(settings, steps=steps, step_size=settings.step_length())
    return changed


def _cosines(update: Tensor, last: Tensor | None) -> Tensor:
    """Cosine between two updates of each image, NaN where one is zero or there is no earlier one."""
    if last is None:
        return torch.full((len(update),), torch.nan, dtype=torch.float64, device=update.device)
    values = functional.cosine_similarity(update.double(), last.double(), dim=1, eps=0.0)
    return torch.where((update != 0).any(1) & (last != 0).any(1), values, torch.nan)
