"""Names and values of the numbers that loggers are told."""

import math
from typing import Any

import pytest

from medrobust.results.scalars import curve_step, curves, scalars, unique_parts
from tests.strict_logger import check_name


def row(
    attack: str, epsilon: float | None, accuracy: float, success: float | None = None, **more: Any
) -> dict[str, Any]:
    """A row of a summary."""
    numbers = {"accuracy_under_attack": accuracy, "success_rate": success}
    return {"attack": attack, "epsilon": epsilon, "kind": "attack", "n": 4, "images": 4, **numbers, **more}


def summary(*rows: dict[str, Any], task: str = "classification", **more: Any) -> dict[str, Any]:
    """A summary of a clean row and these, of a victim that gets 3 of 4 images right."""
    clean = {**row("clean", None, 0.75), "kind": "clean", "quality_before": 0.5, "quality_after": 0.5}
    return {"manifest": {"data": {"task": task}}, "rows": [clean, *rows], "flags": [], "worst_case": [], **more}


def test_every_number_has_one_name() -> None:
    worst = [{"epsilon": 8 / 255, "accuracy": 0.25, "accuracy_interval": [0.1, 0.6]}]
    found = scalars(
        summary(
            row("pgd", 8 / 255, 0.25, 2 / 3, median_linf=0.03, zero_gradient_share=None),
            row("deepfool", None, 0.0, 1.0),
            worst_case=worst,
            flags=[{"severity": "error"}, {"severity": "warning"}, {"severity": "warning"}],
        )
    )
    assert found == {
        "images": 4,
        "tried": 4,
        "flags_errors": 1,
        "flags_warnings": 2,
        "clean_accuracy": 0.75,
        "worst_case_accuracy_8_255": 0.25,
        "attacks/pgd/8_255/accuracy_under_attack": 0.25,
        "attacks/pgd/8_255/success_rate": 2 / 3,
        "attacks/pgd/8_255/median_linf": 0.03,
        "attacks/pgd/8_255/n": 4,
        "attacks/deepfool/unbounded/accuracy_under_attack": 0.0,
        "attacks/deepfool/unbounded/success_rate": 1.0,
        "attacks/deepfool/unbounded/n": 4,
    }
    assert all(type(value) is float for value in found.values())


def test_curves_have_a_row_for_each_radius() -> None:
    """Two attacks at 1/255, one of them at 2/255 too: the worst case is theirs, the clean line is straight."""
    worst = [
        {"epsilon": 2 / 255, "accuracy": 0.0, "accuracy_interval": [0.0, 0.5]},
        {"epsilon": 1 / 255, "accuracy": 0.25, "accuracy_interval": None},
    ]
    rows = [row("pgd", 2 / 255, 0.0), row("pgd", 1 / 255, 0.5), row("C&W", 1 / 255, 0.25), row("free", None, 0.0)]
    assert curves(summary(*rows, worst_case=worst)) == [
        {
            "epsilon": 1 / 255,
            "curves/pgd/accuracy": 0.5,
            "curves/C_W/accuracy": 0.25,
            "curves/worst_case/accuracy": 0.25,
            "curves/clean/accuracy": 0.75,
        },
        {
            "epsilon": 2 / 255,
            "curves/pgd/accuracy": 0.0,
            "curves/worst_case/accuracy": 0.0,
            "curves/worst_case/accuracy_lower": 0.0,
            "curves/worst_case/accuracy_upper": 0.5,
            "curves/clean/accuracy": 0.75,
        },
    ]


def test_a_summary_without_radii_has_no_curves() -> None:
    assert curves(summary(row("free", None, 0.0))) == []
    assert curves(summary()) == []


def test_qualities_stand_beside_accuracies_of_masks_and_boxes_alone() -> None:
    worst = [{"epsilon": 2 / 255, "accuracy": 0.0, "quality": 0.125}]
    attacked = row("pgd", 2 / 255, 0.5, quality_before=0.75, quality_after=0.25)
    dense = summary(attacked, task="segmentation", worst_case=worst)
    found = scalars(dense)
    assert found["clean_quality"] == 0.5 and found["worst_case_quality_2_255"] == 0.125
    assert found["attacks/pgd/2_255/quality_after"] == 0.25
    (at,) = curves(dense)
    assert {name: at[name] for name in at if name.endswith("quality")} == {
        "curves/pgd/quality": 0.25,
        "curves/worst_case/quality": 0.125,
        "curves/clean/quality": 0.5,
    }
    plain = summary(attacked, worst_case=worst)
    assert not [name for name in (*scalars(plain), *curves(plain)[0]) if "quality" in name]


def test_detectors_are_judged_by_their_worst_attack() -> None:
    """kd has 0.9 and 0.6, lid 0.7 and 0.8: the best detector is lid with 0.7."""
    head = {"epsilon": 2 / 255, "fit": "same", "tpr": None}
    shares = {"successful": {"rate": 0.4}, "clean": {"rate": None}}
    rows = [
        {**head, "attack": "pgd", "detector": "kd", "auroc": 0.9, "controls": {"signs": 0.98}, "flagged": shares},
        {**head, "attack": "mim", "detector": "kd", "auroc": 0.6},
        {**head, "attack": "pgd", "detector": "lid", "auroc": 0.7},
        {**head, "attack": "mim", "detector": "lid", "auroc": 0.8},
        {**head, "attack": "fgsm", "detector": "lid", "auroc": None},
    ]
    attacks = [row(name, 2 / 255, 0.0) for name in ("pgd", "mim", "fgsm")]
    whole = summary(*attacks, detection={"rows": rows})
    found = scalars(whole)
    assert found["best_detector_auroc_2_255"] == 0.7
    assert {name: found[name] for name in found if name.startswith("detection/pgd/2_255/kd")} == {
        "detection/pgd/2_255/kd/same/auroc": 0.9,
        "detection/pgd/2_255/kd/same/auroc_of_signs": 0.98,
        "detection/pgd/2_255/kd/same/flagged_successful": 0.4,
    }
    (at,) = curves(whole)
    assert at["curves/detection/kd/same/auroc"] == 0.6 and at["curves/detection/lid/same/auroc"] == 0.7


