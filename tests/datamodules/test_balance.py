"""Balanced training sets: as many images of each class as of the rarest."""

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules import ImageFolder
from datamodules.splits import Fractions

MOST, FEWEST = 24, 8


def folder(root: Path) -> Path:
    """A folder with 24 images of one class and 8 of another, no two alike."""
    draw = np.random.default_rng(0)
    for name, count in (("common", MOST), ("rare", FEWEST)):
        (root / name).mkdir()
        for number in range(count):
            Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(root / name / f"{name}{number}.png")
    return root


def made(root: Path, **options: object) -> ImageFolder:
    module = ImageFolder(root, image_size=8, channels=1, fractions=Fractions(0.5, 0.25, 0.0, 0.25), **options)
    module.setup()
    return module


def test_train_has_as_many_of_each_class_and_the_other_splits_stay(tmp_path: Path) -> None:
    plain, balanced = made(folder(tmp_path)), made(tmp_path, balance=True)
    counts = Counter(sample.target for sample in plain.splits["train"])
    assert min(counts.values()) < max(counts.values())
    kept = Counter(sample.target for sample in balanced.splits["train"])
    assert set(kept.values()) == {min(counts.values())} and kept.keys() == counts.keys()
    for split in ("val", "adv_test"):
        assert [one.id for one in balanced.splits[split]] == [one.id for one in plain.splits[split]]
    assert {one.id for one in balanced.splits["train"]} < {one.id for one in plain.splits["train"]}


def test_the_split_seed_chooses_and_all_are_written(tmp_path: Path) -> None:
    one, again = (made(folder(tmp_path) if first else tmp_path, balance=True) for first in (True, False))
    assert [sample.id for sample in one.splits["train"]] == [sample.id for sample in again.splits["train"]]
    one.export_splits(tmp_path / "splits.csv")
    listed = made(tmp_path, split_file=tmp_path / "splits.csv")
    assert len(listed.splits["train"]) > len(one.splits["train"])  # those left out stay in Train
    balanced = made(tmp_path, split_file=tmp_path / "splits.csv", balance=True)
    assert [sample.id for sample in balanced.splits["train"]] == [sample.id for sample in one.splits["train"]]


def test_all_images_of_other_data_are_kept(tmp_path: Path) -> None:
    assert len(made(folder(tmp_path), balance=True, test_split="all").splits["all"]) == MOST + FEWEST
