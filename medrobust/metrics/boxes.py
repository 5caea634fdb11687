"""How well found boxes fit true ones: matches, mAP over a set, EAD-2019's numbers, and what an attack changed."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchvision.ops import box_iou

Boxes = Mapping[str, Tensor]  # ``boxes`` (B, 4), ``labels`` (B,), and of detections ``scores`` (B,)

EAD_OVERLAP = 0.25  # IoU from which EAD-2019 takes a detection for a true box
EAD_WEIGHTS = (0.6, 0.4)  # of mAP and IoU in its score


class Match(NamedTuple):
    """Which true boxes were found, and by how many detections nothing was: both padded to the longest of the batch.

    Args:
        found: Whether a true box was found, bool ``(N, B)``; False where an image has fewer boxes.
        true: Whether there is a true box at that place, bool ``(N, B)``.
        certain: Number of detections of each image whose score reaches the threshold, ``(N,)``.
    """

    found: Tensor
    true: Tensor
    certain: Tensor


def match_boxes(outputs: Sequence[Boxes], targets: Sequence[Boxes], score: float, overlap: float) -> Match:
    """Which true boxes are found: by a detection of their class, each by its own, the most certain detection first.

    A detection whose score is at least ``score`` finds that box of its class, among those not found yet, with which its
    IoU is the largest, if that is at least ``overlap`` (as COCO's evaluation does).

    Args:
        outputs: Detections of each image, the most certain first.
        targets: True boxes of each image.
        score: Least score of a detection, in [0, 1].
        overlap: Least IoU, in (0, 1].
    """
    if not len(targets):
        return Match(torch.zeros(0, 0, dtype=torch.bool), torch.zeros(0, 0, dtype=torch.bool), torch.zeros(0))
    corners, true = _joined([target["boxes"] for target in targets])
    labels, _ = _joined([target["labels"] for target in targets])
    seen, there = _joined([output["boxes"] for output in outputs])
    classes, _ = _joined([output["labels"] for output in outputs])
    scores, _ = _joined([output["scores"] for output in outputs])
    there = there & (scores >= score)
    found = torch.zeros_like(true)
    if not true.shape[1] or not there.shape[1]:
        return Match(found, true, there.sum(1))
    ious = _overlaps(seen, corners.to(seen)) * (classes.unsqueeze(2) == labels.unsqueeze(1))
    ious = torch.where(there.unsqueeze(2) & true.unsqueeze(1), ious, 0)
    rows = torch.arange(len(found), device=found.device)
    for rank in range(ious.shape[1]):
        best, place = torch.where(found, 0, ious[:, rank]).max(1)
        found = found.clone()
        found[rows, place] |= best >= overlap
    return Match(found, true, there.sum(1))


def _joined(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Tensors of different lengths as one, and where it has an entry, bool ``(N, longest)``."""
    lengths = torch.tensor([len(part) for part in parts], device=parts[0].device)
    joined = pad_sequence(list(parts), batch_first=True)
    return joined, torch.arange(joined.shape[1], device=joined.device) < lengths.unsqueeze(1)


def _overlaps(first: Tensor, second: Tensor) -> Tensor:
    """IoU of each box ``(N, D, 4)`` with each one of the same image ``(N, B, 4)``, ``(N, D, B)``."""
    first, second = first.unsqueeze(2), second.unsqueeze(1)
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    shared = sides.clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (first, second)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-12)


def box_changes(
    before: Sequence[Boxes], after: Sequence[Boxes], targets: Sequence[Boxes], score: float, overlap: float
) -> dict[str, Tensor]:
    """What an attack did to the detections of each image: boxes lost, relabelled and invented (Chow et al. 2020, TOG).

    ``lost``: true boxes that were found before (``match_boxes``) and that no detection of any class covers after it.
    ``relabelled``: those found before that only detections of other classes cover after it. ``invented``: detections
    after it that cover no true box, of whatever class, and none of the detections before it that covered none either.
    Two boxes cover each other where their IoU is at least ``overlap``; only detections whose score is at least
    ``score`` count.

    Args:
        before: Detections in the clean images, the most certain first.
        after: Detections in the adversarial images.
        targets: True boxes.
        score: Least score of a detection, in [0, 1].
        overlap: Least IoU, in (0, 1].

    Returns:
        Numbers of boxes by name, int64 ``(N,)``.
    """
    found = match_boxes(before, targets, score, overlap).found
    counts: dict[str, list[Tensor]] = {"lost": [], "relabelled": [], "invented": []}
    for had, clean, adversarial, target in zip(found, before, after, targets, strict=True):
        now = adversarial["scores"] >= score
        corners, labels = adversarial["boxes"][now], adversarial["labels"][now]
        true = target["boxes"].to(corners)
        covering = box_iou(true, corners) >= overlap  # (B, D)
        same = (covering & (target["labels"].unsqueeze(1) == labels)).any(1)
        held = had[: len(true)]
        counts["lost"].append((held & ~covering.any(1)).sum())
        counts["relabelled"].append((held & covering.any(1) & ~same).sum())
        former = clean["boxes"][clean["scores"] >= score]
        former = former[~(box_iou(former, true) >= overlap).any(1)]
        false = ~covering.any(0) & ~(box_iou(corners, former) >= overlap).any(1)
        counts["invented"].append(false.sum())
    return {name: torch.stack(values) for name, values in counts.items()}


