"""Boxes: read from text files, checked, moved with their images, batched as a list and written down."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import BoxDataModule, MedicalDataModule, Sample, Scene
from datamodules.splits import Fractions
from datamodules.transforms import Augmentation

HALVES = Fractions(0.5, 0, 0, 0.5)


class Artefacts(BoxDataModule):
    """Frames beside text files of their boxes: class xc yc w h, as shares of the image."""

    name, class_names = "artefacts", ("specularity", "bubbles")

    def index(self) -> list[Sample[Path]]:
        images = sorted(self.root.absolute().glob("*.png"))
        return [Sample(path, path.name, path.with_suffix(".txt"), path.stem) for path in images]

    def read_boxes(self, sample: Sample[Path], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.array(sample.target.read_text().split(), float).reshape(-1, 5)
        centres, halves = rows[:, 1:3] * [width, height], rows[:, 3:] * [width, height] / 2
        return np.hstack([centres - halves, centres + halves]), rows[:, 0].astype(int)


# corners (2, 1) to (6, 3) of class 1; (0, 0) to (1, 4) of class 0; in an image of 8 x 4 pixels
TWO = "1 0.5 0.5 0.5 0.5\n0 0.0625 0.5 0.125 1\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six frames of 8 x 4 pixels, white inside the boxes of `TWO`; the first has no box."""
    pixels = np.zeros((4, 8), np.uint8)
    pixels[1:3, 2:6] = pixels[:, 0] = 255
    (tmp_path / "frames").mkdir()
    for place in range(6):
        pixels[0, 7] = place  # or all would be the same image
        Image.fromarray(pixels).save(tmp_path / f"frames/{place}.png")
        (tmp_path / f"frames/{place}.txt").write_text(TWO if place else "")
    return tmp_path / "frames"


def data(root: Path, kind: type[BoxDataModule] = Artefacts, **options: Any) -> BoxDataModule:
    """A small data module that is set up."""
    module = kind(root, **{"image_size": 4, "channels": 1, "fractions": HALVES, "batch_size": 8} | options)
    module.setup()
    return module


@pytest.mark.parametrize(
    ("resize", "boxes"),
    [
        ("squash", [[1, 1, 3, 3], [0, 0, 0.5, 4]]),  # x / 2
        ("pad", [[1, 1.5, 3, 2.5], [0, 1, 0.5, 3]]),  # x / 2, y / 2 + 1
        ("crop", [[0, 1, 4, 3]]),  # x - 2: the second box lies outside
    ],
)
def test_batches(root: Path, resize: Any, boxes: list[list[float]]) -> None:
    module = data(root, resize=resize, num_workers=1)
    for split in ("train", "adv_test"):
        (batch,) = module.dataloader_of(split)
        assert batch["image"].shape == (3, 1, 4, 4) and isinstance(batch["target"], list)
        for id, target in zip(batch["id"], batch["target"], strict=True):
            assert target["boxes"].dtype == torch.float32 and target["labels"].dtype == torch.int64
            count = 0 if id == "0.png" else len(boxes)
            assert target["boxes"].shape == (count, 4) and target["labels"].tolist() == [1, 0][:count]
            torch.testing.assert_close(target["boxes"], torch.tensor(boxes, dtype=torch.float32)[:count])


def test_training_moves_boxes_with_their_images(root: Path) -> None:
    torch.manual_seed(0)
    flip = Augmentation(rotation=0, shift=0, scale=0, horizontal_flip=0.5)
    module, seen = data(root, augment=flip, resize="squash", fractions=Fractions(1, 0, 0, 0)), set()
    for batch in module.train_dataloader():
        for target in batch["target"]:
            seen |= {tuple(box.tolist()) for box in target["boxes"][1:]}
    assert seen == {(0, 0, 0.5, 4), (3.5, 0, 4, 4)}


