"""The sweep over radii, whose figures are made of the records alone (Ma20 Fig. 4-5)."""

from dataclasses import dataclass

from medrobust.studies.base import Study


@dataclass(frozen=True, kw_only=True)
class RadiusSweep(Study):
    """Accuracy, AUROC and the smallest perturbation against the radius, of all attacks (Ma20 Fig. 4-5, Tables 2-3).

    The radii are those of the evaluation, ``attack.epsilons``. Nothing is computed besides the records.

    Args:
        images: Not used: all images count.
        attacks: Not used: all attacks are drawn.
    """
