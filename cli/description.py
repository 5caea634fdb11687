"""The description of a dataset: what its splits hold, what tells its classes apart, which pictures they share."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from datamodules import MedicalDataModule
from datamodules.findings import keep_findings
from datamodules.measurements import FEATURES, Measurements, grey_of, measure
from datamodules.near_duplicates import Twins, near_duplicates
from datamodules.samples import Sample
from datamodules.transforms import Scene
from medrobust.listeners.overlays import Found, colour_of, draw_boxes, draw_masks, hexadecimal
from medrobust.results.checks.data import near_duplicate_message, shortcut_message
from medrobust.results.shortcuts import shortcuts

SCHEMA = 1
SHOWN = 4  # pictures of a class in a split
SHOWN_WITHOUT_CLASSES = 8
SHOWN_PAIRS = 24
SHOWN_SIZES = 5
PICTURE = 176  # pixels of the longer side of a picture


def describe_data(
    data: MedicalDataModule[Any], measured: Callable[[int], Any] = lambda count: None
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Describe data that have been set up, and keep what was found for their evaluations.

    Args:
        data: The data.
        measured: Called with the number of images that have been measured since its last call.

    Returns:
        The description, ready for JSON; and JPEG pictures by the ids of the images that it shows.

    Raises:
        ValueError: A file cannot be read; the message names it.
    """
    images = measure(data, measured)
    targets = _targets(data, images.samples)
    patients = np.unique([sample.patient for sample in images.samples], return_inverse=True)[1]
    rows = [] if targets is None else shortcuts(images.features, targets, data.class_names, patients)
    twins, candidates = near_duplicates(
        images.hashes,
        images.small,
        images.splits,
        images.structured,
        lambda place: grey_of(data, images.samples[place]),
    )
    findings = {
        "images": len(images.samples),
        "shortcuts": [{name: value for name, value in row.items() if name != "undefined"} for row in rows],
        "near_duplicates": {"pairs": len(twins), "images": _images_shared(images, twins)},
    }
    present = [split for split, members in data.splits.items() if members]
    sheet = _sheet(data, images, targets)
    description = {
        "schema": SCHEMA,
        "key": data.findings_key(),
        **{name: value for name, value in data.describe().items() if name in ("name", "task", "class_names")},
        "patients": len(set(patients.tolist())),
        "splits": {split: data.summarise(members) for split, members in data.splits.items()},
        "sizes": {**{split: _sizes(images, split) for split in present}, "all": _sizes(images, None)},
        **({} if images.pixels is None else {"pixels": _pixels(data, images)}),
        "features": FEATURES,
        "shortcuts": rows,
        "near_duplicates": {
            "candidates": candidates,
            "images": _images_shared(images, twins),
            "pairs": [_pair(images, one) for one in twins],
        },
        "flags": [message for message in (shortcut_message(findings), near_duplicate_message(findings)) if message],
        "sheet": sheet,
        "legend": _legend(data),
    }
    description["kept"] = keep_findings(description["key"], findings)
    if "all" not in data.splits:  # what is found on another hospital's data is also told where all of them are judged
        keep_findings(data.findings_key(whole=True), {**findings, "near_duplicates": {"pairs": 0, "images": []}})
    return description, _pictures(data, images.samples, description)


def _targets(data: MedicalDataModule[Any], samples: Sequence[Sample[Any]]) -> np.ndarray | None:
    """Classes ``(N,)`` or labels ``(N, L)`` of the samples; None for a task that gives images neither."""
    if data.task not in ("classification", "multilabel"):
        return None
    return np.array([sample.target for sample in samples], dtype=np.int64)


def _pixels(data: MedicalDataModule[Any], images: Measurements) -> dict[str, Any]:
    """Share of the labelled pixels that each label has in a split, and in how many images it is."""
    assert images.pixels is not None
    shares = {}
    for split in dict.fromkeys(images.splits):
        counts = images.pixels[[one == split for one in images.splits]]
        total = max(int(counts.sum()), 1)
        shares[split] = [
            {"class": name, "share": int(column.sum()) / total, "images": int((column > 0).sum())}
            for name, column in zip(data.class_names, counts.T, strict=True)
        ]
    return shares


