"""Detection against the radius, whose figure is made of the records alone (HFC21 Fig. 3b)."""

from dataclasses import dataclass

from medrobust.studies.base import Study


@dataclass(frozen=True, kw_only=True)
class DetectionSweep(Study):
    """AUROC of every detector against the radius, of attacks that hide and of those that do not (HFC21 Fig. 3b).

    The radii are those of the evaluation, ``attack.epsilons``, and the detectors those of ``detection``. Nothing is
    computed besides the records.

    Args:
        images: Not used: all images count.
        attacks: Names of the attacks that are drawn; empty for all.
    """
