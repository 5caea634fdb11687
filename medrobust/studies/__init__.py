"""Studies: what is looked at while the victim is there, and drawn when an evaluation is finished."""

from medrobust.studies.base import Study
from medrobust.studies.radius_sweep import RadiusSweep
from medrobust.studies.saliency import Saliency

__all__ = ["RadiusSweep", "Saliency", "Study"]
