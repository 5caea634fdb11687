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
        found.append(of_training(victim["defence"], until="the checkpoint"))
    layers = victim.get("input_defence") or []
    seen = victim.get("input_defence_under_attack") or []
    layers, seen = ([one] if isinstance(one, Mapping) else list(one) for one in (layers, seen))
    found += [_of_input(layer, seen[place] if place < len(seen) else {}) for place, layer in enumerate(layers)]
    return found


def of_training(defended: Mapping[str, Any], until: str = "the end") -> DefenceInWords:
    """What a victim was trained against, and what that cost.

    Args:
        defended: As the checkpoint keeps it under ``defence``: the parameters of the defence, and the passes so far.
        until: Up to where the passes are counted.
    """
    defence = defended["defence"]
    weight, warm_up = defence.get("weight"), defence.get("warm_up")
    name = METHODS.get(defence["class"], str(defence["class"]))
    if weight is not None and (defence["class"], weight) != ("AdversarialTraining", 1):
        name += f" with weight {weight:g}"
    detail = f"against {_attack_in_words(defence['attack'])}"
    if warm_up:
        detail += f", after a warm-up of {warm_up} {'epoch' if warm_up == 1 else 'epochs'}"
    if not defended.get("images"):
        return DefenceInWords("training", name, detail)
    passes = defended["forwards"] + defended["backwards"]
    choosing = defended["choosing_forwards"] + defended["choosing_backwards"]
    cost = (
        f"{passes / defended['images']:.1f} passes per image and epoch, where plain training makes 2; {passes:,} until "
        f"{until}, and {choosing:,} on Val to choose it"
    )
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
