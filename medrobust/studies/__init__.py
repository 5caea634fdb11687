"""Studies: what is looked at while the victim is there, and drawn when an evaluation is finished."""

from medrobust.studies.base import Study
from medrobust.studies.bias_fields import BiasFields
from medrobust.studies.corruption_sweep import CorruptionSweep
from medrobust.studies.radius_sweep import RadiusSweep
from medrobust.studies.saliency import Saliency

__all__ = ["BiasFields", "CorruptionSweep", "RadiusSweep", "Saliency", "Study"]
