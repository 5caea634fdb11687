"""The smallest perturbations and the patients who are fragile, derived on paper from a few images."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from medrobust.results.report.smallest_figure import smallest_figure, smallest_words
from medrobust.results.smallest import POINTS, fragile_patients, smallest_of, smallest_results
from tests.sample_record import record


def entry(key: str, epsilon: float | None = 0.1, **changes: Any) -> dict[str, Any]:
    return {"key": key, "attack": key, "epsilon": epsilon, "control": False, "norm": "linf", **changes}


def table(key: str, rows: dict[str, tuple[bool, bool, float]], patients: dict[str, str | None] | None = None) -> Any:
    """Records of images: right before, right after, and the length of the change."""
    records = [
        record(image, key, patient=(patients or {}).get(image), correct_before=before, correct_after=after, linf=length)
        for image, (before, after, length) in rows.items()
    ]
    return pl.DataFrame(records, schema_overrides={"patient": pl.String})


# two radii and an attack that looks for the smallest, over five images, of which e is wrong before:
#          at 0.1   at 0.2   searched    smallest
#   a      wrong    wrong    0.05        0.05
#   b      right    wrong    0.3         0.2
#   c      right    right    0.25        0.25
#   d      right    right    none        infinity
#   e      wrong before                  0
NEAR = {"a": (True, False, 0.1), "b": (True, True, 0.1), "c": (True, True, 0.1), "d": (True, True, 0.1)}
FAR = {"a": (True, False, 0.2), "b": (True, False, 0.2), "c": (True, True, 0.2), "d": (True, True, 0.2)}
SEARCHED = {"a": (True, False, 0.05), "b": (True, False, 0.3), "c": (True, False, 0.25), "d": (True, True, 0.0)}
WRONG = {"e": (False, False, 0.1)}
ENTRIES = [entry("near"), entry("far", 0.2), entry("search", None, minimal=True)]


def tables(patients: dict[str, str | None] | None = None) -> dict[str, pl.DataFrame]:
    parts = {"near": NEAR, "far": FAR, "search": SEARCHED}
    return {key: table(key, rows | WRONG, patients) for key, rows in parts.items()}


def test_the_smallest_of_all_attacks_counts() -> None:
    found = smallest_of(ENTRIES, tables())
    assert found is not None
    assert found.images["smallest"].to_list() == [0.05, 0.2, 0.25, float("inf"), 0.0] and found.largest == 0.2
    results = smallest_results(found)
    assert (results["n"], results["n_wrong_before"], results["n_never"], results["median"]) == (5, 1, 1, 0.2)
    assert [(one["distance"], one["share"]) for one in results["points"]] == [
        (0.0, 0.2),
        (0.05, 0.4),
        (0.2, 0.6),
        (0.25, 0.8),
    ]
    assert all(low <= one["share"] <= high for one in results["points"] for low, high in [one["share_interval"]])


@pytest.mark.parametrize(("standing", "median"), [(4, 0.1), (5, 0.1), (6, None)])
def test_the_median_is_the_smallest_that_is_enough_for_half(standing: int, median: float | None) -> None:
    rows = {str(image): (True, image < standing, 0.1) for image in range(10)}  # wrong: 6, 5 and 4 of 10
    results = smallest_results(smallest_of([entry("near")], {"near": table("near", rows)}))
    assert results["median"] == median and results["largest"] == 0.1


def test_controls_and_other_norms_do_not_count() -> None:
    given = {"noise": table("noise", FAR), "other": table("other", FAR), "near": table("near", NEAR)}
    entries = [entry("noise", 0.2, control=True), entry("other", 0.2, norm="l2"), entry("near")]
    found = smallest_of(entries, given)
    assert found is not None and found.images["smallest"].to_list()[1] == float("inf") and found.norm == "linf"
    only = smallest_of([entry("other", 0.2, norm="l2")], given)
    assert only is not None and only.norm == "l2"
    assert smallest_of([entry("other", norm="log")], given) is None and smallest_results(None) == {}


def test_a_long_curve_keeps_its_ends() -> None:
    rows = {f"{image:04}": (True, False, (image + 1) / 1000) for image in range(500)}
    results = smallest_results(smallest_of([entry("s", None, minimal=True)], {"s": table("s", rows)}))
    assert len(results["points"]) == POINTS + 1
    assert results["points"][1]["distance"] == 0.001 and results["points"][-1] == {
        "distance": 0.5,
        "share": 1.0,
        "share_interval": results["points"][-1]["share_interval"],
    }
    assert np.all(np.diff([one["share"] for one in results["points"]]) > 0)


def test_patients_are_in_the_order_of_what_turns_an_image_of_theirs() -> None:
    patients: dict[str, str | None] = {"a": "p", "b": "q", "c": "p", "d": "r", "e": "s"}
    found = fragile_patients(smallest_of(ENTRIES, tables(patients)))
    assert found["known"] and found["n"] == 3  # s has no image that was right
    assert [(row["patient"], row["images"], row["right"], row["turned"], row["smallest"]) for row in found["rows"]] == [
        ("p", 2, 2, 2, 0.05),
        ("q", 1, 1, 1, 0.2),
        ("r", 1, 1, 0, None),
    ]
    # of six attempts on a and c, those on a at 0.1, at 0.2 and searched, and the search on c
    assert [row["tries"] for row in found["rows"]] == [4 / 6, 2 / 3, 0.0]


def test_without_patients_images_stand_for_them_and_equals_are_told_apart_by_attempts() -> None:
    more = {"x": (True, False, 0.1), "y": (True, False, 0.1)}
    again = {"x": (True, True, 0.1), "y": (True, False, 0.1)}
    given = {"one": table("one", more), "two": table("two", again)}
    found = fragile_patients(smallest_of([entry("one"), entry("two")], given))
    assert not found["known"] and [row["patient"] for row in found["rows"]] == ["y", "x"]
    assert fragile_patients(smallest_of([entry("one")], {"one": table("one", WRONG)})) == {}


@pytest.mark.parametrize(
    ("entries", "unit", "words"),
    [
        ([entry("s", None, minimal=True)], "L∞ length of the perturbation · 255<", "4.97/255"),
        ([entry("s", None, minimal=True), entry("near", 0.1)], "L∞ length of the perturbation<", "0.0195"),
    ],
)
def test_the_axis_has_the_unit_of_the_words(entries: list[dict[str, Any]], unit: str, words: str) -> None:
    """Lengths of 4.97/255 and 5.23/255, found without a radius, and beside a radius that is written as 0.1."""
    rows = {"a": (True, False, 0.0195), "b": (True, False, 0.0205)}
    given = {name: table(name, rows) for name in ("s", "near")}
    found = smallest_results(smallest_of(entries, given))
    assert unit in smallest_figure(found) and smallest_words(found).startswith(f"Median: {words}, ")
