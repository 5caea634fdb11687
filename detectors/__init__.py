"""Detectors of adversarial images: estimators on a victim's features, larger scores for what looks adversarial."""

from detectors.base import Detector, Features, concatenate

__all__ = ["Detector", "Features", "concatenate"]
