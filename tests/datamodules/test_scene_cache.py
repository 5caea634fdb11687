"""Caches of decoded scenes change nothing but the time: contents, kills, several processes, and a lack of room."""

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import (
    BoxDataModule,
    ChestXRay,
    MedicalDataModule,
    Sample,
    Scene,
    SegmentationDataModule,
    dataset,
    scene_cache,
)
from datamodules.images import scaled
from datamodules.kept_scenes import KeptScenes, write_scenes
from datamodules.scene_cache import SceneCache
from datamodules.splits import Fractions
from datamodules.transforms import Transform, training_transform

KEY = "0123456789abcdef"
HALVES = Fractions(0.5, 0, 0, 0.5)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of caches, which is empty at first."""
    monkeypatch.setenv("MEDROBUST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "medrobust" / "scenes"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the images that are decoded, except by the hashing of a set-up."""
    seen: list[str] = []
    read = MedicalDataModule.read_checked

    def watched(self: Any, sample: Sample[Any]) -> Scene:
        if self.contents or self.splits:
            seen.append(sample.id)
        return read(self, sample)

    monkeypatch.setattr(MedicalDataModule, "read_checked", watched)
    return seen


def write_xrays(root: Path) -> None:
    """Six grey and six coloured images of a class each, of several shapes."""
    random = np.random.default_rng(0)
    for kind, shape in (("NORMAL", (40, 52)), ("PNEUMONIA", (37, 30, 3))):
        (root / "train" / kind).mkdir(parents=True)
        for number in range(6):
            pixels = random.integers(0, 256, shape).astype(np.uint8)
            Image.fromarray(pixels).save(root / "train" / kind / f"scan{number}.png")


def xrays(root: Path, **options: Any) -> ChestXRay:
    """The data, set up."""
    module = ChestXRay(root, **{"image_size": 16, "batch_size": 5, "fractions": HALVES} | options)
    module.setup()
    return module


def batches(module: MedicalDataModule[Any], epochs: int = 2) -> list[dict[str, Any]]:
    """What all loaders give, Train for several epochs."""
    torch.manual_seed(3)
    train = module.train_dataloader()
    read = [batch for _ in range(epochs) for batch in train]
    return [*read, *module.test_dataloader(), *module.reference_dataloader(), *module.reference_dataloader(1)]


