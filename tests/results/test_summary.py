"""Summaries: rates derived by hand, and flags that are raised when they should be and not otherwise."""

import io
import json
import math
import re

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from scipy.stats import binomtest

from medrobust.results.checks import CHECKS
from medrobust.results.columns import COLUMNS, TYPES, label_column
from medrobust.results.formats import format_epsilon, format_interval
from medrobust.results.records import Journal, merge
from medrobust.results.report.tables import console_flags, console_table, markdown_table
from medrobust.results.statistics import mean_interval, paired_p_value, wilson_interval
from medrobust.results.summary import summarise, write_summary


def attack(name="pgd", epsilon=1 / 255, control=False, **changes):
    return {
        "attack": name,
        "method": "UniformNoise" if control else "PGD",
        "epsilon": epsilon,
        "key": f"{name}@{epsilon}",
        "parameters": {},
        "control": control,
        **changes,
    }


def manifest(*attacks, images=40):
    return {"schema": 1, "run": "demo", "data": {"name": "phantom", "images": images}, "attacks": list(attacks)}


def rows(entry, fooled, right=None, **changes):
    """One record per image: `fooled` and `right` (before the attack) are strings of 0 and 1."""
    right = right or "1" * len(fooled)
    return [
        dict.fromkeys(COLUMNS)
        | {
            "schema": 2,
            "key": entry["key"],
            **dict.fromkeys(("run", "victim", "dataset", "split"), "demo"),
            "seed": 42,
            "id": f"{image:04d}",
            "target": image % 2,
            "attack": entry["attack"],
            "method": entry["method"],
            "epsilon": entry["epsilon"],
            "correct_before": was == "1",
            "correct_after": was == "1" and now == "0",
            "reached": now == "1",
            "success": was == now == "1",
            "linf": entry["epsilon"] or 0.5,
            "l2": 1.0 + image,
            "forwards": 3,
            "backwards": 0 if entry["control"] else 2,
            "zero_gradients": 0,
        }
        | changes
        for image, (now, was) in enumerate(zip(fooled, right, strict=True))
    ]


def summary_of(entries, records, images=40):
    frame = pl.DataFrame(records, schema=pl.Schema(TYPES) if not records else None, schema_overrides=TYPES)
    return summarise(frame, manifest(*entries, images=images))


def raised(summary):
    return [(flag["check"], flag["attack"], flag["epsilon"]) for flag in summary["flags"]]


def test_wilson_interval_by_hand():
    z2 = 1.959963984540054**2
    assert wilson_interval(0, 10) == (0.0, pytest.approx(z2 / (10 + z2)))
    assert wilson_interval(10, 10) == (pytest.approx(10 / (10 + z2)), 1.0)
    half = math.sqrt(z2 / (10 + z2)) / 2  # at one half the quadratic reduces to this
    assert wilson_interval(5, 10) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert wilson_interval(0, 0) is None
    with pytest.raises(ValueError, match="11 of 10"):
        wilson_interval(11, 10)


@pytest.mark.parametrize(("successes", "trials"), [(1, 7), (95, 201), (192, 201), (3, 100000)])
def test_wilson_limits_are_just_not_contradicted(successes, trials):
    z2, rate = 1.959963984540054**2, successes / trials
    for limit in wilson_interval(successes, trials):
        assert (rate - limit) ** 2 == pytest.approx(z2 * limit * (1 - limit) / trials)
    reference = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx(tuple(reference))


def test_paired_p_value_by_hand():
    assert paired_p_value(0, 0) == 1.0
    assert paired_p_value(5, 0) == pytest.approx(1 / 32)
    assert paired_p_value(0, 5) == 1.0
    assert paired_p_value(3, 1) == pytest.approx(5 / 16)
    assert paired_p_value(1, 3) == pytest.approx(15 / 16)
    assert paired_p_value(2, 2) == pytest.approx(11 / 16)


@pytest.mark.parametrize(("first", "second"), [(8, 2), (60, 40), (500, 520), (50200, 49800)])
def test_paired_p_value_against_scipy(first, second):
    expected = binomtest(first, first + second, alternative="greater").pvalue
    assert paired_p_value(first, second) == pytest.approx(expected, rel=1e-9)


def test_two_rates_from_eight_images():
    # right before: 6 of 8. Fooled of those: 4 of 6. Right after: the 2 that held, and one that the attack set right.
    entry = attack()
    records = rows(entry, fooled="00111110", right="11111100")
    records[7]["correct_after"] = True
    records[0]["zero_gradients"] = 1
    row = summary_of([entry], records, images=8)["rows"][1]
    assert (row["n"], row["n_correct_before"], row["n_success"], row["n_correct_after"]) == (8, 6, 4, 3)
    assert row["clean_accuracy"] == 6 / 8
    assert row["success_rate"] == 4 / 6
    assert row["accuracy_under_attack"] == 3 / 8
    # fewer than ten patients: the wider of Wilson's limits and the drawn ones, 2 to 6 of 6 and 0 or 1 to 6 of 8
    assert row["success_rate_interval"] == [pytest.approx(wilson_interval(4, 6)[0]), 1]
    low, high = row["accuracy_under_attack_interval"]
    assert low in (0, 1 / 8) and high == 6 / 8
    assert row["median_l2"] == 4.5
    assert (row["mean_forwards"], row["mean_backwards"]) == (3, 2)
    assert row["zero_gradient_share"] == 1 / 16
    assert row["complete"]
    assert row["kind"] == "attack"


