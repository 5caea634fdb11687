"""How an attack's perturbation grows, iteration by iteration (SMIA21 Fig. 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medrobust.attacks import DAG, Attack
from medrobust.attacks.sign_gradient import SignGradient
from medrobust.attacks.update_cosines import Update, heard_updates
from medrobust.evaluation.batch import AdversarialBatch
from medrobust.networks.defended_victim import drawn_by
from medrobust.networks.victims import EvaluatedVictim
from medrobust.objectives.clean_features import patterns_wanted
from medrobust.studies.base import Study

SHOWN = (1, 4, 9)  # iterations whose perturbation is kept, those of SMIA21 Fig. 2
TOGETHER = 8  # images that are attacked together: all their iterations are in memory


@dataclass(frozen=True, kw_only=True)
class Trajectory(Study):
    """The variance of the perturbation, and the cosine between consecutive updates, at each iteration (SMIA21 Fig. 2).

    The images are attacked once more, by the same attack on the victim itself in float32, and each update is kept. An
    image that leaves an attack early stays where it is. Attacks that are not of the sign-gradient family, nor DAG, are
    passed over, and so are restarts, an attack on logarithms, one without a radius, and one whose objective is fitted
    to clean images first.

    Args:
        images: Number of images, chosen evenly over the classes; None for all.
        attacks: Names of the attacks whose images it looks at; empty for all, without controls.
    """

    images: int | None = 32

    def of_attack(self, victim: EvaluatedVictim, batch: AdversarialBatch) -> dict[str, Tensor]:
        """At each iteration ``var``, ``cos``, ``l2`` and whether the victim is ``right``, ``(N, n)``.

        ``var`` is the variance of the perturbation divided by epsilon, over the image's values; ``cos`` is undefined,
        NaN, at the first iteration, and where an update is 0. ``perturbations`` ``(N, 3, C, H, W)`` are those of
        iterations 1, 4 and 9, as far as there are so many, divided by epsilon.
        """
        attack: Any = batch.planned.attack
        if not has_iterations(attack):
            return {}
        found: dict[str, list[Tensor]] = {}
        for first in range(0, len(batch), TOGETHER):
            rows = slice(first, first + TOGETHER)
            goals = batch.targets if batch.goals is None else batch.goals
            clean, ids = batch.clean[rows], batch.ids[rows]
            with drawn_by(victim, ids):
                with heard_updates() as heard:
                    final = attack.craft(victim, clean, goals[rows], ids).images
                moved = padded(heard, attack.steps, final - clean)
                part = _measured(victim, clean, batch.targets[rows], final, moved, float(attack.epsilon))
            for name, values in part.items():
                found.setdefault(name, []).append(values)
        return {name: torch.cat(values) for name, values in found.items()}


def has_iterations(attack: Attack) -> bool:
    """Whether an attack is a sum of steps from the clean image or a random start, inside a ball."""
    settings: Any = attack
    in_steps = isinstance(attack, SignGradient | DAG) and getattr(settings, "restarts", 1) == 1
    return in_steps and attack.norm == "linf" and bool(settings.epsilon) and not patterns_wanted(attack)


def padded(heard: Sequence[Update], steps: int, change: Tensor) -> Tensor:
    """The updates of each image ``(steps, N, C, H, W)``, 0 after it has left.

    Args:
        heard: The updates of one run; none where its only step was not followed.
        steps: Number of steps.
        change: The whole change of each image, ``(N, C, H, W)``.
    """
    moved = change.new_zeros(steps, *change.shape)
    for step, update in enumerate(heard):
        moved[step, update.rows] = update.moved.view(-1, *change.shape[1:])
    if not heard:
        moved[0] = change
    return moved


@torch.no_grad()
def _measured(
    victim: EvaluatedVictim, clean: Tensor, targets: Any, final: Tensor, moved: Tensor, radius: float
) -> dict[str, Tensor]:
    """What is measured at each iteration, from the updates and where they have led to."""
    change = final - clean - moved.sum(0)  # where it started
    found: dict[str, list[Tensor]] = {"var": [], "cos": [], "l2": [], "right": []}
    shown = []
    for step, update in enumerate(moved):
        last = step == len(moved) - 1
        change = final - clean if last else change + update
        images = final if last else (clean + change).clamp(0, 1)
        flat = change.double().flatten(1)
        found["var"].append((flat / radius).var(1, correction=0))
        found["l2"].append(torch.linalg.vector_norm(flat, dim=1))
        found["cos"].append(_cosines(update, moved[step - 1] if step else None))
        found["right"].append(victim.outcome(victim(images), targets).right)
        if step + 1 in SHOWN:
            shown.append((change / radius).half())
    return {name: torch.stack(values, 1) for name, values in found.items()} | {"perturbations": torch.stack(shown, 1)}


def _cosines(update: Tensor, last: Tensor | None) -> Tensor:
    """Cosine between two updates of each image, NaN where one is zero or there is no earlier one."""
    if last is None:
        return torch.full((len(update),), torch.nan, dtype=torch.float64, device=update.device)
    one, other = update.double().flatten(1), last.double().flatten(1)
    values = functional.cosine_similarity(one, other, dim=1, eps=0.0)
    return torch.where((one != 0).any(1) & (other != 0).any(1), values, torch.nan)
