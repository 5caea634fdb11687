"""Lightning modules: the victims, each fulfilling the contract that attacks and detectors rely on."""

from lightning_modules.base import VictimModule
from lightning_modules.boxes import BoxDetector
from lightning_modules.classification import Classifier
from lightning_modules.multilabel import MultiLabelClassifier
from lightning_modules.segmentation import Segmenter

__all__ = ["BoxDetector", "Classifier", "MultiLabelClassifier", "Segmenter", "VictimModule"]
