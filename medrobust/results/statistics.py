"""The statistics of a robustness table: intervals for a rate and a mean, a test for two rates on the same images."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson_interval(successes: float, trials: float) -> tuple[float, float] | None:
    """Interval that covers the true rate with 95 % confidence (Wilson, J. Am. Stat. Assoc. 1927).

    It holds every rate p that the observation does not contradict at the 5 % level: |p_hat - p| <= z * sqrt(p (1 - p) /
    n), a quadratic in p whose two roots are the limits. Unlike p_hat +- z * sqrt(p_hat (1 - p_hat) / n), it stays
    within [0, 1] and keeps a width at 0 of n and n of n, where attacks usually end.

    Args:
        successes: Number of trials in which the event occurred, from 0 to `trials`.
        trials: Number of independent trials; of images that resemble each other, the effective number and its share.

    Returns:
        The lower and the upper limit, in [0, 1]; None without trials.

    Raises:
        ValueError: If `successes` is not between 0 and `trials`.

    >>> [round(limit, 4) for limit in wilson_interval(0, 10)]  # upper limit z^2 / (n + z^2)
    [0.0, 0.2775]
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes lie between 0 and the number of trials, got {successes} of {trials}")
    if not trials:
        return None
    rate, z2 = successes / trials, Z95**2
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    # at both ends one root is exactly 0 or 1, which rounding would miss
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == trials else centre + half


def rate_entries(name: str, successes: int, trials: int) -> dict[str, Any]:
    """A rate and its Wilson interval as entries of a summary, both None without trials.

    >>> rate_entries("flipped", 0, 0)
    {'flipped': None, 'flipped_interval': None}
    """
    interval = wilson_interval(successes, trials)
    return {name: successes / trials if trials else None, f"{name}_interval": list(interval) if interval else None}


def mean_interval(values: NDArray[np.float64], patients: NDArray[np.int64], largest: float = 1.0) -> list[float] | None:
    """Interval that covers the true mean of values from 0 on with 95 % confidence, if patients are independent.

    The mean m is over images, but a patient's images resemble each other, so the standard error comes from the k
    patients: s^2 = k / (k - 1) * sum over patients of (sum over the patient's images of (value - m))^2 / N^2. It is the
    usual standard error of a mean where every patient has one image. The limits are m +- z * s, cut to [0, largest].

    Args:
        values: One value in [0, largest] per image, ``(N,)``.
        patients: Number of the patient that each image shows, from 0, ``(N,)``.
        largest: The largest value that there can be; infinity for distances.

    Returns:
        `[lower, upper]`; None for fewer than two patients, who say nothing about how patients differ, and where all
        patients agree: an interval without width would claim a certainty that few of them cannot give.

    >>> values, patients = np.array([0.5, 0.5, 0.75, 0.25]), np.array([0, 1, 2, 3])  # s^2 = (2 * 0.25^2) / (3 * 4)
    >>> [round((limit - 0.5) / Z95, 4) for limit in mean_interval(values, patients)]
    [-0.1021, 0.1021]
    """
    count = len(np.unique(patients))
    if count < 2:
        return None
    mean = values.mean()
    deviations = np.bincount(patients, values - mean)
    if np.allclose(deviations, 0.0, rtol=0.0, atol=1e-9):
        return None
    half = Z95 * math.sqrt(count / (count - 1) * (deviations**2).sum()) / len(values)
    return [max(0.0, float(mean - half)), min(largest, float(mean + half))]


def paired_p_value(only_first: int, only_second: int) -> float:
    """Probability that chance alone favours the first of two attacks this much: one-sided exact McNemar test.

    Both attacks were tried on the same images. Images that both fooled, or neither, do not tell which attack is the
    stronger. If the attacks are equally strong, an image that only one of them fooled is as likely to be the first's as
    the second's, so the p-value is P(X >= only_first) for X ~ Binomial(only_first + only_second, 1/2).

    Args:
        only_first: Number of images that the first attack fooled and the second did not.
        only_second: Number of images that the second attack fooled and the first did not.

    >>> paired_p_value(5, 0)  # 1/2^5
    0.03125
    >>> round(paired_p_value(3, 1), 4)  # (4 + 1) / 2^4
    0.3125
    """
    trials = only_first + only_second
    if only_first <= only_second:  # the mass lies in this tail: sum the other one
        return 1.0 - _upper_tail(only_second + 1, trials)
    return _upper_tail(only_first, trials)


def _upper_tail(start: int, trials: int) -> float:
    """P(X >= start) for X ~ Binomial(trials, 1/2) and a start above the middle, from where the terms decrease."""
    if start > trials:
        return 0.0
    log_first = math.lgamma(trials + 1) - math.lgamma(start + 1) - math.lgamma(trials - start + 1)
    total, term = 0.0, 1.0
    for count in range(start, trials + 1):
        total += term
        term *= (trials - count) / (count + 1)
        if term < 1e-17 * total:
            break
    return min(1.0, total * math.exp(log_first - trials * math.log(2)))
