"""prepare.py describe: tables, a page and JSON of what was planted in the data, and flags in a later evaluation."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from cli.description import describe_data
from datamodules import ChestXRay, Endoscopy, ImageFolder
from medrobust.results.report.data_page import write_description
from medrobust.results.report.data_tables import console_description
from tests.dense_toys import TASKS, data_of

REAL = Path(__file__).resolve().parents[3] / "shared/data/chest_xray"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(prepare: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs prepare.py in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return prepare


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 images of two classes: those of "sick" are wider, the greys of both are alike; one is a copy of another."""
    folder, rng = tmp_path_factory.mktemp("planted"), np.random.default_rng(1)
    for place in range(80):
        sick = place % 2 == 1
        grey = cv2.GaussianBlur(rng.normal(size=(60, 90 if sick else 60)), (0, 0), 2)
        grey = np.clip(128 + 40 * grey / grey.std(), 6, 240).astype(np.uint8)
        path = folder / ("sick" if sick else "well") / f"{place:02d}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), grey)
    data = ImageFolder(folder, channels=1)
    data.setup()
    one = next(sample for sample in data.splits["train"] if sample.target == 0)
    other = next(sample for sample in data.splits["adv_test"] if sample.target == 0)
    brighter = cv2.imread(str(one.path), cv2.IMREAD_GRAYSCALE) + np.uint8(12)
    cv2.imwrite(str(other.path), cv2.resize(brighter, (180, 120)))  # of the same aspect
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"data": {"class_path": "ImageFolder", "init_args": {"root": str(folder), "channels": 1}}})
    )
    return folder


