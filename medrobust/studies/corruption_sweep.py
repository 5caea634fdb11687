"""The sweep over the severities of corruptions, whose figures are made of the records alone (MedMNIST-C)."""

from dataclasses import dataclass

from medrobust.studies.base import Study


@dataclass(frozen=True, kw_only=True)
class CorruptionSweep(Study):
    """Accuracy and SSIM against the severity, a panel for each kind of corruption (MedMNIST-C, arXiv:2406.17536).

    The kinds and severities are those of the evaluation's ``Corruption``. Nothing is computed besides the records.

    Args:
        images: Not used: all images count.
        attacks: Not used: all corruptions are drawn.
    """
