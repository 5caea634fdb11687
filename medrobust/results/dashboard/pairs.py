"""Two runs on the same images: exact McNemar tests, Holm's correction, intervals of the difference over patients."""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medrobust.results.dashboard.groups import attack_terms, images_of
from medrobust.results.dashboard.outcomes import UNTRIED, Flags
from medrobust.results.dashboard.runs import DashboardRun
from medrobust.results.dashboard.tables import Column
from medrobust.results.formats import format_epsilon
from medrobust.results.separation import resampled_rates
from medrobust.results.statistics import FEWEST, LIMITS, paired_p_value, wilson_interval
from medrobust.results.worst_case import bounded_attacks

FEW_RUNS = 12  # up to which single attacks are compared as well
MOST_SETS = 6  # different sets of images, up to which runs are compared on those that they have in common

COLUMNS = (
    Column("first", "A"),
    Column("second", "B"),
    Column("n", "n", "count", "images that both runs have tried"),
    Column("first_rate", "A right", "share"),
    Column("second_rate", "B right", "share"),
    Column("difference", "A − B", "difference", "percentage points, with the 95 % interval over patients"),
    Column("only_first", "A alone", "count", "images that only A gets right"),
    Column("only_second", "B alone", "count", "images that only B gets right"),
    Column("p", "p", "chance", "two-sided exact McNemar test"),
    Column("holm", "p, Holm", "chance", "the same, corrected for all pairs of the table"),
)


class Verdicts(NamedTuple):
    """Which of its images a run gets right under one condition.

    Args:
        run: The run.
        tried: Whether each of its images was tried, ``(N,)``.
        right: Whether it is right about each, ``(N,)``.
    """

    run: DashboardRun
    tried: Flags
    right: Flags


class Condition(NamedTuple):
    """What runs are compared under: clean images, the worst case at a radius, or one attack.

    Args:
        label: The same in words.
        keys: Keys of the attacks whose images count, by the name of the run; none for clean images.
        verdicts: One for each run that has this condition.
        worst_at: The radius of a worst case; None for clean images and single attacks.
    """

    label: str
    keys: dict[str, list[str]]
    verdicts: list[Verdicts]
    worst_at: float | None = None


def same_images(runs: Sequence[DashboardRun]) -> list[list[DashboardRun]]:
    """Runs by the images on which they were evaluated, whatever attacked them; each list holds two runs or more."""
    found: dict[tuple[str, ...], list[DashboardRun]] = {}
    for run in runs:
        found.setdefault(images_of(run), []).append(run)
    return [members for members in found.values() if len(members) > 1]


def conditions_of(runs: Sequence[DashboardRun]) -> list[Condition]:
    """The conditions that two runs or more have in common, clean images last.

    The worst case at a radius is common to runs whose attacks of that radius are the same, with their parameters. A
    single attack is compared where there are at most `FEW_RUNS` runs, and where a radius has several attacks.

    Args:
        runs: Runs on the same images.
    """
    found: dict[tuple[str, str], Condition] = {}

    def add(named: Condition, terms: str, run: DashboardRun, keys: list[str], tried: Flags, right: Flags) -> None:
        one = found.setdefault((named.label, terms), named)
        one.keys[run.name] = keys
        one.verdicts.append(Verdicts(run, tried, right))

    for run in runs:
        for epsilon in run.radii:
            at = [entry for entry in bounded_attacks(run.attacks) if entry["epsilon"] == epsilon]
            terms = "\n".join(sorted(map(attack_terms, at)))
            keys = run.keys_at(epsilon)
            named = Condition(f"worst case at ε = {format_epsilon(epsilon)}", {}, [], epsilon)
            add(named, terms, run, keys, *run.outcomes.worst(keys))
    worst = len(found)
    if len(runs) <= FEW_RUNS:
        for run in runs:
            for entry in run.attacks:
                verdicts = run.outcomes.right[str(entry["key"])]
                label = f"{entry['attack']} at ε = {format_epsilon(entry['epsilon'])}"
                label = str(entry["attack"]) if entry.get("epsilon") is None else label
                tried, right = verdicts != UNTRIED, verdicts == 1
                add(Condition(label, {}, []), attack_terms(entry), run, [str(entry["key"])], tried, right)
    for run in runs:
        add(Condition("clean images", {}, []), "", run, [], np.ones(len(run.outcomes.ids), bool), run.outcomes.clean)
    conditions = list(found.values())
    kept = [
        one
        for number, one in enumerate(conditions)
        if number < worst or not any(_repeats(one, other) for other in conditions[:worst])
    ]
    return _told_apart([one for one in kept if len(one.verdicts) > 1])


