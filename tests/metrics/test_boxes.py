"""Numbers of boxes: cases counted by hand, and mAP against pycocotools."""

import math

import pytest
import torch

from medrobust.metrics.boxes import (
    BoxQuality,
    area_under_precision,
    box_changes,
    coco_precision,
    ead_numbers,
    match_boxes,
)
from tests.random_boxes import coco_numbers, random_boxes


def boxes(*rows, scores=None):
    """Boxes of rows (label, x1, y1, x2, y2), as detections where there are scores."""
    numbers = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    found = {"boxes": numbers[:, 1:], "labels": numbers[:, 0].long()}
    return found if scores is None else found | {"scores": torch.tensor(scores, dtype=torch.float32)}


TRUTH = boxes((0, 0, 0, 10, 10), (0, 20, 0, 30, 10), (1, 40, 40, 60, 60))


def match(output, target=TRUTH, score=0.5, overlap=0.5):
    found = match_boxes([output], [target], score, overlap)
    return found.found[0, : len(target["labels"])].tolist()


def test_a_box_is_found_by_its_class_score_and_overlap():
    # 5 of 10 columns shared: 50 / 150 = 1/3; 8 of 10: 80 / 120 = 2/3
    assert match(boxes((0, 2, 0, 12, 10), scores=[0.9])) == [True, False, False]
    assert match(boxes((0, 5, 0, 15, 10), scores=[0.9])) == [False, False, False]
    assert match(boxes((0, 5, 0, 15, 10), scores=[0.9]), overlap=1 / 3 - 1e-6) == [True, False, False]
    assert match(boxes((1, 2, 0, 12, 10), scores=[0.9])) == [False, False, False]
    assert match(boxes((0, 2, 0, 12, 10), scores=[0.4])) == [False, False, False]
    assert match(boxes((0, 2, 0, 12, 10), scores=[0.5])) == [True, False, False]


def test_each_box_is_found_by_one_detection_and_the_most_certain_chooses_first():
    near = boxes((0, 0, 0, 10, 10), (0, 5, 0, 15, 10))
    # the first detection lies between both boxes, nearer to the second, which the exact one then cannot have
    between = boxes((0, 3, 0, 13, 10), (0, 5, 0, 15, 10), scores=[0.9, 0.8])
    # IoU of (3..13) with (5..15) is 8/12, with (0..10) 7/13: it takes the second; the exact one has 5/15 with the first
    assert match(between, near) == [False, True]
    twice = boxes((0, 0, 0, 10, 10), (0, 0, 0, 10, 10), scores=[0.9, 0.8])
    assert match(twice) == [True, False, False]


def test_a_batch_of_different_lengths_is_as_each_image_alone():
    outputs, targets = random_boxes(30)
    together = match_boxes(outputs, targets, 0.3, 0.5)
    assert 0.3 < together.found.sum() / together.true.sum() < 0.9
    for place, (output, target) in enumerate(zip(outputs, targets)):
        alone = match_boxes([output], [target], 0.3, 0.5)
        count = len(target["labels"])
        assert together.found[place, :count].tolist() == alone.found[0].tolist()
        assert not together.found[place, count:].any() and together.true[place].sum() == count
        assert together.certain[place] == (output["scores"] >= 0.3).sum()


def test_what_an_attack_did_is_lost_relabelled_or_invented():
    before = boxes((0, 0, 0, 10, 10), (0, 20, 0, 30, 10), (1, 40, 40, 60, 60), (0, 80, 80, 90, 90), scores=[0.9] * 4)
    after = boxes(
        *((1, 0, 0, 10, 10), (0, 21, 0, 31, 10), (0, 80, 80, 90, 91), (1, 70, 10, 80, 20), (0, 70, 30, 80, 40)),
        scores=[0.9, 0.9, 0.9, 0.8, 0.4],
    )
    # the first box is of another class now, the second is still there, the third is gone; the false detection at
    # (80, 80) was there before, that at (70, 10) is new, and that at (70, 30) is not certain enough
    changes = box_changes([before], [after], [TRUTH], 0.5, 0.5)
    assert {name: values.tolist() for name, values in changes.items()} == {
        "lost": [1],
        "relabelled": [1],
        "invented": [1],
    }
    assert all(values.dtype == torch.int64 for values in changes.values())
    # what was not found before can be neither lost nor relabelled, and an image may lack boxes and detections
    none, no_truth = boxes(scores=[]), boxes()
    changes = box_changes([none, before, none], [after, none, none], [TRUTH, no_truth, no_truth], 0.5, 0.5)
    assert [values.tolist() for values in changes.values()] == [[0, 0, 0], [0, 0, 0], [2, 0, 0]]
    # a second class beside the right one is no relabelling
    both = boxes((0, 0, 0, 10, 10), (1, 0, 0, 10, 10), scores=[0.9, 0.8])
    changes = box_changes([before], [both], [TRUTH], 0.5, 0.5)
    assert [int(values) for values in changes.values()] == [2, 0, 0]


