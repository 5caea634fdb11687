"""Evaluations: every image under every attack, crafted once and handed to every listener."""

from medrobust.evaluation.batch import AdversarialBatch, CleanBatch
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.crafting import Crafter
from medrobust.evaluation.data import EvaluationData
from medrobust.evaluation.engine import Evaluation
from medrobust.evaluation.listener import EvaluationListener
from medrobust.evaluation.plan import EvaluationPlan, PlannedAttack, lay_out

__all__ = [
    "AdversarialBatch",
    "CleanBatch",
    "Crafter",
    "Evaluation",
    "EvaluationContext",
    "EvaluationData",
    "EvaluationListener",
    "EvaluationPlan",
    "PlannedAttack",
    "lay_out",
]