def test_classes_labels_masks_boxes_and_judges_have_their_parts() -> None:
    one = {"n": 2, "sensitivity": 0.5, "sensitivity_interval": [0.1, 0.9], "specificity": None}
    classes = {
        "names": ["A/B", "no finding"],
        "rows": [
            {"attack": "clean", "kind": "clean", "epsilon": None, "auroc": 0.9, "classes": [one, one]},
            {"attack": "pgd", "kind": "attack", "epsilon": 2 / 255, "kappa": 0.1, "classes": [one, one]},
        ],
    }
    spot = {"name": "spot", "n_boxes": 4, "ap50": 0.25}
    boxes = {"rows": [{"attack": "pgd", "kind": "attack", "epsilon": 2 / 255, "n": 3, "n_boxes": 4, "map50": 0.5}]}
    boxes["rows"][0]["classes"] = [spot]
    attacked = row("pgd", 2 / 255, 0.0, transfer={"judge 1": {"success_rate": 0.5}})
    found = scalars(summary(attacked, classes=classes, boxes=boxes, labels=classes | {"rows": []}))
    rest = {name: value for name, value in found.items() if name.count("/") > 1 and not name.startswith("attacks/")}
    assert rest == {
        "transfer/pgd/2_255/judge_1/success_rate": 0.5,
        "classes/clean/auroc": 0.9,
        "classes/clean/A_B/sensitivity": 0.5,
        "classes/clean/no_finding/sensitivity": 0.5,
        "classes/pgd/2_255/kappa": 0.1,
        "classes/pgd/2_255/A_B/sensitivity": 0.5,
        "classes/pgd/2_255/no_finding/sensitivity": 0.5,
        "boxes/pgd/2_255/map50": 0.5,
        "boxes/pgd/2_255/spot/ap50": 0.25,
    }


def test_a_class_named_like_a_number_does_not_hide_it() -> None:
    classes = {"names": ["auroc", "b"], "rows": [{"attack": "clean", "kind": "clean", "epsilon": None, "auroc": 0.9}]}
    classes["rows"][0]["classes"] = [{"sensitivity": 0.25}, {"sensitivity": 0.5}]
    found = scalars(summary(classes=classes))
    assert found["classes/clean/auroc"] == 0.9 and found["classes/clean/auroc-2/sensitivity"] == 0.25


@pytest.mark.parametrize("name", ["../..", ".", "", " ", "a/b", "C&W: 8|255", "Überdosis 2,5 %", "攻击", "x" * 400])
def test_names_of_attacks_are_legal_everywhere(name: str) -> None:
    whole = summary(
        row(name, 0.5 / 255, 0.5, 0.25),
        row(f"{name}!", 0.5 / 255, 0.25, 0.5),
        worst_case=[{"epsilon": 0.5 / 255, "accuracy": 0.25}],
    )
    found = scalars(whole)
    for one in (*found, *curves(whole)[0]):
        check_name(one)
    rates = [value for one, value in found.items() if one.endswith("/0_5_255/success_rate")]
    assert sorted(rates) == [0.25, 0.5]  # neither hides the other


def test_attacks_named_like_the_worst_case_are_told_from_it() -> None:
    worst = [{"epsilon": 1 / 255, "accuracy": 0.25}]
    attacks = [row("worst case", 1 / 255, 0.5), row("clean", 1 / 255, 0.75), row("detection", 1 / 255, 1.0)]
    (at,) = curves(summary(*attacks, worst_case=worst))
    assert at["curves/worst_case/accuracy"] == 0.25 and at["curves/worst_case-2/accuracy"] == 0.5
    assert at["curves/clean-2/accuracy"] == 0.75 and at["curves/detection-2/accuracy"] == 1.0


def test_radii_that_are_written_alike_are_told_apart() -> None:
    worst = [{"epsilon": radius, "accuracy": radius} for radius in (0.123401, 0.123402)]
    attacks = [row("pgd", radius, radius) for radius in (0.123401, 0.123402)]
    found = scalars(summary(*attacks, worst_case=worst))
    assert {value for name, value in found.items() if name.startswith("worst_case_")} == {0.123401, 0.123402}


def test_what_is_no_number_is_left_out() -> None:
    found = scalars(summary(row("pgd", 1 / 255, math.nan, math.inf, median_l2=None, n=True)))
    assert not [name for name in found if name.startswith("attacks/")]


def test_parts_are_unique_also_without_capitals() -> None:
    assert unique_parts(["a b", "a_b", "A_B"], taken=["A-b"]) == {"a b": "a_b", "a_b": "a_b-2", "A_B": "A_B-3"}
    assert unique_parts(["clean"], taken=["Clean"]) == {"clean": "clean-2"}


def test_steps_of_curves_are_whole_and_in_order() -> None:
    """1/256 and 1/255 differ by 15 millionths."""
    radii = [0.0, 0.05 / 255, 1 / 256, 1 / 255, 8 / 255, 1.0]
    steps = [curve_step(radius) for radius in radii]
    assert steps == [0, 196, 3906, 3922, 31373, 1_000_000] and steps == sorted(set(steps))