def test_the_interval_of_a_mean_by_hand():
    # four patients with an image each: deviations 1/4, -1/4, 0, 0 from 1/2; s^2 = 4/3 * 2/16 / 16 = 1/96
    half = 1.959963984540054 * math.sqrt(1 / 96)
    found = mean_interval(np.array([0.75, 0.25, 0.5, 0.5]), np.arange(4))
    assert found == [pytest.approx(0.5 - half), pytest.approx(0.5 + half)]
    # two patients, one with three images: sums of deviations 3/8 and -3/8 from 5/8; s^2 = 2/1 * 2 * 9/64 / 16
    half = 1.959963984540054 * math.sqrt(2 * 2 * 9 / 64 / 16)
    found = mean_interval(np.array([0.75, 0.75, 0.75, 0.25]), np.array([4, 4, 4, 0]))
    assert found == [pytest.approx(0.625 - half), pytest.approx(0.625 + half)]
    assert mean_interval(np.array([0.0, 1.0]), np.array([0, 1])) == [0.0, 1.0]
    assert mean_interval(np.array([0.2, 0.4]), np.array([3, 3])) is None  # one patient
    assert mean_interval(np.empty(0), np.empty(0, dtype=int)) is None


def test_copies_of_an_image_make_a_mean_no_more_certain():
    values, patients = np.array([0.1, 0.4, 0.35, 0.8, 0.6]), np.arange(5)
    once = mean_interval(values, patients)
    assert mean_interval(np.tile(values, 7), np.tile(patients, 7)) == pytest.approx(once)
    assert np.diff(mean_interval(np.tile(values, 7), np.arange(35))) < np.diff(once)


def test_rows_come_clean_then_controls_then_attacks_by_radius():
    entries = [
        attack("pgd", 2 / 255),
        attack("noise", 2 / 255, control=True),
        attack("bim", None),
        attack("pgd", 1 / 255),
        attack("noise", 1 / 255, control=True),
        attack("bim", 1 / 255),
    ]
    summary = summary_of(entries, [])
    assert [(row["attack"], row["epsilon"]) for row in summary["rows"]] == [
        ("clean", None),
        ("noise", 1 / 255),
        ("noise", 2 / 255),
        ("pgd", 1 / 255),
        ("pgd", 2 / 255),
        ("bim", 1 / 255),
        ("bim", None),
    ]
    assert all(row["success_rate"] is None and row["accuracy_under_attack_interval"] is None for row in summary["rows"])
    json.dumps(summary, allow_nan=False)


def test_worst_case_counts_an_image_once_over_attacks_of_one_radius():
    one, two, other = attack("pgd"), attack("bim"), attack("pgd", 2 / 255)
    noise = attack("noise", control=True)
    records = rows(one, "1100") + rows(two, "0110") + rows(other, "1111") + rows(noise, "0001")
    worst = summary_of([one, two, other, noise], records, images=4)["worst_case"]
    assert [(case["epsilon"], case["attacks"], case["n"], case["accuracy"]) for case in worst] == [
        (1 / 255, ["pgd", "bim"], 4, 0.25),
        (2 / 255, ["pgd"], 4, 0.0),
    ]
    worst = summary_of([one, two], rows(one, "1100") + rows(two, "01"), images=4)["worst_case"]
    assert (worst[0]["n"], worst[0]["accuracy"]) == (2, 0.0)  # only images that both have tried
    luck = rows(other, "00")
    luck[1] |= {"correct_before": False}  # the attack puts it right, but the clean image is in every radius
    assert summary_of([other], luck, images=2)["worst_case"][0]["accuracy"] == 0.5


def test_quality_before_and_after_by_hand():
    # three images, of which the last has no quality; two patients. Means 3/4 and 3/8 of the first two.
    entry, noise = attack(), attack("noise", control=True)
    records = rows(entry, "110") + rows(noise, "000")
    seen = [(0.5, 0.25, "p"), (1.0, 0.5, "q"), (None, None, "q")]
    for record, (before, after, patient) in zip(records, seen * 2, strict=True):
        record |= {"quality_before": before, "quality_after": before if record["key"] == noise["key"] else after}
        record |= {"patient": patient}
    clean, control, row = summary_of([entry, noise], records, images=3)["rows"]
    assert [(one["n_quality_before"], one["n_quality_after"]) for one in (clean, control, row)] == [(2, 2)] * 3
    assert [one["quality_before"] for one in (clean, control, row)] == [0.75] * 3
    assert [one["quality_after"] for one in (clean, control, row)] == [0.75, 0.75, 0.375]
    half = 1.959963984540054 * math.sqrt(2 * (2 * 0.125**2) / 4)  # k / (k - 1) = 2, deviations 1/8 and -1/8, N^2 = 4
    assert row["quality_after_interval"] == pytest.approx([0.375 - half, 0.375 + half])
    assert clean["quality_before_interval"] == clean["quality_after_interval"]
    json.dumps([clean, row], allow_nan=False)


