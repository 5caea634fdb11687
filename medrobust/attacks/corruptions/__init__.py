"""Corruptions: what acquisition and storage do to images without any enemy."""

from medrobust.attacks.corruptions.corruption import Corruption
from medrobust.attacks.corruptions.strengths import MODALITIES

__all__ = ["MODALITIES", "Corruption"]
