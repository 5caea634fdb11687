"""Numbers of boxes from records: against pycocotools and the metrics, under weights, and their intervals."""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from medrobust.metrics.boxes import ead_numbers
from medrobust.results.box_matches import matches, padded, weighted_quality
from medrobust.results.boxes import box_results
from tests.random_boxes import Boxes, coco_numbers, random_boxes


def text(boxes: Boxes) -> str:
    columns = [boxes["labels"][:, None], *([boxes["scores"][:, None]] if "scores" in boxes else []), boxes["boxes"]]
    return json.dumps(torch.cat([column.double() for column in columns], 1).tolist())


def record(
    image: int, patient: str, true: str, before: str, after: str, changes: tuple[int, int, int]
) -> dict[str, Any]:
    texts = {"boxes_true": true, "boxes_before": before, "boxes_after": after}
    counts = dict(zip(("boxes_lost", "boxes_relabelled", "boxes_invented"), changes, strict=True))
    return {"id": f"{image:03d}", "patient": patient, "key": "k1", **texts, **counts}


def results(records: list[dict[str, Any]], score: float = 0.5, names: Any = ("a", "b", "c")) -> Any:
    table = pl.DataFrame(records)
    rows = [
        {"attack": "clean", "epsilon": None, "key": None, "kind": "clean"},
        {"attack": "pgd", "epsilon": 1 / 255, "key": "k1", "kind": "attack"},
    ]
    manifest = {"data": {"task": "boxes", "class_names": list(names)}, "victim": {"score_threshold": score}}
    return box_results(rows, {None: table, "k1": table}, manifest)


def test_one_box_by_hand() -> None:
    true, near = "[[0, 0, 0, 10, 10]]", "[[0, 0.9, 2, 0, 12, 10]]"  # IoU 2/3: right at 0.5, 0.55, 0.6 and 0.65
    found = results(
        [
            record(0, "p", true, near, "[]", (1, 0, 0)),
            record(1, "p", "[]", "[]", "[[1, 0.6, 0, 0, 5, 5]]", (0, 0, 1)),
        ]
    )
    clean, attacked = found["rows"]
    assert found["names"] == ["a", "b", "c"] and (clean["kind"], attacked["attack"]) == ("clean", "pgd")
    assert (clean["n"], clean["n_boxes"], clean["map50"]) == (2, 1, 1.0)
    assert clean["map"] == pytest.approx(0.4) and clean["iou"] == pytest.approx(2 / 3)
    assert clean["ead_score"] == pytest.approx(0.6 + 0.4 * 2 / 3)
    assert clean["lost"] is clean["relabelled"] is clean["invented"] is None
    assert (attacked["lost"], attacked["relabelled"], attacked["invented"]) == (1, 0, 1)
    assert (attacked["map50"], attacked["map"], attacked["iou"], attacked["ead_score"]) == (0, 0, 0, 0)
    assert clean["map50_interval"] is None  # one patient says nothing of others
    assert clean["classes"] == [
        {"name": "a", "n_boxes": 1, "ap50": 1.0},
        {"name": "b", "n_boxes": 0, "ap50": None},
        {"name": "c", "n_boxes": 0, "ap50": None},
    ]


