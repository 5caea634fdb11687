"""Pairs of runs: counts, McNemar, Holm and intervals, derived by hand and compared with scipy."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from medrobust.results.dashboard.pairs import (
    changed_sides,
    compared,
    conditions_of,
    holm,
    mcnemar,
    paired_interval,
    same_images,
)
from medrobust.results.dashboard.runs import DashboardRun, read_runs
from tests.made_runs import write_run

PGD = ("pgd", 1 / 255)


def runs_of(tmp_path: Path, **rights: str) -> list[DashboardRun]:
    return read_runs([write_run(tmp_path, name, {PGD: right}) for name, right in rights.items()]).runs


def test_three_runs_by_hand(tmp_path: Path) -> None:
    """Twelve images: a alone against b on 6, b alone on 1, and so on; p from the tails of Binomial(n, 1/2)."""
    runs = runs_of(tmp_path, a="111111110000", b="110000001000", c="111111111000")
    worst = conditions_of(runs)[0]
    assert worst.label == "worst case at ε = 1/255"
    rows = compared(worst)
    told = [(row["first"], row["second"], row["n"], row["only_first"], row["only_second"]) for row in rows]
    assert told == [("a", "b", 12, 6, 1), ("a", "c", 12, 0, 1), ("b", "c", 12, 0, 6)]
    assert [row["difference"] for row in rows] == pytest.approx([5 / 12, -1 / 12, -6 / 12])
    assert [row["first_rate"] for row in rows] == pytest.approx([8 / 12, 8 / 12, 3 / 12])
    # 2 (7 + 1) / 2^7, no more than 1, 2 / 2^6; Holm multiplies the smallest by 3 and the next by 2
    assert [row["p"] for row in rows] == pytest.approx([0.125, 1.0, 0.03125])
    assert [row["holm"] for row in rows] == pytest.approx([0.25, 1.0, 0.09375])


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 3), (9, 2), (40, 61), (0, 200)])
def test_mcnemar_is_the_two_sided_binomial_test(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(first, second) == mcnemar(second, first)


def test_holm_never_lets_a_larger_p_become_smaller() -> None:
    # sorted 0.01 0.02 0.02 0.3: 4 * 0.01, then 3 * 0.02 = 0.06, 2 * 0.02 = 0.04 and so 0.06 again, 0.3
    assert holm([0.02, 0.3, 0.01, 0.02]) == pytest.approx([0.06, 0.3, 0.04, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0] and holm([]) == []


def test_the_interval_of_a_paired_difference_is_newcombes() -> None:
    assert [round(limit, 4) for limit in paired_interval(36, 12, 2, 0)] == [0.0569, 0.3404]
    lower, upper = paired_interval(36, 2, 12, 0)  # the other way round
    assert [round(limit, 4) for limit in (lower, upper)] == [-0.3404, -0.0569]


def test_runs_that_no_image_tells_apart_keep_a_width(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, a="1" * 20 + "0" * 20, b="1" * 20 + "0" * 20)
    (row,) = compared(conditions_of(runs)[0])
    low, high = row["difference_interval"]
    assert row["difference"] == 0 and row["p"] == row["holm"] == 1
    # p = 1/2 of 40: Wilson's limits lie 0.1484 away on either side; with the correlation 380 / 400 of method 10
    # that is 0.1484 * sqrt(2 - 2 * 0.95)
    assert (low, high) == pytest.approx((-0.0469, 0.0469), abs=1e-4)


def test_a_difference_that_all_images_favour_may_be_chance_all_the_same(tmp_path: Path) -> None:
    """One of 20 images tells the runs apart: resamples never favour the other, whom p = 1 does not rule out."""
    (row,) = compared(conditions_of(runs_of(tmp_path, a=20 * "1", b="0" + 19 * "1"))[0])
    low, high = row["difference_interval"]
    assert (row["only_first"], row["only_second"], row["p"]) == (1, 0, 1.0)
    assert (low, high) == pytest.approx(paired_interval(19, 1, 0, 0)) and low < 0 < row["difference"] < high


def test_images_of_one_patient_count_as_one_patient(tmp_path: Path) -> None:
    """Four copies of every image tell nothing new: the interval stays, where one over images would halve."""
    random = np.random.default_rng(0)
    rights = ["".join(random.choice(["0", "1"], 60)) for _ in range(2)]
    found = []
    for copies in (1, 4):
        folder = tmp_path / str(copies)
        places = []
        for name, right in zip("ab", rights, strict=True):
            patients = [f"p{image // copies:02d}" for image in range(60 * copies)]
            repeated = "".join(letter * copies for letter in right)
            ids = [f"{image:03d}" for image in range(60 * copies)]
            places.append(write_run(folder, name, {PGD: repeated}, patients=patients, ids=ids))
        (row,) = compared(conditions_of(read_runs(places).runs)[0])
        found.append(row)
    assert found[1]["difference_interval"] == pytest.approx(found[0]["difference_interval"])
    only, other, n = found[0]["only_first"], found[0]["only_second"], 60
    half = (
        1.96 * math.sqrt(only + other - (only - other) ** 2 / n) / n
    )  # the usual standard error of a paired difference
    assert np.diff(found[0]["difference_interval"])[0] == pytest.approx(2 * half, rel=0.1)


def test_runs_are_compared_on_the_images_that_both_have_tried(tmp_path: Path) -> None:
    """A run that stopped half-way is compared on its half: of the first 6 images a alone is right about 2."""
    ids = [f"{image}" for image in range(6)]
    whole = write_run(tmp_path, "a", {PGD: "111100"}, ids=ids)
    half = write_run(tmp_path, "b", {PGD: "10"}, ids=ids[1:3], data={"images": 6})
    (row,) = compared(conditions_of(read_runs([whole, half]).runs)[0])
    assert (row["n"], row["only_first"], row["only_second"]) == (2, 1, 0)
    assert (row["first_rate"], row["second_rate"]) == (1.0, 0.5)


def test_only_what_both_runs_were_asked_is_compared(tmp_path: Path) -> None:
    """Another attack at the same radius makes another worst case; the attack that they share is compared, and clean."""
    one = write_run(tmp_path, "a", {PGD: "1100", ("cw", 1 / 255): "1000"})
    other = write_run(tmp_path, "b", {PGD: "1000"})
    elsewhere = write_run(tmp_path, "c", {PGD: "1000"}, data={"fingerprint": "beef"})
    runs = read_runs([one, other, elsewhere]).runs
    (members,) = same_images(runs)
    assert [run.name for run in members] == ["a", "b"]
    assert [condition.label for condition in conditions_of(members)] == ["pgd at ε = 1/255", "clean images"]


def test_the_images_that_changed_sides_are_named(tmp_path: Path) -> None:
    runs = runs_of(tmp_path, a="1100", b="0110")
    assert changed_sides(*conditions_of(runs)[0].verdicts) == (["0.png"], ["2.png"])
