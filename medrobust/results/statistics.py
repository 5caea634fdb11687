"""The statistics of a robustness table: intervals for a rate and a mean, a test for two rates on the same images."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
LIMITS = (2.5, 97.5)  # percentiles that enclose 95 %
FEWEST = 10  # patients from which a bootstrap can be trusted
RESAMPLES = 2000  # of a rate: each costs a few draws, however many images there are
SORTED = 1_000_000  # largest code of a kind of patient up to which kinds are counted instead of sorted
NO_WIDTH = 0.0005  # half a width of an interval that would be shown without any


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


def rate_interval(
    happened: NDArray[np.bool_], patients: NDArray[np.int64], resamples: int = RESAMPLES, seed: int = 0
) -> list[float] | None:
    """95 % percentile interval of the share of images to which something happened, by a cluster bootstrap.

    Images of one patient resemble each other, so patients are drawn with replacement, each with all of their images.
    How many patients of each kind a resample has is all that counts, where a kind is a number of images and of those
    among them to which it happened: these numbers are multinomial, and are drawn instead of the patients. With one
    image a patient it is the bootstrap of a proportion, whose resamples are binomial.

    Where a limit reaches 0 or 1, all patients agree, or there are fewer than `FEWEST`, it is widened to
    `wilson_interval` with patients as the effective number: drawing from images that are all alike would never draw
    another.

    Args:
        happened: Whether it happened to each image, ``(N,)``.
        patients: Number of the patient, from 0, that each image shows, ``(N,)``.
        resamples: Number of resamples.
        seed: Seed of the drawing.

    Returns:
        `[lower, upper]`; None without images.

    >>> [round(limit, 3) for limit in rate_interval(np.ones(43, bool), np.arange(43))]  # 43/(43 + z^2)
    [0.918, 1.0]
    """
    if not len(happened):
        return None
    sizes, hits = np.bincount(patients), np.bincount(patients, happened).astype(np.int64)
    most, kinds = int(sizes.max()) + 1, (hits * (sizes.max() + 1) + sizes)[sizes > 0]
    if int(kinds.max()) <= SORTED:  # far fewer kinds than patients, as a rule, so that counting is faster than sorting
        numbers = np.bincount(kinds)
        kinds, numbers = np.flatnonzero(numbers), numbers[numbers > 0]
    else:
        kinds, numbers = np.unique(kinds, return_counts=True)
    count = int(numbers.sum())
    kept = tuple((kinds // most).tolist()), tuple((kinds % most).tolist()), tuple(numbers.tolist())
    limits = list(_resampled(*kept, resamples, seed))
    least = wilson_interval(float(happened.mean()) * count, count)
    return widened(limits, least, in_any_case=count < FEWEST)


@lru_cache(4096)  # pages show the same rate at several places
def _resampled(
    hits: tuple[int, ...], sizes: tuple[int, ...], numbers: tuple[int, ...], resamples: int, seed: int
) -> tuple[float, ...]:
    """Percentiles of the rate over resamples of patients, of whom each kind has hits, images and a number."""
    counts = np.array(numbers)
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    shares = (drawn @ np.array(hits)) / (drawn @ np.array(sizes))
    return tuple(float(limit) for limit in np.percentile(shares, LIMITS))


def widened(limits: list[float] | None, least: Sequence[float] | None, in_any_case: bool = False) -> list[float] | None:
    """Limits of a bootstrap; widened to the others where they have no width or reach 0 or 1, and so show too little."""
    if limits is None or least is None:
        return None if least is None else list(least)
    if 0 < limits[0] < limits[1] < 1 and not in_any_case:
        return limits
    return [min(limits[0], least[0]), max(limits[1], least[1])]


def rate_entries(name: str, happened: NDArray[np.bool_], patients: NDArray[np.int64]) -> dict[str, Any]:
    """A rate and its `rate_interval` as entries of a summary, both None without images.

    Args:
        name: What the rate is called.
        happened: Whether it happened to each image, ``(N,)``.
        patients: Number of the patient, from 0, that each image shows, ``(N,)``.

    >>> rate_entries("flipped", np.zeros(0, bool), np.zeros(0, int))
    {'flipped': None, 'flipped_interval': None}
    """
    rate = float(happened.sum() / len(happened)) if len(happened) else None
    return {name: rate, f"{name}_interval": rate_interval(happened, patients)}


def mean_interval(values: NDArray[np.float64], patients: NDArray[np.int64], largest: float = 1.0) -> list[float] | None:
    """Interval that covers the true mean of values from 0 on with 95 % confidence, if patients are independent.

    The mean m is over images, but a patient's images resemble each other, so the standard error comes from the k
    patients: s^2 = k / (k - 1) * sum over patients of (sum over the patient's images of (value - m))^2 / N^2. It is the
    usual standard error of a mean where every patient has one image. The limits are m +- z * s, cut to [0, largest].

    Where all patients agree, or nearly so that nothing of a width would be shown, it is `wilson_interval` of m with k
    trials, if values are at most 1: no values in [0, 1] of that mean scatter more widely than zeros and ones.

    Args:
        values: One value in [0, largest] per image, ``(N,)``.
        patients: Number of the patient that each image shows, from 0, ``(N,)``.
        largest: The largest value that there can be; infinity for distances.

    Returns:
        `[lower, upper]`; None for fewer than two patients, who say nothing about how patients differ, and for values
        without a bound on which all patients agree: an interval without width would claim a certainty that few of them
        cannot give.

    >>> values, patients = np.array([0.5, 0.5, 0.75, 0.25]), np.array([0, 1, 2, 3])  # s^2 = (2 * 0.25^2) / (3 * 4)
    >>> [round((limit - 0.5) / Z95, 4) for limit in mean_interval(values, patients)]
    [-0.1021, 0.1021]
    """
    count = len(np.unique(patients))
    if count < 2:
        return None
    mean = float(values.mean())
    deviations = np.bincount(patients, values - mean)
    half = Z95 * math.sqrt(count / (count - 1) * (deviations**2).sum()) / len(values)
    if largest <= 1 and half < NO_WIDTH:
        limits = wilson_interval(min(max(mean, 0.0), 1.0) * count, count)
        return None if limits is None else list(limits)
    if np.allclose(deviations, 0.0, rtol=0.0, atol=1e-9):
        return None
    return [max(0.0, mean - half), min(largest, mean + half)]


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