def test_images_without_a_quality_are_looked_for_under_the_other_attacks():
    older, newer = attack("bim"), attack("pgd")  # one journalled before there were qualities, one after
    records = rows(older, "10") + [row | {"quality_before": 0.5, "quality_after": 0.0} for row in rows(newer, "10")]
    clean, without, found = summary_of([older, newer], records, images=2)["rows"]
    assert (clean["quality_before"], clean["n_quality_before"]) == (0.5, 2)
    assert [without[f"{name}quality_after{end}"] for name, end in (("", ""), ("", "_interval"), ("n_", ""))] == [
        None,
        None,
        0,
    ]
    assert (found["quality_before"], found["quality_after"], found["n_quality_after"]) == (0.5, 0.0, 2)


def test_means_of_unknown_columns():
    entry = attack()
    records = [row | {"psnr": 40.0 + index, "note": "x"} for index, row in enumerate(rows(entry, "01"))]
    assert summary_of([entry], records, images=2)["rows"][1]["means"] == {"psnr": 40.5}


def test_a_sound_evaluation_raises_no_flag():
    noise, small, large, free = attack("noise", control=True), attack(), attack(epsilon=2 / 255), attack("df", None)
    records = rows(noise, "1" + "0" * 39) + rows(small, "1" * 20 + "0" * 20)
    records += rows(large, "1" * 39 + "0") + rows(free, "1" * 40)
    summary = summary_of([noise, small, large, free], records)
    assert summary["flags"] == []
    assert {check["check"]: check["comparisons"] for check in summary["checks"]} == {
        "seen": 0,
        "clean": 1,
        "preparation": 0,
        "shortcuts": 0,
        "near_duplicates": 0,
        "incomplete": 5,
        "few_images": 1,
        "weak_victim": 1,
        "norm": 3,
        "noise": 1,
        "radius": 1,
        "steps": 0,
        "one_step": 0,
        "zero_gradients": 3,
        "masked_gradients": 0,
        "broken_gradients": 3,
        "refused": 4,
        "probabilities": 1,
        "unbounded": 1,
        "few_positives": 0,
        "wrong_signs": 0,
        "worse_than_guessing": 0,
        "false_alarms": 0,
        "hiding": 0,
        "transfer": 0,
    }
    assert [check["check"] for check in summary["checks"]] == list(CHECKS)


def bound(**found):
    """What a manifest says of a victim that has seen nothing, but for what is found."""
    return {"unknown": "", "images": 40, "seen": {}, "examples": [], "differences": [], "others": {}} | found


@pytest.mark.parametrize(
    ("found", "check", "severity", "words"),
    [
        (
            {"seen": {"train": 40}},
            "seen",
            "error",
            "Of the 40 images under evaluation, the victim has seen 40 in its Train",
        ),
        ({"unknown": "nobody wrote it down"}, "seen", "warning", "Nobody can tell whether the victim has seen"),
        ({"others": {"the judge a": bound(seen={"val": 3})}}, "seen", "warning", "the judge a has seen 3 in its Val"),
        ({"differences": ["Trained at 8."]}, "preparation", "warning", "Trained at 8."),
    ],
)
def test_what_victims_have_seen_is_flagged(found, check, severity, words):
    entry = attack()
    told, records = {**manifest(entry), "binding": bound()}, pl.DataFrame(rows(entry, "1" * 40), schema_overrides=TYPES)
    assert not summarise(records, told)["flags"]
    (flag,) = summarise(records, told | {"binding": bound(**found)})["flags"]
    assert (flag["check"], flag["severity"]) == (check, severity) and words in flag["message"]


def test_records_that_contradict_each_other_about_clean_images_are_flagged():
    one, other = attack("fgsm"), attack("pgd")
    entries, clean = [one, other], rows(one, "1" * 40)
    for wrong, flagged in ((1, False), (2, True)):  # one image of 40 may lie on the boundary
        records = clean + [
            row | ({"correct_before": False, "success": False} if place < wrong else {})
            for place, row in enumerate(rows(other, "1" * 40))
        ]
        flags = [flag for flag in summary_of(entries, records)["flags"] if flag["check"] == "clean"]
        assert bool(flags) == flagged
    assert flags[0]["severity"] == "error" and "right and wrong about 2 of 40 clean images" in flags[0]["message"]


def test_records_that_contradict_the_victims_own_metric_are_flagged():
    entry = attack()
    told = manifest(entry) | {"victim": {"name": "net", "quality": {"accuracy": 0.9}}}
    (flag,) = summarise(pl.DataFrame(rows(entry, "1" * 40), schema_overrides=TYPES), told)["flags"]
    assert flag["check"] == "clean" and "right about 100.0 %" in flag["message"] and "says 90.0 %" in flag["message"]


