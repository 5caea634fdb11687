"""Objectives: what an attacker raises, one value per image. They add, subtract and scale."""

from medrobust.objectives.base import Objective, Step, WeightedSum
from medrobust.objectives.clean_features import CleanFeatures, fit_objectives
from medrobust.objectives.cross_entropy import CrossEntropy
from medrobust.objectives.density_guides import DensityGuide, DimensionGuide
from medrobust.objectives.difference_of_logits import DifferenceOfLogits
from medrobust.objectives.divergence import Divergence
from medrobust.objectives.empty_truth import Invention, Vanishing
from medrobust.objectives.feature_constraint import FeatureConstraint
from medrobust.objectives.guides import ClosestGuide, RandomGuide
from medrobust.objectives.jensen_shannon import JensenShannon
from medrobust.objectives.layer_mean import LayerMean
from medrobust.objectives.loss_parts import LossParts
from medrobust.objectives.margin import Margin
from medrobust.objectives.masked_cross_entropy import MaskedCrossEntropy
from medrobust.objectives.smoothed import Smoothed
from medrobust.objectives.stabilization import Stabilization
from medrobust.objectives.typical_margin import TypicalMargin
from medrobust.objectives.weakest_label import WeakestLabel

__all__ = [
    "CleanFeatures",
    "ClosestGuide",
    "CrossEntropy",
    "DensityGuide",
    "DifferenceOfLogits",
    "DimensionGuide",
    "Divergence",
    "FeatureConstraint",
    "Invention",
    "JensenShannon",
    "LayerMean",
    "LossParts",
    "Margin",
    "MaskedCrossEntropy",
    "Objective",
    "RandomGuide",
    "Smoothed",
    "Stabilization",
    "Step",
    "TypicalMargin",
    "Vanishing",
    "WeakestLabel",
    "WeightedSum",
    "fit_objectives",
]
