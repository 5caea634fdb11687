"""Callbacks: they run attacks and listeners on victims inside Lightning's loops."""

from callbacks.averaging import AveragedWeights
from callbacks.checkpoints import Checkpoints
from callbacks.hardening import Hardening
from callbacks.listening import Detection, Panels, Quality, RecordJournal, Representation, Studies, Transfer
from callbacks.one_record import OneRecord
from callbacks.progress import AttackProgress
from callbacks.progress_lines import ProgressLines
from callbacks.robustness import Robustness

__all__ = [
    "AttackProgress",
    "AveragedWeights",
    "Checkpoints",
    "Detection",
    "Hardening",
    "OneRecord",
    "Panels",
    "ProgressLines",
    "Quality",
    "RecordJournal",
    "Representation",
    "Robustness",
    "Studies",
    "Transfer",
]