def test_least_visible_is_an_option(root: Path) -> None:
    # half of x from 1 to 3 is left by the crop to 2..6
    (root / "1.txt").write_text("0 0.25 0.5 0.25 0.5\n")
    for least_visible, count in ((0.4, 1), (0.6, 0)):
        module = data(root, least_visible=least_visible)
        (sample,) = [s for members in module.splits.values() for s in members if s.id == "1.png"]
        boxes = module.transform_for_evaluation()(module.read_checked(sample)).boxes
        assert boxes is not None and boxes.tolist() == [[0, 1, 1, 3]][:count]
    for refused in (0, 1, -0.1):
        with pytest.raises(ValueError, match=f"least_visible is a share above 0 and below 1, got {refused}"):
            Artefacts(root, least_visible=refused)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 0.5 0.5 0 0.5", r"expected x1 < x2 and y1 < y2 in box 1, got \(4, 1\) to \(4, 3\)"),
        ("0 0.5 0.5 0.5 -0.5", r"expected x1 < x2 and y1 < y2 in box 1, got \(2, 3\) to \(6, 1\)"),
        ("0 0.5 0.5 1e-9 0.5", "expected sides of at least 0.01 pixels of box 1, got 8e-09 x 2"),
        (TWO + "0 1 0.5 0.5 0.5", r"expected box 3 inside its image of 8 x 4 pixels, got \(6, 1\) to \(10, 3\)"),
        ("0 0.5 -0.5 0.5 0.5", r"expected box 1 inside its image of 8 x 4 pixels, got \(2, -3\) to \(6, -1\)"),
        ("0 nan 0.5 0.5 0.5", r"expected x1 < x2 and y1 < y2 in box 1, got \(nan, 1\) to \(nan, 3\)"),
        (TWO + "2 0.5 0.5 0.5 0.5", r"expected a class from 0 to 1 \(specularity, bubbles\) in box 3, got 2"),
        ("-1 0.5 0.5 0.5 0.5", r"expected a class from 0 to 1 \(specularity, bubbles\) in box 1, got -1"),
    ],
)
def test_a_bad_box_raises_or_is_skipped(root: Path, text: str, reason: str) -> None:
    (root / "4.txt").write_text(text)
    module = data(root)
    with pytest.raises(ValueError, match=f"4.txt: {reason}"):
        [list(module.dataloader_of(split)) for split in ("train", "adv_test")]
    with pytest.warns(UserWarning, match="skipped 1 of 6 images that cannot be read: 4.png"):
        module = data(root, on_bad_sample="skip")
    ((id, given),) = module.bad_samples
    assert id == "4.png" and given.startswith("4.txt: expected")
    assert sum(map(len, module.splits.values())) == 5


def test_rounded_coordinates_may_touch_the_border(root: Path) -> None:
    (root / "4.txt").write_text("0 0.5 0.5 1.0005 1.0005\n")  # 0.002 and 0.001 pixels outside
    module = data(root, resize="squash")
    (sample,) = [s for members in module.splits.values() for s in members if s.id == "4.png"]
    boxes = module.transform_for_evaluation()(module.read_checked(sample)).boxes
    assert boxes is not None and boxes.tolist() == [[0, 0, 4, 4]]


class Listed(Artefacts):
    """The same boxes, held by the samples."""

    name = "listed"

    def index(self) -> list[Sample[Any]]:
        boxes = [(1, 2, 1, 6, 3), (0, 0, 0, 1, 4)]
        return [
            Sample(sample.path, sample.id, [] if sample.id == "0.png" else boxes, sample.patient)
            for sample in super().index()
        ]

    read_boxes = BoxDataModule.read_boxes


def test_boxes_of_a_list_are_those_of_the_files(root: Path, tmp_path: Path) -> None:
    files, listed = data(root), data(root, Listed)
    for (ours,), (theirs,) in zip(
        (files.dataloader_of("train"), files.dataloader_of("adv_test")),
        (listed.dataloader_of("train"), listed.dataloader_of("adv_test")),
        strict=True,
    ):
        torch.testing.assert_close(ours["target"], theirs["target"])
    listed.export_splits(tmp_path / "splits.csv")
    again = data(root, Listed, split_file=tmp_path / "splits.csv")
    assert again.splits == listed.splits
    files.export_splits(tmp_path / "files.csv")
    assert data(root, split_file=tmp_path / "files.csv").splits == files.splits
    assert {line.split(",")[2] for line in (tmp_path / "files.csv").read_text().splitlines()[1:]} == {
        f"{place}.txt" for place in range(6)
    }


def test_description_and_fingerprint(root: Path, tmp_path: Path) -> None:
    module = data(root)
    assert module.task == "boxes" and module.num_classes == 2
    assert json.loads(json.dumps(module.describe(), allow_nan=False)) == module.describe()
    moved = Path(shutil.copytree(root, tmp_path / "elsewhere"))
    assert data(moved).fingerprint("train") == module.fingerprint("train")

    class Swapped(Artefacts):
        class_names = ("bubbles", "specularity")

    variants = [data(root, Swapped), data(root, least_visible=0.5), data(root, resize="pad"), data(root, Listed)]
    assert len({module.fingerprint("train"), *(variant.fingerprint("train") for variant in variants)}) == 5


def test_options_are_read_from_a_command_line(root: Path) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MedicalDataModule, "data")
    options = ["--data.least_visible", "0.3", "--data.resize", "pad", "--data.fractions.train", "0.65"]
    configured = parser.parse_args(["--data", f"{__name__}.Artefacts", f"--data.root={root}", *options])
    module = parser.instantiate(configured).data
    assert (module.least_visible, module.resize) == (0.3, "pad")


def test_boxes_in_memory(tmp_path: Path) -> None:
    class Memory(BoxDataModule):
        name, class_names = "memory", ("object",)

        def index(self) -> list[Sample[Any]]:
            return [Sample(Path(f"{n}"), f"{n}", None, f"{n}") for n in range(4)]

        def read(self, sample: Sample[Any]) -> Scene:
            return Scene(np.zeros((8, 8, 1), np.float32), boxes=np.array([[2, 2, 4, 8]]), labels=np.array([0]))

    (batch,) = data(tmp_path, Memory).test_dataloader()
    assert [target["boxes"].tolist() for target in batch["target"]] == [[[1, 1, 2, 4]]] * 2
