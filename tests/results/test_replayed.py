"""Records that were made again: what counts as the same, as rounding, and as another record."""

from pathlib import Path
from typing import Any

import pytest

from medrobust.results.manifest import write_manifest
from medrobust.results.records import Journal
from medrobust.results.replayed import changed_since, compare_record, elsewhere, find_record, verdict_of
from tests.sample_record import record


def verdicts(changes: dict[str, Any], tolerance: float | None = None, **recorded: Any) -> dict[str, str]:
    """Columns that are not the same when some values of a record change."""
    before = {"schema": 2, **record(), **recorded}
    compared = compare_record(before, {**before, **changes}, tolerance)
    assert "schema" not in [one.name for one in compared] and "run" not in [one.name for one in compared]
    return {one.name: one.verdict for one in compared if one.verdict != "the same"}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, {}),
        ({"run": "another name"}, {}),
        ({"success": False}, {"success": "differs"}),
        ({"adversarial_prediction": 1}, {"adversarial_prediction": "differs"}),
        ({"patient": None}, {"patient": "differs"}),
        ({"quality_after": 0.25 + 0.019}, {"quality_after": "rounding"}),  # a share, by 0.02 at most
        ({"quality_after": 0.25 + 0.021}, {"quality_after": "differs"}),
        ({"l2": 0.25 * 1.019}, {"l2": "rounding"}),  # a norm, by 2 % of itself
        ({"l2": 0.25 * 1.03}, {"l2": "differs"}),
        ({"l0": 4096 - 80}, {"l0": "rounding"}),
        ({"l0": 4096 - 100}, {"l0": "differs"}),
        ({"forwards": 23}, {"forwards": "rounding"}),  # a step more or less: at most 2 of few passes
        ({"forwards": 24}, {"forwards": "differs"}),
    ],
)
def test_what_rounding_may_change(changes: dict[str, Any], found: dict[str, str]) -> None:
    assert verdicts(changes) == found


def test_many_passes_may_differ_by_their_share() -> None:
    assert verdicts({"forwards": 1019}, forwards=1000) == {"forwards": "rounding"}
    assert verdicts({"forwards": 1022}, forwards=1000) == {"forwards": "differs"}


def test_a_tolerance_takes_the_place_of_the_rules() -> None:
    changes = {"l2": 0.2500001, "quality_after": 0.26, "forwards": 22}
    assert verdicts(changes, 1e-6) == {"l2": "rounding", "quality_after": "differs", "forwards": "differs"}
    assert verdicts({"l2": 0.2500001}, 0.0) == {"l2": "differs"}


def test_boxes_are_compared_by_their_numbers() -> None:
    boxes = "[[1, 10.0, 20.0, 30.0, 40.0]]"
    assert verdicts({"boxes_after": "[[1, 10.1, 20.0, 30.0, 40.0]]"}, boxes_after=boxes) == {"boxes_after": "rounding"}
    assert verdicts({"boxes_after": "[[1, 15.0, 20.0, 30.0, 40.0]]"}, boxes_after=boxes) == {"boxes_after": "differs"}
    assert verdicts({"boxes_after": "[]"}, boxes_after=boxes) == {"boxes_after": "differs"}


def test_scores_without_a_fitted_detector_are_not_compared() -> None:
    before = record(detector_kd_bim=1.5)
    compared = compare_record(before, {**before, "detector_kd_bim": None})
    good, said = verdict_of(compared, "")
    assert good and said.endswith(
        "bit for bit; not compared, since no fitted detector or model is there: detector_kd_bim"
    )


def test_the_verdict_names_what_differs_and_the_machine() -> None:
    before = record()
    compared = compare_record(before, {**before, "success": False, "reached": False, "l2": 0.5})
    now = {"device": "cuda", "versions": {"torch": "2"}, "environment": {"threads": 1, "cudnn": 9}}
    then = {"device": "cpu", "versions": {"torch": "2"}, "environment": {"threads": 4}}
    where = elsewhere(then, now)
    assert where == "device cuda (recorded on cpu), threads 1 (recorded with 4)"
    good, said = verdict_of(compared, where)
    assert not good and said == (
        "it is another record: reached was True and is False; success was True and is False; l2 was 0.25 and is 0.5; "
        f"this machine has {where}"
    )
    assert elsewhere(then, then) == ""


def plan(**changes: Any) -> dict[str, Any]:
    """What an evaluation would write into its manifest."""
    attack = {"attack": "pgd", "key": "k1", "epsilon": 1 / 255, "parameters": {"steps": 20, "inner": [{"a": 1}]}}
    made = {"victim": {"weights": "w", "head": "linear"}, "data": {"fingerprint": "f"}, "listeners": {}}
    return {**made, "attacks": [attack], **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"victim": {"weights": "v", "head": "linear"}}, "the victim's weights are v and were w"),
        ({"victim": {"weights": "w", "head": "dense"}}, "the victim's head is 'dense' and was 'linear'"),
        (
            {"data": {"fingerprint": "g"}},
            "the images or their preparation are others: their fingerprint is g and was f",
        ),
        ({"attacks": []}, "its configuration has no attack 'pgd'"),
        (
            {"attacks": [{"attack": "pgd", "epsilon": 2 / 255}]},
            "its configuration has pgd at another radius than 1/255",
        ),
        ({"listeners": {"precision": "bf16"}}, "the settings of precision are others"),
        (
            {"attacks": [{"attack": "pgd", "epsilon": 1 / 255, "parameters": {"steps": 20, "inner": [{"a": 2}]}}]},
            "pgd has other parameters: inner[0].a is 2 and was 1",
        ),
        (
            {
                "attacks": [
                    {"attack": "pgd", "epsilon": 1 / 255, "parameters": {"inner": [{"a": 1, "b": 3}], "steps": 20}}
                ]
            },
            "pgd has other parameters: inner[0].b was unknown to the version that made the record",
        ),
        ({}, "goals, the images that an objective is fitted to, or this version's way to name records are others"),
    ],
)
def test_why_a_key_has_changed(changes: dict[str, Any], said: str) -> None:
    assert changed_since(plan(), "k1", plan(**changes)) == said


def test_records_are_found_by_the_beginning_of_a_key(tmp_path: Path) -> None:
    attacks = [{"attack": "pgd", "key": "a1b2", "epsilon": 1 / 255}, {"attack": "cw", "key": "a1c3", "epsilon": None}]
    write_manifest(tmp_path, {"schema": 1, "run": "r", "data": {"images": 1}, "attacks": attacks})
    with Journal(tmp_path) as journal:
        journal.append([record("dir:one.png", "a1b2", l2=0.5)])
    assert find_record(tmp_path, "a1b:dir:one.png")["l2"] == 0.5  # an id may hold colons
    with pytest.raises(ValueError, match=r"several attacks .* a1b2 \(pgd at 1/255\), a1c3 \(cw\)"):
        find_record(tmp_path, "a1:dir:one.png")
    with pytest.raises(ValueError, match="a1c3 .cw. has no record of an image 'dir:one.png' among 0; it has no record"):
        find_record(tmp_path, "a1c3:dir:one.png")
    with pytest.raises(ValueError, match="the nearest ids are 'dir:one.png'"):
        find_record(tmp_path, "a1b2:dir:one.jpg")
    with pytest.raises(ValueError, match="is not the folder of an evaluation"):
        find_record(tmp_path / "none", "a1b2:x")
