"""How well scores separate two groups: AUROC, TPR at a given TNR, the ROC curve, and bootstrap intervals."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medrobust.results.statistics import FEWEST, LIMITS, Z95, widened, wilson_interval

RESAMPLES = 1000
BLOCK = 4_000_000  # weights held at a time: bounds the memory of the bootstrap

Scores = NDArray[np.float64]


class Intervals(NamedTuple):
    """95 % limits `[lower, upper]` of both measures; None where a group is empty or, of the AUROC, too small."""

    auroc: list[float] | None
    tpr: list[float] | None


def auroc(negative: Scores, positive: Scores) -> float | None:
    """Probability that a positive scores above a negative one, ties counting one half, by ranks.

    Args:
        negative: Raw scores of one group, ``(N,)``, of any range, larger = more suspicious.
        positive: Raw scores of the other, ``(M,)``.

    Returns:
        A value in [0, 1]; None if a group is empty.

    Raises:
        ValueError: If a score is NaN.

    >>> auroc(np.array([300.0, 310.0]), np.array([305.0, 400.0]))
    0.75
    """
    _check(negative, positive)
    if not len(negative) or not len(positive):
        return None
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left")
    not_above = np.searchsorted(ordered, positive, side="right")
    return float((below + not_above).sum() / (2 * len(negative) * len(positive)))


def exceeded(others: Scores, mine: Scores) -> Scores:
    """Share of the others that each of mine exceeds, ties counting one half; of positives the mean is the AUROC."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, mine, side="left")
    not_above = np.searchsorted(ordered, mine, side="right")
    return np.asarray((below + not_above) / (2 * len(others)))


def tpr_at_tnr(negative: Scores, positive: Scores, tnr: float = 0.9) -> float | None:
    """Share of positives that are flagged when at least `tnr` of the negatives pass (HFC21's TPR@90 for 0.9).

    The threshold is the smallest score of a negative that at least ``tnr * N`` negatives do not exceed; scores strictly
    above it are flagged. So never more than ``(1 - tnr) * N`` negatives are flagged, and a positive whose score equals
    the threshold counts as missed. This is the highest TPR of the ROC curve at an FPR of at most ``1 - tnr``.

    Args:
        negative: Raw scores, ``(N,)``.
        positive: Raw scores, ``(M,)``.
        tnr: True negative rate, above 0 and at most 1.

    Returns:
        A value in [0, 1]; None if a group is empty.

    Raises:
        ValueError: If a score is NaN or `tnr` is out of range.

    >>> tpr_at_tnr(np.arange(10.0), np.array([7.5, 8.0, 8.5, 20.0]))  # threshold 8: one negative of ten lies above
    0.5
    """
    _check(negative, positive)
    needed = _passing(len(negative), tnr)
    if not len(negative) or not len(positive):
        return None
    threshold = np.sort(negative)[int(needed) - 1]
    return float((positive > threshold).mean())


def roc_curve(negative: Scores, positive: Scores, points: int | None = None) -> tuple[Scores, Scores]:
    """False and true positive rate as the threshold falls from above all scores to the lowest.

    Args:
        negative: Raw scores, ``(N,)``.
        positive: Raw scores, ``(M,)``.
        points: Largest number of points, 2 or more, which are then spread evenly along the curve. By default the curve
            has all of its points, except those on the straight line between their neighbours.

    Returns:
        The false and the true positive rates, each ``(K,)``, from (0, 0) to (1, 1); empty if a group is empty.

    Raises:
        ValueError: If a score is NaN or `points` is below 2.

    >>> [rates.tolist() for rates in roc_curve(np.array([1.0, 3.0]), np.array([2.0, 4.0]))]
    [[0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0]]
    """
    _check(negative, positive)
    if points is not None and points < 2:
        raise ValueError(f"a curve has 2 points or more, got points={points}")
    if not len(negative) or not len(positive):
        return np.empty(0), np.empty(0)
    thresholds = np.unique(np.concatenate([negative, positive]))[::-1]
    counts = [
        np.concatenate([[0], len(group) - np.searchsorted(np.sort(group), thresholds, side="left")])
        for group in (negative, positive)
    ]
    steps = [np.diff(count) for count in counts]
    turns = steps[0][:-1] * steps[1][1:] != steps[1][:-1] * steps[0][1:]  # in whole numbers, so exactly
    kept = np.flatnonzero(np.concatenate([[True], turns, [True]]))
    false, true = (count[kept] / count[-1] for count in counts)
    if points is not None and len(false) > points:
        along = false + true  # grows strictly, from 0 to 2
        nearest = np.unique(np.abs(along[:, None] - np.linspace(0, 2, points)).argmin(axis=0))
        false, true = false[nearest], true[nearest]
    return false, true