@pytest.mark.parametrize(("only_noise", "flagged"), [(4, False), (5, True)])  # 1/16 and 1/32 against 5 %
def test_noise_that_beats_an_attack(only_noise, flagged):
    noise, entry = attack("noise", control=True), attack()
    records = rows(noise, "1" * 10 + "1" * only_noise + "0" * (30 - only_noise)) + rows(entry, "1" * 10 + "0" * 30)
    summary = summary_of([noise, entry], records)
    assert raised(summary) == ([("noise", "pgd", 1 / 255)] if flagged else [])
    assert all(flag["severity"] == "error" for flag in summary["flags"])


def test_noise_of_another_radius_is_not_compared():
    noise, entry = attack("noise", 2 / 255, control=True), attack()
    assert raised(summary_of([noise, entry], rows(noise, "1" * 40) + rows(entry, "0" * 40))) == []


def test_images_that_were_wrong_before_do_not_count_in_a_comparison():
    noise, entry = attack("noise", control=True), attack()
    right = "0" * 8 + "1" * 32
    records = rows(noise, "1" * 8 + "0" * 32, right) + rows(entry, "0" * 40, right)
    assert raised(summary_of([noise, entry], records)) == []


@pytest.mark.parametrize(("lost", "flagged"), [(4, False), (5, True)])
def test_a_larger_radius_that_fools_less(lost, flagged):
    sweep = [attack(epsilon=k / 255) for k in (1, 2, 4)]  # the middle one is the best: compared with it, not with 1/255
    records = rows(sweep[0], "0" * 40) + rows(sweep[1], "1" * 20 + "0" * 20)
    records += rows(sweep[2], "0" * lost + "1" * (20 - lost) + "0" * 20)
    assert raised(summary_of(sweep, records)) == ([("radius", "pgd", 4 / 255)] if flagged else [])


def test_a_larger_radius_that_fools_nothing_at_all():
    sweep = [attack(epsilon=k / 255) for k in (1, 2)]
    assert raised(summary_of(sweep, rows(sweep[0], "1" * 40) + rows(sweep[1], "0" * 40))) == [
        ("radius", "pgd", 2 / 255)
    ]


def test_more_steps_that_fool_less():
    few = attack("pgd-10", parameters={"steps": 10, "step_size": 0.1, "kappa": 0})
    many = attack("pgd-20", parameters={"steps": 20, "step_size": 0.2, "kappa": 0})
    records = rows(few, "1" * 20 + "0" * 20) + rows(many, "0" * 40)
    assert raised(summary_of([few, many], records)) == [("steps", "pgd-20", 1 / 255)]
    many["parameters"]["kappa"] = 5  # another attack altogether
    assert raised(summary_of([few, many], records)) == []


@pytest.mark.parametrize(
    ("lead", "changes", "flagged"),
    [
        (5, {}, True),  # chance explains it in 1 of 32 cases
        (4, {}, False),  # 1 of 16
        (20, {"targeted": True}, False),  # a goal is harder to reach than the truth to leave
        (20, {"objective": {"class": "LayerMean"}}, False),
        (20, {"steps": 1}, False),
        (20, {"epsilon": 2 / 255}, False),
    ],
)
def test_one_step_that_does_better_than_many(lead, changes, flagged):
    common = {"targeted": False, "objective": None, "step_size": None}
    single = attack("fgsm", method="FGSM", parameters={**common, "steps": 1})
    settings = {"steps": 10, **{name: value for name, value in changes.items() if name != "epsilon"}}
    many = attack("pgd", changes.get("epsilon", 1 / 255), parameters={**common, **settings})
    records = rows(single, "1" * (lead + 3) + "0" * (37 - lead)) + rows(many, "1" * 3 + "0" * 37)
    assert raised(summary_of([single, many], records)) == ([("one_step", "pgd", 1 / 255)] if flagged else [])


@pytest.mark.parametrize(("zero", "flagged"), [(8, False), (9, True)])  # of 80 backward passes
def test_vanishing_gradients(zero, flagged):
    entry = attack()
    records = rows(entry, "1" * 40)
    for record in records[:zero]:
        record["zero_gradients"] = 1
    assert raised(summary_of([entry], records)) == ([("zero_gradients", "pgd", 1 / 255)] if flagged else [])


