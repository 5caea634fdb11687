"""How far the mean of a layer can be moved, drawn from the records alone (HFC21 Table 1)."""

from dataclasses import dataclass

from medrobust.studies.base import Study


@dataclass(frozen=True, kw_only=True)
class StressTest(Study):
    """The means of layers before and after attacks that lower or raise them (HFC21 Table 1).

    The attacks are those whose objective is a ``LayerMean``, and the layers those of ``representation.layers``. Nothing
    is computed besides the records.

    Args:
        images: Not used: all images count.
        attacks: Not used: all attacks of this objective are drawn.
    """
