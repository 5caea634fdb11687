"""A run whose studies are drawn, alone or beside others."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from medrobust.results.studied import Studied


class StudiedRun(NamedTuple):
    """One study of one run.

    Args:
        label: What the run is called in the figure.
        summary: Its summary.
        studied: What the study has kept.
    """

    label: str
    summary: Mapping[str, Any]
    studied: Studied
