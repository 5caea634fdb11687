"""Rates of images with the intervals that a summary gives them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrobust.results.separation import rate_interval


def patient_rate(name: str, happened: NDArray[np.bool_], patients: NDArray[np.int64]) -> dict[str, Any]:
    """A rate and its 95 % interval over patients as entries of a summary, both None without images.

    Args:
        name: What the rate is called.
        happened: Whether it happened to each image, ``(N,)``.
        patients: Number of the patient, from 0, that each image shows, ``(N,)``.

    >>> patient_rate("flipped", np.zeros(0, bool), np.zeros(0, int))
    {'flipped': None, 'flipped_interval': None}
    """
    rate = float(happened.mean()) if len(happened) else None
    return {name: rate, f"{name}_interval": rate_interval(happened, patients)}
