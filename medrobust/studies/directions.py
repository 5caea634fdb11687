"""Directions in which attacks push the penultimate features, drawn from the records alone (HFC21 Fig. 2)."""

from dataclasses import dataclass

from medrobust.studies.base import Study


@dataclass(frozen=True, kw_only=True)
class Directions(Study):
    """How alike the changes of the penultimate features are, to the classifier's weights and each other (HFC21 Fig. 2).

    Its numbers are columns of ``representation.directions``. Nothing is computed besides the records.

    Args:
        images: Not used: all images count.
        attacks: Names of the attacks that are drawn; empty for all.
    """