def _repeats(one: Condition, worst: Condition) -> bool:
    """Whether an attack alone makes up a worst case of all of its runs."""
    return any(one.keys.values()) and all(worst.keys.get(name) == keys for name, keys in one.keys.items())


def _told_apart(conditions: list[Condition]) -> list[Condition]:
    """Conditions of one label whose attacks differ, by the runs that have them."""
    labels = [one.label for one in conditions]
    return [
        one._replace(label=f"{one.label} ({', '.join(one.keys)})") if labels.count(one.label) > 1 else one
        for one in conditions
    ]


def compared(condition: Condition) -> list[dict[str, Any]]:
    """Every pair of runs under a condition, on the images that both have tried.

    Args:
        condition: The condition.

    Returns:
        A row for each pair, in the order of the runs: `first` and `second`, the number `n` of their images, the shares
        `first_rate` and `second_rate` that they get right, their `difference` with its `difference_interval` over
        patients, the numbers `only_first` and `only_second` of images that only one gets right, the two-sided exact
        McNemar `p` and, corrected for all pairs of this list by Holm's method, `holm`.
    """
    sets: dict[bytes, list[int]] = {}
    for place, verdicts in enumerate(condition.verdicts):
        ids = np.array(verdicts.run.outcomes.ids, dtype=object)[verdicts.tried]
        sets.setdefault("\n".join(ids).encode(), []).append(place)
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    members = list(sets.values())
    for one, other in combinations_with_replacement(range(len(members)), 2):
        if one != other and len(members) > MOST_SETS:
            continue
        rows |= _of_sets(condition.verdicts, members[one], [] if one == other else members[other])
    ordered = [rows[pair] for pair in sorted(rows)]
    for row, adjusted in zip(ordered, holm([row["p"] for row in ordered]), strict=True):
        row["holm"] = adjusted
    return ordered


def _of_sets(verdicts: Sequence[Verdicts], ones: list[int], others: list[int]) -> dict[tuple[int, int], dict[str, Any]]:
    """Pairs within one set of images, or those of a run of one set with a run of another."""
    places = [*ones, *others]
    common = set.intersection(*(_tried_ids(verdicts[place]) for place in (ones[:1] + others[:1])))
    if not common:
        return {}
    right, patients = _aligned([verdicts[place] for place in places], common)
    shares, people = resampled_rates(right, patients), len(np.unique(patients))
    numbers = right.astype(np.float64)
    both = numbers @ numbers.T
    found = {}
    for row, place in enumerate(places):
        partners = [number for number in range(len(places)) if place < places[number]]
        if others:
            partners = [number for number in partners if (row < len(ones)) != (number < len(ones))]
        if not partners:
            continue
        limits = np.percentile(shares[row] - shares[partners], LIMITS, axis=1).T
        for number, own in zip(partners, limits, strict=True):
            together = int(both[row, number])
            counts = (together, int(both[row, row]) - together, int(both[number, number]) - together)
            one, other = verdicts[place].run.name, verdicts[places[number]].run.name
            found[place, places[number]] = _pair(one, other, counts, right.shape[1], own, people)
    return found


def _pair(
    first: str, second: str, counts: tuple[int, int, int], n: int, limits: NDArray[np.float64], patients: int
) -> dict[str, Any]:
    """One row: from the numbers of images that both get right, only the first and only the second."""
    both, only_first, only_second = counts
    interval = [float(limits[0]), float(limits[1])]
    # too few patients, or none for whom one of the two runs is the better: drawing them would never draw such a patient
    if patients < FEWEST or not (only_first and only_second) or interval[0] == interval[1]:
        share = patients / n
        least = paired_interval(*(share * one for one in (*counts, n - sum(counts))))
        interval = [min(interval[0], least[0]), max(interval[1], least[1])]
    return {
        "first": first,
        "second": second,
        "n": n,
        "first_rate": (both + only_first) / n,
        "second_rate": (both + only_second) / n,
        "difference": (only_first - only_second) / n,
        "difference_interval": interval,
        "only_first": only_first,
        "only_second": only_second,
        "p": mcnemar(only_first, only_second),
    }