@pytest.mark.parametrize(
    ("blind", "sighted", "changes", "flagged"),
    [
        (7, 2, {}, True),  # 5 images more, which chance explains in 1 of 32 cases
        (6, 2, {}, False),  # 4 images more: 1 of 16
        (7, 2, {"backwards": 2}, False),  # too short to be compared with
        (40, 0, {"epsilon": 2 / 255}, False),
    ],
)
@pytest.mark.parametrize("method", ["Square", "Oblivious"])
def test_attacks_without_gradients_that_do_better_show_that_these_are_masked(blind, sighted, changes, flagged, method):
    square = attack("blind", method=method)
    pgd = attack("pgd", **({"epsilon": changes["epsilon"]} if "epsilon" in changes else {}))
    few = {"backwards": 0 if method == "Square" else 20}
    records = rows(square, "1" * blind + "0" * (40 - blind), **few)
    records += rows(pgd, "1" * sighted + "0" * (40 - sighted), **{"backwards": 20} | changes)
    found = summary_of([square, pgd], records)
    expected = [("masked_gradients", "blind", 1 / 255)] if flagged else []
    assert [one for one in raised(found) if one[0] == "masked_gradients"] == expected
    if flagged:
        message = next(flag["message"] for flag in found["flags"] if flag["check"] == "masked_gradients")
        assert "fools 17.5 %" in message and "5.0 %" in message and "masked" in message


def test_the_strongest_attack_with_gradients_decides_whether_they_are_masked():
    square, weak, strong = attack("blind", method="Square"), attack("weak"), attack("strong")
    records = rows(square, "1" * 20 + "0" * 20, backwards=0) + rows(weak, "0" * 40, backwards=9)
    found = summary_of([square, weak, strong], records + rows(strong, "0" * 20 + "1" * 20, backwards=9))
    assert "masked_gradients" not in [one[0] for one in raised(found)]


@pytest.mark.parametrize(
    ("order", "square", "flagged"),
    [(("APGD", "Square"), 5, True), (("APGD", "Square"), 4, False), (("Square", "APGD"), 20, False)],
)
def test_images_that_square_alone_breaks_within_a_worst_case_show_masked_gradients(order, square, flagged):
    entry = attack("worst-case", method="WorstCase", parameters={"attacks": [{"class": name} for name in order]})
    names = ["Square"] * square + ["APGD"] * 3 + [None] * (37 - square)
    fooled = "".join("0" if name is None else "1" for name in names)
    records = [row | {"broken_by": name} for row, name in zip(rows(entry, fooled), names, strict=True)]
    found = summary_of([entry], records)
    assert raised(found) == ([("masked_gradients", "worst-case", 1 / 255)] if flagged else [])


def test_broken_gradients_are_flagged_with_the_images_and_passes():
    entry = attack()
    records = rows(entry, "1" * 40)
    for record in records:
        record["broken_gradients"] = None
    assert raised(summary_of([entry], records)) == []
    records[3]["broken_gradients"], records[5]["broken_gradients"] = 2.0, 1.0
    summary = summary_of([entry], records)
    assert raised(summary) == [("broken_gradients", "pgd", 1 / 255)]
    assert "on 2 of 40 images, in 3.8 % of its backward passes" in summary["flags"][0]["message"]  # 3 of 80
    assert "broken_gradients" not in summary["rows"][1]["means"]


def test_images_that_could_not_be_returned_are_flagged():
    entry, noise = attack(), attack("noise", control=True)
    records = rows(entry, "1" * 40) + rows(noise, "0" * 40)
    records[7]["refused"] = 1.0
    summary = summary_of([noise, entry], records)
    assert raised(summary) == [("refused", "pgd", 1 / 255)]
    assert summary["flags"][0]["severity"] == "error"
    assert "1 of 40 images that are not finite" in summary["flags"][0]["message"]
    assert "refused" not in summary["rows"][2]["means"]


@pytest.mark.parametrize("missing", [0, 1])
def test_outputs_that_look_like_probabilities_are_flagged_once(missing):
    sweep = [attack(), attack(epsilon=2 / 255)]
    records = rows(sweep[0], "1" * 40) + rows(sweep[1], "1" * 40)
    for record in records:
        record["probability_outputs"] = 1.0
    records[0]["probability_outputs"] = None if missing else 1.0
    summary = summary_of(sweep, records)
    assert raised(summary) == ([] if missing else [("probabilities", None, None)])
    assert "probability_outputs" not in summary["rows"][1]["means"]


@pytest.mark.parametrize(("excess", "norm", "flagged"), [(9e-7, "linf", 0), (2e-6, "linf", 1), (2e-6, "l2", 0)])
def test_a_perturbation_beyond_its_radius(excess, norm, flagged):
    entry = attack(norm=norm)
    records = rows(entry, "1" * 40)
    records[7]["linf"] = 1 / 255 + excess
    summary = summary_of([entry], records)
    assert raised(summary) == [("norm", "pgd", 1 / 255)] * flagged
    assert all("1 of 40 images" in flag["message"] for flag in summary["flags"])


def test_missing_and_surplus_images():
    entry, absent = attack(), attack("bim")
    summary = summary_of([entry, absent], rows(entry, "1" * 39))
    assert raised(summary) == [("incomplete", None, None)]  # under way: one flag says it all
    both = summary_of([entry, absent], rows(entry, "1" * 40) + rows(absent, "1" * 39))
    assert raised(both) == [("incomplete", "bim", 1 / 255)]
    assert [row["complete"] for row in summary["rows"]] == [False] * 3
    summary = summary_of([entry], rows(entry, "1" * 41))
    assert {flag["severity"] for flag in summary["flags"]} == {"error"}


