"""AUROCs of single numbers: derived by hand, with intervals that count patients, and the flags that follow."""

import math

import numpy as np
import pytest

from medrobust.results.checks import CheckedEvaluation
from medrobust.results.checks.data import near_duplicates, shortcut
from medrobust.results.separation import auroc_score_interval, bootstrap_intervals
from medrobust.results.shortcuts import patient_interval, shortcuts

RNG = np.random.default_rng(3)


def test_two_classes_are_one_comparison_in_the_direction_that_tells_more() -> None:
    # class 1 has 1 and 2 where class 0 has 2 and 3: of four pairs class 1 wins none and ties one, so 1 - 0.5 / 4
    (row,) = shortcuts({"grey": np.array([2.0, 3, 1, 2])}, np.array([0, 0, 1, 1]), ["no", "yes"], np.arange(4))
    assert (row["class"], row["against"], row["auroc"], row["higher"]) == ("yes", "no", 0.875, False)
    assert (row["n_positive"], row["n_negative"], row["interval"]) == (2, 2, None)


def test_several_classes_are_each_compared_with_the_rest() -> None:
    values, classes = np.array([1.0, 2, 3, 4, 5, 6]), np.array([0, 0, 1, 1, 2, 2])
    rows = shortcuts({"size": values}, classes, ["a", "b", "c"], np.arange(6))
    # a has the least values and c the greatest; b lies in the middle, above two and below two: 4 of 8 pairs
    assert [(row["class"], row["auroc"], row["higher"]) for row in rows] == [
        ("a", 1.0, False),
        ("b", 0.5, True),
        ("c", 1.0, True),
    ]


def test_labels_are_compared_where_they_are_known_and_numbers_where_they_are_defined() -> None:
    labels = np.array([[1, 0], [0, 0], [1, -1], [0, -1], [0, 0]])
    values = np.array([4.0, 1, 3, 2, np.nan])
    one, other = shortcuts({"size": values}, labels, ["a", "b"], np.arange(5))
    assert (one["auroc"], one["n_positive"], one["n_negative"], one["undefined"]) == (1.0, 2, 2, 1)
    assert (other["auroc"], other["n_positive"], other["against"]) == (None, 0, "no b")


def test_with_one_image_a_patient_the_interval_is_delongs() -> None:
    negative, positive = RNG.normal(size=40), RNG.normal(size=25) + 1
    wins = (positive[:, None] > negative).astype(float)
    area = wins.mean()
    variance = wins.mean(1).var(ddof=1) / 25 + wins.mean(0).var(ddof=1) / 40  # DeLong, DeLong & Clarke-Pearson 1988
    half = 1.959963984540054 * math.sqrt(variance) / (area * (1 - area))
    expected = [1 / (1 + math.exp(-math.log(area / (1 - area)) - sign * half)) for sign in (-1, 1)]
    found = patient_interval(negative, np.arange(40), positive, 40 + np.arange(25))
    assert found == pytest.approx(expected)


def test_images_that_repeat_a_patient_do_not_narrow_the_interval() -> None:
    negative, positive = RNG.normal(size=30), RNG.normal(size=30) + 1
    once = patient_interval(negative, np.arange(30), positive, 30 + np.arange(30))
    five = np.repeat(np.arange(30), 5)
    again = patient_interval(np.repeat(negative, 5), five, np.repeat(positive, 5), 30 + five)
    assert again == pytest.approx(once)


def test_patients_on_both_sides_are_counted_as_the_bootstrap_does() -> None:
    own = RNG.normal(size=120)  # what all images of a patient share
    patients = np.repeat(np.arange(120), 4)
    values, classes = own[patients] + RNG.normal(size=480), RNG.random(480) < 0.4
    values = values + classes
    sides = values[~classes], patients[~classes], values[classes], patients[classes]
    found, reference = patient_interval(*sides), bootstrap_intervals(*sides).auroc
    assert found is not None
    assert reference is not None
    assert found == pytest.approx(reference, abs=0.012)


def test_an_area_of_one_keeps_a_width() -> None:
    found = patient_interval(np.arange(20.0), np.arange(20), 50 + np.arange(30.0), 20 + np.arange(30))
    assert found == auroc_score_interval(1.0, 20, 30)
    assert 0.8 < found[0] < 1


def row(feature: str, lower: float, area: float = 0.9, name: str = "ill") -> dict[str, object]:
    return {
        **{"feature": feature, "class": name, "against": "healthy", "auroc": area, "interval": [lower, 0.95]},
        **{"higher": True, "n_positive": 30, "n_negative": 40},
    }


def evaluation_of(findings: object) -> CheckedEvaluation:
    data = {"name": "x", "images": 4} if findings == "old" else {"name": "x", "images": 4, "findings": findings}
    return CheckedEvaluation([{"kind": "clean", "attack": "clean"}], {}, {"data": data, "attacks": []}, None, {})  # type: ignore[arg-type]


def test_numbers_whose_interval_lies_above_the_threshold_are_flagged_together() -> None:
    rows = [row("bytes per pixel", 0.85), row("sharpness", 0.7), row("black border", 0.71, 0.8), row("mean grey", 0.4)]
    found = list(shortcut(evaluation_of({"shortcuts": rows, "near_duplicates": None})))
    assert len(found) == 4  # numbers compared
    (flag,) = [one for one in found if one is not None]
    assert (flag["severity"], flag["attack"]) == ("warning", None)
    assert flag["message"].startswith(
        "Bytes per pixel alone tells ill from healthy with an AUROC of 90.0 (85.0–95.0; 30"
    )
    assert "black border with 80.0" in flag["message"] and "sharpness" not in flag["message"]
    calm = [row("sharpness", 0.69), row("mean grey", 0.4)]
    assert list(shortcut(evaluation_of({"shortcuts": calm, "near_duplicates": None}))) == [None, None]


def test_shared_pictures_are_flagged_with_their_splits() -> None:
    shared = {"pairs": 4, "images": [{"split": "adv_test", "as": "train", "images": 3}]}
    (flag,) = near_duplicates(evaluation_of({"shortcuts": [], "near_duplicates": shared}))
    assert flag is not None and "3 images of AdvTest are nearly the same as one of Train" in flag["message"]
    assert list(near_duplicates(evaluation_of({"shortcuts": [], "near_duplicates": {"pairs": 0, "images": []}}))) == [
        None
    ]


@pytest.mark.parametrize("findings", [None, "old"])
def test_nothing_is_said_of_data_that_nobody_has_described(findings: object) -> None:
    assert not [*shortcut(evaluation_of(findings)), *near_duplicates(evaluation_of(findings))]
