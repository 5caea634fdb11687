"""Numbers of each class and label from records made by hand, compared with scikit-learn and torchmetrics."""

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.metrics import cohen_kappa_score, roc_auc_score
from torchmetrics.functional.classification import binary_calibration_error

from medrobust.networks.victims import class_outcome
from medrobust.results.classes import quadratic_kappa, reliability
from medrobust.results.summary import summarise
from tests.sample_record import record

GRADES = ["none", "mild", "severe"]


def summary_of(records: list[dict[str, Any]], **data: Any) -> dict[str, Any]:
    attacks = [{"attack": "pgd", "key": "k1", "epsilon": 1 / 255, "control": False}]
    images = len({one["id"] for one in records})
    manifest = {"schema": 1, "run": "r", "data": {"images": images, **data}, "attacks": attacks}
    return summarise(pl.DataFrame(records, infer_schema_length=None), manifest)


def image(number: int, target: int, clean: int, after: int, **changes: Any) -> dict[str, Any]:
    right = {"correct_before": target == clean, "correct_after": target == after}
    outcome = {"reached": target != after, "success": target == clean != after}
    shown = {"target": target, "clean_prediction": clean, "adversarial_prediction": after}
    return record(f"{number:02d}", **shown, **right, **outcome, **changes)


def graded() -> list[dict[str, Any]]:
    cases = [(0, 0, 2), (0, 0, 0), (0, 1, 1), (1, 1, 1), (1, 2, 0), (2, 2, 0)]
    return [image(number, *case) for number, case in enumerate(cases)]


def test_confusion_and_rates_are_counted_by_hand() -> None:
    found = summary_of(graded(), class_names=GRADES, ordered=True)["classes"]
    clean, attacked = found["rows"]

    assert found["names"] == GRADES and found["ordered"]
    assert clean["confusion"] == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert attacked["confusion"] == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert [one["sensitivity"] for one in clean["classes"]] == [2 / 3, 1 / 2, 1]
    assert [one["specificity"] for one in clean["classes"]] == [1, 3 / 4, 4 / 5]
    assert [one["sensitivity"] for one in attacked["classes"]] == [1 / 3, 1 / 2, 0]
    assert [one["n"] for one in attacked["classes"]] == [3, 2, 1]
    low, high = clean["classes"][1]["sensitivity_interval"]
    assert low < 1 / 2 < high and (clean["attack"], attacked["attack"]) == ("clean", "pgd")
    # squared distances 1, 1 of 6 images; by chance rows 3, 2, 1 and columns 2, 2, 2 give (3*2+3*8+2*2+2*2+1*8+1*2)/36
    assert clean["kappa"] == pytest.approx(1 - (2 / 6) / (48 / 36))


def test_classes_that_are_not_ordered_have_no_kappa() -> None:
    found = summary_of(graded(), class_names=GRADES)["classes"]
    assert not found["ordered"] and {row["kappa"] for row in found["rows"]} == {None}


@pytest.mark.parametrize("classes", [2, 5])
def test_kappa_is_that_of_scikit_learn(classes: int) -> None:
    random = np.random.default_rng(classes)
    true, predicted = random.integers(0, classes, (2, 60))
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (true, predicted), 1)

    assert quadratic_kappa(confusion) == pytest.approx(cohen_kappa_score(true, predicted, weights="quadratic"))


def test_kappa_of_a_single_grade_is_undefined() -> None:
    assert quadratic_kappa(np.array([[7, 0], [0, 0]])) is None


def test_reliability_sorts_images_into_fifteen_bins_and_weighs_their_gaps() -> None:
    # (0.4, 0.4667]: 1 of 2 right at 0.45 on average; (0.9333, 1]: 3 of 4 right at 0.975
    confidence = np.array([0.42, 0.48 - 1e-3, 1.0, 0.95, 0.95, 1.0])
    confidence[1] = 0.46
    right = np.array([True, False, True, True, True, False])
    error, bins = reliability(confidence, right, np.arange(len(right)))

    assert [one["n"] for one in bins] == [2, 4]
    assert [one["accuracy"] for one in bins] == [1 / 2, 3 / 4]
    assert [one["confidence"] for one in bins] == pytest.approx([0.44, 0.975])
    assert (bins[1]["lower"], bins[1]["upper"]) == (pytest.approx(14 / 15), 1.0)
    assert error == pytest.approx((2 * 0.06 + 4 * 0.225) / 6)


def test_an_edge_belongs_to_the_bin_below_it() -> None:
    _, bins = reliability(np.array([0.2, 1 / 15 * 9]), np.array([True, True]), np.arange(2))
    assert [one["upper"] for one in bins] == pytest.approx([0.2, 0.6])


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    random = np.random.default_rng(0)
    confidence, right = random.random(500), random.random(500) < 0.5
    expected = binary_calibration_error(torch.tensor(confidence), torch.tensor(right).int(), n_bins=15, norm="l1")
    assert reliability(confidence, right, np.arange(len(right)))[0] == pytest.approx(float(expected), abs=1e-6)