@pytest.mark.parametrize(("right", "flagged"), [(29, True), (30, False)])
def test_few_images(right, flagged):
    entry = attack()
    records = rows(entry, "1" * 40, "1" * right + "0" * (40 - right))
    assert raised(summary_of([entry], records)) == ([("few_images", None, None)] if flagged else [])


@pytest.mark.parametrize(
    ("right", "words"), [(0, "No image was right"), (1, "Only 1 image was right"), (2, "Only 2 images were right")]
)
def test_one_image_is_no_images(right, words):
    flags = summary_of([attack()], rows(attack(), "1" * 40, "1" * right + "0" * (40 - right)))["flags"]
    assert any(flag["message"].startswith(words) for flag in flags)


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (60, "does not beat that"),  # 60 of 100 are of the larger class
        (64, "does not surely beat that"),  # Binomial(100, 0.64) is 54 or less in 2.5 % of cases
        (75, ""),  # 66 or less
    ],
)
def test_a_victim_that_does_not_surely_beat_the_larger_class(right, words):
    entry = attack()
    records = rows(entry, "1" * 100, "1" * right + "0" * (100 - right))
    for index, record in enumerate(records):
        record["target"] = int(index < 60)
    flags = summary_of([entry], records, 100)["flags"]
    assert [(flag["check"], flag["severity"]) for flag in flags] == ([("weak_victim", "error")] if words else [])
    assert not words or (
        words in flags[0]["message"] and "always naming the largest class is right about 60.0 %" in flags[0]["message"]
    )


def test_a_victim_that_guesses_is_an_error():
    """51.5 % of 200 images, half of each class: the interval reaches from 44.6 to 58.4 %."""
    entry = attack()
    (flag,) = summary_of([entry], rows(entry, "1" * 200, "1" * 103 + "0" * 97), images=200)["flags"]
    assert (flag["check"], flag["severity"], flag["attack"]) == ("weak_victim", "error", None)
    low, high = map(float, re.search(r"51.5 % \(95 % interval ([\d.]+)–([\d.]+)\)", flag["message"]).groups())
    assert low == pytest.approx(44.6, abs=0.8) and high == pytest.approx(58.4, abs=0.8)
    assert "the largest class is right about 50.0 %" in flag["message"]


@pytest.mark.parametrize(("right", "flagged"), [(24, True), (36, False)])  # of 40: 45 % to 75 %, and 80 to 97.5 %
def test_of_a_single_class_a_victim_has_to_beat_chance(right, flagged):
    entry = attack()
    frame = pl.DataFrame(rows(entry, "1" * 40, "1" * right + "0" * (40 - right), target=1), schema_overrides=TYPES)
    told = manifest(entry)
    told["data"]["class_names"] = ["no", "yes"]
    flags = [flag for flag in summarise(frame, told)["flags"] if flag["check"] == "weak_victim"]
    assert bool(flags) == flagged and all("naming one of the classes at random" in flag["message"] for flag in flags)


@pytest.mark.parametrize("target", [None, 1])
def test_without_classes_to_choose_from_the_victim_is_not_judged(target):
    entry = attack()
    assert raised(summary_of([entry], rows(entry, "1" * 40, "1" * 30 + "0" * 10, target=target))) == []


def of_labels(before):
    """Summary of 60 patients with the label and 60 without it, of each of whom the victim gives a probability."""
    entry = attack()
    records = [row | {"target": None} for row in rows(entry, "1" * 120)]
    for number, (row, share) in enumerate(zip(records, before, strict=True)):
        row |= {label_column("a", "true"): float(number < 60)}
        row |= {label_column("a", what): float(share) for what in ("before", "after")}
    told = manifest(entry, images=120)
    told["data"] |= {"task": "multilabel", "class_names": ["a"]}
    return summarise(pl.DataFrame(records, schema_overrides=TYPES), told)


def test_a_victim_of_labels_has_to_tell_them_apart():
    random = np.random.default_rng(0)
    weak = [flag for flag in of_labels(random.random(120))["flags"] if flag["check"] == "weak_victim"]
    assert [flag["severity"] for flag in weak] == ["error"] and "guessing by 50.0 %" in weak[0]["message"]
    better = of_labels(random.random(120) + 0.3 * (np.arange(120) < 60))
    assert "weak_victim" not in [flag["check"] for flag in better["flags"]]


def test_an_unbounded_attack_that_fails():
    entry = attack("deepfool", None)
    summary = summary_of([entry], rows(entry, "1" * 39 + "0"))
    assert raised(summary) == [("unbounded", "deepfool", None)]
    assert "1 of 40 images" in summary["flags"][0]["message"]


def judged(before: str, success: str) -> list[dict]:
    """A judge's columns, with one character of each string per image."""
    return [
        {"judge_other_before": b == "1", "judge_other_after": s == "0", "judge_other_success": s == "1"}
        for b, s in zip(before, success, strict=True)
    ]


