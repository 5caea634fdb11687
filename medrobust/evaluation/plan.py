"""The plan of an evaluation: which attacks run on which images, and what identifies their records."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from medrobust.attacks import Attack, UniformNoise
from medrobust.results.records import KEYS, RecordedOutcome


@dataclass(frozen=True, kw_only=True)
class PlannedAttack:
    """One attack at one radius.

    Args:
        name: Its name in the configuration.
        attack: The attack.
        key: Hash of all that decides its records: victim, data, parameters.
        control: Whether it is a control row: it was added as one, or happens without an enemy.
    """

    name: str
    attack: Attack
    key: str
    control: bool = False

    @property
    def epsilon(self) -> float | None:
        """Its radius; None if it has none."""
        radius = radius_of(self.attack)
        return None if radius is None else float(radius)

    def entry(self) -> dict[str, Any]:
        """Its entry in the manifest."""
        has_radius = "epsilon" in {item.name for item in fields(self.attack)}
        return {
            "attack": self.name,
            "method": type(self.attack).__name__,
            "epsilon": self.epsilon,
            "key": self.key,
            "parameters": self.attack.parameters(),
            "norm": self.attack.norm,
            "minimal": self.attack.minimal or (has_radius and self.epsilon is None),
            "control": self.control,
        }


@dataclass(kw_only=True)
class EvaluationPlan:
    """Which attacks will run on which images.

    A listener may change ``done`` in ``on_evaluation_plan``. What takes time, such as fitting detectors, belongs in
    ``on_evaluation_start``, which is called after it.

    Args:
        attacks: All attacks, in the order in which they run.
        split: Name of the split.
        images: Id of every image, on all processes together, and the stratum that it belongs to, such as its class.
        victim: Description of the victim, with the hash of its weights.
        data: Description of the data, with the split and its fingerprint.
        listeners: What the columns of the listeners depend on, such as the judges' weights.
        patients: Patient of each image, by the image's id.
        checkpoint: Name of the file that the victim's weights come from; None if unknown.
        binding: What is known of the images that the victims have seen, as ``binding.binding_of`` gives it.
        recorded: What the victim made of some clean images when their records were written, by the image's id: a
            listener that resumes adds them in ``on_evaluation_plan``, and the evaluation compares.
        done: Ids that need not be attacked again, by an attack's key.
    """

    attacks: list[PlannedAttack]
    split: str
    images: list[tuple[str, str]]
    victim: dict[str, Any]
    data: dict[str, Any]
    listeners: dict[str, Any] = field(default_factory=dict)
    patients: Mapping[str, str] = field(default_factory=dict)
    checkpoint: str | None = None
    binding: dict[str, Any] | None = None
    recorded: dict[str, RecordedOutcome] = field(default_factory=dict)
    done: dict[str, set[str]] = field(default_factory=dict)

    def pending(self, key: str, ids: Sequence[str]) -> list[int]:
        """Places of the images that an attack still has to run on."""
        done = self.done.get(key, set())
        return [place for place, id in enumerate(ids) if id not in done]

    def is_pending(self) -> bool:
        """Whether any image is still to be attacked, on any process; every process gets the same answer."""
        ids = [id for id, _ in self.images]
        return any(self.pending(planned.key, ids) for planned in self.attacks)


def radius_of(attack: Attack) -> float | None:
    """The attack's own ``epsilon``, as it was written; None if it has none or is not bounded."""
    radius: float | None = vars(attack).get("epsilon")
    return radius


def lay_out(
    attacks: Mapping[str, Attack],
    epsilons: Sequence[float] | None,
    controls: bool,
    log_epsilons: Sequence[float] | None = None,
) -> list[tuple[str, Attack]]:
    """Lay out the attacks: each at every radius, with uniform noise of the same radii before them as control.

    Args:
        attacks: Attacks by name.
        epsilons: Radii of the sweep; None leaves each attack at its own. Attacks without a radius run once.
        controls: Add the noise where no noise of that radius is configured.
        log_epsilons: Radii of the attacks whose ``norm`` is ``log``, in units of the natural logarithm of an image.

    Returns:
        Names and attacks in the order in which they run; a name occurs once for each radius.

    Raises:
        ValueError: The radii of one unit are given without those of the other, or no attack has a radius of that unit.
    """
    _check_units(attacks, epsilons, log_epsilons)
    laid_out: list[tuple[str, Attack]] = []
    for name, attack in attacks.items():
        swept = log_epsilons if attack.norm == "log" else epsilons
        radii = list(dict.fromkeys(swept)) if swept and radius_of(attack) is not None else []
        laid_out += [(name, _at_radius(attack, radius)) for radius in radii] if radii else [(name, attack)]
    if controls:
        present = {attack.epsilon for _, attack in laid_out if isinstance(attack, UniformNoise)}
        wanted = dict.fromkeys(radius_of(attack) for _, attack in laid_out if attack.norm == "linf")
        noise = [UniformNoise(epsilon=radius) for radius in wanted if radius is not None and radius not in present]
        laid_out = [("noise", attack) for attack in sorted(noise, key=lambda attack: attack.epsilon)] + laid_out
    return laid_out


def _check_units(
    attacks: Mapping[str, Attack], epsilons: Sequence[float] | None, log_epsilons: Sequence[float] | None
) -> None:
    """Refuse a sweep that would leave an attack of the other unit at its own radius, or that sweeps nothing."""
    bounded = {name: attack for name, attack in attacks.items() if radius_of(attack) is not None}
    logs = [name for name, attack in bounded.items() if attack.norm == "log"]
    pixels = [name for name in bounded if name not in logs]
    if epsilons and logs and not log_epsilons:
        raise ValueError(
            "epsilons are radii in units of the [0, 1] image range, and those of "
            f"{' and '.join(logs)} are in units of the natural logarithm of an image: give these as log_epsilons"
        )
    for name, radii, swept in (("epsilons", epsilons, pixels), ("log_epsilons", log_epsilons, logs)):
        if radii and attacks and not swept:
            listed = ", ".join(f"{name} ({attack.norm})" for name, attack in list(attacks.items())[:5])
            raise ValueError(f"{name} sweeps radii, and no attack has one of that unit, got {listed}: set it to null")


def _at_radius(attack: Attack, epsilon: float) -> Attack:
    changed: dict[str, Any] = {"epsilon": epsilon}
    return replace(attack, **changed)


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """16 hex digits over the names and values of parameters and buffers, as ``state_dict`` gives them."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def record_key(*parts: Any) -> str:
    """16 hex digits over JSON values: records of equal keys are interchangeable."""
    text = json.dumps([KEYS, *parts], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
