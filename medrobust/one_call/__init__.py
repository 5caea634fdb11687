"""An evaluation in one call: a model, images and attacks in, records, summary and report out."""

from medrobust.one_call.evaluate import Options, evaluate
from medrobust.one_call.evaluated import Evaluated

__all__ = ["Evaluated", "Options", "evaluate"]
