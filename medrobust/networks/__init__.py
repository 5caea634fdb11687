"""Networks: what victims promise and are built of, the taps on their layers, and their deployment copies."""

from medrobust.networks.defended_victim import DefendedVictim, defended
from medrobust.networks.freezing import frozen
from medrobust.networks.input_defences import (
    BitDepth,
    GaussianSmoothing,
    InputDefence,
    JPEGCompression,
    MedianSmoothing,
    RandomResizing,
)
from medrobust.networks.seen_images import SeenImages
from medrobust.networks.victims import (
    BoxVictim,
    EvaluatedVictim,
    Outcome,
    StoredVictim,
    Victim,
    class_outcome,
    is_evaluated_victim,
    is_stored_victim,
)
from medrobust.networks.wrapped_classifier import WrappedClassifier, WrappedLabels, WrappedSegmenter, as_victim

__all__ = [
    "BitDepth",
    "BoxVictim",
    "DefendedVictim",
    "EvaluatedVictim",
    "GaussianSmoothing",
    "InputDefence",
    "JPEGCompression",
    "MedianSmoothing",
    "Outcome",
    "RandomResizing",
    "SeenImages",
    "StoredVictim",
    "Victim",
    "WrappedClassifier",
    "WrappedLabels",
    "WrappedSegmenter",
    "as_victim",
    "class_outcome",
    "defended",
    "frozen",
    "is_evaluated_victim",
    "is_stored_victim",
]