def test_a_judge_that_is_fooled_more_often_than_the_victim_is_flagged():
    entry = attack("bim")
    for success, flagged in (("1" * 40, True), ("0" * 40, False), ("1" * 12 + "0" * 28, False)):
        records = rows(entry, "1" * 10 + "0" * 30)
        records = [
            {**record, **seen} for record, seen in zip(records, judged("1" * 36 + "0" * 4, success), strict=True)
        ]
        known = {"listeners": {"judges": {"other": "ab"}}, "victim": {"weights": "cd"}}
        summary = summarise(pl.DataFrame(records, schema_overrides=TYPES), {**manifest(entry), **known})
        row = summary["rows"][1]["transfer"]["other"]
        expected = sum(one == "1" for one in success[:36])
        assert (row["n_correct_before"], row["n_success"], row["same_weights"]) == (36, expected, False)
        assert row["success_rate"] == expected / 36
        assert row["accuracy_under_attack"] == success.count("0") / 40
        assert [flag["check"] for flag in summary["flags"]] == (["transfer"] if flagged else [])
        assert "judge_other_before" not in summary["rows"][1]["means"]


def test_successes_are_counted_by_the_attack_that_broke_the_image():
    entry, plain = attack("worst-case"), attack("bim")
    names = ["APGD", "FAB", "APGD", "APGD", None, "Square"]
    records = [row | {"broken_by": name} for row, name in zip(rows(entry, "111101", "111011"), names, strict=True)]
    summary = summary_of([entry, plain], records + rows(plain, "111111"), images=6)
    assert summary["rows"][0]["broken_by"] == {}
    counts = {row["attack"]: row["broken_by"] for row in summary["rows"][1:]}
    assert counts == {"worst-case": {"APGD": 2, "FAB": 1, "Square": 1}, "bim": {}}
    assert list(counts["worst-case"]) == ["APGD", "FAB", "Square"]
    unbroken = summary_of([entry], [row | {"broken_by": None} for row in rows(entry, "0000")], images=4)
    assert unbroken["rows"][1]["broken_by"] == {}


def test_means_say_how_many_images_have_no_value():
    entry = attack("bim")
    records = [
        {**record, "brisque": None if at < 3 else 2.0} for at, record in enumerate(rows(entry, "1" * 40, "1" * 40))
    ]
    row = summary_of([entry], records)["rows"][1]
    assert row["means"] == {"brisque": 2.0}
    assert row["undefined"] == {"brisque": 3}


def test_summary_file_is_strict_json(tmp_path):
    entry = attack()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest(entry, attack("bim"), images=2)))
    with pytest.raises(ValueError, match="run the evaluation again"):
        write_summary(tmp_path)
    with Journal(tmp_path) as journal:
        journal.append(rows(entry, "01"))
    merge(tmp_path)
    summary = write_summary(tmp_path)

    def refuse(name):
        raise AssertionError(name)

    assert json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse) == summary
    assert summary["schema"] == 1
    assert summary["manifest"]["run"] == "demo"


@pytest.mark.parametrize(
    ("epsilon", "expected"),
    [
        (None, "–"),
        (8 / 255, "8/255"),
        (1 / 255 + 9e-7, "1/255"),
        (0.5 / 255, "0.5/255"),
        (0.3 / 255, "0.3/255"),
        (1 / 256, "1/256"),
        (4 / 256, "4/256"),
        (0.05, "0.05"),
        (0.2, "0.2"),
        (5e-5, "5e-05"),
        (0.0313, "0.0313"),
        (1.0, "1"),
    ],
)
def test_radii_are_written_as_the_field_does(epsilon, expected):
    assert format_epsilon(epsilon) == expected


@pytest.mark.parametrize("width", [80, 100, 140])
def test_console_table_fits_and_keeps_its_numbers(width):
    noise, entry = attack("noise", control=True), attack("[bold]pgd[/bold]|x")
    summary = summary_of([noise, entry], rows(noise, "1" * 40) + rows(entry, "1" * 30 + "0" * 10))
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(console_table(summary, width))
    console.print(console_flags(summary))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= width
    assert all(
        words in shown for words in ("[bold]pgd[/bold]|x", "1/255", "25.0 %", "75.0 %", "Do not trust: Uniform noise")
    )
    limits = format_interval(summary["rows"][2]["accuracy_under_attack_interval"])  # 10 +- 1.96 * sqrt(7.5) of 40
    assert limits in ("12.5–37.5", "12.5–40.0") and (limits in shown) == (width >= 100)
    assert "…" not in shown


def test_console_says_that_all_checks_passed():
    entry = attack()
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(console_flags(summary_of([entry], rows(entry, "1" * 40))))
    assert console.export_text() == "All 9 self-checks passed.\n"


