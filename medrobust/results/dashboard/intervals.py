"""Intervals over patients of many rates at once."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from medrobust.results.dashboard.outcomes import Flags, Outcomes
from medrobust.results.statistics import rate_interval


def shared_intervals(verdicts: Sequence[tuple[Outcomes, Flags]], counted: Sequence[Flags]) -> list[list[float] | None]:
    """95 % intervals of rates of right images, as `results.statistics.rate_interval` gives them, on all cores.

    Args:
        verdicts: The images of a run, and which of them are right, ``(N,)``; any number of them.
        counted: Which images count for each, ``(N,)``.

    Returns:
        `[lower, upper]` for each; None where no image counts.
    """
    patients: dict[int, np.ndarray] = {}
    for outcomes, _ in verdicts:
        if id(outcomes) not in patients:
            patients[id(outcomes)] = np.unique(outcomes.patients.astype(str), return_inverse=True)[1]

    def interval(verdict: tuple[Outcomes, Flags], kept: Flags) -> list[float] | None:
        outcomes, right = verdict
        return rate_interval(right[kept], patients[id(outcomes)][kept])

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # NumPy draws without holding the interpreter's lock
        return list(threads.map(interval, verdicts, counted))
