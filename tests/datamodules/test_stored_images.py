"""Images in arrays, many in a file: MNIST, CIFAR-10, MedMNIST and scikit-learn's digits."""

import gzip
import itertools
import pickle
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from sklearn.datasets import load_digits

from datamodules import CIFAR10, MNIST, Digits, MedicalDataModule, MedMNIST, MedMNISTLabels, content
from datamodules.medmnist import CLASSES
from datamodules.splits import Fractions
from tests.miniatures import picture

QUARTERS = Fractions(0.25, 0.25, 0.25, 0.25)


def images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Random images of eight bits."""
    return np.random.default_rng([seed, count]).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write an idx file, gzipped if its name says so."""
    data = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def mnist(root: Path, end: str = "", place: str = ".", parts: tuple[str, ...] = ("train", "t10k")) -> Path:
    """Write 60 digits for training and 40 for test, or one part of them."""
    for part in parts:
        count = {"train": 60, "t10k": 40}[part]
        write_idx(root / place / f"{part}-images-idx3-ubyte{end}", images(count, 28, 28))
        write_idx(root / place / f"{part}-labels-idx1-ubyte{end}", np.arange(count).astype(np.uint8) % 10)
    return root


def write_batch(path: Path, data: Any, labels: Any, **others: Any) -> None:
    """Write a batch as the authors of CIFAR-10 did, with Python 2 and a numpy whose modules had other names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    batch = {b"batch_label": b"a batch", b"labels": labels, b"data": data, **others}
    path.write_bytes(pickle.dumps(batch, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))


def cifar(root: Path, place: str = "cifar-10-batches-py") -> Path:
    """Write two batches for training and one for test, 40 photographs each."""
    for number, name in enumerate(("data_batch_1", "data_batch_2", "test_batch")):
        write_batch(root / place / name, images(40, 3072, seed=number), [n % 10 for n in range(40)])
    return root


def write_npz(path: Path, change: Callable[[dict[str, np.ndarray]], None] | None = None, **options: Any) -> Path:
    """Write a file of MedMNIST with 40, 20 and 40 images."""
    name, _, side = path.stem.partition("_")
    side, width, classes = int(side or 28), 14 if name == "chestmnist" else 1, len(CLASSES[name])
    colour = (3,) if name in ("pathmnist", "dermamnist", "retinamnist", "bloodmnist") else ()
    arrays = {}
    for seed, (part, count) in enumerate((("train", 40), ("val", 20), ("test", 40))):
        arrays[f"{part}_images"] = images(count, side, side, *colour, seed=seed)
        numbers = np.arange(count)[:, None]
        labels = numbers % (classes + 2) == np.arange(classes) if width > 1 else numbers % classes
        arrays[f"{part}_labels"] = labels.astype(np.uint8)
    if change:
        change(arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path.parent


def medmnist(root: Path) -> Path:
    return write_npz(root / "pathmnist.npz")


def digits(root: Path) -> Path:
    return root


SETS: dict[str, tuple[type[MedicalDataModule[Any]], Callable[[Path], Path], dict[str, Any]]] = {
    "mnist": (MNIST, mnist, {}),
    "mnist kept": (MNIST, mnist, {"public": "keep"}),
    "cifar10": (CIFAR10, cifar, {}),
    "cifar10 kept": (CIFAR10, cifar, {"public": "keep"}),
    "digits": (Digits, digits, {}),
    "medmnist": (MedMNIST, medmnist, {"dataset": "pathmnist"}),
    "medmnist pooled": (MedMNIST, medmnist, {"dataset": "pathmnist", "public": "pool"}),
    "medmnist labels": (MedMNISTLabels, lambda root: write_npz(root / "chestmnist.npz"), {}),
}


def set_up(module: type[MedicalDataModule[Any]], root: Path, **options: Any) -> Any:
    """The data module, set up."""
    made = module(root, **{"image_size": 8, "channels": 1, "fractions": QUARTERS} | options)
    made.setup()
    return made


@pytest.mark.parametrize("name", SETS)
def test_splits_are_complete_disjoint_stratified_and_the_same_again(name: str, tmp_path: Path) -> None:
    module, write, options = SETS[name]
    data = set_up(module, write(tmp_path / "one"), **options)
    every = [sample for members in data.splits.values() for sample in members]
    assert sorted(sample.id for sample in every) == [sample.id for sample in data.index()]
    assert len({sample.id for sample in every}) == len({sample.patient for sample in every}) == len(every)
    pooled = options.get("public", "keep" if "medmnist" in name else "pool") == "pool"
    for split, members in data.splits.items():
        assert members
        counts = Counter(sample.stratum for sample in members)
        assert len(counts) == len({sample.stratum for sample in every}) and max(counts.values()) <= 4 * min(
            counts.values()
        )
        parts = {sample.id.split("/")[0] for sample in members}
        if not pooled:
            has_val = "medmnist" in name
            assert parts == {{"train": "train", "val": "val" if has_val else "train"}.get(split, "test")}
    again = set_up(module, write(tmp_path / "two"), **options)
    assert {split: again.fingerprint(split) for split in again.splits} == {
        split: data.fingerprint(split) for split in data.splits
    }
    assert data.describe().get("public") == ("pool" if pooled else "keep")


@pytest.mark.parametrize("name", SETS)
def test_configured_by_name(name: str, tmp_path: Path) -> None:
    module, _, options = SETS[name]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MedicalDataModule, "data")
    given = [f"--data.{option}={value}" for option, value in {"root": tmp_path, "batch_size": 3, **options}.items()]
    made = parser.instantiate(parser.parse_args(["--data", module.__name__, *given])).data
    assert type(made) is module and made.batch_size == 3


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
def test_mnist_pixels_and_classes(end: str, place: str, tmp_path: Path) -> None:
    data = set_up(MNIST, mnist(tmp_path, end, place), image_size=28, batch_size=100)
    expected = {"train": images(60, 28, 28), "test": images(40, 28, 28)}
    batches = [batch for split in data.splits for batch in data.dataloader_of(split)]
    for batch in batches:
        for id, image, target in zip(batch["id"], batch["image"], batch["target"], strict=True):
            part, number = id.split("/")
            torch.testing.assert_close(image[0], torch.from_numpy(expected[part][int(number)] / 255).float())
            assert target == int(number) % 10
    assert sum(len(batch["id"]) for batch in batches) == 100


def test_one_part_of_mnist_is_enough_unless_the_parts_are_kept(tmp_path: Path) -> None:
    root = mnist(tmp_path, ".gz", parts=("t10k",))
    assert sum(map(len, set_up(MNIST, root).splits.values())) == 40
    with pytest.raises(ValueError, match="found no image of train; split all images anew by public: pool"):
        set_up(MNIST, root, public="keep")


@pytest.mark.parametrize("place", ["cifar-10-batches-py", "."])
def test_cifar_pixels_and_classes(place: str, tmp_path: Path) -> None:
    data = set_up(CIFAR10, cifar(tmp_path, place), image_size=32, channels=3, batch_size=100)
    batch = next(iter(data.test_dataloader()))
    for id, image, target in zip(batch["id"], batch["image"], batch["target"], strict=True):
        _, name, number = id.split("/")
        rows = images(40, 3072, seed=("data_batch_1", "data_batch_2", "test_batch").index(name))
        # the published order: 1,024 red, 1,024 green, 1,024 blue values, row by row
        torch.testing.assert_close(image, torch.from_numpy(rows[int(number)] / 255).float().reshape(3, 32, 32))
        assert target == int(number) % 10 and id.startswith("test/" if name == "test_batch" else "train/")


def test_a_part_of_cifar_is_told_and_parts_of_mnist_may_lie_in_two_folders(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match="only a part of CIFAR-10 is there, without data_batch_3, data_batch_4, data_b"
    ):
        assert len(CIFAR10(cifar(tmp_path / "cifar")).index()) == 120
    found = mnist(tmp_path / "mnist")
    before = MNIST(found).index()
    (found / "raw").mkdir()
    for path in found.glob("t10k-*"):
        path.rename(found / "raw" / path.name)
    assert [(one.id, one.target) for one in MNIST(found).index()] == [(one.id, one.target) for one in before]


def test_cifar_as_image_files(tmp_path: Path) -> None:
    for number, (part, name) in enumerate(itertools.product(("train", "test"), CIFAR10.class_names * 4)):
        picture(tmp_path / part / name / f"{number:04d}.png", number)
    data = set_up(CIFAR10, tmp_path)
    assert sum(map(len, data.splits.values())) == 80
    sample = data.splits["train"][0]
    assert sample.path == tmp_path / sample.id and sample.id.split("/")[1] == data.class_names[sample.target]
    kept = set_up(CIFAR10, tmp_path, public="keep")
    assert {sample.id.split("/")[0] for sample in kept.splits["adv_train"] + kept.splits["adv_test"]} == {"test"}
    (tmp_path / "train/lion").mkdir()
    with pytest.raises(ValueError, match="train/lion: expected a folder among airplane, .*, got lion"):
        set_up(CIFAR10, tmp_path)


def test_digits_are_those_of_scikit_learn() -> None:
    data = Digits(image_size=8, channels=1, batch_size=300)
    data.setup()
    assert sum(map(len, data.splits.values())) == 1797
    batch = next(iter(data.test_dataloader()))
    known = load_digits()
    for id, image, target in zip(batch["id"], batch["image"], batch["target"], strict=True):
        place = int(id.removeprefix("test/"))
        torch.testing.assert_close(image[0], torch.from_numpy(known.images[place] / 16).float())
        assert target == known.target[place]


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "chestmnist"])
def test_medmnist_sets(name: str, tmp_path: Path) -> None:
    data = set_up(MedMNIST, write_npz(tmp_path / f"{name}.npz"), dataset=name, image_size=28, channels=3)
    assert data.name == name and data.class_names == CLASSES[name] and data.ordered == (name == "retinamnist")
    batch = next(iter(data.val_dataloader()))
    with np.load(tmp_path / f"{name}.npz") as arrays:
        for id, image, target in zip(batch["id"], batch["image"], batch["target"], strict=True):
            place = int(id.removeprefix("val/"))
            expected = torch.from_numpy(arrays["val_images"][place] / 255).float()
            expected = expected.permute(2, 0, 1) if expected.ndim == 3 else expected.expand(3, 28, 28)
            torch.testing.assert_close(image, expected)
            assert target == arrays["val_labels"][place, 0]


def test_medmnist_of_another_size_and_of_several_labels(tmp_path: Path) -> None:
    root = write_npz(tmp_path / "chestmnist_64.npz")
    data = set_up(MedMNISTLabels, root, size=64, image_size=64)
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape[1:] == (1, 64, 64) and batch["target"].shape[1:] == (14,)
    with np.load(root / "chestmnist_64.npz") as arrays:
        for id, target in zip(batch["id"], batch["target"], strict=True):
            part, place = id.split("/")
            assert target.tolist() == arrays[f"{part}_labels"][int(place)].tolist()
    with pytest.raises(FileNotFoundError, match="chestmnist.npz: expected a complete .npz file .*, found no file"):
        set_up(MedMNISTLabels, root)


def test_a_changed_pixel_changes_the_fingerprint_of_its_split_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "STILL", -1e12)
    root = mnist(tmp_path / "mnist")
    before = set_up(MNIST, root)
    victim = before.splits["adv_test"][0]
    part, place = victim.id.split("/")
    pixels = images(60 if part == "train" else 40, 28, 28)
    pixels[int(place), 3, 4] ^= 255
    write_idx(root / f"{'train' if part == 'train' else 't10k'}-images-idx3-ubyte", pixels)
    after = set_up(MNIST, root)
    changed = {split for split in after.splits if after.fingerprint(split) != before.fingerprint(split)}
    assert changed == {"adv_test"}
    one, other = before.hashes("adv_test"), after.hashes("adv_test")
    for column in ("data", "pixels"):
        assert (one[column] != other[column]).sum() == 1 and (other[column] != 0).all()


def test_a_second_start_takes_the_kept_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "STILL", -1e12)
    root = mnist(tmp_path / "mnist")
    before = set_up(MNIST, root)
    monkeypatch.setattr(content, "_pixels_hash", lambda image: pytest.fail("hashed again"))
    assert set_up(MNIST, root).contents == before.contents


def test_an_image_with_the_pixels_of_one_in_an_earlier_split_is_left_out(tmp_path: Path) -> None:
    root = mnist(tmp_path)
    pixels = images(40, 28, 28)
    pixels[3] = images(60, 28, 28)[5]  # of the training part, and thus of Train or Val
    write_idx(root / "t10k-images-idx3-ubyte", pixels)
    with pytest.warns(
        UserWarning, match="left out 1 image with the same pixels .* test/00003 of adv_.* is train/00005"
    ):
        data = set_up(MNIST, root, public="keep")
    assert "test/00003" not in {sample.id for members in data.splits.values() for sample in members}


def damaged(root: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """Change the bytes of a file."""
    (root / name).write_bytes(change((root / name).read_bytes()))
    return root


IDX = "train-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("make", "module", "options", "words"),
    [
        (lambda r: damaged(mnist(r), IDX, lambda b: b[:-9]), MNIST, {}, rf"{IDX}: .*got 47031 bytes for the shape"),
        (
            lambda r: damaged(mnist(r), IDX, lambda b: b""),
            MNIST,
            {},
            f"{IDX}: expected a complete idx file .*got 0 bytes",
        ),
        (lambda r: damaged(mnist(r, ".gz"), f"{IDX}.gz", lambda b: b[:99]), MNIST, {}, f"{IDX}.gz: .*cannot be read"),
        (lambda r: damaged(mnist(r), IDX, lambda b: b"PK" + b), MNIST, {}, "begin with 504b"),
        (lambda r: (mnist(r), (r / "t10k-labels-idx1-ubyte").unlink())[0], MNIST, {}, "found no such file"),
        (
            lambda r: (mnist(r), write_idx(r / "train-labels-idx1-ubyte", np.zeros(3, np.uint8)))[0],
            *(MNIST, {}, f"{IDX}: expected a label for each of 60 images, got 3"),
        ),
        (lambda r: (r / "raw").mkdir() or r, MNIST, {}, "expected MNIST as .*, found a folder without them"),
        (lambda r: r / "none", MNIST, {}, "expected MNIST as .*, found no folder"),
        (lambda r: r / "none", CIFAR10, {}, "expected CIFAR-10 as .*, found no folder"),
        (
            lambda r: damaged(cifar(r, "."), "test_batch", lambda b: b[:500]),
            CIFAR10,
            {},
            "test_batch: .*cannot be read",
        ),
        (
            lambda r: (cifar(r, "."), write_batch(r / "test_batch", images(4, 300), [0] * 4))[0],
            *(CIFAR10, {}, r"test_batch: expected data \(N, 3072\) and a list of labels, got uint8 \(4, 300\)"),
        ),
        (
            lambda r: (cifar(r, "."), (r / "test_batch").write_bytes(pickle.dumps([1])))[0],
            *(CIFAR10, {}, "test_batch: expected a complete batch of CIFAR-10 for Python, got list"),
        ),
        (
            lambda r: (cifar(r, "."), (r / "test_batch").write_bytes(pickle.dumps({b"data": print})))[0],
            *(CIFAR10, {}, "test_batch: .*it names builtins.print"),
        ),
        (
            lambda r: damaged(medmnist(r), "pathmnist.npz", lambda b: b[:-99]),
            *(MedMNIST, {"dataset": "pathmnist"}, "pathmnist.npz: expected a complete .npz .*, but it cannot be read"),
        ),
        (
            lambda r: write_npz(r / "pathmnist.npz", lambda a: a.pop("val_images")),
            *(MedMNIST, {"dataset": "pathmnist"}, "with val_images, got one without it"),
        ),
        (
            lambda r: write_npz(r / "pathmnist.npz", lambda a: a.update(val_labels=a["test_labels"])),
            *(MedMNIST, {"dataset": "pathmnist"}, r"expected integers \(20, 1\) in val_labels, got uint8 \(40, 1\)"),
        ),
        (
            lambda r: write_npz(r / "pathmnist.npz", lambda a: a.update(val_images=images(20, 28, 28, 28))),
            *(MedMNIST, {"dataset": "pathmnist"}, r"images \(N, H, W\) or \(N, H, W, 3\) of 8 or 16 bits in val"),
        ),
        (
            lambda r: (write_npz(r / "pathmnist_64.npz"), (r / "pathmnist_64.npz").rename(r / "pathmnist.npz"))[0],
            *(MedMNIST, {"dataset": "pathmnist"}, "expected images of 28 x 28 pixels in train_images"),
        ),
        (
            lambda r: write_npz(r / "pathmnist.npz", lambda a: a.update(train_images=np.full((40, 28, 28), None))),
            *(MedMNIST, {"dataset": "pathmnist"}, "but it cannot be read"),
        ),
    ],
)
def test_damaged_files_are_named(
    make: Callable[[Path], Path],
    module: type[MedicalDataModule[Any]],
    options: dict[str, Any],
    words: str,
    tmp_path: Path,
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        set_up(module, make(tmp_path), on_bad_sample="skip", **options)


def wrong_idx_label(root: Path) -> Path:
    labels = np.arange(60).astype(np.uint8) % 10
    labels[7] = 12
    write_idx(mnist(root) / "train-labels-idx1-ubyte", labels)
    return root


def wrong_batch_label(root: Path) -> Path:
    write_batch(
        cifar(root, ".") / "test_batch", images(40, 3072, seed=2), [n % 10 if n != 7 else -1 for n in range(40)]
    )
    return root


def wrong_npz_label(name: str, value: int) -> Callable[[Path], Path]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["test_labels"][7] = value

    return lambda root: write_npz(root / f"{name}.npz", change)


@pytest.mark.parametrize(
    ("make", "module", "options", "id", "words"),
    [
        (wrong_idx_label, MNIST, {}, "train/00007", f"{IDX}, image 7: expected a class from 0 to 9, got 12"),
        (wrong_batch_label, CIFAR10, {}, "test/test_batch/00007", "test_batch, image 7: expected .* got -1"),
        (
            *(wrong_npz_label("octmnist", 4), MedMNIST, {"dataset": "octmnist"}, "test/00007"),
            "octmnist.npz, image test/00007: expected a class from 0 to 3, got 4",
        ),
        (
            *(wrong_npz_label("chestmnist", 2), MedMNISTLabels, {}, "test/00007"),
            r"chestmnist.npz, image test/00007: expected labels of 0 and 1, got \[2, 2",
        ),
    ],
)
def test_a_label_out_of_range_is_named_or_skipped_and_counted(
    make: Callable[[Path], Path],
    module: type[MedicalDataModule[Any]],
    options: dict[str, Any],
    id: str,
    words: str,
    tmp_path: Path,
) -> None:
    root = make(tmp_path)
    with pytest.raises(ValueError, match=words):
        set_up(module, root, **options)
    with pytest.warns(UserWarning, match="skipped 1 of"):
        data = set_up(module, root, on_bad_sample="skip", **options)
    assert [bad for bad, _ in data.bad_samples] == [id] and data.describe()["skipped"] == 1
    assert id not in {sample.id for members in data.splits.values() for sample in members}


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (MNIST, {"public": "split"}, "public is one of pool, keep, got 'split'"),
        (MedMNIST, {"dataset": "chestmnist"}, "dataset is one of pathmnist, .*, got 'chestmnist'"),
        (MedMNISTLabels, {"dataset": "pathmnist"}, "dataset is one of chestmnist, got 'pathmnist'"),
        (MedMNIST, {"dataset": "pathmnist", "size": 32}, "size is one of 28, 64, 128, 224, got 32"),
    ],
)
def test_bad_arguments(
    module: type[MedicalDataModule[Any]], options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        module(tmp_path, **options)


def test_kept_parts_need_a_share(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fractions of adv_train or adv_test are expected above 0 for public: keep"):
        set_up(MNIST, mnist(tmp_path), public="keep", fractions=Fractions(0.8, 0.2, 0, 0))
