"""Intervals over patients: rates against exact and drawn ones, means by hand, and how often they hold the truth."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom, bootstrap

from medrobust.results.columns import TYPES
from medrobust.results.detection import patients_of
from medrobust.results.statistics import mean_interval, rate_entries, rate_interval, wilson_interval
from medrobust.results.summary import summarise
from tests.results.test_summary import attack, manifest, rows

Z = 1.959963984540054


def test_rates_of_patients_are_as_certain_as_their_number():
    happened, patients = np.ones(40, bool), np.arange(40) // 4
    assert rate_interval(happened, patients) == pytest.approx([10 / (10 + Z**2), 1])
    assert rate_interval(~happened, patients) == pytest.approx([0, Z**2 / (10 + Z**2)])
    halves = np.arange(40) % 2 == 0  # two of four images of every patient: they agree, and that proves little
    assert rate_interval(halves, patients) == pytest.approx(wilson_interval(5, 10))
    assert rate_interval(happened[:0], patients[:0]) is None
    three = np.array([1, 0, 0, 0] + [1, 1, 0, 0] + [1, 1, 1, 0], bool), np.arange(12) // 4
    assert rate_interval(*three) == pytest.approx(wilson_interval(1.5, 3))  # wider than 1/4 to 3/4
    assert rate_interval(np.array([True]), np.array([7])) == pytest.approx([1 / (1 + Z**2), 1])


@pytest.mark.parametrize(("hits", "count"), [(103, 200), (40, 200), (12, 30), (4000, 50_000)])
def test_with_one_image_a_patient_a_rate_is_drawn_from_a_binomial(hits, count):
    """Resamples of 0s and 1s have Binomial(n, k / n) 1s; 2,000 of them know its percentiles to a percentile or so."""
    happened = np.arange(count) < hits
    low, high = rate_interval(happened, np.arange(count))
    for limit, at in ((low, 0.025), (high, 0.975)):
        near = binom.ppf([at - 0.012, at + 0.012], count, hits / count) / count
        assert near[0] <= limit <= near[1]
    reference = bootstrap(
        (happened[:5000],) if count > 5000 else (happened,),
        *(np.mean,),
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(1),
        batch=200,
    ).confidence_interval
    if count <= 5000:
        step = 1.5 / count + 0.01
        assert [low, high] == pytest.approx([reference.low, reference.high], abs=step)


def test_a_rate_between_is_drawn_by_patients_each_with_all_of_their_images():
    """Against drawing the patients themselves, of whom some have one image and some seven."""
    random = np.random.default_rng(3)
    sizes = random.choice([1, 2, 7], 60)
    patients = np.repeat(np.arange(60), sizes)
    happened = random.random(len(patients)) < random.beta(2, 3, 60)[patients]
    hits, shares = np.bincount(patients, happened), []
    for _ in range(4000):
        drawn = random.integers(0, 60, 60)
        shares.append(hits[drawn].sum() / sizes[drawn].sum())
    assert rate_interval(happened, patients) == pytest.approx(np.percentile(shares, (2.5, 97.5)), abs=0.012)
    alone = rate_interval(happened, np.arange(len(patients)))
    assert alone[1] - alone[0] < 0.9 * np.ptp(rate_interval(happened, patients))


def test_neither_copies_nor_the_order_nor_names_of_patients_change_an_interval():
    random = np.random.default_rng(0)
    happened, patients = random.random(100) < 0.3, np.arange(100) // 2
    once = rate_interval(happened, patients)
    assert rate_interval(np.tile(happened, 4), np.tile(patients, 4)) == pytest.approx(once)
    order = random.permutation(100)
    assert rate_interval(happened[order], patients[order]) == once
    assert rate_interval(happened, 1000 - 7 * patients) == once


def test_rate_entries_name_the_rate_and_its_interval():
    happened, patients = np.array([True, False, True]), np.arange(3)
    assert rate_entries("found", happened, patients) == {
        "found": 2 / 3,
        "found_interval": rate_interval(happened, patients),
    }


def test_means_on_which_all_patients_agree_have_wilsons_interval():
    patients = np.arange(12)
    assert mean_interval(np.zeros(12), patients) == pytest.approx(wilson_interval(0, 12))
    assert mean_interval(np.ones(12), patients) == pytest.approx(wilson_interval(12, 12))
    assert mean_interval(np.full(12, 0.25), patients) == pytest.approx(wilson_interval(3, 12))
    nearly = np.full(12, 0.0001) + 0.0001 * (patients % 2)  # it would be shown as 0.0 to 0.0
    assert mean_interval(nearly, patients) == pytest.approx(wilson_interval(0.0018, 12))
    assert mean_interval(np.full(12, 4.5), patients, largest=np.inf) is None  # no distance is the largest
    assert mean_interval(np.full(3, 0.5), np.zeros(3, int)) is None  # one patient


def test_patients_are_numbered_and_an_image_of_nobody_stands_for_itself():
    table = pl.DataFrame({"id": ["d", "a", "c", "b"], "patient": ["x", None, "x", "w"]})
    assert patients_of(table).tolist() == [2, 0, 2, 1]
    assert patients_of(table.drop("patient")).tolist() == [3, 0, 2, 1]
    assert patients_of(table.clear()).tolist() == []


def test_every_rate_of_a_summary_counts_patients():
    """Twenty patients with five images each that all agree: 100 images prove as much as 20."""
    entry, other = attack(), attack("bim")
    told = manifest(entry, other, images=100) | {"listeners": {"judges": {"dense": "w"}}}
    told["data"]["class_names"] = ["no", "yes"]
    records = rows(entry, "1" * 100) + rows(other, "0" * 100)
    for number, row in enumerate(records):
        image = number % 100
        target, fooled = image // 50, row["key"] == entry["key"]
        row |= {"patient": f"p{image // 5}", "target": target, "clean_prediction": target, "clean_confidence": 0.9}
        row |= {"adversarial_prediction": 1 - target if fooled else target, "adversarial_confidence": 0.9}
        row |= {"judge_dense_before": True, "judge_dense_after": not fooled, "judge_dense_success": fooled}
    found = summarise(pl.DataFrame(records, schema_overrides=TYPES), told)
    none, all_20 = list(wilson_interval(0, 20)), list(wilson_interval(20, 20))
    clean, one, two = found["rows"]
    assert clean["clean_accuracy_interval"] == clean["accuracy_under_attack_interval"] == pytest.approx(all_20)
    assert clean["success_rate_interval"] is None
    assert one["accuracy_under_attack_interval"] == two["success_rate_interval"] == pytest.approx(none)
    assert one["success_rate_interval"] == two["accuracy_under_attack_interval"] == pytest.approx(all_20)
    assert one["transfer"]["dense"]["success_rate_interval"] == pytest.approx(all_20)
    (worst,) = found["worst_case"]
    assert (worst["n"], worst["accuracy"]) == (100, 0) and worst["accuracy_interval"] == pytest.approx(none)
    before, after, _ = found["classes"]["rows"]
    ten = list(wilson_interval(10, 10))  # patients of each class
    assert before["classes"][1]["sensitivity_interval"] == pytest.approx(ten)
    assert after["classes"][1]["sensitivity_interval"] == pytest.approx(list(wilson_interval(0, 10)))
    assert after["classes"][0]["specificity_interval"] == pytest.approx(list(wilson_interval(0, 10)))
    (bin,) = before["reliability"]
    assert bin["accuracy_interval"] == pytest.approx(all_20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "images", "rate", "alike"),
    [(200, 1, 0.515, 0), (100, 1, 0.97, 0), (50, 4, 0.7, 0.5), (40, 4, 0.95, 0.5), (20, 1, 0.9, 0)],
)
def test_the_intervals_hold_the_truth_about_as_often_as_they_say(count, images, rate, alike):
    """A rate of each patient's own from a beta distribution, whose images are alike to the degree that is given."""
    random, covered, times = np.random.default_rng(5), 0, 1000
    patients = np.repeat(np.arange(count), images)
    for _ in range(times):
        own = np.full(count, rate)
        if alike:
            own = random.beta(rate * (1 - alike) / alike, (1 - rate) * (1 - alike) / alike, count)
        low, high = rate_interval(random.random(len(patients)) < own[patients], patients, resamples=500)
        covered += low <= rate <= high
    assert covered >= 0.92 * times
    if alike == 0 and rate < 0.9:
        assert covered <= 0.975 * times  # not by being too wide
