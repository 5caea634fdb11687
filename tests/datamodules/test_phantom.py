"""Phantom chest X-rays: deterministic, in the public layout, generated safely, and not trivial to classify."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules import PhantomChestXRay, phantom
from datamodules.thorax import draw_anatomy, render


def phantoms(root: Path, **options: object) -> PhantomChestXRay:
    return PhantomChestXRay(root, **{"patients": 18, "side": 32, "image_size": 32, "channels": 1} | options)


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.jpeg")}


def test_layout_and_numbers(tmp_path: Path) -> None:
    data = phantoms(tmp_path / "set")
    data.prepare_data()
    # 9 patients per class; the third, sixth and ninth have a second image, the ninth a third one: 13 images
    files = contents(tmp_path / "set")
    assert sum("/NORMAL/IM-" in name for name in files) == sum("/PNEUMONIA/person" in name for name in files) == 13
    assert "train/NORMAL/IM-0003-0002.jpeg" in files and "test/PNEUMONIA/person9_bacteria_3.jpeg" in files
    assert "val/PNEUMONIA/person8_bacteria_1.jpeg" in files
    assert cv2.imread(str(tmp_path / "set/train/NORMAL/IM-0001-0001.jpeg"), cv2.IMREAD_UNCHANGED).shape == (32, 32)
    assert json.loads((tmp_path / "set/phantom.json").read_text())["images"] == 26
    assert [path.name for path in tmp_path.iterdir()] == ["set"]

    data.setup("fit")
    assert sum(map(len, data.splits.values())) == 26
    assert len({sample.patient for members in data.splits.values() for sample in members}) == 18
    assert data.describe()["generator"]["patients"] == 18 and str(tmp_path) not in json.dumps(data.describe())


def test_images_depend_on_seed_class_patient_and_number_alone(tmp_path: Path) -> None:
    for name, options in {"one": {}, "two": {}, "more": {"patients": 30}, "seed": {"generator_seed": 1}}.items():
        phantoms(tmp_path / name, **options).prepare_data()
    one = contents(tmp_path / "one")
    assert contents(tmp_path / "two") == one
    assert one.items() < contents(tmp_path / "more").items()
    assert all(content != one[name] for name, content in contents(tmp_path / "seed").items())
    assert len(set(one.values())) == len(one)


def test_generated_once_and_again_when_parameters_differ(tmp_path: Path) -> None:
    root = tmp_path / "set"
    phantoms(root).prepare_data()
    picture = root / "train/NORMAL/IM-0001-0001.jpeg"
    before, content = picture.stat().st_mtime_ns, picture.read_bytes()
    phantoms(root).prepare_data()
    assert picture.stat().st_mtime_ns == before

    phantoms(root, generator_seed=4).prepare_data()
    assert picture.read_bytes() != content
    assert json.loads((root / "phantom.json").read_text())["generator_seed"] == 4

    phantoms(root).prepare_data()
    picture.unlink()
    phantoms(root).prepare_data()
    assert picture.read_bytes() == content


def test_a_killed_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(5))

    def dying(*arguments: object, **options: object) -> np.ndarray:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return np.zeros((32, 32), np.uint8)

    monkeypatch.setattr(phantom, "render", dying)
    with pytest.raises(KeyboardInterrupt):
        phantoms(tmp_path / "set").prepare_data()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/keep.txt").write_text("mine")
    with pytest.raises(ValueError, match="real: expected an empty folder or a phantom set"):
        phantoms(tmp_path / "real").prepare_data()
    assert (tmp_path / "real/keep.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="keep.txt: expected a folder"):
        phantoms(tmp_path / "real/keep.txt").prepare_data()
    (tmp_path / "empty").mkdir()
    phantoms(tmp_path / "empty").prepare_data()
    assert len(contents(tmp_path / "empty")) == 26


@pytest.mark.parametrize("name", ["notes.txt", "train/NORMAL/mine.jpeg", "train/NORMAL/IM-0999-0001.jpeg", "x/y/z.png"])
@pytest.mark.parametrize("marker", ["whole", "damaged"])
def test_a_set_to_which_the_user_has_added_files_is_never_generated_anew(
    tmp_path: Path, name: str, marker: str
) -> None:
    root = tmp_path / "set"
    phantoms(root).prepare_data()
    mine = root / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    if marker == "damaged":
        (root / "phantom.json").write_text("{")
    before = contents(root)
    with pytest.raises(ValueError, match=f"delete, first {name}; move them away, or give another root"):
        phantoms(root, generator_seed=4).prepare_data()
    assert mine.read_text() == "mine" and contents(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_what_a_killed_process_had_begun_is_removed_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = socket.gethostname()
    names = {f".set.{host}.{ended.pid}.ab_c1": False, f".set.{host}.{os.getpid()}.x": True, ".set.other.1.x": True}
    for name in (*names, ".settings", "set2"):
        (tmp_path / name / "set").mkdir(parents=True)
    phantoms(tmp_path / "set").prepare_data()
    left = {name for name, kept in names.items() if kept} | {"set", ".settings", "set2"}
    assert {path.name for path in tmp_path.iterdir()} == left


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patients": 3}, "patients is at least 4, got 3"),
        ({"prevalence": 1.0}, "prevalence is a share above 0 and below 1, got 1.0"),
        ({"side": 31}, "side is at least 32 pixels, got 31"),
        ({"batch_size": 0}, "batch_size is at least 1, got 0"),
    ],
)
def test_bad_arguments(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        phantoms(tmp_path, **options)


def test_no_trivial_statistic_separates_the_classes() -> None:
    random = np.random.default_rng(0)
    classes = [
        np.stack([render(draw_anatomy(random), random, 64, opacities) for _ in range(250)])
        for opacities in (False, True)
    ]
    for statistic in (np.mean, np.std, np.median):
        normal, pneumonia = (statistic(images.reshape(len(images), -1) / 255, axis=1) for images in classes)
        auc = (pneumonia[:, None] > normal).mean()
        assert max(auc, 1 - auc) < 0.75, f"{statistic.__name__} has AUC {auc:.3f}"


def test_other_parameters_of_the_generator_change_the_fingerprint(tmp_path: Path) -> None:
    """Two generated sets have the same ids but different images: they must not share records."""
    fingerprints = []
    for seed in (0, 1):
        data = PhantomChestXRay(tmp_path / str(seed), patients=12, side=32, image_size=32, generator_seed=seed)
        data.prepare_data()
        data.setup("test")
        fingerprints.append((data.fingerprint("adv_test"), sorted(sample.id for sample in data.splits["adv_test"])))
    assert fingerprints[0][1] == fingerprints[1][1]
    assert fingerprints[0][0] != fingerprints[1][0]
