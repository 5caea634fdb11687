"""Defences: what a victim is trained against, in place of the plain loss on clean images."""

from medrobust.defences.adversarial_training import AdversarialTraining
from medrobust.defences.base import Defence, TrainedVictim, TrainingLoss
from medrobust.defences.mart import Mart
from medrobust.defences.trades import Trades

__all__ = ["AdversarialTraining", "Defence", "Mart", "Trades", "TrainedVictim", "TrainingLoss"]