def bootstrap_intervals(
    negative: Scores,
    negative_patients: NDArray[np.int64],
    positive: Scores,
    positive_patients: NDArray[np.int64],
    tnr: float = 0.9,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Intervals:
    """95 % percentile intervals of AUROC and TPR by a cluster bootstrap over patients.

    Scores of one patient resemble each other, so patients are drawn with replacement, each with all of its scores. A
    resample is a weight for each patient, and one cumulative sum over the sorted scores evaluates all resamples.
    Resamples without a positive or without a negative have no value and are left out.

    Drawing from scores that are all in the right order can only repeat that order. Where a limit reaches 0 or 1, the
    interval is therefore widened to `auroc_score_interval` and, for the TPR, to `wilson_interval`, with patients as
    the effective numbers. With fewer than `FEWEST` patients on either side, the AUROC has no interval, and the TPR's is
    widened in any case.

    Args:
        negative: Raw scores, ``(N,)``.
        negative_patients: Number of the patient, from 0, that each score belongs to, ``(N,)``.
        positive: Raw scores, ``(M,)``.
        positive_patients: The same for the positives, ``(M,)``.
        tnr: True negative rate, as in `tpr_at_tnr`.
        resamples: Number of resamples.
        seed: Seed of the drawing.

    Raises:
        ValueError: If a score is NaN or `tnr` is out of range.
    """
    _check(negative, positive)
    _passing(len(negative), tnr)
    if not len(negative) or not len(positive):
        return Intervals(None, None)
    areas, rates = _resampled(negative, negative_patients, positive, positive_patients, tnr, resamples, seed)
    area, rate = auroc(negative, positive), tpr_at_tnr(negative, positive, tnr)
    assert area is not None
    assert rate is not None
    counts = len(np.unique(negative_patients)), len(np.unique(positive_patients))
    area_limits = widened(_limits(areas), auroc_score_interval(area, *counts)) if min(counts) >= FEWEST else None
    least = wilson_interval(rate * counts[1], counts[1])
    return Intervals(area_limits, widened(_limits(rates), least, in_any_case=min(counts) < FEWEST))


def auroc_score_interval(area: float, negatives: float, positives: float) -> list[float]:
    """95 % interval of an AUROC that keeps a width at 0 and 1 (Newcombe, Stat. Med. 25, 2006, part 2, method 5).

    It holds every area t that the observed one does not contradict at the 5 % level: |area - t| <= z * sqrt(V(t)), with
    Hanley & McNeil's (1982) variance V(t) = t (1 - t) (1 + k (1 - t) / (2 - t) + k t / (1 + t)) / (m n), where
    k = (m + n) / 2 - 1. It is to the AUROC what `wilson_interval` is to a rate.

    Args:
        area: The AUROC, in [0, 1].
        negatives: Effective number n of negatives, at least 1, such as that of their patients.
        positives: The same for the positives, m.

    >>> [round(limit, 3) for limit in auroc_score_interval(1.0, 1, 1)]  # k = 0, as for a rate of 1 in 1
    [0.207, 1.0]
    """

    def lower(observed: float) -> float:
        """The root below the observed area, which separates areas that contradict it from those that do not."""
        low, high = 0.0, observed
        for _ in range(60):
            middle = (low + high) / 2
            spread = 1 + kept * (1 - middle) / (2 - middle) + kept * middle / (1 + middle)
            variance = middle * (1 - middle) * spread / (negatives * positives)
            low, high = (low, middle) if observed - middle <= Z95 * math.sqrt(variance) else (middle, high)
        return high

    kept = (negatives + positives) / 2 - 1
    return [lower(area), 1 - lower(1 - area)]


def resampled_rates(
    flagged: NDArray[np.bool_], patients: NDArray[np.int64], resamples: int = RESAMPLES, seed: int = 0
) -> Scores:
    """Share of flagged images in each resample of the patients, of several verdicts on the same images.

    Args:
        flagged: Whether each image is flagged, by each of K verdicts, ``(K, N)``.
        patients: Number of the patient that each image shows, ``(N,)``.
        resamples: Number B of resamples.
        seed: Seed of the drawing.

    Returns:
        The shares ``(K, B)``; a column holds the same patients for all verdicts, so that their differences are paired.
    """
    members = np.unique(patients, return_inverse=True)[1]
    count = 1 + int(members.max())
    hits = np.stack([np.bincount(members, verdict, count) for verdict in flagged])
    sizes = np.bincount(members, minlength=count).astype(np.float64)
    shares = []
    for draws in _draws(count, resamples, count, seed):
        weights = draws.astype(np.float64)  # whole numbers, which products of floating-point matrices keep
        shares.append((hits @ weights) / (sizes @ weights))
    return np.concatenate(shares, axis=1)


def _resampled(
    negative: Scores,
    negative_patients: NDArray[np.int64],
    positive: Scores,
    positive_patients: NDArray[np.int64],
    tnr: float,
    resamples: int,
    seed: int,
) -> tuple[Scores, Scores]:
    """AUROC and TPR of each resample that has a positive and a negative."""
    order, place = np.argsort(negative, kind="stable"), np.argsort(positive, kind="stable")
    negative, positive = negative[order], positive[place]
    negative_patients, positive_patients = negative_patients[order], positive_patients[place]
    below = np.searchsorted(negative, positive, side="left")
    not_above = np.searchsorted(negative, positive, side="right")
    missed = np.searchsorted(positive, negative, side="right")  # positives that a threshold at this negative misses
    patients = 1 + int(max(negative_patients.max(), positive_patients.max()))
    areas, rates = [], []
    for weights in _draws(patients, resamples, max(len(negative), patients), seed):
        negatives, positives = _sums(weights[negative_patients]), _sums(weights[positive_patients])
        defined = (negatives[-1] > 0) & (positives[-1] > 0)
        negatives, positives, weights = negatives[:, defined], positives[:, defined], weights[:, defined]
        n_negative, n_positive = negatives[-1], positives[-1]
        pairs = (weights[positive_patients] * (negatives[below] + negatives[not_above])).sum(axis=0)
        areas.append(pairs / (2 * n_negative * n_positive))
        threshold = (negatives[1:] < _passing(n_negative, tnr)).sum(axis=0)
        rates.append(1 - positives[missed[threshold], np.arange(len(threshold))] / n_positive)
    return np.concatenate(areas), np.concatenate(rates)


def _draws(patients: int, resamples: int, scores: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each patient is drawn in each resample, ``(patients, B)``, in blocks of B resamples."""
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK // scores)
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = generator.integers(0, patients, size=(count, patients)) * count + np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=patients * count).reshape(patients, count)


def _sums(weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cumulative sums along the scores, starting at 0: ``(N, B)`` to ``(N + 1, B)``."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]), dtype=np.int64)
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums


def _limits(values: Scores) -> list[float] | None:
    return [float(limit) for limit in np.percentile(values, LIMITS)] if len(values) else None


def _passing(count: int | NDArray[np.int64], tnr: float) -> NDArray[np.float64]:
    """Number of negatives that must pass, at least 1; of 30 it is 27 at a TNR of 0.9, however the product rounds."""
    if not 0 < tnr <= 1 or math.isnan(tnr):
        raise ValueError(f"a true negative rate lies above 0 and is at most 1, got {tnr}")
    return np.maximum(1.0, np.ceil(tnr * np.asarray(count) - 1e-9))


def _check(negative: Scores, positive: Scores) -> None:
    if np.isnan(negative).any() or np.isnan(positive).any():
        raise ValueError("scores must not be NaN, which has no rank: leave undefined scores out")
