"""Phantom endoscopy: EAD-2019's layout, true boxes around what was painted, and frames that depend on nothing else."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datamodules import Endoscopy, PhantomEndoscopy
from datamodules.artefacts import _KINDS, draw_artefacts
from datamodules.endoscopy import ARTEFACTS
from datamodules.mucosa import draw_organ, draw_view

SMALL = {"frames": 60, "side": 64, "image_size": 64}


def phantoms(root: Path, **options: Any) -> PhantomEndoscopy:
    """A small set that is generated."""
    module = PhantomEndoscopy(root, **SMALL | options)
    module.prepare_data()
    return module


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames of 64 pixels."""
    return phantoms(tmp_path_factory.mktemp("phantom") / "set").root


def files(root: Path) -> dict[str, bytes]:
    """All files but the marker."""
    found = [path for path in root.rglob("*") if path.is_file() and path.name != "phantom.json"]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def test_the_layout(root: Path) -> None:
    found = files(root)
    names = [f"trainingData_detection/V{n // 4:04d}_{n % 4:05d}" for n in range(60)]
    assert set(found) == {"class_list.txt", *(f"{name}{suffix}" for name in names for suffix in (".jpg", ".txt"))}
    assert found["class_list.txt"].decode().split() == list(ARTEFACTS)
    assert json.loads((root / "phantom.json").read_text())["images"] == 60
    data = PhantomEndoscopy(root, **SMALL)
    data.setup()
    assert {s.patient for members in data.splits.values() for s in members} == {f"V{n:04d}" for n in range(15)}
    assert data.describe()["generator"]["frames"] == 60 and data.complete()
    plain = Endoscopy(root, image_size=64)  # which reads them as any set of this layout
    plain.setup()
    assert {k: [s.id for s in v] for k, v in plain.splits.items()} == {
        k: [s.id for s in v] for k, v in data.splits.items()
    }


def test_frames_depend_on_what_they_show_alone(root: Path, tmp_path: Path) -> None:
    one = files(root)
    more = files(phantoms(tmp_path / "more", frames=62).root)
    assert one.items() <= more.items() and len(more) == len(one) + 4
    other = files(phantoms(tmp_path / "seed", generator_seed=1).root)
    assert all(content != one[name] for name, content in other.items() if name.endswith(".jpg"))
    shown = [content for name, content in one.items() if name.endswith(".jpg")]
    assert len(set(shown)) == len(shown)


def test_generated_once_and_again_when_something_is_missing(tmp_path: Path) -> None:
    root = phantoms(tmp_path / "set").root
    before, content = {path: path.stat().st_mtime_ns for path in root.rglob("*")}, files(root)
    phantoms(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    (root / "trainingData_detection/V0001_00002.txt").unlink()
    assert not PhantomEndoscopy(root, **SMALL).complete()
    assert files(phantoms(root).root) == content
    (root / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"delete, first notes.txt; move them away"):
        phantoms(root, clean=0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frames": 59}, "frames is at least 60, got 59"),
        ({"clean": 1.0}, "clean is a share, at least 0 and below 1, got 1.0"),
        ({"side": 63}, "side is at least 64 pixels, got 63"),
    ],
)
def test_bad_arguments(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PhantomEndoscopy(tmp_path, **options)


def test_boxes_are_where_the_frame_was_changed() -> None:
    """Outside of the boxes and of a margin around them, a frame is what it was; inside each, it is another one."""
    seen: Counter[str] = Counter()
    for number in range(12):
        random = np.random.default_rng(number)
        view = draw_view(draw_organ(random), random, 96)
        image, boxes = draw_artefacts(view, random)
        height, width = view.field.shape
        changed = np.abs(image - view.image).max(2) > 0.1
        outside = view.field.copy()
        for kind, x1, y1, x2, y2 in boxes:
            seen[ARTEFACTS[kind]] += 1
            assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
            assert min(x2 - x1, y2 - y1) >= 0.035 * 96
            inside = np.s_[int(y1) : int(y2), int(x1) : int(x2)]
            assert np.abs(image - view.image)[inside].mean() > 0.02, ARTEFACTS[kind]
            margin = 4 + round(0.3 * max(x2 - x1, y2 - y1))
            outside[max(0, int(y1) - margin) : int(y2) + margin, max(0, int(x1) - margin) : int(x2) + margin] = False
        assert not (changed & outside).any()
    assert set(seen) == set(ARTEFACTS)


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_a_box_is_tight_around_its_artefact(kind: str) -> None:
    """The change that an artefact makes reaches at least half of its strength up to each side of its box."""
    random = np.random.default_rng(7)
    view = draw_view(draw_organ(random), random, 96)
    for _ in range(8):
        where, paint = _KINDS[kind](view, random)
        assert where.shape == view.field.shape and where.dtype == np.float32 and 0 <= where.min() <= where.max() <= 1.01
        painted = paint(view.image)
        assert painted.shape == view.image.shape and painted.dtype == np.float32 and np.isfinite(painted).all()
        assert not np.abs(painted - view.image)[where < 1e-4].max(initial=0) > 0.36  # a spot has a halo


def test_scales_numbers_and_frames_without_artefacts(root: Path, tmp_path: Path) -> None:
    data = PhantomEndoscopy(tmp_path, frames=240, side=64)
    lines = [data.draw(number)[1].splitlines() for number in range(0, 240, 4)]
    counts = Counter(map(len, lines))
    assert counts[0] >= 1 and max(counts) >= 5
    sizes: dict[int, list[float]] = {}
    for line in (line for one in lines for line in one):
        kind, *_, width, height = line.split()
        sizes.setdefault(int(kind), []).append(float(np.sqrt(float(width) * float(height))))
    assert set(sizes) == set(range(7))
    means = {ARTEFACTS[kind]: np.mean(values) for kind, values in sizes.items()}
    assert means["specularity"] < 0.15 < 0.2 < means["saturation"] and means["blur"] > 0.3
    everything = [value for values in sizes.values() for value in values]
    assert min(everything) < 0.08 and max(everything) > 0.4
    picture = cv2.imread(str(root / "trainingData_detection/V0000_00000.jpg"))
    assert picture.shape[0] == 64 and picture.shape[1] in (64, 80)
