"""Phantom endoscopy: EAD-2019's layout, true boxes around what was painted, and frames that depend on nothing else."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from datamodules import Endoscopy, PhantomEndoscopy
from datamodules.artefacts import _KINDS, _box_of, _covered, draw_artefacts
from datamodules.endoscopy import ARTEFACTS
from datamodules.mucosa import draw_organ, draw_view
from datamodules.phantom_endoscopy import frame_name

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


def test_frames_depend_on_what_they_show_alone(root: Path) -> None:
    found = files(root)
    shown = [content for name, content in found.items() if name.endswith(".jpg")]
    assert len(set(shown)) == len(shown) == 60
    more, seed = PhantomEndoscopy(root, **SMALL | {"frames": 80}), PhantomEndoscopy(root, **SMALL, generator_seed=1)
    for number in (0, 3, 4, 59):
        pixels, boxes = more.draw(number)
        name = f"trainingData_detection/{frame_name(number)}"
        assert boxes == found[f"{name}.txt"].decode()
        picture = cv2.imdecode(np.frombuffer(found[f"{name}.jpg"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.abs(picture.astype(int) - pixels).mean() < 6  # JPEG
        other, others = seed.draw(number)
        assert others != boxes and (other.shape != pixels.shape or (other != pixels).mean() > 0.5)


def test_generated_once_and_again_when_something_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def noise(self: PhantomEndoscopy, number: int) -> tuple[np.ndarray, str]:
        return self.random(number).integers(0, 256, (64, 64, 3)).astype(np.uint8), f"0 0.5 0.5 0.5 0.{number + 1}\n"

    monkeypatch.setattr(PhantomEndoscopy, "draw", noise)
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
    assert files(root).keys() == {*content, "notes.txt"}
    (root / "notes.txt").unlink()
    phantoms(root, generator_seed=2)
    assert files(root).keys() == content.keys() and files(root) != content


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


def test_the_smallest_box_of_what_is_seen() -> None:
    where, field = np.zeros((100, 80), np.float32), np.ones((100, 80), bool)
    where[10:21, 30:51] = 0.5
    where[8, 30:51] = 0.4
    assert _box_of(where, field) == (30, 10, 51, 21)
    field[:, 50:] = False  # 20 of 21 columns are left
    assert _box_of(where, field) == (30, 10, 50, 21)
    field[:, 47:] = False  # 17 of 21, less than 85 %
    assert _box_of(where, field) is None
    assert _box_of(np.zeros((100, 80), np.float32), field) is None
    where[:] = 0
    where[10:13, 10:20] = 1  # 3 pixels high of at least 3.5
    assert _box_of(where, field) is None


def test_boxes_share_little() -> None:
    assert not _covered((0, 0, 10, 10), [(1, 10.0, 0.0, 20.0, 10.0)])
    assert not _covered((0, 0, 10, 10), [(1, 7.0, 0.0, 27.0, 10.0)])  # 30 of 100
    assert _covered((0, 0, 10, 10), [(1, 6.0, 0.0, 26.0, 10.0)])  # 40 of 100
    assert _covered((0, 0, 100, 100), [(2, 40.0, 40.0, 50.0, 50.0)])  # all of the smaller one


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_a_frame_changes_where_its_artefact_is(kind: str) -> None:
    random = np.random.default_rng(7)
    view = draw_view(draw_organ(random), random, 96)
    for _ in range(8):
        where, paint = _KINDS[kind](view, random)
        assert where.shape == view.field.shape and where.dtype == np.float32 and 0 <= where.min() <= where.max() <= 1.01
        painted = paint(view.image)
        assert painted.shape == view.image.shape and painted.dtype == np.float32 and np.isfinite(painted).all()
        change = np.abs(painted - view.image).max(2)
        assert change[where < 1e-4].max(initial=0) < 0.42  # a spot has a halo
        if kind in ("specularity", "instrument") and (box := _box_of(where, np.ones_like(view.field))):
            # white, or of another colour: known without what the painter says
            seen = painted.min(2) > 0.9 if kind == "specularity" else change > 0.12
            around = _box_of(seen.astype(np.float32), np.ones_like(view.field))
            assert around is not None and np.abs(np.subtract(around, box)).max() <= 2


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