def _sizes(images: Measurements, split: str | None) -> dict[str, Any]:
    """Least, median and greatest size of the images of a split, or of all, and the most common sizes."""
    mine = np.array([split is None or one == split for one in images.splits])
    widths, heights = images.widths[mine], images.heights[mine]
    sizes, counts = np.unique(np.stack([widths, heights], axis=1), axis=0, return_counts=True)
    common = np.argsort(-counts, kind="stable")[:SHOWN_SIZES]
    return {
        "images": int(mine.sum()),
        "width": _spread(widths),
        "height": _spread(heights),
        "aspect": _spread(widths / heights),
        "different": len(sizes),
        "common": [{"size": sizes[place].tolist(), "images": int(counts[place])} for place in common],
    }


def _spread(values: np.ndarray) -> list[float]:
    return [float(value) for value in (values.min(), np.median(values), values.max())]


def _images_shared(images: Measurements, twins: Sequence[Twins]) -> list[dict[str, Any]]:
    """How many images of each split are nearly the same as one of an earlier split."""
    shared: dict[tuple[str, str], set[int]] = {}
    for pair in twins:
        shared.setdefault((images.splits[pair.other], images.splits[pair.one]), set()).add(pair.other)
    return [{"split": split, "as": home, "images": len(members)} for (split, home), members in sorted(shared.items())]


def _pair(images: Measurements, pair: Twins) -> dict[str, Any]:
    """Two images that are nearly the same."""
    named = {
        side: {
            "id": images.samples[place].id,
            "split": images.splits[place],
            "size": [int(images.widths[place]), int(images.heights[place])],
            "patient": images.samples[place].patient,
        }
        for side, place in (("one", pair.one), ("other", pair.other))
    }
    return {**named, "distance": pair.distance, "correlation": round(pair.alike, 4)}


def _sheet(data: MedicalDataModule[Any], images: Measurements, targets: np.ndarray | None) -> list[dict[str, Any]]:
    """Ids of a few images of each class in each split, the first in the fixed order."""
    groups = []
    for split in data.splits:
        places = [place for place, one in enumerate(images.splits) if one == split]
        if targets is None:
            groups.append((split, "", places[:SHOWN_WITHOUT_CLASSES]))
            continue
        for number, name in enumerate(data.class_names):
            mine = targets == number if targets.ndim == 1 else targets[:, number] == 1
            groups.append((split, name, [place for place in places if mine[place]][:SHOWN]))
    return [
        {"split": split, "class": name, "ids": [images.samples[place].id for place in places]}
        for split, name, places in groups
        if places
    ]


def _pictures(
    data: MedicalDataModule[Any], samples: Sequence[Sample[Any]], description: Mapping[str, Any]
) -> dict[str, bytes]:
    """A JPEG picture of every image that the page shows, with its mask or boxes."""
    shown = {id for group in description["sheet"] for id in group["ids"]}
    pairs = description["near_duplicates"]["pairs"][:SHOWN_PAIRS]
    shown |= {pair[side]["id"] for pair in pairs for side in ("one", "other")}
    names = list(data.class_names)
    return {sample.id: _jpeg(data.read_checked(sample), names) for sample in samples if sample.id in shown}


def _legend(data: MedicalDataModule[Any]) -> list[dict[str, str]]:
    """Name and colour of the classes that masks and boxes are drawn in; none for other tasks."""
    names = {"segmentation": data.class_names[1:], "boxes": data.class_names}.get(data.task, ())
    return [{"name": name, "colour": hexadecimal(colour_of(place))} for place, name in enumerate(names)]


def _jpeg(scene: Scene, names: Sequence[str]) -> bytes:
    """A small picture of an image ``(H, W, C)`` in [0, 1], with its mask or boxes where it has any."""
    height, width = scene.image.shape[:2]
    scale = PICTURE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(scene.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    small = small.reshape(size[1], size[0], -1)
    picture = torch.from_numpy(small).permute(2, 0, 1).float()
    if scene.mask is not None:
        labels = cv2.resize(scene.mask.astype(np.float64), size, interpolation=cv2.INTER_NEAREST)  # whole numbers stay
        truth = torch.from_numpy(labels).long()
        shown = draw_masks(picture, truth, truth)
    elif scene.boxes is not None and scene.labels is not None:
        corners = (scene.boxes * np.array([size[0] / width, size[1] / height] * 2)).tolist()
        pairs = zip(scene.labels.tolist(), corners, strict=True)
        shown = draw_boxes(picture, [Found(label, (x1, y1, x2, y2)) for label, (x1, y1, x2, y2) in pairs], (), names)
    else:
        pixels = np.rint(255 * small).clip(0, 255).astype(np.uint8)
        shown = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()
