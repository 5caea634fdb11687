"""ROC and calibration of a victim on clean images, against hand-counted cases and scikit-learn."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from medrobust.results.classes import class_results
from medrobust.results.columns import label_column, probability_column
from medrobust.results.victim_curves import LACKING, calibration, victim_curves
from tests.sample_record import record


def images(targets: list[int], probabilities: list[list[float]], columns: bool = False) -> pl.DataFrame:
    """Records of clean images with the probabilities of their classes."""
    records = []
    for place, (target, shares) in enumerate(zip(targets, probabilities, strict=True)):
        said = int(np.argmax(shares))
        more = {probability_column(number, "before"): share for number, share in enumerate(shares)} if columns else {}
        verdict = {"clean_prediction": said, "correct_before": said == target, "quality_before": shares[target]}
        records.append(record(f"{place}", patient=f"{place}", target=target, **verdict) | more)
    return pl.DataFrame(records)


def manifest(names: list[str], **data: Any) -> dict[str, Any]:
    return {"data": {"class_names": names, **data}}


def test_two_classes_need_no_probabilities_but_that_of_the_truth() -> None:
    # of class 1: 0.9, 0.4; of class 0: 0.6, 0.1 -> of four pairs three are in order
    table = images([1, 1, 0, 0], [[0.1, 0.9], [0.6, 0.4], [0.4, 0.6], [0.9, 0.1]])
    found = victim_curves(pl.concat([table, table.with_columns(pl.lit("k2").alias("key"))]), manifest(["no", "yes"]))
    (curve,) = found["curves"]
    assert (curve["name"], curve["n_positive"], curve["n_negative"], curve["auroc"]) == ("yes", 2, 2, 0.75)
    assert list(zip(curve["fpr"], curve["tpr"], strict=True)) == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    assert curve["operating"] == {"fpr": 0.5, "tpr": 0.5} and found["missing"] == ""
    assert curve["auroc_interval"] is None  # fewer than ten patients on a side


def test_more_classes_have_a_curve_each_as_scikit_learn_has_it() -> None:
    random = np.random.default_rng(0)
    targets = random.integers(0, 3, 90)
    shares = random.dirichlet(np.ones(3), 90) + 0.4 * np.eye(3)[targets]
    shares /= shares.sum(1, keepdims=True)
    table = images(targets.tolist(), shares.tolist(), columns=True)
    found = victim_curves(table, manifest(["a", "b", "c"]))["curves"]
    assert [one["name"] for one in found] == ["a", "b", "c"]
    for place, one in enumerate(found):
        assert one["auroc"] == pytest.approx(roc_auc_score(targets == place, shares[:, place]))
        false, true, _ = roc_curve(targets == place, shares[:, place])
        assert np.interp(0.2, one["fpr"], one["tpr"]) == pytest.approx(np.interp(0.2, false, true), abs=0.03)
        assert one["auroc_interval"][0] < one["auroc"] < one["auroc_interval"][1]
        said = shares.argmax(1) == place
        assert one["operating"]["tpr"] == pytest.approx((said & (targets == place)).sum() / (targets == place).sum())


def test_answers_of_probability_one_are_still_ranked() -> None:
    sure = [[1e-20, 1.0], [1e-18, 1.0], [1e-19, 1.0], [1.0, 1e-20]]  # the second, of class 0, is the least sure
    table = images([1, 0, 1, 0], sure, columns=True)
    (curve,) = victim_curves(table, manifest(["no", "yes"]))["curves"]
    clean = class_results(
        [{"kind": "clean", "key": None, "attack": "clean", "epsilon": None}], {None: table}, manifest(["no", "yes"])
    )
    assert curve["auroc"] == clean["rows"][0]["auroc"] == 1.0


def test_what_the_records_lack_is_said() -> None:
    found = victim_curves(images([0, 1, 2], np.eye(3).tolist()), manifest(["a", "b", "c"]))
    assert found == {"curves": [], "missing": LACKING, "calibration": []}
    assert victim_curves(images([0], [[1.0, 0.0]]), manifest(["a", "b"], task="segmentation")) == {}


def test_labels_have_a_curve_each_and_one_calibration() -> None:
    nothing = dict.fromkeys(("target", "clean_prediction", "adversarial_prediction"))
    values = [(1.0, 0.95), (1.0, 0.3), (0.0, 0.35), (None, 0.99)]
    records = [
        record(f"{place}", patient=f"{place}", **nothing)
        | {label_column("Mass", "true"): true, label_column("Mass", "before"): probability}
        for place, (true, probability) in enumerate(values)
    ]
    found = victim_curves(pl.DataFrame(records), manifest(["Mass"], task="multilabel"))
    (curve,) = found["curves"]
    assert (curve["n_positive"], curve["n_negative"], curve["auroc"]) == (2, 1, 0.5)
    assert curve["operating"] == {"fpr": 0.0, "tpr": 0.5}
    bins = [(one["n"], round(one["probability"], 3), one["true"]) for one in found["calibration"]]
    assert bins == [(2, 0.325, 0.5), (1, 0.95, 1.0)]


def test_a_probability_of_one_is_in_the_last_bin() -> None:
    (found,) = calibration(np.array([1.0, 0.9]), np.array([True, False]), np.arange(2))
    assert (found["n"], found["true"]) == (2, 0.5)
