"""Self-checks of an evaluation: what makes its numbers doubtful, in one sentence each."""

from medrobust.results.checks.checklist import CHECKS, check
from medrobust.results.checks.evaluation import CheckedEvaluation

__all__ = ["CHECKS", "CheckedEvaluation", "check"]
