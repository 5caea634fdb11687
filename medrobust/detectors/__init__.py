"""Detectors of adversarial images: estimators on a victim's features whose scores are larger for adversarial ones."""

from medrobust.detectors.base import Detector, NeededViews, views_needed
from medrobust.detectors.bayesian_uncertainty import BayesianUncertainty, KernelDensityUncertainty
from medrobust.detectors.deep_features import DeepFeatures
from medrobust.detectors.features import Features, Views, concatenate, groups_of
from medrobust.detectors.kernel_density import KernelDensity
from medrobust.detectors.layer_convolutions import LayerConvolutions
from medrobust.detectors.layer_networks import LayerNetworks
from medrobust.detectors.local_dimension import LocalDimension
from medrobust.detectors.mahalanobis import Mahalanobis
from medrobust.detectors.patient_groups import Groups, patient_numbers
from medrobust.detectors.quantized_features import QuantizedFeatures
from medrobust.detectors.saving import load_detectors, read_header, save_detectors
from medrobust.detectors.support_vectors import SupportVectors

__all__ = [
    "BayesianUncertainty",
    "DeepFeatures",
    "Detector",
    "Features",
    "Groups",
    "KernelDensity",
    "KernelDensityUncertainty",
    "LayerConvolutions",
    "LayerNetworks",
    "LocalDimension",
    "Mahalanobis",
    "NeededViews",
    "QuantizedFeatures",
    "SupportVectors",
    "Views",
    "concatenate",
    "groups_of",
    "load_detectors",
    "patient_numbers",
    "read_header",
    "save_detectors",
    "views_needed",
]
