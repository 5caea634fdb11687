"""Attacks: pure torch, configured by their fields, called as ``attack(victim, images, targets, ids)``."""

from medrobust.attacks.auto_pgd import APGD
from medrobust.attacks.base import Attack, Attacked, Crafted
from medrobust.attacks.basin_hopping import BasinHopping
from medrobust.attacks.bias_field import AdvSBF
from medrobust.attacks.carlini_wagner import CWL2
from medrobust.attacks.corruptions import Corruption
from medrobust.attacks.deepfool import DeepFool
from medrobust.attacks.dense_adversary import DAG
from medrobust.attacks.fab import FAB
from medrobust.attacks.noise import UniformNoise
from medrobust.attacks.oblivious import Oblivious
from medrobust.attacks.random_bias_field import RandomBiasField
from medrobust.attacks.saliency_map import JSMA
from medrobust.attacks.sign_family import BIM, DIM, FGSM, MIM, PGD, TIM, CWLinf, LogDomain
from medrobust.attacks.sign_gradient import SignGradient
from medrobust.attacks.square import Square
from medrobust.attacks.stabilized import SMIA
from medrobust.attacks.worst_case import WorstCase

__all__ = [
    "APGD",
    "AdvSBF",
    "Attack",
    "Attacked",
    "BIM",
    "BasinHopping",
    "CWL2",
    "CWLinf",
    "Corruption",
    "Crafted",
    "DAG",
    "DIM",
    "DeepFool",
    "FAB",
    "FGSM",
    "JSMA",
    "LogDomain",
    "MIM",
    "Oblivious",
    "PGD",
    "RandomBiasField",
    "SMIA",
    "SignGradient",
    "Square",
    "TIM",
    "UniformNoise",
    "WorstCase",
]