def assert_equal(found: Any, expected: Any) -> None:
    """Bit by bit."""
    assert type(found) is type(expected)
    if isinstance(found, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected)
    elif isinstance(found, dict):
        assert found.keys() == expected.keys()
        for name, value in found.items():
            assert_equal(value, expected[name])
    elif isinstance(found, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("kind", ["disk", "ram"])
def test_batches_are_the_same_bit_by_bit(tmp_path: Path, kind: str, resize: str) -> None:
    write_xrays(tmp_path / "xray")
    expected = batches(xrays(tmp_path / "xray", resize=resize))
    for _ in range(2):  # the second module finds the first one's files
        assert_equal(batches(xrays(tmp_path / "xray", resize=resize, cache=kind)), expected)


@pytest.mark.parametrize("kind", ["disk", "ram"])
def test_nothing_is_decoded_twice(tmp_path: Path, decoded: list[str], kind: str) -> None:
    write_xrays(tmp_path / "xray")
    module = xrays(tmp_path / "xray", cache=kind, augment=False, batch_size=4)
    train, test = module.train_dataloader(), module.test_dataloader()
    assert sorted(decoded) == sorted(sample.id for split in module.splits.values() for sample in split)
    decoded.clear()
    for _ in range(3):
        assert sum(len(batch["id"]) for batch in [*train, *test, *module.test_dataloader()]) == 18
    assert not decoded
    xrays(tmp_path / "xray", cache=kind).test_dataloader()
    assert len(decoded) == 3  # which show that the images that were found are still those of the files


def test_workers_read_the_same_memory(tmp_path: Path, decoded: list[str]) -> None:
    write_xrays(tmp_path / "xray")
    expected = list(xrays(tmp_path / "xray").test_dataloader())
    module = xrays(tmp_path / "xray", cache="ram")
    module.test_dataloader()
    (kept,) = (one for one in module._kept.values() if one is not None)
    again = pickle.loads(pickle.dumps(kept))  # as a process that is started afresh gets it
    assert np.array_equal(again[2].image, kept[2].image) and len(again) == len(kept) == 6
    module.num_workers = 1
    assert_equal(list(module.test_dataloader()), expected)


class Masks(SegmentationDataModule):
    """Six images in memory with masks."""

    name, class_names = "masks", ("background", "lesion")

    def index(self) -> list[Sample[Any]]:
        return [Sample(Path(f"{n}"), f"{n}", Path(f"m{n}"), f"{n}") for n in range(6)]

    def read(self, sample: Sample[Any]) -> Scene:
        random = np.random.default_rng(int(sample.id))
        image = random.random((30, 24, 1), np.float32)
        return Scene(image, mask=random.integers(-1, 2, (30, 24)).astype(np.int32))


class Lesions(BoxDataModule):
    """Six images in memory with none to five boxes."""

    name, class_names = "lesions", ("polyp", "ulcer")

    def index(self) -> list[Sample[Any]]:
        random = np.random.default_rng(1)
        samples = []
        for n in range(6):
            corners = random.uniform(0, 10, (n, 2))
            rows = np.hstack([random.integers(0, 2, (n, 1)), corners, corners + random.uniform(3, 14, (n, 2))])
            samples.append(Sample(Path(f"{n}"), f"{n}", [tuple(map(float, row)) for row in rows], f"{n}"))
        return [Sample(s.path, s.id, [(int(r[0]), *r[1:]) for r in s.target], s.patient) for s in samples]

    def read(self, sample: Sample[Any]) -> Scene:
        boxes, labels = self.read_boxes(sample, 30, 24)
        image = np.random.default_rng(int(sample.id)).random((30, 24, 3), np.float32)
        return Scene(image, boxes=boxes, labels=labels)


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_masks_are_kept_with_their_images(tmp_path: Path, resize: str) -> None:
    def found(cache: str) -> list[dict[str, Any]]:
        module = Masks(tmp_path, image_size=16, channels=1, fractions=HALVES, resize=resize, cache=cache)
        module.setup()
        return batches(module)

    assert_equal(found("disk"), found("none"))


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_boxes_are_kept_with_their_images(tmp_path: Path, resize: str) -> None:
    def found(cache: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        module = Lesions(tmp_path, image_size=16, fractions=HALVES, resize=resize, cache=cache)
        module.setup()
        torch.manual_seed(3)
        return list(module.train_dataloader()), list(module.test_dataloader())

    (train, test), (expected_train, expected_test) = found("disk"), found("none")
    assert_equal(test, expected_test)
    for batch, expected in zip(train, expected_train, strict=True):
        assert_equal(batch["image"], expected["image"])
        for one, other in zip(batch["target"], expected["target"], strict=True):
            assert torch.equal(one["labels"], other["labels"])
            torch.testing.assert_close(one["boxes"], other["boxes"], rtol=0, atol=1e-4)
    assert sum(len(target["boxes"]) for batch in train for target in batch["target"]) > 5


def test_other_content_is_another_cache(tmp_path: Path, folder: Path) -> None:
    write_xrays(tmp_path / "xray")
    module = xrays(tmp_path / "xray", cache="disk")
    module.test_dataloader()
    assert len(list(folder.glob("*.scenes"))) == 1
    changed = module.splits["adv_test"][0].path
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 52)).astype(np.uint8)).save(changed)
    now = xrays(tmp_path / "xray", cache="disk", split_file=None)
    assert_equal(list(now.test_dataloader()), list(xrays(tmp_path / "xray").test_dataloader()))
    for options in ({"image_size": 12}, {"resize": "pad"}, {"channels": 1}):
        before = len(list(folder.glob("*.scenes")))
        xrays(tmp_path / "xray", cache="disk", **options).test_dataloader()
        assert len(list(folder.glob("*.scenes"))) == before + 1, options


def test_a_reader_that_has_changed_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_xrays(tmp_path / "xray")
    xrays(tmp_path / "xray", cache="disk").test_dataloader()
    read = ChestXRay.read
    monkeypatch.setattr(ChestXRay, "read", lambda self, sample: Scene(1 - read(self, sample).image))
    assert_equal(
        list(xrays(tmp_path / "xray", cache="disk").test_dataloader()), list(xrays(tmp_path / "xray").test_dataloader())
    )


def test_training_that_changes_images_before_they_are_square_reads_files(tmp_path: Path) -> None:
    class Turned(ChestXRay):
        def transform_for_training(self) -> Transform:
            square = training_transform(self.image_size)

            def turned(scene: Scene, seed: int | None = None) -> Scene:
                return square(Scene(np.ascontiguousarray(scene.image[: 20 + (seed or 0) % 10])), seed)

            return turned

    write_xrays(tmp_path / "xray")
    modules = [Turned(tmp_path / "xray", image_size=16, fractions=HALVES, cache=kind) for kind in ("none", "disk")]
    expected, found = [], []
    for module, read in zip(modules, (expected, found), strict=True):
        module.setup()
        torch.manual_seed(3)
        if module.cache == "none":
            read += list(module.train_dataloader())
        else:
            with pytest.warns(UserWarning, match="changes images before they are square"):
                read += list(module.train_dataloader())
    assert_equal(found, expected)


