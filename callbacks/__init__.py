"""Callbacks: they introduce attacks to victims inside Lightning's loops, and record what happens."""

from callbacks.detection import Detection
from callbacks.journal import RecordJournal
from callbacks.panels import Panels
from callbacks.progress import AttackProgress
from callbacks.quality import Quality
from callbacks.representation import Representation
from callbacks.robustness import Robustness
from callbacks.transfer import Transfer
from medrobust.evaluation.plan import AdversarialBatch, EvaluationPlan, PlannedAttack

__all__ = [
    "AdversarialBatch",
    "AttackProgress",
    "Detection",
    "EvaluationPlan",
    "Panels",
    "PlannedAttack",
    "Quality",
    "RecordJournal",
    "Representation",
    "Robustness",
    "Transfer",
]