def ead_numbers(outputs: Sequence[Boxes], targets: Sequence[Boxes], score: float) -> dict[str, float]:
    """EAD-2019's mAP, IoU and score of a set of images, as the challenge's published evaluation defines them.

    A detection takes the true box of its class and image with which its IoU is the largest; it is right where that is
    at least 0.25 and no more certain detection took the same box. A class's IoU is the mean over all its detections, 0
    for those that are not right; its AP is the area below the curve of precision, made monotonic, over recall. Both are
    averaged over the classes that have a true box, and the score is 0.6 mAP + 0.4 IoU (Ali et al. 2020,
    doi:10.1038/s41598-020-59413-5). The challenge leaves the IoU of a class without any detection undefined; here it is
    0. Corners are edges of the boxes, not their outermost pixels, so that no pixel is added to the sides.

    Args:
        outputs: Detections of each image, the most certain first.
        targets: True boxes of each image.
        score: Least score of the detections that the victim stands by.

    Returns:
        ``map``, ``iou`` and ``score``, in [0, 1]; NaN without any true box.
    """
    parts = [_ead_image(output, target, score) for output, target in zip(outputs, targets, strict=True)]
    found = np.concatenate([part for part, _ in parts]) if parts else np.zeros((0, 3))
    true = np.concatenate([labels for _, labels in parts]) if parts else np.zeros(0)
    found = found[np.argsort(-found[:, 1], kind="stable")]
    classes = np.unique(true)
    if not len(classes):
        return {"map": np.nan, "iou": np.nan, "score": np.nan}
    ious, precisions = [], []
    for label in classes:
        own = found[found[:, 0] == label, 2]
        ious.append(own.mean() if len(own) else 0.0)
        precisions.append(area_under_precision(own > 0, int((true == label).sum())))
    both = float(np.mean(precisions)), float(np.mean(ious))
    return {"map": both[0], "iou": both[1], "score": EAD_WEIGHTS[0] * both[0] + EAD_WEIGHTS[1] * both[1]}


