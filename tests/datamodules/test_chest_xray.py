"""Chest X-rays, and through them classification: batches, loaders, bad input, augmentation, descriptions."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ChestXRay, MedicalDataModule, Sample, samplers
from datamodules.chest_xray import patient_of
from datamodules.images import read_image
from datamodules.splits import Fractions
from datamodules.transforms import Augmentation, Scene, evaluation_transform

QUARTERS = Fractions(0.25, 0.25, 0.25, 0.25)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve 40 x 30 images of two classes in the public layout; one patient has two."""
    folder = tmp_path / "chest_xray"
    names = [f"NORMAL/IM-{n:04d}-0001.jpeg" for n in range(4)]
    names += [f"PNEUMONIA/person{n}_virus_{n}.jpeg" for n in range(7)] + ["PNEUMONIA/person6_bacteria_9.jpeg"]
    random = np.random.default_rng(0)
    for place, name in enumerate(names):
        path = folder / ("train", "val", "test")[place % 3] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = cv2.resize(random.integers(0, 256, (4, 3), dtype=np.uint8), (30, 40), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(pixels).save(path, quality=95)
    return folder


def data(root: Path, **options: Any) -> ChestXRay:
    """A small datamodule that is set up."""
    module = ChestXRay(root, **{"image_size": 16, "channels": 1, "fractions": QUARTERS, "batch_size": 4} | options)
    module.setup()
    return module


@pytest.mark.parametrize(
    ("stem", "patient"),
    [
        ("person123_bacteria_4", "person123"),
        ("person1_virus_6", "person1"),
        ("IM-0117-0001", "IM-0117"),
        ("IM-0467-0001-0002", "IM-0467"),
        ("NORMAL2-IM-0117-0001", "NORMAL2-IM-0117"),
        ("NORMAL2-IM-0117-0001-0002", "NORMAL2-IM-0117"),
        ("person123", "person123"),
        ("IM-0117", "IM-0117"),
        ("person12_other_3", "person12_other_3"),
        ("scan 7 (copy)", "scan 7 (copy)"),
    ],
)
def test_patient_of(stem: str, patient: str) -> None:
    assert patient_of(stem) == patient


def test_index_and_batches(root: Path) -> None:
    module = data(root)
    samples = module.index()
    assert [sample.id for sample in samples] == sorted(
        path.relative_to(root).as_posix() for path in root.rglob("*.jpeg")
    )
    assert all(sample.path == root / sample.id and sample.target == ("PNEU" in sample.id) for sample in samples)
    loaders = (module.train_dataloader(), module.val_dataloader(), module.test_dataloader())
    for loader, split in zip(loaders, ("train", "val", "adv_test"), strict=True):
        batch = next(iter(loader))
        number = len(module.splits[split])
        assert set(batch) == {"image", "target", "id"}
        assert batch["image"].shape == (number, 1, 16, 16) and batch["image"].dtype == torch.float32
        assert batch["image"].min() >= 0 and batch["image"].max() <= 1
        assert batch["target"].shape == (number,) and batch["target"].dtype == torch.int64
        assert sorted(batch["id"]) == sorted(sample.id for sample in module.splits[split])
    assert data(root, channels=3).val_dataloader().dataset[0]["image"].shape == (3, 16, 16)


def test_reference_is_clean_train_in_stage_test(root: Path) -> None:
    module = ChestXRay(root, image_size=16, fractions=QUARTERS, test_split="val")
    module.setup("test")
    (reference,) = module.reference_dataloader()
    assert reference["id"] == [sample.id for sample in module.splits["train"]]
    expected = evaluation_transform(16)(Scene(read_image(root / reference["id"][0], 3))).image
    torch.testing.assert_close(reference["image"][0], torch.from_numpy(expected).permute(2, 0, 1))
    (test,) = module.test_dataloader()
    assert test["id"] == [sample.id for sample in module.splits["val"]]


def test_uneven_validation_is_refused_while_several_ranks_train(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = data(root, batch_size=1, limit=3)  # 3 batches of one image on 2 ranks: 2 and 1
    monkeypatch.setattr(samplers, "rank_and_world", lambda: (0, 2))
    assert len(module.val_dataloader()) == 2
    module.trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))  # type: ignore[assignment]
    with pytest.raises(ValueError, match="val has 3 images, expected enough for the same number of batches"):
        module.val_dataloader()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 11])
