"""Sums in which an objective fights the hiding that it is added to, and the warning about them."""

import warnings
from dataclasses import fields, is_dataclass
from typing import Any

from medrobust.objectives.base import Objective, WeightedSum
from medrobust.objectives.cross_entropy import CrossEntropy
from medrobust.objectives.fitted import HidingObjective


def warn_of_opposition(attack: Any, name: str) -> None:
    """Warn, in one sentence, of an attack that adds a hiding objective to untargeted cross-entropy.

    Args:
        attack: The attack; attacks within it are searched, too.
        name: What the sentence calls it.
    """
    hidden = opposed(attack)
    if hidden is not None:
        warnings.warn(
            f"{name} adds {type(hidden).__name__} to untargeted cross-entropy, which pulls the harder the more the "
            "victim is fooled and fights the hiding to the end: set targeted, or replace CrossEntropy by TypicalMargin",
            stacklevel=3,
        )


def opposed(value: Any, targeted: bool = False) -> HidingObjective | None:
    """The hiding objective that an attack adds to untargeted cross-entropy; None if there is none."""
    targeted = targeted or getattr(value, "targeted", False) is True or bool(getattr(value, "goals", 0))
    if isinstance(value, WeightedSum):
        raised = [term for term, weight in _terms(value) if weight > 0]
        hiding = [term for term in raised if isinstance(term, HidingObjective)]
        fought = not targeted and any(isinstance(term, CrossEntropy) for term in raised)
        return hiding[0] if hiding and fought else None
    if isinstance(value, list | tuple):
        inside = list(value)
    else:
        is_instance = is_dataclass(value) and not isinstance(value, type)
        inside = [getattr(value, field.name) for field in fields(value)] if is_instance else []
    found = (opposed(inner, targeted) for inner in inside)
    return next((hiding for hiding in found if hiding is not None), None)


def _terms(value: Objective, weight: float = 1.0) -> list[tuple[Objective, float]]:
    """The terms of a sum with their weights, those of sums within it included."""
    if not isinstance(value, WeightedSum):
        return [(value, weight)]
    pairs = zip(value.terms, value.weights, strict=True)
    return [found for term, inner in pairs for found in _terms(term, weight * inner)]