def scene(value: float = 0.5, side: int = 4) -> Scene:
    """A grey scene of one value, in three channels."""
    return Scene(np.full((side, side, 3), value, np.float32))


def always(kept: KeptScenes) -> bool:
    """Whatever is found is right."""
    return True


def test_equal_channels_are_stored_once(tmp_path: Path) -> None:
    colour = Scene(np.random.default_rng(0).random((8, 8, 3), np.float32))
    sizes = {}
    for name, one in (("grey", scene(side=8)), ("colour", colour)):
        with (tmp_path / name).open("wb") as file:
            write_scenes(file, KEY, iter([one]), 1, lambda size: None)
        assert np.array_equal(KeptScenes(tmp_path / name, KEY)[0].image, one.image)
        sizes[name] = (tmp_path / name).stat().st_size
    assert sizes["colour"] - sizes["grey"] == 2 * 8 * 8 * 4


def test_a_file_that_is_not_finished_or_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scenes"
    with path.open("wb") as file:
        write_scenes(file, KEY, iter([scene(0.1), scene(0.2)]), 2, lambda size: None)
    whole = path.read_bytes()
    assert len(KeptScenes(path, KEY)) == 2
    with pytest.raises(ValueError, match="expected the finished scenes"):
        KeptScenes(path, KEY[::-1])
    for damaged in (whole[:-1], whole[:100], whole[64:], b"x"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="expected the finished scenes"):
            KeptScenes(path, KEY)


def hang(started: Path) -> None:
    """Begin to build, and never end."""

    def make() -> Iterator[Scene]:
        yield scene(side=200)
        started.touch()
        time.sleep(60)

    SceneCache("disk", KEY, "x").scenes(2, make, always)


def test_a_killed_process_leaves_nothing_that_counts(folder: Path, tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=hang, args=(tmp_path / "started",))
    process.start()
    while not (tmp_path / "started").exists():
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    assert [path.suffix for path in folder.iterdir() if path.suffix == ".part"] == [".part"]
    kept = SceneCache("disk", KEY, "x").scenes(2, lambda: iter([scene(0.1), scene(0.2)]), always)
    assert kept is not None and float(kept[1].image[0, 0, 0]) == np.float32(0.2)
    assert [path.name for path in folder.iterdir()] == [f"{KEY}.scenes"]


def build(kind: Any, made: Any, results: Any, all_done: Any) -> None:
    """What one of several processes does."""

    def make() -> Iterator[Scene]:
        made.put(os.getpid())
        time.sleep(0.2)
        yield from (scene(0.1), scene(0.2))

    kept = SceneCache(kind, KEY, "x").scenes(2, make, always)
    results.put(None if kept is None else float(kept[1].image[0, 0, 0]))
    made.put(None)
    all_done.wait(60)  # memory lives as long as a process that uses it


@pytest.mark.parametrize("kind", ["disk", "ram"])
def test_of_processes_that_start_at_once_one_builds(kind: str) -> None:
    fork = multiprocessing.get_context("fork")
    made, results, all_done = fork.Queue(), fork.Queue(), fork.Barrier(3)
    processes = [fork.Process(target=build, args=(kind, made, results, all_done)) for _ in range(3)]
    for process in processes:
        process.start()
    values = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert values == [pytest.approx(0.2)] * 3
    assert sum(made.get(timeout=10) is not None for _ in range(4)) == 1


def refused(kind: Any, make: Callable[[], Iterator[Scene]], match: str, count: int = 2) -> None:
    """No cache, and one warning."""
    with pytest.warns(UserWarning, match=match):
        assert SceneCache(kind, KEY, "test of xray").scenes(count, make, always) is None


def test_without_room_images_are_decoded_each_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def two() -> Iterator[Scene]:
        return iter([scene(side=100), scene(side=100)])

    monkeypatch.setenv("MEDROBUST_CACHE_LIMIT", "0.00001")
    refused(
        "disk", two, r"cache: disk is not used for test of xray.*8.*e-05 GB, more than the 1e-05 GB that a cache may"
    )
    monkeypatch.delenv("MEDROBUST_CACHE_LIMIT")
    monkeypatch.setattr(scene_cache, "memory_left", lambda: 100.0)
    refused("ram", two, "more than the 1e-07 GB that the memory may give")
    full = type("Usage", (), {"free": 10})()
    with monkeypatch.context() as patch:
        patch.setattr(scene_cache.shutil, "disk_usage", lambda path: full)
        refused("disk", two, "more than the 1e-08 GB that the disk has left")

    def fills_up() -> Iterator[Scene]:
        yield scene()
        raise OSError(28, "No space left on device")

    refused("disk", fills_up, "cache: disk is not used for test of xray, .*: No space left on device")
    assert list(folder.iterdir()) == []