def test_training_batches_never_hold_one_image(root: Path, batch_size: int) -> None:
    module = data(root, fractions=Fractions(1.0, 0, 0, 0), batch_size=batch_size, limit=7)
    sizes = [len(batch["id"]) for batch in module.train_dataloader()]
    assert sizes == {1: [1] * 7, 2: [2, 2, 2], 3: [3, 3], 11: [7]}[batch_size]


def epochs(root: Path, workers: int, seed: int) -> list[dict[str, torch.Tensor]]:
    """Two epochs of training images by id, after a global seed."""
    torch.manual_seed(seed)
    module = data(root, fractions=Fractions(0.7, 0.1, 0.1, 0.1), num_workers=workers, batch_size=3)
    loader = module.train_dataloader()
    return [
        {id: image for batch in loader for id, image in zip(batch["id"], batch["image"], strict=True)} for _ in range(2)
    ]


def test_augmentation_follows_the_seed_and_differs_per_epoch(root: Path) -> None:
    alone, workers, other = epochs(root, 0, 1), epochs(root, 2, 1), epochs(root, 0, 2)
    for epoch in range(2):
        assert list(alone[epoch]) == list(workers[epoch])
        for id, image in alone[epoch].items():
            torch.testing.assert_close(image, workers[epoch][id], rtol=0, atol=0)
    shared = [id for id in alone[0] if id in alone[1]]
    assert all(not torch.equal(alone[0][id], alone[1][id]) for id in shared) and shared
    assert any(not torch.equal(alone[0][id], other[0][id]) for id in alone[0] if id in other[0])


def test_augmentation_can_be_off_and_never_touches_evaluation(root: Path) -> None:
    module = data(root, augment=False)
    clean = {sample["id"]: sample["image"] for sample in module.reference_dataloader().dataset}
    for batch in module.train_dataloader():
        for id, image in zip(batch["id"], batch["image"], strict=True):
            torch.testing.assert_close(image, clean[id])