def test_the_console_counts_flags_of_a_kind_beyond_the_third():
    """Five radii, each of which left its ball on one image: five errors of one check."""
    entries = [attack(epsilon=radius / 255) for radius in range(1, 6)]
    records = [row for entry in entries for row in rows(entry, "1" * 40, linf=0.5)]
    summary = summary_of(entries, records)
    assert [flag["check"] for flag in summary["flags"]].count("norm") == 5
    console = Console(width=200, file=io.StringIO())
    console.print(console_flags(summary))
    shown = console.file.getvalue()
    assert shown.count("left its radius") == 3
    assert "(at ε = 3/255)\n  and 2 more of this kind, which the report shows\n" in shown
    assert markdown_table(summary).count("**Do not trust**: pgd left its radius") == 5


def test_markdown_table():
    entry = attack("a|b")
    text = markdown_table(summary_of([entry], rows(entry, "1" * 10 + "0" * 30)))
    cells = r"\| a\\\|b \| 1/255 \| 40 \| 75.0 % \| 6[02].[05]–87.5 \| 25.0 % \| 12.5–(37.5|40.0) \| 5 \|"
    assert re.search(cells, text)
    assert len({line.replace("\\|", "").count("|") for line in text.strip().splitlines()}) == 1


def of_task(task, records):
    """Summary of a noise control and an attack on victims of a task."""
    noise, entry = attack("noise", control=True), attack()
    frame = pl.DataFrame(rows(noise, "0" * 40) + rows(entry, records), schema_overrides=TYPES)
    before = 0.75 + 0.25 * (pl.int_range(pl.len()) % 2)  # in turn 3/4 and 1; where the attack succeeds, 3/4 are lost
    qualities = {"quality_before": before, "quality_after": before - 0.75 * pl.col("success")}
    known = manifest(noise, entry)
    known["data"] |= {} if task is None else {"task": task}
    return summarise(frame.with_columns(**qualities), known)


@pytest.mark.parametrize("width", [80, 133, 134, 154])
def test_qualities_are_shown_where_the_victim_is_no_classifier(width):
    shown = {}
    for task in (None, "classification", "segmentation"):
        summary = of_task(task, "1" * 20 + "0" * 20)  # half of them lose 3/4
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(console_table(summary, width))
        shown[task] = console.export_text(), markdown_table(summary)
    assert shown[None] == shown["classification"]
    assert not any("quality" in text or "87.5" in text for text in shown[None])
    console, markdown = shown["segmentation"]
    pgd = next(line for line in console.splitlines() if line.lstrip().startswith("pgd"))
    assert re.search(r"87\.5 % +(83\.6–91\.4 +)?50\.0 %", pgd)
    assert (console.count("83.6–91.4") == 5) == (width >= 134)  # both of clean and noise, and pgd's before
    assert "…" not in console
    half = 100 * 1.959963984540054 * math.sqrt(5 / 32 / 39)  # s^2 = 40/39 * 40 * (1/2^2 + 1/4^2) / 2 / 40^2
    head, _, clean, _, attacked = markdown.splitlines()
    assert head.endswith("| 95 % | quality before the attack | 95 % | quality after the attack | 95 % | passes |")
    assert clean.endswith("| 87.5 % | 83.6–91.4 | 87.5 % | 83.6–91.4 | – |")
    assert attacked.endswith(f"| 87.5 % | 83.6–91.4 | 50.0 % | {50 - half:.1f}–{50 + half:.1f} | 5 |")


def test_distances_and_measurements_leave_out_images_that_came_back_unchanged():
    entry = attack("deepfool", None)
    records = rows(entry, "1" * 10 + "0" * 30)
    for place, record in enumerate(records):
        record |= {"linf": 0.25, "l2": 2.0, "ssim": 0.5} if place < 10 else {"linf": 0.0, "l2": 0.0, "ssim": 1.0}
    row = summary_of([entry], records)["rows"][1]
    assert (row["n_changed"], row["median_linf"], row["median_l2"], row["means"]) == (10, 0.25, 2.0, {"ssim": 0.5})


LAYER = {"class": "LayerMean", "layer": "pool"}


@pytest.mark.parametrize(
    "parameters",
    [
        {"targeted": True},
        {"objective": LAYER},
        {"objective": {"class": "WeightedSum", "terms": [LAYER], "weights": [-1.0]}},
    ],
)
def test_noise_is_not_held_against_an_attack_that_is_not_asked_to_leave_the_truth(parameters):
    noise, aimed = attack("noise", control=True), attack("pgd", parameters=parameters)
    records = rows(noise, "1" * 20 + "0" * 20) + rows(aimed, "0" * 40)
    assert raised(summary_of([noise, aimed], records)) == []
    both = {"class": "WeightedSum", "terms": [LAYER, {"class": "CrossEntropy"}], "weights": [1.0, 1.0]}
    for asked in ({}, {"objective": None}, {"objective": both}):
        plain = attack("pgd", parameters=asked)
        found = raised(summary_of([noise, plain], rows(noise, "1" * 20 + "0" * 20) + rows(plain, "0" * 40)))
        assert found == [("noise", "pgd", 1 / 255)]
