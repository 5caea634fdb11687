"""The victim that a value is, offers, or becomes: where somebody's model enters an evaluation."""

from torch import nn

from medrobust.networks.victims import EvaluatedVictim, evaluated_victim, is_evaluated_victim
from medrobust.networks.wrapped_classifier import as_victim
from medrobust.networks.wrapped_model import WrappedModel


def victim_of(value: object) -> EvaluatedVictim:
    """The victim in a value.

    The value is one of these:

    - an ``EvaluatedVictim``, such as the project's Lightning modules and what ``as_victim`` returns: it is returned;
    - a module with an attribute or property ``victim`` that is one: that is returned;
    - any other module, or a function, that maps images in [0, 1] to logits ``(N, K)``: ``as_victim`` wraps it.

    Raises:
        ValueError: It is none of these; the message names what is missing.
    """
    if is_evaluated_victim(value):
        return value
    if isinstance(value, nn.Module) and getattr(value, "victim", None) is not None:
        return evaluated_victim(value.victim)
    if hasattr(value, "outcome") and not isinstance(value, type):
        return evaluated_victim(value)  # it is meant to be a victim, and lacks something
    if not callable(value):
        raise ValueError(
            f"a model is a torch module or a function that maps images to logits, got {type(value).__name__}"
        )
    wrapped: EvaluatedVictim = as_victim(value)
    return wrapped


def task_of(victim: object) -> str | None:
    """The task that a victim is known to have; None if it does not say."""
    while hasattr(victim, "undefended"):
        victim = victim.undefended
    return victim.task if isinstance(victim, WrappedModel) else None
