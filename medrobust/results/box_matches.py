"""Detections compared with true boxes, image by image, and what a weight for each image makes of them: mAP and IoU."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

OVERLAPS = np.linspace(0.5, 0.95, 10)  # COCO's, of which the first gives mAP@0.5
RECALLS = np.linspace(0.0, 1.0, 101)
EAD_OVERLAP = 0.25
EAD_WEIGHTS = (0.6, 0.4)  # of mAP and IoU in EAD-2019's score
PAIRS = 1_000_000  # of a detection and a true box that are compared at a time

Numbers = NDArray[np.float64]


class Padded(NamedTuple):
    """Boxes of N images in arrays as long as the longest list, B.

    Args:
        corners: Corners x1, y1, x2, y2, ``(N, B, 4)``.
        labels: Classes, ``(N, B)``; -1 where an image has no further box.
        scores: Scores, ``(N, B)``; 1 for true boxes.
    """

    corners: Numbers
    labels: NDArray[np.int64]
    scores: Numbers


def padded(texts: Sequence[str]) -> Padded:
    """Boxes from columns: lists of ``[label, x1, y1, x2, y2]`` or ``[label, score, x1, y1, x2, y2]`` in JSON."""
    lists = [json.loads(text) for text in texts]
    longest = max((len(boxes) for boxes in lists), default=0)
    corners, scores = np.zeros((len(lists), longest, 4)), np.ones((len(lists), longest))
    labels = np.full((len(lists), longest), -1)
    for place, boxes in enumerate(lists):
        if boxes:
            rows = np.array(boxes, np.float64)
            corners[place, : len(boxes)], labels[place, : len(boxes)] = rows[:, -4:], rows[:, 0].astype(np.int64)
            if rows.shape[1] == 6:
                scores[place, : len(boxes)] = rows[:, 1]
    return Padded(corners, labels, scores)


@dataclass(frozen=True)
class Matches:
    """All detections of a set of images, and how they fit the true boxes of their class.

    Args:
        images: Number of the image of each detection, ``(M,)``; detections are sorted, the most certain first.
        labels: Their classes, ``(M,)``.
        right: Whether COCO takes them for a true box, at each IoU of ``OVERLAPS``, bool ``(10, M)``.
        certain: Whether their scores reach the victim's threshold, bool ``(M,)``: only those count for EAD-2019.
        ead: IoU with the box that EAD-2019 takes them for; 0 where it takes them for none, ``(M,)``.
        counts: Number of true boxes of each image and class, ``(N, K)``.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    right: NDArray[np.bool_]
    certain: NDArray[np.bool_]
    ead: Numbers
    counts: NDArray[np.int64]


def matches(found: Padded, true: Padded, classes: int, score: float) -> Matches:
    """Compare detections with the true boxes of their images and classes.

    COCO: a detection takes that box which no more certain one has taken with which its IoU is the largest, if it is
    large enough. EAD-2019: it takes the box with which its IoU is the largest, and is wrong if that is below 0.25 or a
    more certain one has taken it.

    Args:
        found: Detections of each image, the most certain first.
        true: True boxes of the same images.
        classes: Number of classes K.
        score: Least score of detections that count for EAD-2019.
    """
    count = len(found.labels)
    some = max(1, PAIRS // max(1, found.labels.shape[1] * true.labels.shape[1]))
    parts = [slice(start, start + some) for start in range(0, max(count, 1), some)]
    compared = [_compared(_part(found, part), _part(true, part), score) for part in parts]
    right, ead, certain = (np.concatenate(values, -2) for values in zip(*compared, strict=True))
    counts = np.zeros((count, classes), np.int64)
    images, places = np.nonzero(true.labels >= 0)
    np.add.at(counts, (images, true.labels[images, places]), 1)
    images, places = np.nonzero(found.labels >= 0)
    order = np.argsort(-found.scores[images, places], kind="stable")
    images, places = images[order], places[order]
    one = (images, places)
    return Matches(images, found.labels[one], right[:, images, places], certain[one], ead[one], counts)


def _part(boxes: Padded, part: slice) -> Padded:
    """The boxes of some of the images."""
    return Padded(boxes.corners[part], boxes.labels[part], boxes.scores[part])


def _compared(found: Padded, true: Padded, score: float) -> tuple[NDArray[np.bool_], Numbers, NDArray[np.bool_]]:
    """The fields ``right``, ``ead`` and ``certain`` of ``Matches``, for each image's detections, ``(..., N, D)``."""
    count, longest = found.labels.shape
    shares = _overlaps(found.corners, true.corners)
    shares[(found.labels[:, :, None] != true.labels[:, None]) | (found.labels[:, :, None] < 0)] = 0
    right, ead = np.zeros((len(OVERLAPS), count, longest), bool), np.zeros((count, longest))
    certain = (found.scores >= score) & (found.labels >= 0)
    if true.labels.shape[1]:
        free = np.ones((len(OVERLAPS), count, true.labels.shape[1]), bool)
        taken, rows = np.zeros((count, true.labels.shape[1]), bool), np.arange(count)
        for rank in range(longest):
            own = np.where(free, shares[:, rank], 0)
            best, place = own.max(2), own.argmax(2)
            right[:, :, rank] = best >= OVERLAPS[:, None] - 1e-10
            kinds, hit = np.nonzero(right[:, :, rank])
            free[kinds, hit, place[kinds, hit]] = False
            place = shares[:, rank].argmax(1)
            best = shares[rows, rank, place]
            good = (best >= EAD_OVERLAP) & ~taken[rows, place] & certain[:, rank]
            taken[rows[good], place[good]] = True
            ead[:, rank] = np.where(good, best, 0)
    return right, ead, certain


def _overlaps(first: Numbers, second: Numbers) -> Numbers:
    """IoU of each box ``(N, D, 4)`` with each one of the same image ``(N, B, 4)``, ``(N, D, B)``."""
    one, other = first[:, :, None], second[:, None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = np.clip(sides, 0, None).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (one, other)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-12))


