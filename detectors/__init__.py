"""Detectors of adversarial images: estimators on a victim's features, larger scores for what looks adversarial."""

from detectors.base import Detector, Features, concatenate
from detectors.bayesian_uncertainty import BayesianUncertainty, KernelDensityUncertainty
from detectors.deep_features import DeepFeatures
from detectors.kernel_density import KernelDensity
from detectors.layer_networks import LayerNetworks
from detectors.local_dimension import LocalDimension
from detectors.mahalanobis import Mahalanobis
from detectors.quantized_features import QuantizedFeatures
from detectors.saving import load_detectors, read_header, save_detectors
from detectors.support_vectors import SupportVectors

__all__ = [
    "BayesianUncertainty",
    "DeepFeatures",
    "Detector",
    "Features",
    "KernelDensity",
    "KernelDensityUncertainty",
    "LayerNetworks",
    "LocalDimension",
    "Mahalanobis",
    "QuantizedFeatures",
    "SupportVectors",
    "concatenate",
    "load_detectors",
    "read_header",
    "save_detectors",
]
