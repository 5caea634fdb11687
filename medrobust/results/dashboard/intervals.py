"""Intervals over patients of many rates at once."""

from collections.abc import Sequence

import numpy as np

from medrobust.results.dashboard.outcomes import Flags, Outcomes
from medrobust.results.statistics import rate_interval


def shared_intervals(verdicts: Sequence[tuple[Outcomes, Flags]], counted: Sequence[Flags]) -> list[list[float] | None]:
    """95 % intervals of rates of right images, as `results.statistics.rate_interval` gives them.

    Args:
        verdicts: The images of a run, and which of them are right, ``(N,)``; any number of them.
        counted: Which images count for each, ``(N,)``.

    Returns:
        `[lower, upper]` for each; None where no image counts.
    """
    patients: dict[int, np.ndarray] = {}
    found = []
    for (outcomes, right), kept in zip(verdicts, counted, strict=True):
        if id(outcomes) not in patients:
            patients[id(outcomes)] = np.unique(outcomes.patients.astype(str), return_inverse=True)[1]
        found.append(rate_interval(right[kept], patients[id(outcomes)][kept]))
    return found