def test_records_without_boxes_have_none() -> None:
    table = pl.DataFrame({"id": ["a"], "patient": ["p"]})
    assert box_results([], {None: table}, {"data": {"task": "boxes"}}) == {}
    empty = [record(0, "p", "[]", "[]", "[]", (0, 0, 0)), record(1, "q", "[]", "[]", "[]", (0, 0, 0))]
    clean = results(empty)["rows"][0]
    assert (clean["n"], clean["n_boxes"], clean["map50"], clean["iou"]) == (2, 0, None, None)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_numbers_are_those_of_pycocotools_and_of_the_metrics(seed: int) -> None:
    outputs, targets = random_boxes(seed=seed)
    records = [
        record(place, f"p{place}", text(target), text(output), "[]", (0, 0, 0))
        for place, (output, target) in enumerate(zip(outputs, targets))
    ]
    clean = results(records, score=0.3)["rows"][0]
    map50, mean, precision = coco_numbers(outputs, targets)
    assert (clean["map50"], clean["map"]) == pytest.approx((map50, mean), abs=1e-9)
    assert [one["ap50"] for one in clean["classes"]] == pytest.approx(precision[0].mean(0).tolist(), abs=1e-9)
    ead = ead_numbers(outputs, targets, 0.3)
    assert (clean["iou"], clean["ead_score"]) == pytest.approx((ead["iou"], ead["score"]), abs=1e-6)
    for name in ("map50", "map", "iou", "ead_score"):
        low, high = clean[f"{name}_interval"]
        assert low < clean[name] < high and 0.01 < high - low < 0.4


def test_a_weight_is_as_good_as_copies_of_the_image() -> None:
    outputs, targets = random_boxes(25, seed=3)
    compared = matches(padded([text(one) for one in outputs]), padded([text(one) for one in targets]), 3, 0.3)
    weights = np.random.default_rng(0).integers(0, 4, (3, 25)).astype(float)
    quality = weighted_quality(compared, weights.T)
    for row, chosen in enumerate(weights.astype(int)):
        places = np.repeat(np.arange(25), chosen)
        copies = [outputs[place] for place in places], [targets[place] for place in places]
        map50, mean, _ = coco_numbers(*copies)
        ead = ead_numbers(*copies, 0.3)
        assert (quality.map50[row], quality.map[row]) == pytest.approx((map50, mean), abs=1e-9)
        assert (quality.iou[row], quality.ead_score[row]) == pytest.approx((ead["iou"], ead["score"]), abs=1e-6)


def test_intervals_are_drawn_over_patients() -> None:
    outputs, targets = random_boxes(30, seed=4)
    pairs = [(text(target), text(output)) for output, target in zip(outputs, targets)]
    once = [record(place, f"p{place}", *pair, "[]", (0, 0, 0)) for place, pair in enumerate(pairs)]
    # four images of each patient, all alike, tell no more than one
    fourfold = [
        record(4 * place + copy, f"p{place}", *pair, "[]", (0, 0, 0))
        for place, pair in enumerate(pairs)
        for copy in range(4)
    ]
    one, four = (results(records)["rows"][0] for records in (once, fourfold))
    assert four["iou_interval"] == pytest.approx(one["iou_interval"], abs=1e-9)
    assert four["map50_interval"] == pytest.approx(one["map50_interval"], abs=0.02)


def test_the_interval_covers_the_mean_over_independent_images() -> None:
    # each of 100 patients has one box, found with probability 1/2: without false detections mAP is near the share
    found = np.random.default_rng(1).random(100) < 0.5
    true, hit = "[[0, 0, 0, 10, 10]]", "[[0, 0.9, 0, 0, 10, 10]]"
    records = [record(n, f"p{n}", true, hit if one else "[]", "[]", (0, 0, 0)) for n, one in enumerate(found)]
    low, high = results(records, names=["a"])["rows"][0]["map50_interval"]
    half = 1.96 * np.sqrt(found.mean() * (1 - found.mean()) / 100)
    assert (low, high) == pytest.approx((found.mean() - half, found.mean() + half), abs=0.025)


def test_how_many_images_are_compared_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, targets = random_boxes(25, seed=5)
    both = padded([text(one) for one in outputs]), padded([text(one) for one in targets])
    whole = matches(*both, 3, 0.3)
    monkeypatch.setattr("medrobust.results.box_matches.PAIRS", 200)
    for name, values in vars(matches(*both, 3, 0.3)).items():
        assert np.array_equal(values, getattr(whole, name)), name
    nothing = matches(padded([]), padded([]), 3, 0.3)
    assert nothing.right.shape == (10, 0) and nothing.counts.shape == (0, 3)
