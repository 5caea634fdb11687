"""Intervals over patients of many rates at once: those on the same images are resampled together."""

from collections.abc import Sequence

import numpy as np

from medrobust.results.dashboard.outcomes import Flags, Outcomes
from medrobust.results.separation import rate_intervals


def shared_intervals(verdicts: Sequence[tuple[Outcomes, Flags]], counted: Sequence[Flags]) -> list[list[float] | None]:
    """95 % intervals of rates of right images, as `results.separation.rate_interval` gives them one by one.

    Args:
        verdicts: The images of a run, and which of them are right, ``(N,)``; any number of them.
        counted: Which images count for each, ``(N,)``.

    Returns:
        `[lower, upper]` for each; None where no image counts.
    """
    together: dict[tuple[bytes, bytes], list[int]] = {}
    patients: dict[int, tuple[bytes, np.ndarray]] = {}
    for place, ((outcomes, _), kept) in enumerate(zip(verdicts, counted, strict=True)):
        if id(outcomes) not in patients:
            numbers = np.unique(outcomes.patients.astype(str), return_inverse=True)[1]
            patients[id(outcomes)] = numbers.tobytes(), numbers
        together.setdefault((patients[id(outcomes)][0], kept.tobytes()), []).append(place)
    found: list[list[float] | None] = [None] * len(verdicts)
    for places in together.values():
        kept = counted[places[0]]
        numbers = patients[id(verdicts[places[0]][0])][1]
        limits = rate_intervals(np.stack([verdicts[place][1][kept] for place in places]), numbers[kept])
        for place, own in zip(places, limits, strict=True):
            found[place] = own
    return found