def test_a_full_disk_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_xrays(tmp_path / "xray")
    expected = batches(xrays(tmp_path / "xray"))
    monkeypatch.setenv("MEDROBUST_CACHE_LIMIT", "0")
    with pytest.warns(UserWarning, match="cache: disk is not used"):
        assert_equal(batches(xrays(tmp_path / "xray", cache="disk")), expected)


def test_the_caches_that_were_not_used_for_longest_make_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"{number:016x}" for number in range(3)]
    for age, key in enumerate(keys):
        SceneCache("disk", key, "x").scenes(1, lambda: iter([scene(side=50)]), always)
        os.utime(folder / f"{key}.scenes", (age, age))
    SceneCache("disk", keys[0], "x").scenes(1, lambda: iter([scene(side=50)]), always)  # uses the oldest
    monkeypatch.setenv("MEDROBUST_CACHE_LIMIT", str(3.2 * (folder / f"{keys[0]}.scenes").stat().st_size / 1e9))
    SceneCache("disk", KEY, "x").scenes(1, lambda: iter([scene(side=50)]), always)
    assert {path.stem for path in folder.glob("*.scenes")} == {keys[0], keys[2], KEY}


def test_a_limit_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDROBUST_CACHE_LIMIT", "ten")
    with pytest.raises(ValueError, match=r"MEDROBUST_CACHE_LIMIT is a number of gigabytes, at least 0, got 'ten'"):
        SceneCache("disk", KEY, "x").scenes(1, lambda: iter([scene()]), always)


def test_a_bad_file_is_named_as_without_a_cache(tmp_path: Path) -> None:
    write_xrays(tmp_path / "xray")
    module = xrays(tmp_path / "xray", cache="disk")
    path = module.splits["adv_test"][0].path
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=path.name):
        module.test_dataloader()


@pytest.mark.parametrize("kind", ["disk", "ram"])
def test_an_image_that_changes_before_it_is_kept_is_not_kept_as_what_it_was(tmp_path: Path, kind: str) -> None:
    write_xrays(tmp_path / "xray")
    module = xrays(tmp_path / "xray", cache=kind)
    expected = list(xrays(tmp_path / "xray").test_dataloader())
    path = module.splits["adv_test"][1].path  # none of the three images that are compared whenever a cache is found
    before = path.read_bytes()
    path.write_bytes(module.splits["adv_test"][0].path.read_bytes())
    with pytest.raises(ValueError, match=f"{path.name}: expected the image that was there at the start, got another"):
        module.test_dataloader()
    path.write_bytes(before)
    assert_equal(list(xrays(tmp_path / "xray", cache=kind).test_dataloader()), expected)


def test_a_table_gives_the_values_of_a_division() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = pixels.astype(np.float32) / 255
    assert np.array_equal(scaled(pixels, 1)[:, :, 0], expected)
    assert np.array_equal(scaled(pixels, 3), np.repeat(expected[:, :, None], 3, 2))
    colour = cv2.merge([pixels, pixels[::-1].copy(), pixels.T.copy()])
    assert np.array_equal(scaled(colour, 3), colour.astype(np.float32) / 255)


@pytest.mark.parametrize(
    ("cores", "gpus", "ranks", "expected"), [(2, 0, 1, 0), (2, 1, 1, 1), (64, 1, 1, 8), (16, 4, 4, 3)]
)
def test_readers_suit_the_machine(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int, ranks: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(dataset.os, "sched_getaffinity", lambda process: range(cores))
    monkeypatch.setattr(dataset, "rank_and_world", lambda: (0, ranks))
    options = dataset.loader_options(ChestXRay("none"), None)
    assert (options["num_workers"], options["persistent_workers"]) == (expected, expected > 0)
    assert options["pin_memory"] == (gpus > 0)
    assert dataset.loader_options(ChestXRay("none"), 2)["num_workers"] == 2


def test_scenes_chosen_by_their_places_share_the_memory(tmp_path: Path) -> None:
    images = [np.full((2, 2, 1), place / 4, np.float32) for place in range(5)]
    with (tmp_path / "file").open("wb") as file:
        write_scenes(file, "k" * 16, iter(map(Scene, images)), 5, lambda size: None)
    whole = KeptScenes(tmp_path / "file", "k" * 16)
    chosen = whole.at([3, 0, 4])
    assert len(chosen) == 3 and [float(chosen[place].image.max()) for place in range(3)] == [0.75, 0, 1]
    assert chosen._bytes is whole._bytes and len(whole) == 5
    sent = pickle.loads(pickle.dumps(chosen))
    assert len(sent) == 3 and [float(sent[place].image.max()) for place in range(3)] == [0.75, 0, 1]