def _ead_image(output: Boxes, target: Boxes, score: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Class, score and IoU (0 if not right) of each detection of an image, ``(D, 3)``, and classes of its boxes."""
    certain = output["scores"] >= score
    labels, scores = output["labels"][certain], output["scores"][certain]
    true = target["boxes"].double()
    same = labels.unsqueeze(1) == target["labels"]
    ious = (box_iou(output["boxes"][certain].double(), true) * same).cpu().numpy()
    taken, right = set(), np.zeros(len(ious))
    for row, overlaps in enumerate(ious if ious.shape[1] else []):
        place = int(overlaps.argmax())
        if overlaps[place] >= EAD_OVERLAP and place not in taken:
            taken.add(place)
            right[row] = overlaps[place]
    columns = [labels.double().cpu().numpy(), scores.double().cpu().numpy(), right]
    return np.stack(columns, 1), target["labels"].cpu().numpy()


def area_under_precision(right: NDArray[np.bool_], count: int) -> float:
    """Area below precision over recall, precision made monotonic from the right (VOC's average precision).

    Args:
        right: Whether each detection is right, the most certain first, ``(D,)``.
        count: Number of true boxes, at least 1.

    >>> area_under_precision(np.array([True, False, True]), 2)  # 1/2 * 1 + 1/2 * 2/3
    0.8333333333333333
    """
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[right].sum() / count)


def coco_precision(outputs: Sequence[Boxes], targets: Sequence[Boxes]) -> dict[str, float]:
    """COCO's mean average precision at IoU 0.5 (``map50``) and over IoU 0.5, 0.55, ... 0.95 (``map``).

    Averaged over the classes that have a true box; at most 100 detections of each image and class count. NaN without
    any true box.

    Args:
        outputs: Detections of each image.
        targets: True boxes of each image.
    """
    images = [{"id": place} for place in range(len(targets))]
    rows: tuple[list[Any], list[Any]] = ([], [])
    for place, pair in enumerate(zip(targets, outputs, strict=True)):
        for kind, boxes in enumerate(pair):
            corners = boxes["boxes"].double()
            sizes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
            scores = boxes["scores"].tolist() if kind else [1.0] * len(sizes)
            for box, label, score in zip(sizes, boxes["labels"].tolist(), scores, strict=True):
                row = {"id": len(rows[kind]) + 1, "image_id": place, "category_id": label, "bbox": box}
                rows[kind].append(row | {"area": box[2] * box[3], "iscrowd": 0, "score": score})
    if not rows[0]:
        return {"map50": np.nan, "map": np.nan}
    categories = [{"id": label, "name": str(label)} for label in sorted({row["category_id"] for row in rows[0]})]
    sets = []
    for annotations in rows:
        coco = COCO()
        coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
        coco.createIndex()
        sets.append(coco)
    evaluation = COCOeval_faster(*sets, iouType="bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # of all areas, with 100 detections
    return {"map50": float(precision[0].mean()), "map": float(precision.mean())}


class BoxQuality(Metric):
    """Loss, share of right images, quality, mAP and EAD-2019's numbers of all images of all ranks, each counted once.

    ``accuracy`` is the share of right images, ``quality`` the mean share of the boxes found, over the images that have
    one. ``map50`` and ``map`` are COCO's (``coco_precision``), ``iou`` and ``ead_score`` EAD-2019's (``ead_numbers``).

    Args:
        score: Least score of the detections that count for EAD-2019's numbers.
        options: Those of any torchmetrics metric.
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor
    found: list[Tensor]
    true: list[Tensor]
    sizes: list[Tensor]

    def __init__(self, score: float = 0.5, **options: Any) -> None:
        """Start without images."""
        super().__init__(**options)
        self.score = score
        self.add_state("sums", default=torch.zeros(5, dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("found", "true", "sizes"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._begin()

    def reset(self) -> None:
        """Start anew without images."""
        super().reset()
        self._begin()

    def _begin(self) -> None:
        """Give the lists an entry without rows: a process that gets no image must not differ in type from the rest."""
        self.found.append(torch.zeros(0, 6, dtype=torch.float64, device=self.sums.device))
        self.true.append(torch.zeros(0, 6, dtype=torch.float64, device=self.sums.device))
        self.sizes.append(torch.zeros(0, 2, dtype=torch.long, device=self.sums.device))

    def update(
        self, loss: Tensor, right: Tensor, quality: Tensor, outputs: Sequence[Boxes], targets: Sequence[Boxes]
    ) -> None:
        """Add a batch: each image's loss, outcome and quality ``(N,)``, its detections and its true boxes."""
        judged = ~quality.isnan()
        count = torch.tensor(len(right), dtype=torch.float64, device=loss.device)
        sums = [loss.detach().double().sum(), right.double().sum(), torch.where(judged, quality, 0).double().sum()]
        self.sums += torch.stack([*sums, count, judged.double().sum()])
        self.sizes.append(
            torch.tensor([[len(a["labels"]), len(b["labels"])] for a, b in zip(outputs, targets, strict=True)]).to(
                loss.device
            )
        )
        self.found.append(torch.cat([_rows(output, output["scores"]) for output in outputs]).to(loss.device))
        ones = [torch.ones_like(target["labels"]) for target in targets]
        self.true.append(torch.cat([_rows(*pair) for pair in zip(targets, ones, strict=True)]).to(loss.device))

    def compute(self) -> dict[str, Tensor]:
        """Values by name, all but ``loss`` in [0, 1]; NaN where there is nothing to measure."""
        sizes = dim_zero_cat(self.sizes).cpu()
        outputs, targets = (
            [
                {"boxes": rows[:, 2:], "labels": rows[:, 0].long(), "scores": rows[:, 1]}
                for rows in dim_zero_cat(state).cpu().split(sizes[:, place].tolist())
            ]
            for place, state in enumerate((self.found, self.true))
        )
        ead = ead_numbers(outputs, targets, self.score)
        loss, right, quality, count, judged = self.sums.unbind()
        numbers = {**coco_precision(outputs, targets), "iou": ead["iou"], "ead_score": ead["score"]}
        means = {"loss": loss / count, "accuracy": right / count, "quality": quality / judged}
        return means | {name: loss.new_tensor(value) for name, value in numbers.items()}


def _rows(boxes: Boxes, scores: Tensor) -> Tensor:
    """Label, score and corners of boxes, float64 ``(B, 6)``."""
    columns = [boxes["labels"].unsqueeze(1), scores.unsqueeze(1), boxes["boxes"]]
    return torch.cat([column.detach().double() for column in columns], 1)
