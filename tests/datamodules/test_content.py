"""What files hold: hashed once, kept from one start to the next, and read again as soon as a file may have changed."""

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import ChestXRay, content
from datamodules.content import Content, ContentReader, kept_hashes
from datamodules.images import read_image
from datamodules.samples import Sample
from datamodules.splits import Fractions
from datamodules.transforms import Scene

THIRDS = Fractions(0.5, 0, 0, 0.5)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twenty images of twenty patients of two classes."""
    for kind, name in (("NORMAL", "IM-{:04d}-0001"), ("PNEUMONIA", "person{}_virus_1")):
        (tmp_path / "xray/train" / kind).mkdir(parents=True)
        for patient in range(10):
            pixels = np.random.default_rng([patient, kind == "NORMAL"]).integers(0, 255, (12, 10)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "xray/train" / kind / f"{name.format(patient)}.png")
    return tmp_path / "xray"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for kept hashes, in which every file counts as old enough."""
    monkeypatch.setenv("MEDROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "STILL", -1e12)
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content is read for its hash."""
    names: list[str] = []
    whole = Path.read_bytes

    def watched(self: Path) -> bytes:
        names.append(self.name)
        return whole(self)

    monkeypatch.setattr(Path, "read_bytes", watched)
    return names


def data(root: Path, **options: Any) -> ChestXRay:
    """The data module, set up."""
    module = ChestXRay(root, **{"image_size": 8, "channels": 1, "fractions": THIRDS} | options)
    module.setup()
    return module


def first(module: ChestXRay, split: str) -> Path:
    """The first file of a split."""
    return module.splits[split][0].path


def test_a_fingerprint_follows_the_content_of_its_split_alone(root: Path) -> None:
    before = data(root)
    with first(before, "adv_test").open("ab") as file:
        file.write(b"\0")  # pixels stay, the file does not
    after = data(root)
    assert after.fingerprint("adv_test") != before.fingerprint("adv_test")
    assert after.fingerprint("train") == before.fingerprint("train")


def test_a_second_start_reads_no_file_again(root: Path, cache: Path, opened: list[str]) -> None:
    before = data(root)
    assert sorted({name for name in opened if name.endswith(".png")}) == sorted(
        sample.path.name for members in before.splits.values() for sample in members
    )
    opened.clear()
    after = data(root)
    assert not [name for name in opened if name.endswith(".png")]
    assert after.contents == before.contents and after.fingerprint("train") == before.fingerprint("train")


@pytest.mark.parametrize("times_kept", [False, True])
def test_a_changed_file_is_read_again_even_with_its_old_size_and_time(
    root: Path, cache: Path, times_kept: bool
) -> None:
    before = data(root)
    path = first(before, "train")
    stat = path.stat()
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    if times_kept:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert data(root).fingerprint("train") != before.fingerprint("train")


def test_a_file_that_has_just_been_written_is_not_kept(root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MEDROBUST_CACHE", str(tmp_path / "cache"))
    data(root)
    assert not list((tmp_path / "cache").rglob("*.json"))
    monkeypatch.setattr(content, "STILL", 1e6)
    time.sleep(0.01)
    data(root)
    assert len(json.loads(next((tmp_path / "cache").rglob("*.json")).read_text())) == 20


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"train/NORMAL/IM-0000-0001.png": [1, 2]}', "\0\1"])
def test_a_damaged_cache_is_no_cache(root: Path, cache: Path, damage: str) -> None:
    before = data(root)
    (file,) = cache.rglob("*.json")
    file.write_text(damage)
    assert data(root).contents == before.contents
    assert len(json.loads(file.read_text())) == 20


def test_a_cache_that_cannot_be_written_is_done_without(root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MEDROBUST_CACHE", str(tmp_path / "file"))  # a folder cannot be made below a file
    monkeypatch.setattr(content, "STILL", -1e12)
    assert len(data(root).contents) == 20


def _keep_many(path: Path, start: int) -> None:
    for number in range(20):
        content._keep(path, {f"{start}-{number}": ("a" * 16, "b" * 16, "c" * 16)})


def test_several_writers_at_once_leave_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    workers = [multiprocessing.get_context("fork").Process(target=_keep_many, args=(path, n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert 20 <= len(json.loads(path.read_text())) <= 80 and os.listdir(tmp_path) == ["kept.json"]


def test_each_process_reads_its_share_and_all_know_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [sample for members in data(root).splits.values() for sample in members]
    whole = ContentReader(None, lambda sample: Scene(read_image(sample.path, 1)), lambda sample: [sample.path])
    parts = []
    for rank in range(3):
        monkeypatch.setattr(content, "rank_and_world", lambda rank=rank: (rank, 3))
        monkeypatch.setattr(content, "_gathered", lambda value: parts.append(value) or [value])
        whole(samples)
    assert [len(found) for found, _ in parts] == [7, 7, 6]
    monkeypatch.undo()
    assert whole(samples) == parts[0][0] | parts[1][0] | parts[2][0]


def test_a_bad_file_is_named_when_its_split_is_asked_for(root: Path) -> None:
    path = first(data(root), "train")
    path.write_bytes(b"no image")
    module = data(root)
    with pytest.raises(ValueError, match=f"{path.name}: expected a complete 8- or 16-bit"):
        module.fingerprint("train")
    assert module.fingerprint("adv_test") and len(module.hashes("adv_test")["ids"]) == 10


def test_a_pipe_among_the_images_is_refused_and_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "train/NORMAL/IM-0777-0001.png")
    with pytest.raises(ValueError, match=r"IM-0777-0001.png: expected a complete .*, got something that is not a file"):
        [data(root).fingerprint(split) for split in ("train", "adv_test")]


@pytest.mark.parametrize("size", [(1, 1), (1, 12)])
def test_an_image_of_a_single_pixel_is_refused(root: Path, size: tuple[int, int]) -> None:
    Image.fromarray(np.full(size, 7, np.uint8)).save(root / "train/NORMAL/IM-0777-0001.png")
    expected = f"IM-0777-0001.png: expected an image of at least 2 x 2 pixels, got {size[1]} x 1"
    with pytest.raises(ValueError, match=expected):
        [data(root).fingerprint(split) for split in ("train", "adv_test")]


def test_files_that_are_skipped_for_their_suffix_are_counted(root: Path) -> None:
    for name in ("a.dcm", "b.dcm", "notes.txt"):
        (root / "train/NORMAL" / name).write_bytes(b"")
    with pytest.warns(UserWarning, match=r"skipped 3 files that are not at .*: 2 .dcm, 1 .txt"):
        assert len(data(root).contents) == 20


@pytest.mark.parametrize("form", ["copy", "bmp in rgb"])
def test_the_same_pixels_under_another_name_leave_the_later_split(root: Path, form: str) -> None:
    before = data(root)
    source, copy = first(before, "train"), first(before, "adv_test")
    with Image.open(source) as image:
        pixels = image.convert("L" if form == "copy" else "RGB")
        copy.unlink()
        pixels.save(copy, format="PNG" if form == "copy" else "BMP")
    with pytest.warns(UserWarning, match=f"left out 1 image with the same pixels .*{copy.name} of adv_test is"):
        after = data(root)
    kept = [sample.id for sample in before.splits["adv_test"] if sample.path != copy]
    assert [sample.id for sample in after.splits["adv_test"]] == kept and len(after.splits["train"]) == 10
    after.export_splits(root / "splits.csv")
    assert copy.name not in (root / "splits.csv").read_text()


def test_black_images_are_no_copies_of_each_other(root: Path) -> None:
    before = data(root)
    for split in ("train", "adv_test"):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(first(before, split))
    after = data(root)
    assert [len(after.splits[split]) for split in ("train", "adv_test")] == [10, 10]


def test_a_limit_leaves_the_written_splits_whole(root: Path, tmp_path: Path) -> None:
    limited = data(root, limit=4)
    assert [len(limited.splits[split]) for split in ("train", "adv_test")] == [4, 4]
    limited.export_splits(tmp_path / "splits.csv")
    assert len((tmp_path / "splits.csv").read_text().splitlines()) == 21
    again = data(root, limit=4, split_file=tmp_path / "splits.csv")
    assert again.splits == limited.splits


def test_hashes_are_those_of_the_dataset_and_of_its_samples(root: Path) -> None:
    module = data(root)
    hashes = module.hashes("train")
    assert set(hashes) == {"ids", "patients", "data", "pixels"}
    for values in hashes.values():
        assert values.dtype == torch.int64 and len(values.unique()) == 10 and (values != 0).all()

    class Elsewhere(ChestXRay):
        name = "elsewhere"

    other = Elsewhere(root, image_size=8, channels=1, fractions=THIRDS)
    other.setup()
    elsewhere = other.hashes("train")
    for column in ("data", "pixels"):
        assert torch.equal(hashes[column], elsewhere[column])
    for column in ("ids", "patients"):
        assert not torch.isin(hashes[column], elsewhere[column]).any()


def test_samples_without_files_are_hashed_as_they_are_read() -> None:
    def read(sample: Sample[int]) -> Scene:
        return Scene(np.full((4, 4, 1), sample.target / 8, np.float32))

    samples = [Sample(Path(f"volume {n}"), f"{n}", n % 3, f"{n}") for n in range(6)]
    found = ContentReader(None, read, lambda sample: [sample.path])(samples)
    assert found["0"] == found["3"] != found["1"] and all(one.pixels == "" for one in found.values())
    assert all(isinstance(one, Content) and len(one.data) == 16 for one in found.values())


def test_kept_hashes_lie_in_the_users_folder_for_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEDROBUST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = kept_hashes("one"), kept_hashes("other")
    assert one is not None and one != other and one.parent == tmp_path / "medrobust" / "content"
