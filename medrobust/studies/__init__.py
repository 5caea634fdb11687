"""Studies: what is looked at while the victim is there, and drawn when an evaluation is finished."""

from medrobust.studies.base import Study
from medrobust.studies.grad_cam import GradCAM
from medrobust.studies.loss_landscape import LossLandscape
from medrobust.studies.radius_sweep import RadiusSweep
from medrobust.studies.saliency import Saliency
from medrobust.studies.sensitive_regions import SensitiveRegions

__all__ = ["GradCAM", "LossLandscape", "RadiusSweep", "Saliency", "SensitiveRegions", "Study"]
