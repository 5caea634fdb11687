"""What is said of an attack while it is at work: beside a progress bar, or in a line."""

from medrobust.attacks.budgets import Fraction
from medrobust.attacks.in_turn import Turn
from medrobust.evaluation.plan import EvaluationPlan, PlannedAttack, radius_of


def attack_words(planned: PlannedAttack, plan: EvaluationPlan) -> str:
    """An attack's name, as it was given, its radius, and its number among the attacks."""
    radius = radius_of(planned.attack)
    number = next(place for place, other in enumerate(plan.attacks, 1) if other.key == planned.key)
    written = str(radius) if isinstance(radius, Fraction) else f"{radius:.3g}" if radius is not None else ""
    name = f"{planned.name} {written}".rstrip()
    return f"{name} ({number}/{len(plan.attacks)})"


def turn_words(turn: Turn) -> str:
    """Which of several attacks is at work, the number of images that none has broken yet, and its passes."""
    words = f"{turn.attack} ({turn.number}/{turn.attacks}), {turn.images} image{'' if turn.images == 1 else 's'} left"
    passes = f", {turn.passes} pass{'' if turn.passes == 1 else 'es'}" if turn.passes else ""
    return f"{words}{passes}"