def _tried_ids(verdicts: Verdicts) -> set[str]:
    return {id for id, tried in zip(verdicts.run.outcomes.ids, verdicts.tried, strict=True) if tried}


def _aligned(verdicts: Sequence[Verdicts], common: set[str]) -> tuple[Flags, NDArray[np.int64]]:
    """Verdicts of several runs on the images that they have in common, ``(R, N)``, and the patients ``(N,)``."""
    rows = []
    for one in verdicts:
        kept = np.array([id in common for id in one.run.outcomes.ids])
        rows.append(one.right[kept])
    first = verdicts[0].run.outcomes
    kept = np.array([id in common for id in first.ids])
    return np.stack(rows), np.unique(first.patients[kept].astype(str), return_inverse=True)[1]


def changed_sides(first: Verdicts, second: Verdicts) -> tuple[list[str], list[str]]:
    """The images that only the first run gets right, and those that only the second does."""
    ours, theirs = (
        {id: bool(right) for id, tried, right in zip(one.run.outcomes.ids, one.tried, one.right, strict=True) if tried}
        for one in (first, second)
    )
    shared = [id for id in ours if id in theirs]
    return [id for id in shared if ours[id] > theirs[id]], [id for id in shared if ours[id] < theirs[id]]


@lru_cache(maxsize=65536)
def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar test: how likely chance alone makes two equally good victims differ this much or more.

    Twice the smaller tail of Binomial(only_first + only_second, 1/2), at most 1 (McNemar, Psychometrika 1947, with the
    exact distribution in place of its normal approximation).

    >>> [round(mcnemar(*counts), 4) for counts in ((5, 0), (1, 3), (2, 2))]  # 2 / 2^5, 2 (1 + 4) / 2^4, at most 1
    [0.0625, 0.625, 1.0]
    """
    return min(1.0, 2 * paired_p_value(max(only_first, only_second), min(only_first, only_second)))


def holm(chances: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's method (Scand. J. Stat. 1979), for dependent tests, too.

    The i-th smallest of m is multiplied by m - i + 1; none is smaller than one before it, and none exceeds 1.

    >>> holm([0.01, 0.04, 0.03])  # 3 * 0.01, then 2 * 0.03 and, not smaller, 1 * 0.04
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(chances)), key=chances.__getitem__)
    adjusted, largest = [0.0] * len(chances), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(chances) - place) * chances[index]))
        adjusted[index] = largest
    return adjusted


def paired_interval(both: float, only_first: float, only_second: float, neither: float) -> tuple[float, float]:
    """95 % interval of the difference of two rates on the same images (Newcombe, Stat. Med. 17, 1998, method 10).

    It squares and adds the distances to both rates' Wilson limits, less what their correlation takes away, and keeps a
    width where no image tells the rates apart.

    Args:
        both: Number of images that both get right; of images that resemble each other, effective numbers.
        only_first: Number that only the first gets right.
        only_second: Number that only the second gets right.
        neither: Number that none gets right.

    >>> [round(limit, 4) for limit in paired_interval(36, 12, 2, 0)]  # the paper's example
    [0.0569, 0.3404]
    """
    n = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    limits = wilson_interval(min(first, n), n), wilson_interval(min(second, n), n)
    assert limits[0] is not None and limits[1] is not None  # noqa: PT018
    cross = both * neither - only_first * only_second
    spread = math.sqrt(first * (n - first) * second * (n - second)) if 0 < first < n and 0 < second < n else 0.0
    correlation = (max(cross - n / 2, 0.0) if cross > 0 else cross) / spread if spread else 0.0
    below = first / n - limits[0][0], limits[1][1] - second / n
    above = limits[0][1] - first / n, second / n - limits[1][0]
    reach = [a * a - 2 * correlation * a * b + b * b for a, b in (below, above)]
    difference = (only_first - only_second) / n
    return difference - math.sqrt(max(reach[0], 0.0)), difference + math.sqrt(max(reach[1], 0.0))
