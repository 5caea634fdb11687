"""An evaluation in one call: a model, images and attacks in, records, summary and report out."""

from medrobust.one_call.evaluated import Evaluated
from medrobust.one_call.evaluating import Options, evaluate

__all__ = ["Evaluated", "Options", "evaluate"]