class Quality(NamedTuple):
    """Numbers of R weightings of the images, ``(R,)`` each; NaN where no true box has a weight.

    Args:
        map50: COCO's mean average precision at IoU 0.5.
        map: The same over IoU 0.5, 0.55, ... 0.95.
        iou: EAD-2019's mean IoU.
        ead_score: 0.6 times its mAP at IoU 0.25 and 0.4 times its mean IoU.
        ap50: COCO's average precision of each class at IoU 0.5, ``(K, R)``; NaN for classes without a true box.
    """

    map50: Numbers
    map: Numbers
    iou: Numbers
    ead_score: Numbers
    ap50: Numbers


def weighted_quality(found: Matches, weights: Numbers) -> Quality:
    """What the numbers would be if each image were there as often as its weight says.

    Args:
        found: Detections compared with true boxes.
        weights: Weights of the images, ``(N, R)``, whole numbers of at least 0.
    """
    true = found.counts.T @ weights  # (K, R)
    rows = np.ascontiguousarray(weights.T, np.float64)  # sums run over detections, which lie side by side
    precision = np.full((len(OVERLAPS), *true.shape), np.nan)
    ead_precision, iou = np.full(true.shape, np.nan), np.full(true.shape, np.nan)
    for label in np.nonzero(found.counts.sum(0))[0]:
        boxes = np.maximum(true[label], 1)
        reached = _recalls_reached(boxes)
        own = np.flatnonzero(found.labels == label)
        each = rows.take(found.images[own], 1)  # (R, M)
        totals = each.cumsum(1)
        for place in range(len(OVERLAPS)):
            right = np.flatnonzero(found.right[place, own])
            precision[place, label] = _interpolated(*_envelope(each, totals, right), reached)
        own = own[found.certain[own]]
        each = rows.take(found.images[own], 1)
        right = np.flatnonzero(found.ead[own] > 0)
        _, envelope = _envelope(each, each.cumsum(1), right)
        ead_precision[label] = (envelope * each.take(right, 1)).sum(1) / boxes
        iou[label] = each @ found.ead[own] / np.maximum(each.sum(1), 1)
    precision[:, true == 0] = ead_precision[true == 0] = iou[true == 0] = np.nan
    mean_iou = _mean(iou)
    score = EAD_WEIGHTS[0] * _mean(ead_precision) + EAD_WEIGHTS[1] * mean_iou
    return Quality(_mean(precision[0]), _mean(precision.mean(0)), mean_iou, score, precision[0])


def _mean(values: Numbers) -> Numbers:
    """Mean over the classes that are defined, ``(R,)``; NaN where none is."""
    known = ~np.isnan(values)
    counts = known.sum(0)
    return np.where(counts > 0, np.where(known, values, 0).sum(0) / np.maximum(counts, 1), np.nan)


def _envelope(each: Numbers, totals: Numbers, right: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    """Right detections so far and the largest precision from there on, at each right detection, ``(R, right)``."""
    hits = each.take(right, 1).cumsum(1)
    precision = hits / np.maximum(totals.take(right, 1), 1)
    return hits, np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]


def _recalls_reached(boxes: Numbers) -> NDArray[np.int16]:
    """Number of COCO's recalls that 0, 1, 2, ... right detections reach, of each number of boxes, ``(R, most + 1)``."""
    counts, places = np.unique(boxes, return_inverse=True)
    return np.searchsorted(RECALLS, np.arange(counts[-1] + 1) / counts[:, None], side="right").astype(np.int16)[places]


def _interpolated(hits: Numbers, envelope: Numbers, reached: NDArray[np.int16]) -> Numbers:
    """COCO's average precision: the mean of the largest precision at 101 recalls and beyond, ``(R,)``."""
    recalls = np.take_along_axis(reached, hits.astype(np.int64), 1)
    return np.asarray((envelope * np.diff(recalls, axis=1, prepend=0)).sum(1) / len(RECALLS))