def damage(path: Path, kind: str) -> None:
    """Break a file in place."""
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"patient moved", "truncated": content[: len(content) * 2 // 3]}[kind])


@pytest.mark.parametrize(
    ("kind", "words", "workers"),
    [
        ("empty", "got an empty file", 0),
        ("text", "not an image", 0),
        ("truncated", "truncated", 0),
        ("text", "not an", 1),
    ],
)
def test_bad_sample_raises_with_its_name(root: Path, kind: str, words: str, workers: int) -> None:
    module = data(root, num_workers=workers)
    damage(module.splits["adv_test"][1].path, kind)
    with pytest.raises(ValueError, match=words) as caught:
        list(module.test_dataloader())
    assert module.splits["adv_test"][1].path.name in str(caught.value)
    assert "expected a complete 8- or 16-bit JPEG or PNG image" in str(caught.value)


def test_bad_samples_are_skipped_counted_and_reported_once(root: Path) -> None:
    before = data(root)
    bad = [root / "train/PNEUMONIA/person2_virus_2.jpeg", root / "val/PNEUMONIA/person0_virus_0.jpeg"]
    damage(bad[0], "truncated")
    damage(bad[1], "text")
    with pytest.warns(
        UserWarning, match="skipped 2 of 12 images that cannot be read: train/.*person2_virus_2"
    ) as caught:
        module = data(root, on_bad_sample="skip")
    assert len(caught) == 1
    assert [id for id, _ in module.bad_samples] == [path.relative_to(root).as_posix() for path in bad]
    assert "truncated" in module.bad_samples[0][1] and str(root) not in module.bad_samples[0][1]
    kept = {sample.id for members in module.splits.values() for sample in members}
    assert kept == {s.id for s in before.index()} - {id for id, _ in module.bad_samples}
    assert sum(len(b["id"]) for split in module.splits for b in module.dataloader_of(split)) == 10
    assert module.describe()["skipped"] == 2


def test_a_png_named_jpeg_is_read(root: Path) -> None:
    module = data(root)
    path = module.splits["adv_test"][0].path
    Image.fromarray(np.full((20, 20), 51, np.uint8)).save(path, format="PNG")
    torch.testing.assert_close(module.test_dataloader().dataset[0]["image"], torch.full((1, 16, 16), 0.2))


def test_layout_variants(root: Path, tmp_path: Path) -> None:
    expected = [sample.id for sample in data(root).index()]
    (root / "__MACOSX/train/NORMAL").mkdir(parents=True)
    (root / "train/NORMAL/._IM-0000-0001.jpeg").write_bytes(b"junk")
    (root / "train/.DS_Store").write_bytes(b"junk")
    (root / "train/NORMAL/notes.txt").write_text("no image")
    assert [sample.id for sample in data(tmp_path).index()] == expected  # nested: tmp_path/chest_xray/train/...
    (root / "train/NORMAL/IM-0000-0001.jpeg").rename(root / "train/NORMAL/IM-0000-0001.JPG")
    assert "train/NORMAL/IM-0000-0001.JPG" in [sample.id for sample in data(root).index()]


def test_all_that_is_skipped_is_counted_in_one_warning(root: Path) -> None:
    expected = [sample.id for sample in data(root).index()]
    names = ("train/b.dcm", "train/NORMAL/more/a.jpeg", "train/NORMAL/more/deep/b.jpeg", "validation/NORMAL/c.jpeg")
    for name in (*names, "val/NORMAL/d.txt", "e.png", "README.txt", ".hidden/f.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("not read")
    (root / "notes").mkdir()
    with pytest.warns(UserWarning, match="skipped 6 files that are not at") as caught:
        assert [sample.id for sample in ChestXRay(root).index()] == expected
    assert len(caught) == 1
    for words in ("2 in the folder train/NORMAL/more", "1 in the folder validation", "1 .dcm directly in train"):
        assert words in str(caught[0].message)
    assert "1 .txt" in str(caught[0].message) and "1 .png beside train, val, test" in str(caught[0].message)
    assert "notes" not in str(caught[0].message)


def test_wrong_roots(root: Path, tmp_path: Path) -> None:
    for wrong in (tmp_path / "nowhere", root / "train"):
        with pytest.raises(FileNotFoundError, match=r"expected chest X-rays at {train,val,test}/{NORMAL,PNEUMONIA}/\*"):
            data(wrong)
    (tmp_path / "bare/test").mkdir(parents=True)
    with pytest.raises(ValueError, match="expected images at .*, found none"):
        data(tmp_path / "bare")
    (root / "train/COVID").mkdir()
    with pytest.raises(ValueError, match="train/COVID: expected a folder NORMAL or PNEUMONIA, got COVID"):
        data(root)


def test_a_class_without_a_name_is_refused_or_skipped(root: Path) -> None:
    class Mislabelled(ChestXRay):
        def index(self) -> list[Sample[int]]:
            return [dataclasses.replace(s, target=2) if "person3" in s.id else s for s in super().index()]

    module = Mislabelled(root, image_size=16, fractions=Fractions(1.0, 0, 0, 0))
    module.setup()
    reason = r"person3_virus_3.jpeg: expected a class from 0 to 1 \(NORMAL, PNEUMONIA\), got 2"
    with pytest.raises(ValueError, match=reason):
        list(module.reference_dataloader())
    module = Mislabelled(root, image_size=16, fractions=Fractions(1.0, 0, 0, 0), on_bad_sample="skip")
    with pytest.warns(UserWarning, match="skipped 1 of 12"):
        module.setup()
    assert module.bad_samples[0][1] == "expected a class from 0 to 1 (NORMAL, PNEUMONIA), got 2"
    assert len(module.splits["train"]) == 11


def test_missing_classes(root: Path) -> None:
    for normal in list(root.rglob("NORMAL/*"))[1:]:
        normal.unlink()
    with pytest.warns(UserWarning, match="has no image of NORMAL"):
        module = data(root)
    assert sum("NORMAL" in sample.id for members in module.splits.values() for sample in members) == 1
    if not any(sample.target == 0 for sample in module.splits["train"]):
        with pytest.raises(ValueError, match="found none of NORMAL"):
            module.class_weights()
    for folder in root.rglob("NORMAL"):
        shutil.rmtree(folder)
    with pytest.raises(ValueError, match="expected images of the class NORMAL, found none"):
        data(root)


def test_empty_splits(root: Path) -> None:
    module = data(root, fractions=Fractions(0.5, 0.5, 0, 0))
    with pytest.raises(ValueError, match="the split adv_test has no images"):
        module.test_dataloader()
    for path in list(root.rglob("person[1-6]*")) + list(root.rglob("IM-000[1-3]*")):
        path.unlink()  # leaves two patients for four splits
    with (
        pytest.warns(UserWarning, match="has no image of"),
        pytest.raises(ValueError, match="adv_train is empty after splitting 2 images"),
    ):
        data(root)
    with pytest.raises(ValueError, match="call setup"):
        ChestXRay(root).val_dataloader()
    with pytest.raises(ValueError, match="expected a split among train, val, adv_train, adv_test, got 'test'"):
        module.dataloader_of("test")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": 2}, "channels is one of 1, 3, got 2"),
        ({"image_size": 0}, "image_size is at least 1, got 0"),
        ({"num_workers": -1}, "num_workers is at least 0, got -1"),
        ({"limit": 0}, "limit is at least 1, got 0"),
        ({"resize": "stretch"}, "resize is one of crop, squash, pad, got 'stretch'"),
        ({"test_split": "test"}, "test_split is one of train, val, adv_train, adv_test, all, got 'test'"),
        ({"on_bad_sample": "ignore"}, "on_bad_sample is one of raise, skip, got 'ignore'"),
    ],
)
def test_bad_arguments(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ChestXRay(tmp_path, **options)


def test_export_and_import(root: Path, tmp_path: Path) -> None:
    module = data(root, split_seed=3)
    module.export_splits(tmp_path / "splits.csv")
    assert data(root, split_file=tmp_path / "splits.csv").splits == module.splits
    damage(module.splits["train"][-1].path, "text")
    with pytest.warns(UserWarning, match="skipped 1 of 12"):
        skipping = data(root, split_file=tmp_path / "splits.csv", on_bad_sample="skip")
    assert skipping.splits == module.splits | {"train": module.splits["train"][:-1]}
    with pytest.raises(FileNotFoundError, match="none.csv: expected a split file"):
        data(root, split_file=tmp_path / "none.csv")


def test_describe_fingerprint_and_weights(root: Path, tmp_path: Path) -> None:
    module = data(root, limit=2)
    description = module.describe()
    assert json.loads(json.dumps(description, allow_nan=False)) == description
    assert str(tmp_path) not in json.dumps(description) and description["root"] == "chest_xray"
    assert description["splits"]["adv_test"] == {
        "images": 2,
        "patients": 2,
        "classes": {"NORMAL": 1, "PNEUMONIA": 1},
    }
    moved = Path(shutil.copytree(root, tmp_path / "elsewhere/xray"))
    fingerprint = data(root).fingerprint("adv_test")
    assert len(fingerprint) == 16 and int(fingerprint, 16) >= 0
    assert data(moved, batch_size=1, augment=False).fingerprint("adv_test") == fingerprint
    variants = [data(root).fingerprint("val"), module.fingerprint("adv_test")]
    variants += [data(root, **change).fingerprint("adv_test") for change in CHANGES]
    assert len({fingerprint, *variants}) == 1 + len(variants)
    # 1 normal and 2 pneumonia: weights proportional to 1 and 1/2, mean 1
    counts = [sum(s.target == target for s in data(root).splits["train"]) for target in (0, 1)]
    assert counts == [1, 2]
    torch.testing.assert_close(data(root).class_weights(), torch.tensor([4 / 3, 2 / 3]))


CHANGES: list[dict[str, Any]] = [{"image_size": 17}, {"channels": 3}, {"resize": "pad"}, {"split_seed": 1}]


def test_configured_by_name_and_typed_fields(root: Path) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MedicalDataModule, "data")
    options = ["--data.fractions.train", "0.6", "--data.fractions.val", "0.15", "--data.augment.rotation", "3"]
    configured = parser.parse_args(["--data", "ChestXRay", f"--data.root={root}", *options])
    module = parser.instantiate(configured).data
    assert module.fractions == Fractions(0.6, 0.15, 0.10, 0.15) and module.augment == Augmentation(rotation=3)
    assert module.allow_zero_length_dataloader_with_multiple_devices
    assert (module.name, module.num_classes, module.task) == ("chest_xray", 2, "classification")
