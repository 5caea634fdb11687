"""Attacks: pure torch, configured by their fields, called as ``attack(victim, images, targets, ids)``."""

from attacks.base import Attack, Attacked, Crafted, Objective, Step, WeightedSum
from attacks.noise import UniformNoise
from attacks.objectives import CrossEntropy, Margin
from attacks.sign_family import BIM, DIM, FGSM, MIM, PGD, TIM, CWLinf, LogDomain
from attacks.sign_gradient import SignGradient
from attacks.stabilized import SMIA, Stabilization
from attacks.victims import Victim, as_victim, frozen

__all__ = [
    "Attack",
    "Attacked",
    "BIM",
    "CWLinf",
    "Crafted",
    "CrossEntropy",
    "DIM",
    "FGSM",
    "LogDomain",
    "MIM",
    "Margin",
    "Objective",
    "PGD",
    "SMIA",
    "SignGradient",
    "Stabilization",
    "Step",
    "TIM",
    "UniformNoise",
    "Victim",
    "WeightedSum",
    "as_victim",
    "frozen",
]
