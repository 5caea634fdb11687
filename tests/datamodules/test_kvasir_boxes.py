"""Kvasir-SEG's boxes: from the file of the archive, and from the layout of EAD-2019."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import KvasirBoxes
from datamodules.splits import Fractions

HALVES = Fractions(0.5, 0, 0, 0.5)
BOX = {"label": "polyp", "xmin": 3, "ymin": 2, "xmax": 9, "ymax": 6}
SMALL = {"label": "polyp", "xmin": 0, "ymin": 0, "xmax": 2, "ymax": 1}


def frame(path: Path, seed: int) -> None:
    """A frame of 12 x 8 pixels that no other is like."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 12, 3)).astype(np.uint8)).save(path)


def public(root: Path, entries: dict[str, Any], frames: int = 4) -> Path:
    """Frames f0, f1, ... and the file of their boxes."""
    for number in range(frames):
        frame(root / f"images/f{number}.jpg", number)
    (root / "kavsir_bboxes.json").write_text(json.dumps(entries))
    return root


def entry(*boxes: Any) -> dict[str, Any]:
    """A frame's entry."""
    return {"height": 8, "width": 12, "bbox": list(boxes)}


def data(root: Path, **options: Any) -> KvasirBoxes:
    """A small data module that is set up."""
    module = KvasirBoxes(
        root, **{"image_size": 24, "fractions": HALVES, "batch_size": 8, "resize": "squash", "augment": False} | options
    )
    module.setup()
    return module


def found(module: KvasirBoxes) -> dict[str, Any]:
    """Targets of the images that are evaluated, by id."""
    return {
        id: target
        for loader in (module.train_dataloader(), module.test_dataloader())
        for batch in loader
        for id, target in zip(batch["id"], batch["target"], strict=True)
    }


def test_boxes_of_the_archives_file(tmp_path: Path) -> None:
    module = data(public(tmp_path, {f"f{number}": entry(BOX, SMALL) for number in range(3)} | {"f3": entry()}))
    assert module.class_names == ("polyp",) and sum(map(len, module.splits.values())) == 4
    targets = found(module)
    scaled = torch.tensor([[6.0, 6, 18, 18], [0, 0, 4, 3]])  # twice as wide, three times as high
    for id in ("images/f0.jpg", "images/f1.jpg", "images/f2.jpg"):
        torch.testing.assert_close(targets[id]["boxes"], scaled)
        assert targets[id]["labels"].tolist() == [0, 0]
    assert targets["images/f3.jpg"]["boxes"].shape == (0, 4)
    counts = [module.summarise(module.splits[split]) for split in ("train", "adv_test")]
    assert sum(count["boxes"]["polyp"] for count in counts) == 6 and sum(count["without_box"] for count in counts) == 1


def test_boxes_in_the_layout_of_ead(tmp_path: Path) -> None:
    for number in range(4):
        frame(tmp_path / f"trainingData_detection/a_{number}.jpg", number)
        (tmp_path / f"trainingData_detection/a_{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "class_list.txt").write_text("polyp\n")
    module = data(tmp_path)
    assert {len(module.splits[split]) for split in ("train", "adv_test")} == {2}  # each frame counts for itself
    for target in found(module).values():
        torch.testing.assert_close(target["boxes"], torch.tensor([[6.0, 6, 18, 18]]))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"f0": entry(BOX)}, r"f1\.jpg: expected boxes of the frame 'f1' in kavsir_bboxes\.json, found none"),
        ({"f0": entry(BOX), "f1": entry(BOX), "f9": entry(BOX)}, r"expected the image 'f9' in images, found none"),
        ({"f0": entry(BOX), "f1": {"box": []}}, r"f1\.jpg: expected an entry with a list bbox"),
        ({"f0": entry(BOX), "f1": entry({"xmin": 1})}, r"f1\.jpg: expected xmin, ymin, xmax, ymax of box 1"),
        ({"f0": entry(BOX), "f1": entry(BOX | {"xmax": float("nan")})}, r"expected xmin, ymin, xmax, ymax of box 1"),
        ({"f0": entry(BOX), "f1": entry(BOX | {"label": "ulcer"})}, r"expected the label 'polyp' of box 1"),
    ],
)
def test_wrong_entries_are_refused_by_name(entries: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=expected):
        data(public(tmp_path, entries, frames=2))


def test_a_box_outside_its_frame_is_refused(tmp_path: Path) -> None:
    module = data(public(tmp_path, {f"f{number}": entry(BOX | {"xmax": 14}) for number in range(4)}))
    with pytest.raises(ValueError, match=r"f\d\.jpg: expected box 1 inside its image of 12 x 8 pixels"):
        found(module)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected images/\*\.jpg and kavsir_bboxes\.json, or .*found neither"):
        data(tmp_path)
    (tmp_path / "kavsir_bboxes.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match=r"expected the frames as images/\*\.jpg"):
        data(tmp_path)
    with pytest.raises(ValueError, match="expected an object with an entry for each frame, got list"):
        data(public(tmp_path / "list", [], frames=2))  # type: ignore[arg-type]


def test_its_class_is_a_polyp_in_either_layout(tmp_path: Path) -> None:
    module = KvasirBoxes(tmp_path)
    assert module.class_names == ("polyp",)
    for number in range(4):
        frame(tmp_path / f"trainingData_detection/f{number}.jpg", number)
        (tmp_path / f"trainingData_detection/f{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert data(tmp_path).class_names == ("polyp",)
    (tmp_path / "class_list.txt").write_text("lesion\n")
    assert KvasirBoxes(tmp_path).class_names == ("lesion",) == data(tmp_path).class_names
    public(tmp_path, {f"f{number}": entry(BOX) for number in range(4)})
    assert KvasirBoxes(tmp_path).class_names == ("polyp",) == data(tmp_path).class_names
