"""What callbacks tell each other: the plan of an evaluation, and each attacked batch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from medrobust.attacks import Attack, UniformNoise
from medrobust.results.records import KEYS


@dataclass(frozen=True)
class PlannedAttack:
    """One attack at one radius.

    Args:
        name: Its name in the configuration.
        attack: The attack.
        epsilon: Its radius; None if it has none.
        key: Hash of all that decides its records: victim, data, parameters.
        control: Whether it was added as a control row.
    """

    name: str
    attack: Attack
    epsilon: float | None
    key: str
    control: bool

    def entry(self) -> dict[str, Any]:
        """Its place in the manifest."""
        return {
            "attack": self.name,
            "method": type(self.attack).__name__,
            "epsilon": self.epsilon,
            "key": self.key,
            "parameters": self.attack.parameters(),
            "norm": self.attack.norm,
            "minimal": self.attack.minimal or getattr(self.attack, "epsilon", 1.0) is None,
            "control": self.control,
        }


@dataclass
class EvaluationPlan:
    """What is about to be done.

    A callback that hears ``on_evaluation_plan`` may change ``done``; what takes time, such as fitting detectors, is
    for ``on_evaluation_start``, which comes after it.

    Args:
        attacks: All attacks, in the order in which they run.
        split: Name of the split.
        images: Every image's id and target, on all ranks together.
        victim: Description of the victim, with the hash of its weights.
        data: Description of the data.
        listeners: What the columns of other callbacks depend on, such as the judges' weights.
        patients: Patient of each image, where the data know it.
        done: Ids that need not be attacked again, by an attack's key.
        craft: Crafts and judges a batch as the evaluation does, see ``evaluation.crafting.Crafter``.
    """

    attacks: list[PlannedAttack]
    split: str
    images: list[tuple[str, Any]]
    victim: dict[str, Any]
    data: dict[str, Any]
    listeners: dict[str, Any] = field(default_factory=dict)
    done: dict[str, set[str]] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    craft: Any = None

    def pending(self) -> bool:
        """Whether any image is still to be attacked, on any process: every process comes to the same answer."""
        return any(
            id not in done
            for planned in self.attacks
            for done in (self.done.get(planned.key, set()),)
            for id, _ in self.images
        )


@dataclass(frozen=True)
class AdversarialBatch:
    """A batch that was crafted once, and is heard by every callback that has ``on_adversarial_batch``.

    Args:
        planned: The attack that made it.
        plan: The evaluation that it belongs to.
        ids: The images' ids, N of them.
        targets: True targets.
        goals: Targets that were aimed at; None for an untargeted attack.
        clean: Clean images, ``(N, C, H, W)`` in [0, 1].
        adversarial: Adversarial images, likewise.
        clean_outputs: The victim's outputs for the clean images, in float32.
        adversarial_outputs: Its outputs for the adversarial ones.
        correct_before: Whether the victim is right about the clean image, bool ``(N,)``.
        correct_after: Whether it is right about the adversarial one.
        success: Whether the attack reached its aim.
        forwards: Forward passes spent on each image, ``(N,)``.
        backwards: Backward passes.
        zero_gradients: Steps with a vanished gradient.
        measures: Further numbers that the attack gives about each image, ``(N,)`` by name, NaN where undefined.
        pictures: What else the attack made, ``(N, C, H, W)`` by name.
        columns: Further columns of the records, ``(N,)`` tensors by name, NaN where undefined: who hears the batch
            may add some, and the journal writes them in ``on_adversarial_batch_end``.
    """

    planned: PlannedAttack
    plan: EvaluationPlan
    ids: list[str]
    targets: Any
    goals: Any
    clean: Tensor
    adversarial: Tensor
    clean_outputs: Any
    adversarial_outputs: Any
    correct_before: Tensor
    correct_after: Tensor
    success: Tensor
    forwards: Tensor
    backwards: Tensor
    zero_gradients: Tensor
    measures: Mapping[str, Tensor] = field(default_factory=dict)
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)


def expand(attacks: dict[str, Attack], epsilons: Sequence[float] | None, controls: bool) -> list[tuple[str, Attack]]:
    """Lay out the attacks: each at every radius, with uniform noise of the same radii before them as control.

    Args:
        attacks: Attacks by name.
        epsilons: Radii of the sweep; None leaves each attack at its own. Attacks without a radius run once.
        controls: Add the noise where no noise of that radius is configured.
    """
    laid_out: list[tuple[str, Attack]] = []
    for name, attack in attacks.items():
        has_radius = getattr(attack, "epsilon", None) is not None
        radii = list(dict.fromkeys(epsilons)) if epsilons and has_radius else []
        laid_out += [(name, _at_radius(attack, radius)) for radius in radii] if radii else [(name, attack)]
    if controls:
        present = {attack.epsilon for _, attack in laid_out if isinstance(attack, UniformNoise)}
        wanted = dict.fromkeys(getattr(attack, "epsilon", None) for _, attack in laid_out if attack.norm == "linf")
        noise = [UniformNoise(epsilon=radius) for radius in wanted if radius is not None and radius not in present]
        laid_out = [("noise", attack) for attack in sorted(noise, key=lambda attack: attack.epsilon)] + laid_out
    return laid_out


def _at_radius(attack: Attack, epsilon: float) -> Attack:
    changed: dict[str, Any] = {"epsilon": epsilon}
    return replace(attack, **changed)


def weights_hash(module: torch.nn.Module) -> str:
    """16 hex digits over the names and values of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def record_key(*parts: Any) -> str:
    """16 hex digits over JSON values: records of equal keys are interchangeable."""
    text = json.dumps([KEYS, *parts], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identities(
    trainer: pl.Trainer, victim: pl.LightningModule, attacks: list[tuple[str, dict[str, Any]]]
) -> dict[str, Any]:
    """What the listeners' columns depend on: records with other columns are not interchangeable.

    Args:
        trainer: The trainer, whose callbacks are asked.
        victim: The victim.
        attacks: Name of each attack, and all that decides what it makes of an image.
    """
    found: dict[str, Any] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        listener = getattr(callback, "on_evaluation_identity", None)
        found |= {} if listener is None else listener(trainer, victim, attacks)
    return found


def tell(trainer: pl.Trainer, hook: str, *arguments: Any) -> None:
    """Call a hook of ours on every callback that has it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        listener = getattr(callback, hook, None)
        if listener is not None:
            listener(*arguments)
