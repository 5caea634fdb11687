"""Phantom CT: volumes in the public layout, the same from any start, and lungs that no threshold finds."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from datamodules import CovidCT, PhantomCT
from datamodules.chest_ct import draw_person, draw_slice
from datamodules.splits import Fractions

SMALL = {"volumes": 4, "depth": 6, "side": 32, "image_size": 32, "cache": "none"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDROBUST_CACHE", str(tmp_path / "cache"))


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.nii.gz")}


def test_volumes_in_the_public_layout(tmp_path: Path) -> None:
    data = PhantomCT(tmp_path / "set", **SMALL)
    data.prepare_data()
    assert data.complete()
    names = [f"phantom_{number:03d}.nii.gz" for number in range(1, 5)]
    assert set(files(tmp_path / "set")) == {
        f"{folder}/{name}" for folder in ("ct_scans", "lung_mask") for name in names
    }
    assert json.loads((tmp_path / "set/phantom.json").read_text())["images"] == 4
    scan, mask = (nibabel.load(tmp_path / f"set/{folder}/{names[0]}") for folder in ("ct_scans", "lung_mask"))
    assert nibabel.aff2axcodes(scan.affine) == nibabel.aff2axcodes(mask.affine) == ("L", "A", "S")
    assert scan.shape == mask.shape == (32, 32, 6) and scan.get_data_dtype() == np.int16
    values = np.asarray(scan.dataobj)
    assert values.min() == -1024 and 300 < values.max() <= 3071
    assert set(np.unique(np.asarray(mask.dataobj))) == {0, 1, 2}
    data.setup()
    assert [len({one.patient for one in members}) for members in data.splits.values()] == [1, 1, 1, 1]
    plain = CovidCT(tmp_path / "set", image_size=32, cache="none")
    plain.setup()
    assert plain.splits == data.splits and plain.fingerprint("train") != data.fingerprint("train")
    assert data.describe()["generator"]["volumes"] == 4


def test_a_volume_depends_on_what_it_shows_alone(tmp_path: Path) -> None:
    found = {}
    for name, options in {"one": {}, "two": {}, "more": {"volumes": 5}, "seed": {"generator_seed": 1}}.items():
        PhantomCT(tmp_path / name, **SMALL | options).prepare_data()
        found[name] = files(tmp_path / name)
    assert found["one"] == found["two"] and found["one"].items() < found["more"].items()
    assert all(content != found["one"][name] for name, content in found["seed"].items())


def test_generated_once_and_anew_for_other_parameters(tmp_path: Path) -> None:
    PhantomCT(tmp_path / "set", **SMALL).prepare_data()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")}
    PhantomCT(tmp_path / "set", **SMALL, window=(-1000, 0)).prepare_data()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")} == before
    next((tmp_path / "set/lung_mask").iterdir()).unlink()
    assert not PhantomCT(tmp_path / "set", **SMALL).complete()
    PhantomCT(tmp_path / "set", **SMALL | {"volumes": 1}).prepare_data()
    assert len(files(tmp_path / "set")) == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"volumes": 0}, "volumes is at least 1, got 0"),
        ({"depth": 3}, "depth is at least 4, got 3"),
        ({"side": 31}, "side is at least 32, got 31"),
        ({"labels": "both"}, "labels is one of"),
    ],
)
def test_bad_arguments(tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PhantomCT(tmp_path, **SMALL | options)


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def test_the_anatomy_and_that_no_threshold_finds_the_lungs() -> None:
    best = []
    for number in range(6):
        person, random = draw_person(np.random.default_rng(number)), np.random.default_rng(number)
        for height in (0.35, 0.6):
            image, mask = draw_slice(person, height, random, 64)
            left, right = ((mask == label).nonzero() for label in (1, 2))
            assert right[1].mean() < 31.5 < left[1].mean()  # the patient's right is on the left of the picture
            assert 0.08 < (mask > 0).mean() < 0.5
            assert (image[:3] < -900).all()  # air around the person
            best.append(max(jaccard((image < value) & (image > -1010), mask > 0) for value in range(-900, -100, 50)))
    assert max(best) < 0.7  # even if somebody knew the best threshold of each slice
    image, mask = draw_slice(draw_person(np.random.default_rng(0)), 0.0, np.random.default_rng(0), 64)
    assert not mask.any()  # below the lungs


def test_infiltrations_belong_to_the_lungs() -> None:
    dense = []
    for number in range(12):
        person = draw_person(np.random.default_rng(number))
        for height in (0.3, 0.45, 0.6):
            image, mask = draw_slice(person, height, np.random.default_rng(0), 64)
            inside = image[mask > 0]
            dense.append((len(person.opacities) > 0, float((inside > -600).mean())))
    ill, healthy = ([share for is_ill, share in dense if is_ill == wanted] for wanted in (True, False))
    assert np.mean(ill) > np.mean(healthy) + 0.03 and max(ill) > 0.25


def test_every_split_has_slices_with_both_lungs(tmp_path: Path) -> None:
    data = PhantomCT(tmp_path / "set", **SMALL, fractions=Fractions(0.5, 0, 0, 0.5))
    data.prepare_data()
    data.setup()
    for split in ("train", "adv_test"):
        labels = {label for batch in data.dataloader_of(split) for label in batch["target"].unique().tolist()}
        assert labels == {0, 1, 2}
