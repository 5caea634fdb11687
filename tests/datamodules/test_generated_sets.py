"""Fundus and dermoscopy phantoms: public layouts, lesions that define the class, generated safely, and not trivial."""

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datamodules import PhantomAPTOS, PhantomDermoscopy, PhantomFundus
from datamodules.fundus_view import draw_retina
from datamodules.generated import GeneratedSet
from datamodules.retina import render_fundus
from datamodules.retinopathy import MANY, draw_lesions
from datamodules.skin import KINDS, draw_lesion, render_skin

Make = Callable[..., GeneratedSet[Any]]
SMALL = {"side": 32, "image_size": 32}
MAKE: dict[str, Make] = {
    "fundus": partial(PhantomFundus, **({"patients": 5} | SMALL)),
    "aptos": partial(PhantomAPTOS, **({"patients": 10} | SMALL)),
    "dermoscopy": partial(PhantomDermoscopy, **({"lesions": 9} | SMALL)),
}
MORE = {"fundus": {"patients": 6}, "aptos": {"patients": 11}, "dermoscopy": {"lesions": 10}}
each = pytest.mark.parametrize("name", MAKE)


@pytest.fixture
def quickly_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in place of eyes, for what is about files alone."""

    def noise(retina: object, lesions: object, random: np.random.Generator, side: int, aspect: float) -> np.ndarray:
        return random.integers(0, 256, (side, round(side * aspect), 3)).astype(np.uint8)

    monkeypatch.setattr("datamodules.phantom_fundus.render_fundus", noise)


def pictures(root: Path) -> dict[str, bytes]:
    found = [path for path in root.rglob("*") if path.suffix in (".jpeg", ".jpg", ".png")]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_fundus_photographs_of_both_eyes_in_the_layout_of_kaggle_dr(tmp_path: Path) -> None:
    data = MAKE["fundus"](tmp_path / "set", patients=10)
    data.prepare_data()
    table = rows(tmp_path / "set/trainLabels.csv")
    assert [row["image"] for row in table] == [f"{n}_{eye}" for n in range(1, 11) for eye in ("left", "right")]
    assert set(pictures(tmp_path / "set")) == {f"train/{row['image']}.jpeg" for row in table}
    # with a prevalence of 0.8 the left eyes of patients 1 to 5 have the grades 0 to 4, and so on
    left = [int(row["level"]) for row in table[::2]]
    assert left == [0, 1, 2, 3, 4] * 2
    assert all(abs(int(row["level"]) - grade) <= 1 for row, grade in zip(table[1::2], left, strict=True))
    sizes = {cv2.imread(str(tmp_path / f"set/train/{row['image']}.jpeg")).shape for row in table}
    assert {size[0] for size in sizes} == {32} and {size[1] for size in sizes} <= {32, 37, 43, 48}
    data.setup()
    assert sum(map(len, data.splits.values())) == 20
    homes = {sample.patient: split for split, members in data.splits.items() for sample in members}
    assert all(homes[sample.patient] == split for split, members in data.splits.items() for sample in members)
    assert len(homes) == 10 and data.describe()["generator"]["patients"] == 10
    assert json.loads((tmp_path / "set/phantom.json").read_text())["images"] == 20


def test_fundus_photographs_in_the_layout_of_aptos(tmp_path: Path) -> None:
    MAKE["aptos"](tmp_path / "set").prepare_data()
    table = rows(tmp_path / "set/train.csv")
    # the left eyes have the grades 0 to 4 in turn, the right ones the same or one above or below
    assert all(abs(int(row["diagnosis"]) - number % 5) <= 1 for number, row in enumerate(table))
    assert set(pictures(tmp_path / "set")) == {f"train_images/{row['id_code']}.png" for row in table}
    assert len({row["id_code"] for row in table}) == 10 and all(len(row["id_code"]) == 12 for row in table)
    binary = PhantomAPTOS(tmp_path / "set", grading="any", patients=10, side=32)
    assert binary.complete() and sorted({sample.target for sample in binary.index()}) == [0, 1]


def test_dermoscopy_in_the_layout_of_ham10000(tmp_path: Path) -> None:
    data = MAKE["dermoscopy"](tmp_path / "set")
    data.prepare_data()
    table = rows(tmp_path / "set/HAM10000_metadata.csv")
    assert list(table[0]) == ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    # lesions 3 and 6 have two images, lesion 9 has three: 13 images
    assert [int(row["lesion_id"][4:]) for row in table] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9, 9]
    assert [row["dx"] for row in table if row["lesion_id"] <= "HAM_0000007" and row["image_id"].endswith("1")] == list(
        KINDS
    )
    images = {f"HAM10000_images_part_1/{row['image_id']}.jpg" for row in table}
    masks = {f"HAM10000_segmentations_lesion_tschandl/{row['image_id']}_segmentation.png" for row in table}
    assert set(pictures(tmp_path / "set")) == images | masks
    assert json.loads((tmp_path / "set/phantom.json").read_text())["images"] == 13
    for name in sorted(masks):
        mask = cv2.imread(str(tmp_path / "set" / name), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (32, 43) and set(np.unique(mask)) == {0, 255}
    data.setup()
    assert {sample.patient for members in data.splits.values() for sample in members} == {r["lesion_id"] for r in table}
    people = {row["lesion_id"]: (row["dx"], row["age"], row["sex"], row["localization"]) for row in table}
    assert all(people[r["lesion_id"]] == (r["dx"], r["age"], r["sex"], r["localization"]) for r in table)


@pytest.mark.parametrize("name", ["fundus", "dermoscopy"])
def test_images_depend_on_what_they_show_alone(tmp_path: Path, name: str) -> None:
    for folder, options in {"one": {}, "two": {}, "more": MORE[name], "seed": {"generator_seed": 1}}.items():
        MAKE[name](tmp_path / folder, **options).prepare_data()
    one = pictures(tmp_path / "one")
    assert pictures(tmp_path / "two") == one
    assert one.items() < pictures(tmp_path / "more").items()
    seed = pictures(tmp_path / "seed")
    assert all(content != one.get(path) for path, content in seed.items() if "segmentation" not in path)
    shown = [content for path, content in one.items() if "segmentation" not in path]
    assert len(set(shown)) == len(shown)


@each
def test_generated_once_and_again_when_something_is_missing(tmp_path: Path, name: str, quickly_drawn: None) -> None:
    root = tmp_path / "set"
    MAKE[name](root).prepare_data()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    content = pictures(root)
    MAKE[name](root).prepare_data()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    for path in (next(root.glob("*.csv")), next(path for path in root.rglob("*.[jp]*g"))):
        path.unlink()
        assert not MAKE[name](root).complete()
        MAKE[name](root).prepare_data()
        assert MAKE[name](root).complete() and pictures(root) == content


@each
def test_what_the_user_has_added_is_never_deleted(tmp_path: Path, name: str, quickly_drawn: None) -> None:
    root = tmp_path / "set"
    MAKE[name](root).prepare_data()
    (root / "notes.txt").write_text("mine")
    content = pictures(root)
    with pytest.raises(ValueError, match=r"delete, first notes.txt; move them away"):
        MAKE[name](root, generator_seed=4).prepare_data()
    assert pictures(root) == content and [path.name for path in tmp_path.iterdir()] == ["set"]
    (root / "notes.txt").unlink()
    MAKE[name](root, generator_seed=4).prepare_data()
    assert pictures(root) != content
    MAKE["dermoscopy" if name != "dermoscopy" else "fundus"](tmp_path / "other").prepare_data()
    with pytest.raises(
        ValueError, match="is a phantom set of other parameters that also holds files of another origin"
    ):
        MAKE[name](tmp_path / "other").prepare_data()


@each
def test_a_generation_that_is_interrupted_leaves_nothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"datamodules.phantom_{'dermoscopy' if name == 'dermoscopy' else 'fundus'}.cv2.imencode", dying)
    with pytest.raises(KeyboardInterrupt):
        MAKE[name](tmp_path / "set").prepare_data()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fundus", {"patients": 3}, "patients is large enough for eyes of every grade, got 3"),
        ("aptos", {"patients": 4}, "patients is large enough for eyes of every grade, got 4"),
        ("fundus", {"prevalence": 0.0}, "prevalence is a share above 0 and below 1, got 0.0"),
        ("fundus", {"side": 31}, "side is at least 32 pixels, got 31"),
        ("fundus", {"grading": "six"}, "grading is one of five, any, referable, got 'six'"),
        ("dermoscopy", {"lesions": 6}, "lesions is at least 7, got 6"),
        ("dermoscopy", {"side": 31}, "side is at least 32 pixels, got 31"),
    ],
)
def test_bad_arguments(tmp_path: Path, name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MAKE[name](tmp_path, **options)


def test_lesions_define_the_grade() -> None:
    """The international clinical scale: microaneurysms alone are mild, more than 20 haemorrhages severe."""
    random = np.random.default_rng(0)
    for _ in range(100):
        none, mild, moderate, severe, proliferative = (draw_lesions(random, grade) for grade in range(5))
        assert not any(vars(none).values())
        assert mild.microaneurysms and sum(map(int, vars(mild).values())) == mild.microaneurysms
        assert 0 < moderate.haemorrhages <= MANY and not moderate.beading
        assert severe.haemorrhages > MANY and severe.beading
        assert proliferative.new_vessels and not (moderate.new_vessels or severe.new_vessels)


def test_the_disc_is_on_the_side_of_the_nose() -> None:
    random = np.random.default_rng(0)
    for nasal in (1, -1):
        retina = draw_retina(random, nasal, random)
        assert nasal * (retina.disc[0] - retina.macula[0]) > 0.5
        image = render_fundus(retina, draw_lesions(random, 0), random, 64)
        bright = np.argwhere(image[..., 1] == image[..., 1].max())[:, 1].mean()
        assert nasal * (bright - 32) > 0
        assert image[:3, :3].max() < 30  # outside the field of view


def statistics(image: np.ndarray, suffix: str) -> dict[str, float]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return {
        "bytes per pixel": cv2.imencode(suffix, image[..., ::-1])[1].size / grey.size,
        "mean grey": float(grey.mean()),
        "sharpness": float(cv2.Laplacian(grey.astype(np.float32), cv2.CV_32F).var()),
        "spread": float(grey.std()),
        "border": float((grey < 12).mean()),
        "aspect": grey.shape[1] / grey.shape[0],
    }


def auc(first: np.ndarray, second: np.ndarray) -> float:
    above = (second[:, None] > first).mean() + (second[:, None] == first).mean() / 2
    return float(max(above, 1 - above))


def fundus(grade: int, number: int) -> np.ndarray:
    random = np.random.default_rng([grade, number])
    retina = draw_retina(random, (-1, 1)[number % 2], random)
    return render_fundus(retina, draw_lesions(random, grade), random, 64, float(random.choice([1, 1.15, 1.33, 1.5])))


def dermoscopy(kind: int, number: int) -> np.ndarray:
    random = np.random.default_rng([kind, number])
    return render_skin(draw_lesion(random, list(KINDS)[kind]), random, 64)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "classes", "suffix"), [(fundus, 5, ".jpeg"), (dermoscopy, 7, ".jpg")])
def test_no_simple_statistic_tells_neighbouring_classes_apart(
    draw: Callable[[int, int], np.ndarray], classes: int, suffix: str
) -> None:
    found = [[statistics(draw(target, number), suffix) for number in range(300)] for target in range(classes)]
    for name in found[0][0]:
        values = [np.array([one[name] for one in members]) for members in found]
        for target in range(classes - 1):
            assert (area := auc(values[target], values[target + 1])) < 0.65, f"{name} of {target}: {area:.3f}"
