"""Random true boxes and detections near them, and what pycocotools says of these."""

import contextlib
import io
from typing import Any

import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

Boxes = dict[str, Tensor]


def random_boxes(images: int = 40, classes: int = 3, seed: int = 0) -> tuple[list[Boxes], list[Boxes]]:
    """Detections and true boxes of some images: near, far, doubled, of a wrong class, and images without any."""
    generator = torch.Generator().manual_seed(seed)
    outputs, targets = [], []
    for _ in range(images):
        count = int(torch.randint(0, 6, (1,), generator=generator))
        corners = torch.rand(count, 2, generator=generator) * 80
        boxes = torch.cat([corners, corners + 5 + 30 * torch.rand(count, 2, generator=generator)], 1)
        labels = torch.randint(0, classes, (count,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels})
        near = torch.cat([boxes, boxes[: count // 2], torch.rand(2, 4, generator=generator).sort(1).values * 100])
        near = near + 4 * torch.rand(near.shape, generator=generator) - 2
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        kinds = torch.cat([labels, labels[: count // 2], torch.tensor([0, 1])])
        other = torch.randint(0, classes, kinds.shape, generator=generator)
        kinds = torch.where(torch.rand(kinds.shape, generator=generator) < 0.8, kinds, other)
        scores = torch.rand(len(kinds), generator=generator, dtype=torch.float64)
        scores = ((scores * 1e6).round() / 1e6).clamp(min=0.05)
        order = scores.argsort(descending=True)
        outputs.append({"boxes": near[order], "labels": kinds[order], "scores": scores[order]})
    return outputs, targets


def coco_numbers(outputs: list[Boxes], targets: list[Boxes]) -> tuple[float, float, Any]:
    """mAP@0.5, COCO mAP and the precision ``(T, R, K)`` by pycocotools."""
    rows: tuple[list[Any], list[Any]] = ([], [])
    for kind, boxes_of in enumerate((targets, outputs)):
        for image, one in enumerate(boxes_of):
            for place, (box, label) in enumerate(zip(one["boxes"].tolist(), one["labels"].tolist())):
                x1, y1, x2, y2 = box
                score = one["scores"][place].item() if kind else 1.0
                row = {"id": len(rows[kind]) + 1, "image_id": image, "category_id": label, "iscrowd": 0}
                rows[kind].append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)})
                rows[kind][-1]["score"] = score
    sets = []
    with contextlib.redirect_stdout(io.StringIO()):
        for annotations in rows:
            coco = COCO()
            labels = sorted({row["category_id"] for row in (*rows[0], *rows[1])})
            coco.dataset = {"images": [{"id": image} for image in range(len(targets))], "annotations": annotations}
            coco.dataset["categories"] = [{"id": label} for label in labels]
            coco.createIndex()
            sets.append(coco)
        evaluation = COCOeval(*sets, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return precision[0][precision[0] > -1].mean(), precision[precision > -1].mean(), precision
