"""Attacks: pure torch, configured by their fields, called as ``attack(victim, images, targets, ids)``."""

from attacks.auto_pgd import APGD
from attacks.base import Attack, Attacked, Crafted, Objective, Step, WeightedSum
from attacks.bias_field import AdvSBF
from attacks.carlini_wagner import CWL2
from attacks.deepfool import DeepFool
from attacks.density_guides import DensityGuide, DimensionGuide
from attacks.difference_of_logits import DifferenceOfLogits
from attacks.fab import FAB
from attacks.feature_constraint import FeatureConstraint
from attacks.guides import ClosestGuide, RandomGuide
from attacks.layer_mean import LayerMean
from attacks.noise import UniformNoise
from attacks.objectives import CrossEntropy, Margin
from attacks.reference import Reference, fit_objectives
from attacks.saliency_map import JSMA
from attacks.sign_family import BIM, DIM, FGSM, MIM, PGD, TIM, CWLinf, LogDomain
from attacks.sign_gradient import SignGradient
from attacks.square import Square
from attacks.stabilized import SMIA, Stabilization
from attacks.victims import Victim, as_victim, frozen
from attacks.worst_case import WorstCase

__all__ = [
    "APGD",
    "AdvSBF",
    "Attack",
    "Attacked",
    "BIM",
    "CWL2",
    "CWLinf",
    "ClosestGuide",
    "Crafted",
    "CrossEntropy",
    "DIM",
    "DeepFool",
    "DensityGuide",
    "DifferenceOfLogits",
    "DimensionGuide",
    "FAB",
    "FGSM",
    "FeatureConstraint",
    "JSMA",
    "LayerMean",
    "LogDomain",
    "MIM",
    "Margin",
    "Objective",
    "PGD",
    "RandomGuide",
    "Reference",
    "SMIA",
    "SignGradient",
    "Square",
    "Stabilization",
    "Step",
    "TIM",
    "UniformNoise",
    "Victim",
    "WeightedSum",
    "WorstCase",
    "as_victim",
    "fit_objectives",
    "frozen",
]
