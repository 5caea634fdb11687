"""Studies: what is looked at while the victim is there, and drawn when an evaluation is finished."""

from medrobust.studies.base import Study
from medrobust.studies.bias_fields import BiasFields
from medrobust.studies.corruption_sweep import CorruptionSweep
from medrobust.studies.detection_sweep import DetectionSweep
from medrobust.studies.directions import Directions
from medrobust.studies.embedding import Embedding
from medrobust.studies.grad_cam import GradCAM
from medrobust.studies.layer_maps import LayerMaps
from medrobust.studies.loss_landscape import LossLandscape
from medrobust.studies.radius_sweep import RadiusSweep
from medrobust.studies.saliency import Saliency
from medrobust.studies.sensitive_regions import SensitiveRegions
from medrobust.studies.stress_test import StressTest
from medrobust.studies.trajectory import Trajectory

__all__ = [
    "BiasFields",
    "CorruptionSweep",
    "DetectionSweep",
    "Directions",
    "Embedding",
    "GradCAM",
    "LayerMaps",
    "LossLandscape",
    "RadiusSweep",
    "Saliency",
    "SensitiveRegions",
    "StressTest",
    "Study",
    "Trajectory",
]