def test_ead_numbers_by_hand():
    output = boxes(
        *((0, 2, 0, 12, 10), (0, 0, 0, 10, 10), (0, 90, 0, 99, 9), (0, 25, 0, 35, 10), (0, 20, 0, 30, 10)),
        scores=[0.9, 0.8, 0.7, 0.6, 0.3],
    )
    # Of class 0 the first takes its box at 2/3, the second comes too late, the third is nowhere, the fourth has 1/3;
    # the fifth is not certain enough. IoU: (2/3 + 1/3) / 4. Precision at the hits: 1 and 2/4. Class 1 is never found.
    numbers = ead_numbers([output], [TRUTH], 0.5)
    assert numbers["iou"] == pytest.approx((1 / 4 + 0) / 2)
    assert numbers["map"] == pytest.approx(((1 + 1 / 2) / 2 + 0) / 2)
    assert numbers["score"] == pytest.approx(0.6 * 0.375 + 0.4 * 0.125)
    # 0.25 is enough, and a class without a true box does not count: 4 of 10 columns are 40 / 160
    shifted = boxes((0, 6, 0, 16, 10), (2, 0, 0, 5, 5), scores=[0.9, 0.9])
    assert ead_numbers([shifted], [boxes((0, 0, 0, 10, 10))], 0.5)["iou"] == pytest.approx(0.25)
    assert ead_numbers([shifted], [boxes((0, 0, 0, 10, 10.1))], 0.5)["iou"] == 0
    assert math.isnan(ead_numbers([shifted], [boxes()], 0.5)["score"])
    # a certain detection of another image does not take this one's box
    pair = [boxes((0, 0, 0, 10, 10), scores=[0.9])] * 2
    assert ead_numbers(pair, [boxes((0, 0, 0, 10, 10))] * 2, 0.5) == {"map": 1.0, "iou": 1.0, "score": 1.0}


def test_precision_is_made_monotonic():
    right = torch.tensor([False, True, True, False]).numpy()
    # precision 0, 1/2, 2/3, 1/2: 2/3 at both hits, of four boxes
    assert area_under_precision(right, 4) == pytest.approx(2 * 2 / 3 / 4)


@pytest.mark.parametrize("seed", [0, 1])
def test_map_is_that_of_pycocotools(seed):
    outputs, targets = random_boxes(seed=seed)
    map50, mean, _ = coco_numbers(outputs, targets)
    assert coco_precision(outputs, targets) == pytest.approx({"map50": map50, "map": mean}, abs=1e-9)
    assert 0.2 < mean < map50 < 0.95


def test_map_of_a_class_that_is_never_found_or_never_there():
    exact = boxes((0, 0, 0, 10, 10), (5, 3, 3, 9, 9), scores=[0.9, 0.8])
    # class 0 is found in one of two images, at recall 1/2: 51 of 101 recalls; class 1 never, and class 5 has no box
    numbers = coco_precision(
        [exact, boxes(scores=[])], [boxes((0, 0, 0, 10, 10), (1, 9, 9, 20, 20)), boxes((0, 1, 1, 9, 9))]
    )
    assert numbers == pytest.approx({"map50": 51 / 101 / 2, "map": 51 / 101 / 2})
    assert all(math.isnan(value) for value in coco_precision([exact], [boxes()]).values())
    assert coco_precision([boxes(scores=[])], [TRUTH]) == {"map50": 0, "map": 0}


def test_the_metric_counts_each_image_once():
    outputs, targets = random_boxes(9)
    values = torch.arange(9.0)
    quality = torch.where(torch.tensor([len(target["labels"]) > 0 for target in targets]), values / 10, torch.nan)
    metric = BoxQuality(0.3)
    for part in (slice(0, 4), slice(4, 9)):
        metric.update(values[part], values[part] > 2, quality[part], outputs[part], targets[part])
    found = {name: float(value) for name, value in metric.compute().items()}
    ead = ead_numbers(outputs, targets, 0.3)
    expected = {"loss": 4.0, "accuracy": 6 / 9, "quality": float(quality.nanmean())} | coco_precision(outputs, targets)
    assert found == pytest.approx(expected | {"iou": ead["iou"], "ead_score": ead["score"]}, abs=1e-7)

    # two processes, one of which has an image without any box or detection
    halves = [BoxQuality(0.3), BoxQuality(0.3)]
    empty = [boxes(scores=[])], [boxes()]
    halves[0].update(values[:1], values[:1] > 2, torch.tensor([torch.nan]), *empty)
    halves[1].update(values, values > 2, quality, outputs, targets)
    for name in ("found", "true", "sizes"):
        setattr(halves[0], name, [torch.cat(getattr(one, name)) for one in halves])
    halves[0].sums = halves[0].sums + halves[1].sums
    joined = {name: float(value) for name, value in halves[0].compute().items()}
    assert joined["map"] == pytest.approx(found["map"]) and joined["loss"] == pytest.approx(3.6)
    assert joined["quality"] == pytest.approx(found["quality"]) and joined["accuracy"] == pytest.approx(0.6)