def test_what_was_planted_is_described(call: Call, root: Path, tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text((root / "config.yaml").read_text() + "seed_everything: 1\ntrainer: {max_epochs: 3}\n")
    status, out, err = call("describe", "-c", config)
    assert (status, err) == (0, "")
    (folder,) = (tmp_path / "runs/descriptions").iterdir()
    found = json.loads((folder / "description.json").read_text())

    assert sum(one["images"] for one in found["splits"].values()) == 80
    assert sum(one["classes"]["sick"] for one in found["splits"].values()) == 40
    assert found["sizes"]["all"]["width"] == [60, 75, 180] and found["sizes"]["all"]["different"] == 3
    rows = {row["feature"]: row for row in found["shortcuts"]}
    aspect = rows["aspect ratio"]  # every "well" image is square and every "sick" one is half as wide again
    assert (aspect["auroc"], aspect["higher"], aspect["class"]) == (1.0, False, "well")
    assert aspect["interval"][0] > 0.8 and (aspect["n_positive"], aspect["n_negative"]) == (40, 40)
    assert rows["mean grey"]["interval"][0] < 0.6
    (pair,) = found["near_duplicates"]["pairs"]
    assert (pair["one"]["split"], pair["other"]["split"]) == ("train", "adv_test")
    assert pair["other"]["size"] == [180, 120] and pair["correlation"] > 0.9

    assert "Aspect ratio alone tells well from sick with an AUROC of 100.0" in " ".join(out.split())
    page = (folder / "description.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and page.count("data:image/jpeg") >= 2 + 4 * 2
    assert pair["one"]["id"] in page and "Splits share pictures" in page


def test_an_evaluation_on_all_images_finds_what_was_found_in_their_splits(root: Path) -> None:
    data = ImageFolder(root, channels=1)
    data.setup()
    description, _ = describe_data(data)
    judged = ImageFolder(root, channels=1, test_split="all", alias="another hospital")
    judged.setup()
    findings = judged.describe()["findings"]
    assert findings["images"] == 80 and findings["near_duplicates"] == {"pairs": 0, "images": []}
    assert [row["auroc"] for row in findings["shortcuts"]] == [row["auroc"] for row in description["shortcuts"]]
    turned = ImageFolder(root, channels=1, test_split="all", classes=["well", "sick"])
    turned.setup()
    assert turned.describe()["findings"] is None


def test_a_later_evaluation_finds_what_was_found(root: Path) -> None:
    data = ImageFolder(root, channels=1)
    data.setup()
    counted: list[int] = []
    description, pictures = describe_data(data, counted.append)
    assert sum(counted) == 80 and all(content.startswith(b"\xff\xd8") for content in pictures.values())
    again = ImageFolder(root, channels=3, image_size=64)
    again.setup()
    findings = again.describe()["findings"]
    assert findings["near_duplicates"] == {"pairs": 1, "images": [{"split": "adv_test", "as": "train", "images": 1}]}
    assert [row["auroc"] for row in findings["shortcuts"]] == [row["auroc"] for row in description["shortcuts"]]


@pytest.mark.parametrize("task", list(TASKS))
def test_data_of_masks_and_boxes_are_described_without_classes(task: str, tmp_path: Path) -> None:
    data: Any = data_of(task)
    if task == "boxes":
        counted = data.summarise
        boxes = {"boxes": {"spot": 7, "glare": 1005}, "without_box": 3}
        data.summarise = lambda samples: counted(samples) | boxes
    description, pictures = describe_data(data)
    page = write_description(tmp_path, description, pictures)[0].read_text()
    table = Console(width=100, file=io.StringIO(), record=True)
    table.print(*console_description(description, 100))
    shown = table.export_text()
    words = " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.S).split())
    assert "No near-duplicate was found" in words or "nearly the same" in words
    assert "Single numbers" not in words and "of each class in each split" not in words
    colours = {name for one in description["legend"] for name in one.values()}
    assert colours == ({"organ", "#e69f00"} if task == "masks" else {"spot", "#e69f00", "glare", "#56b4e9"})
    assert all(colour in page for colour in colours)
    if task == "boxes":
        assert "boxes: spot" in words and "1,005" in words and "no box" in words and "boxes: glare" in shown
        assert "Images of each class" not in words and "Boxes of each class" in words
    else:
        assert "Labels of the pixels" in words and "boxes" not in words
    picture = np.asarray(Image.open(io.BytesIO(pictures["39"])).convert("RGB")).astype(int)
    coloured = (picture.max(2) - picture.min(2) > 60).mean()  # what is true is drawn into grey pictures
    assert coloured > (0.3 if task == "masks" else 0.02)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("data: {class_path: ImageFoldr}\n", "ImageFoldr"),
        ("trainer: {max_epochs: 3}\n", "the command needs data"),
        ("data: {class_path: ImageFolder, init_args: {root: nowhere}}\n", "nowhere"),
        ("data: {class_path: ImageFolder, init_args: {root: x, image_size: 0}}\n", "image_size is at least 1"),
    ],
)
def test_a_mistake_is_one_sentence(call: Call, tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    status, out, err = call("describe", "-c", "c.yaml")
    assert (status, out, err.count("\n")) == (2, "", 1) and said in err and err.startswith("error: ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="no real chest X-rays beside the checkout")
def test_the_shortcuts_of_the_real_chest_xrays() -> None:
    data: Any = ChestXRay(REAL, channels=1)
    data.setup()
    description, _ = describe_data(data)
    found = {row["feature"]: row["auroc"] for row in description["shortcuts"]}
    known = {"bytes per pixel": 0.91, "sharpness": 0.89, "aspect ratio": 0.87, "black border": 0.82}
    assert {name: found[name] for name in known} == pytest.approx(known, abs=0.02)
    assert not description["near_duplicates"]["pairs"]


def test_masks_are_described_by_the_share_of_each_label(call: Call, tmp_path: Path) -> None:
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 256, (8, 10), np.uint8)
        mask = np.zeros((8, 10), np.uint8)
        mask[: 2 * number] = 255  # shares of 0, 1/4, 1/2 and 3/4
        for folder, pixels in (("2d_images", image), ("2d_masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), pixels)
    (tmp_path / "data.yaml").write_text(
        yaml.safe_dump({"data": {"class_path": "LungCT", "init_args": {"root": str(tmp_path), "test_split": "all"}}})
    )
    status, out, err = call("describe", "-c", tmp_path / "data.yaml", "--output", tmp_path / "found")
    assert status == 0, err
    assert re.search(r"lung\s+37\.5 % \(3\)", out), out
    found = json.loads((tmp_path / "found/description.json").read_text())
    assert found["pixels"] == {
        "all": [
            {"class": "background", "share": 0.625, "images": 4},
            {"class": "lung", "share": 0.375, "images": 3},
        ]
    }
    page = (tmp_path / "found/description.html").read_text()
    assert "Labels of the pixels" in page and "37.5" in page
    assert found["sheet"][0]["ids"] and page.count("data:image/jpeg") >= 4


def test_boxes_are_counted_and_drawn(call: Call, tmp_path: Path) -> None:
    """Frames 0 to 3 with as many boxes, each of the left half."""
    frames = tmp_path / "trainingData_detection"
    frames.mkdir()
    for number in range(4):
        image = np.random.default_rng(number).integers(0, 100, (20, 40, 3), np.uint8)
        cv2.imwrite(str(frames / f"{number}.png"), image)
        (frames / f"{number}.txt").write_text("1 0.25 0.5 0.5 1\n" * number)
    (tmp_path / "class_list.txt").write_text("wound\npolyp\n")
    (tmp_path / "data.yaml").write_text(
        yaml.safe_dump({"data": {"class_path": "Endoscopy", "init_args": {"root": str(tmp_path), "test_split": "all"}}})
    )
    status, out, err = call("describe", "-c", tmp_path / "data.yaml", "--output", tmp_path / "found")
    assert status == 0, err
    assert re.search(r"boxes: polyp\s+6\s", out) and re.search(r"boxes: wound\s+0\s", out), out
    assert re.search(r"no box\s+1 ", out), out
    found = json.loads((tmp_path / "found/description.json").read_text())
    assert found["splits"]["all"] == {
        "images": 4,
        "patients": 4,
        "boxes": {"wound": 0, "polyp": 6},
        "without_box": 1,
    }
    page = (tmp_path / "found/description.html").read_text()
    assert "boxes: polyp" in page and "Boxes of each class, of which an image may have several or none." in page
    data = Endoscopy(tmp_path, test_split="all")
    data.setup()
    _, pictures = describe_data(data)
    shown = [cv2.imdecode(np.frombuffer(pictures[f"trainingData_detection/{n}.png"], np.uint8), 1) for n in (0, 1)]
    # the line at the left edge is sky blue: bright in blue, where the frame is dark
    assert shown[1][40:50, 1, 0].mean() > 180 > 110 > shown[0][40:50, 1, 0].mean()
