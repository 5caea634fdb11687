"""What a victim is defended by, in words: how it was trained, what that cost, and what is done to its images."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from medrobust.results.formats import format_epsilon

METHODS = {"AdversarialTraining": "adversarial training", "Trades": "TRADES", "Mart": "MART"}
CHANGES = {
    "JPEGCompression": "JPEG compression",
    "BitDepth": "reduced bit depth",
    "GaussianSmoothing": "Gaussian smoothing",
    "MedianSmoothing": "median smoothing",
    "RandomResizing": "random resizing",
}
SEEN_THROUGH = {
    "exact": "attacks follow its own gradient",
    "straight_through": "attacks see through it by straight-through gradients (BPDA)",
}


class DefenceInWords(NamedTuple):
    """One defence of a victim.

    Attributes:
        kind: What it changes: ``training``, or ``input`` for the images that the victim sees.
        name: What it is, with its own settings.
        detail: What it was trained against, or how attacks see through it; may be empty.
        cost: Passes that the training took; empty if unknown.
    """

    kind: str
    name: str
    detail: str
    cost: str = ""

    def line(self) -> str:
        """All of it in one line."""
        if self.kind == "training":
            return f"trained by {self.name} {self.detail}" + (f": {self.cost}" if self.cost else "")
        return f"behind {self.name}" + (f": {self.detail}" if self.detail else "")


def defences_of(manifest: Mapping[str, Any]) -> list[DefenceInWords]:
    """The defences of an evaluation's victim, first how it was trained and then what is done to its images.

    Args:
        manifest: The manifest; its ``victim`` names defences under ``defence`` and ``input_defence``, if it has any.
    """
    victim = manifest.get("victim") or {}
    found = []
    if victim.get("defence"):
        found.append(of_training(victim["defence"], chosen=True))
    layers = victim.get("input_defence") or []
    seen = victim.get("input_defence_under_attack") or []
    layers, seen = ([one] if isinstance(one, Mapping) else list(one) for one in (layers, seen))
    for place, layer in enumerate(layers):
        found.append(_of_input(layer, seen[place] if place < len(seen) else {}))
        if (manifest.get("listeners") or {}).get("surrogate"):
            found[-1] = found[-1]._replace(detail="attacks are crafted on the surrogate, which is not behind it")
    return found


def of_training(defended: Mapping[str, Any], chosen: bool = False) -> DefenceInWords:
    """What a victim was trained against, and what that cost.

    Args:
        defended: As the checkpoint keeps it under ``defence``: the parameters of the defence, and the passes so far.
        chosen: The passes are counted up to the checkpoint that was chosen, and not to the end of the training.
    """
    defence = defended["defence"]
    weight, warm_up = defence.get("weight"), defence.get("warm_up")
    name = METHODS.get(defence["class"], str(defence["class"]))
    if weight is not None and (defence["class"], weight) != ("AdversarialTraining", 1):
        name += f" with weight {weight:g}"
    detail = f"against {_attack_in_words(defence['attack'])}"
    if warm_up:
        detail += f", with {warm_up} {'epoch' if warm_up == 1 else 'epochs'} of warm-up"
    if not defended.get("images"):
        return DefenceInWords("training", name, detail)
    passes = defended["forwards"] + defended["backwards"]
    choosing = defended["choosing_forwards"] + defended["choosing_backwards"]
    each = f"{passes / defended['images']:.1f} passes per image and epoch (plain training makes 2)"
    up_to, it = ("up to this checkpoint", "it") if chosen else ("in all", "the checkpoint")
    cost = f"{each}, {passes:,} {up_to}, and {choosing:,} on Val to choose {it}"
    return DefenceInWords("training", name, detail, cost)


def _attack_in_words(attack: Mapping[str, Any]) -> str:
    """An attack with its radius and its steps."""
    words = str(attack["class"])
    if (epsilon := attack.get("epsilon")) is not None:
        words += f" at ε = {_length(attack, epsilon)}"
    if (steps := attack.get("steps")) is not None:
        words += f", {steps} {'step' if steps == 1 else 'steps'}"
        if (size := attack.get("step_size")) is not None:
            words += f" of {_length(attack, size)}"
    return words


def _length(attack: Mapping[str, Any], length: float) -> str:
    return f"{length:g} in the logarithm" if attack.get("domain") == "log" else format_epsilon(length)


def _of_input(layer: Mapping[str, Any], seen: Mapping[str, Any]) -> DefenceInWords:
    """A change of the images before the victim sees them, and how attacks see through it."""
    settings = {name: value for name, value in layer.items() if name not in ("class", "samples", "seed")}
    name = CHANGES.get(layer["class"], str(layer["class"]))
    if settings:
        name += f" ({', '.join(f'{key} {value}' for key, value in settings.items())})"
    detail = SEEN_THROUGH.get(str(seen.get("gradient")), "")
    if (samples := seen.get("samples", layer.get("samples"))) is not None:
        averaged = f"the mean over {samples} {'draw' if samples == 1 else 'draws'} (EOT)"
        detail = f"attacks see {averaged}" if seen.get("gradient") != "straight_through" else f"{detail} of {averaged}"
    return DefenceInWords("input", name, detail)