def test_the_auroc_of_two_classes_follows_from_the_quality() -> None:
    random = np.random.default_rng(1)
    target, ones, after = random.integers(0, 2, 40), random.random(40), random.random(40)
    of_truth = [[value if true else 1 - value for true, value in zip(target, p, strict=True)] for p in (ones, after)]
    records = [
        image(n, int(target[n]), int(ones[n] > 0.5), int(after[n] > 0.5), quality_before=before, quality_after=later)
        for n, (before, later) in enumerate(zip(*of_truth, strict=True))
    ]
    clean, attacked = summary_of(records, class_names=["a", "b"])["classes"]["rows"]

    assert clean["auroc"] == pytest.approx(roc_auc_score(target, ones))
    assert attacked["auroc"] == pytest.approx(roc_auc_score(target, after))


def test_the_auroc_knows_how_confident_a_saturated_victim_is() -> None:
    # by their logits the positives 20 and 22 lie below the negative 25, which is wrong, and above the one at -5: 1/2
    logits, target = np.array([20.0, 22.0, 25.0, -5.0]), np.array([1, 1, 0, 0])
    outputs = torch.tensor([[0.0, one] for one in logits.tolist()])
    outcome = class_outcome(outputs, torch.tensor(target))
    share = outputs.double().softmax(1).numpy()
    rows = [
        image(number, int(target[number]), int(one > 0), int(one > 0), quality_before=float(outcome.quality[number]))
        for number, one in enumerate(logits)
    ]
    assert summary_of(rows, class_names=["well", "ill"])["classes"]["rows"][0]["auroc"] == 1 / 2
    far = [row | {f"probability_{k}_before": float(share[n, k]) for k in (0, 1)} for n, row in enumerate(rows)]
    for row in far:
        row["quality_before"] = round(row["quality_before"])  # the probabilities say more
    assert summary_of(far, class_names=["well", "ill"])["classes"]["rows"][0]["auroc"] == 1 / 2


def test_the_auroc_of_more_classes_needs_their_probabilities() -> None:
    assert {row["auroc"] for row in summary_of(graded(), class_names=GRADES)["classes"]["rows"]} == {None}
    random = np.random.default_rng(2)
    before, after = random.dirichlet(np.ones(3), (2, 6))
    columns = [
        {f"probability_{k}_{when}": p[n, k] for k in range(3) for when, p in (("before", before), ("after", after))}
        for n in range(6)
    ]
    records = [one | more for one, more in zip(graded(), columns, strict=True)]
    found = summary_of(records, class_names=GRADES)
    clean, attacked = found["classes"]["rows"]

    target = [one["target"] for one in records]
    assert clean["auroc"] == pytest.approx(roc_auc_score(target, before, multi_class="ovr", average="macro"))
    assert attacked["auroc"] == pytest.approx(roc_auc_score(target, after, multi_class="ovr", average="macro"))
    assert found["rows"][1]["means"] == {}  # probabilities are no measurements of the perturbation


def test_victims_of_other_tasks_have_no_classes() -> None:
    records = [one | {"target": None, "clean_prediction": None, "adversarial_prediction": None} for one in graded()]
    types = dict.fromkeys(("target", "clean_prediction", "adversarial_prediction"), pl.Int64)
    table = pl.DataFrame(records, infer_schema_length=None, schema_overrides=types)
    attacks = [{"attack": "pgd", "key": "k1", "epsilon": 1 / 255, "control": False}]
    manifest = {"schema": 1, "run": "r", "data": {"images": 6}, "attacks": attacks}
    found = summarise(table, manifest)
    assert found["classes"] == {} and found["labels"] == {}


def labelled(number: int, true: tuple[Any, Any], before: tuple[float, float], after: tuple[float, float]) -> Any:
    columns: dict[str, Any] = {}
    for name, values in (("true", true), ("before", before), ("after", after)):
        columns |= {f"label_Mass_{name}": values[0], f"label_No_Finding_{name}": values[1]}
    return record(f"{number:02d}", target=None, clean_prediction=None, adversarial_prediction=None) | columns


def test_labels_are_counted_by_hand() -> None:
    records = [
        labelled(0, (1.0, 0.0), (0.9, 0.2), (0.4, 0.2)),
        labelled(1, (1.0, 1.0), (0.3, 0.8), (0.2, 0.1)),
        labelled(2, (0.0, None), (0.4, 0.7), (0.6, 0.9)),
        labelled(3, (0.0, 0.0), (0.2, 0.6), (0.1, 0.3)),
    ]
    found = summary_of(records, task="multilabel", class_names=["Mass", "No Finding"])["labels"]
    (mass, other), (mass_after, other_after) = (row["labels"] for row in found["rows"])

    assert found["names"] == ["Mass", "No Finding"]
    assert (mass["n"], mass["n_positive"], other["n"], other["n_positive"]) == (4, 2, 3, 1)
    assert (mass["sensitivity"], mass["specificity"]) == (1 / 2, 1)
    assert (other["sensitivity"], other["specificity"]) == (1, 1 / 2)
    assert mass["auroc"] == 3 / 4 and other["auroc"] == 1  # 0.9 and 0.3 against 0.4 and 0.2; 0.8 against 0.2 and 0.6
    assert found["rows"][0]["auroc"] == 7 / 8 and mass["flipped"] == 0
    # images 0, 2 and 3 were right about a mass, and 0 and 2 no longer are; 0 and 1 about the other, and 1 no longer is
    assert (mass_after["n_right_before"], mass_after["flipped"]) == (3, 2 / 3)
    assert (other_after["n_right_before"], other_after["flipped"]) == (2, 1 / 2)
