"""The worst case by class and by label, derived on paper from a few images."""

from typing import Any

import polars as pl

from medrobust.results.columns import label_column
from medrobust.results.statistics import wilson_interval
from medrobust.results.worst_case import worst_case, worst_case_results
from tests.sample_record import record

NAMES = ["a", "b", "c"]


def entry(key: str, epsilon: float | None = 0.1, control: bool = False) -> dict[str, Any]:
    return {"key": key, "attack": key, "epsilon": epsilon, "control": control}


def table(key: str, rows: list[tuple[str, int, int, int]]) -> pl.DataFrame:
    """Records of images: id, true class, class before and class after."""
    records = []
    for image, target, before, after in rows:
        verdict = {"correct_before": before == target, "correct_after": after == target}
        shown = {"target": target, "clean_prediction": before, "adversarial_prediction": after}
        records.append(record(image, key, patient=image, **shown, **verdict))
    return pl.DataFrame(records)


# image: true class, clean, under x, under y -> in the worst case
#   1:   a           a      b        c           wrong, b (x comes first)
#   2:   a           a      a        c           wrong, c
#   3:   b           b      b        b           right, b
#   4:   b           c      c        b           wrong, c (it was wrong before)
#   5:   c           c      a        untried     does not count
#   6:   c           a      c        c           wrong, a (it was wrong before, and the clean image is in every radius)
X = [("1", 0, 0, 1), ("2", 0, 0, 0), ("3", 1, 1, 1), ("4", 1, 2, 2), ("5", 2, 2, 0), ("6", 2, 0, 2)]
Y = [("1", 0, 0, 2), ("2", 0, 0, 2), ("3", 1, 1, 1), ("4", 1, 2, 1), ("6", 2, 0, 2)]


def test_an_image_counts_for_the_first_attack_that_makes_it_wrong() -> None:
    tables = {"x": table("x", X), "y": table("y", Y), "noise": table("noise", [("3", 1, 1, 0)])}
    entries = [entry("x"), entry("y"), entry("noise", control=True), entry("z", None)]
    (found,) = worst_case_results(entries, tables, {"data": {"class_names": NAMES}})

    assert (found["epsilon"], found["attacks"], found["n"]) == (0.1, ["x", "y"], 5)
    assert (found["n_right_before"], found["n_turned"], found["turned"]) == (3, 2, 2 / 3)
    assert found["confusion"] == [[0, 1, 1], [0, 1, 1], [1, 0, 0]]
    assert [(one["n"], one["right"]) for one in found["classes"]] == [(2, 0.0), (2, 0.5), (1, 0.0)]
    low, high = found["classes"][0]["right_interval"]
    expected = wilson_interval(0, 2)
    assert expected is not None
    assert (low, round(high, 6)) == (0.0, round(expected[1], 6)) and found["labels"] == []


def test_radii_are_apart_and_one_that_nobody_has_tried_has_no_image() -> None:
    tables = {"x": table("x", X), "y": table("y", Y).clear()}
    found = worst_case_results([entry("x"), entry("y", 0.2)], tables, {"data": {"class_names": NAMES}})
    assert [(one["epsilon"], one["n"], one["n_turned"]) for one in found] == [(0.1, 6, 2), (0.2, 0, 0)]
    assert found[1]["classes"] == [] and found[1]["turned"] is None


def test_radii_of_another_norm_are_not_mixed_with_those_of_pixels() -> None:
    tables = {"x": table("x", X), "y": table("y", Y)}
    logarithmic = entry("y") | {"norm": "log"}
    names = {"data": {"class_names": NAMES}}
    assert [one["attacks"] for one in worst_case_results([entry("x"), logarithmic], tables, names)] == [["x"]]
    assert [one["attacks"] for one in worst_case_results([logarithmic], tables, names)] == [["y"]]


def test_an_answer_about_a_label_is_right_only_before_and_under_every_attack() -> None:
    # of the label: there in 1, 2 and 6, which is not found before; not in 3 and 4; unknown in 5
    true = {"1": 1.0, "2": 1.0, "3": 0.0, "4": 0.0, "5": None, "6": 1.0}
    before = {"1": 0.9, "2": 0.9, "3": 0.1, "4": 0.1, "5": 0.9, "6": 0.4}
    after = {
        "x": {"1": 0.9, "2": 0.2, "3": 0.1, "4": 0.4, "5": 0.9, "6": 0.9},
        "y": {"1": 0.8, "2": 0.9, "3": 0.6, "4": 0.3, "5": 0.1, "6": 0.9},
    }
    tables = {}
    for key, values in after.items():
        nothing = dict.fromkeys(("target", "clean_prediction", "adversarial_prediction"))
        rows = [
            record(image, key, patient=image, **nothing)
            | {label_column("Mass", "true"): true[image], label_column("Mass", "before"): before[image]}
            | {label_column("Mass", "after"): value}
            for image, value in values.items()
        ]
        tables[key] = pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col("target").cast(pl.Int64))
    (found,) = worst_case_results([entry("x"), entry("y")], tables, {"data": {"class_names": ["Mass"]}})
    (label,) = found["labels"]
    assert (label["name"], label["n_positive"], label["n_negative"]) == ("Mass", 3, 2)
    assert (label["sensitivity"], label["specificity"]) == (1 / 3, 0.5) and found["classes"] == []


def test_the_lowest_quality_is_that_of_the_clean_image_where_every_attack_leaves_more() -> None:
    # before, after x, after y -> 0.5, 0.25; the third image has none after y and counts nowhere
    given = {"1": (0.5, 0.75, 0.625), "2": (0.75, 0.5, 0.25), "3": (0.0, 0.0, None)}
    tables = {
        key: pl.DataFrame(
            [
                record(image, key, patient=image) | {"quality_before": values[0], "quality_after": values[place]}
                for image, values in given.items()
            ],
            infer_schema_length=None,
        )
        for place, key in enumerate("xy", 1)
    }
    (found,) = worst_case([entry("x"), entry("y")], tables, True)
    assert (found["n"], found["n_quality"], found["quality"]) == (3, 2, (0.5 + 0.25) / 2)
