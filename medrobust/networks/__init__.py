"""Networks: what victims promise and are built of, the taps on their layers, and their deployment copies."""

from medrobust.networks.freezing import frozen
from medrobust.networks.seen_images import SeenImages
from medrobust.networks.victims import (
    EvaluatedVictim,
    Outcome,
    StoredVictim,
    Victim,
    class_outcome,
    is_evaluated_victim,
    is_stored_victim,
)
from medrobust.networks.wrapped_classifier import WrappedClassifier, as_victim

__all__ = [
    "EvaluatedVictim",
    "Outcome",
    "SeenImages",
    "StoredVictim",
    "Victim",
    "WrappedClassifier",
    "as_victim",
    "class_outcome",
    "frozen",
    "is_evaluated_victim",
    "is_stored_victim",
]
