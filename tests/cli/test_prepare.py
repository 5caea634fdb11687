"""prepare.py: what is missing and where it comes from, whole downloads or none, and true exit statuses."""

import gzip
import hashlib
import io
import pickle
import signal
import subprocess
import sys
import tarfile
import time
import types
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import datamodules
from cli import obtaining
from datamodules import PhantomDermoscopy, catalogue, kaggle
from datamodules.catalogue import MEDMNIST, PUBLIC_SETS, SIZES, medmnist
from tests.serving import Shelf, serving

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    with serving(Shelf()) as one:
        yield one


@pytest.fixture
def run(prepare: Run) -> Run:
    """Runs the command line."""
    return prepare


@pytest.fixture
def no_kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the package nor a token."""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
    monkeypatch.setattr(kaggle.importlib.util, "find_spec", lambda name: None)


def digest(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


@pytest.fixture
def mnist(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """A server with an MNIST of 20 + 10 images."""
    files = []
    for number, prefix in ((20, "train"), (10, "t10k")):
        images = np.random.default_rng(number).integers(0, 256, (number, 28, 28))
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(number) % 10)):
            shelf.files[f"/{prefix}-{kind}-ubyte.gz"] = idx(array)
    for file in PUBLIC_SETS["mnist"].files:
        files.append(replace(file, url=f"{shelf.address}/{file.name}", md5=digest(shelf.files[f"/{file.name}"])))
    monkeypatch.setitem(PUBLIC_SETS, "mnist", replace(PUBLIC_SETS["mnist"], files=tuple(files), images=30))
    return shelf


def test_files_are_downloaded_verified_and_not_downloaded_again(tmp_path: Path, mnist: Shelf, run: Run) -> None:
    root = tmp_path / "mnist"
    status, out, err = run("mnist", "--root", root)
    assert (status, err) == (0, "") and len(mnist.asked) == 4
    missing, source, complete = out.splitlines()
    assert missing.startswith(f"missing: {root}: expected MNIST") and source.startswith("source: https://")
    assert complete.startswith("complete: MNIST") and "30 images" in complete and "checksums are right" in complete
    assert sorted(path.name for path in root.iterdir()) == sorted(file.name for file in PUBLIC_SETS["mnist"].files)
    assert run("mnist", "--root", root) == (0, complete + "\n", "") and len(mnist.asked) == 4


def test_files_in_another_form_are_counted_and_not_called_verified(tmp_path: Path, mnist: Shelf, run: Run) -> None:
    (tmp_path / "raw").mkdir()
    for name, content in mnist.files.items():
        (tmp_path / "raw" / name.removesuffix(".gz").lstrip("/")).write_bytes(gzip.decompress(content))
    status, out, err = run("mnist", "--root", tmp_path)
    assert (status, err) == (0, "") and "30 images" in out and "checksum" not in out and not mnist.asked


def test_a_part_of_a_download_is_never_taken_for_the_whole(tmp_path: Path, mnist: Shelf, run: Run) -> None:
    root = tmp_path / "mnist"
    mnist.break_after = [None, None, 1000, 0]
    status, _, err = run("mnist", "--root", root)
    assert status == 1 and len(err.splitlines()) == 1
    assert (
        err.startswith("error: t10k-images-idx3-ubyte.gz could not be downloaded: ") and "1,000 bytes are kept" in err
    )
    assert not (root / "t10k-images-idx3-ubyte.gz").exists()
    assert run("mnist", "--root", root)[0] == 0
    assert ("/t10k-images-idx3-ubyte.gz", "bytes=1000-") in mnist.asked
    assert sum(path == "/train-images-idx3-ubyte.gz" for path, _ in mnist.asked) == 1


def test_wrong_checksums_are_told(tmp_path: Path, mnist: Shelf, run: Run) -> None:
    mnist.files["/train-labels-idx1-ubyte.gz"] = idx(np.zeros(20))
    status, _, err = run("mnist", "--root", tmp_path / "a")
    assert status == 1 and "train-labels-idx1-ubyte.gz: expected the MD5 checksum" in err and len(err.splitlines()) == 1
    (tmp_path / "b").mkdir()
    (tmp_path / "b/t10k-labels-idx1-ubyte.gz").write_bytes(b"other")
    status, _, err = run("mnist", "--root", tmp_path / "b")
    assert status == 1 and "move the file away and try again" in err


def test_without_a_network_one_sentence(tmp_path: Path, mnist: Shelf, run: Run) -> None:
    files = tuple(replace(file, url="http://127.0.0.1:1/x.gz") for file in PUBLIC_SETS["mnist"].files)
    PUBLIC_SETS["mnist"] = replace(PUBLIC_SETS["mnist"], files=files)
    status, _, err = run("mnist", "--root", tmp_path / "mnist")
    assert status == 1 and len(err.splitlines()) == 1
    assert err.startswith("error: x.gz could not be downloaded: 127.0.0.1 cannot be reached (")


@pytest.fixture
def cifar10(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """A server with a CIFAR-10 of two images a batch."""
    archive = catalogue.PUBLIC_SETS["cifar10"].archive
    assert archive
    contents, packed = {}, io.BytesIO()
    for place, name in enumerate(archive.members):
        data = np.random.default_rng(place).integers(0, 256, (2, 3072), dtype=np.uint8)
        contents[name] = pickle.dumps({b"data": data, b"labels": [place, place + 1]}, protocol=2)
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"{archive.folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    shelf.files["/c.tar.gz"] = packed.getvalue()
    file = replace(archive.file, url=f"{shelf.address}/c.tar.gz", md5=digest(packed.getvalue()))
    members = {name: digest(content) for name, content in contents.items()}
    small = replace(archive, file=file, members=members)
    monkeypatch.setitem(PUBLIC_SETS, "cifar10", replace(PUBLIC_SETS["cifar10"], archive=small, images=12))
    return shelf


def test_an_archive_is_unpacked_whole_even_if_interrupted(
    tmp_path: Path, cifar10: Shelf, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cifar10"

    def dying(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("datamodules.download.tarfile.TarFile.extractall", dying)
        status, _, err = run("cifar10", "--root", root)
    assert status == 130 and "stopped by SIGINT" in err
    assert [path.name for path in root.iterdir()] == [".cifar-10-python.tar.gz"]
    status, out, err = run("cifar10", "--root", root)
    assert (status, err) == (0, "") and "12 images" in out and len(cifar10.asked) == 1
    assert [path.name for path in root.iterdir()] == ["cifar-10-batches-py"]
    assert run("cifar10", "--root", root)[0] == 0 and len(cifar10.asked) == 1

    own = tmp_path / "own/cifar-10-python.tar.gz"  # which the user has downloaded
    own.parent.mkdir()
    own.write_bytes(cifar10.files["/c.tar.gz"])
    assert run("cifar10", "--root", own.parent)[0] == 0 and len(cifar10.asked) == 1
    assert sorted(path.name for path in own.parent.iterdir()) == ["cifar-10-batches-py", own.name]

    batch = root / "cifar-10-batches-py/data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1])
    status, _, err = run("cifar10", "--root", root)
    assert status == 1 and "data_batch_3: expected the MD5 checksum" in err
    batch.unlink()
    status, out, err = run("cifar10", "--root", root)
    assert status == 0 and "12 images" in out and "checksums are right" in out and batch.is_file()


def aptos(folder: Path, images: int = 3) -> Path:
    """A miniature of APTOS."""
    (folder / "train_images").mkdir(parents=True)
    picture = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for number in range(images):
        (folder / f"train_images/{number:012x}.png").write_bytes(picture)
    rows = "".join(f"{number:012x},{number % 5}\n" for number in range(images))
    (folder / "train.csv").write_text("id_code,diagnosis\n" + rows)
    return folder


def test_kaggle_without_package_and_token(tmp_path: Path, run: Run, no_kaggle: None) -> None:
    status, out, err = run("aptos", "--root", tmp_path / "aptos")
    assert status == 1 and err.startswith("error: aptos is not whole: get it in one of these two ways")
    by_hand, by_command = out.splitlines()[-2:]
    assert by_hand.startswith("either: open https://www.kaggle.com/competitions/aptos2019")
    assert "train_images/*.png" in by_hand.partition(" as ")[2]
    assert by_command.startswith("or: let this command download it") and "pip install kagglehub" in by_command
    assert "kaggle.json" in by_command and "KAGGLE_USERNAME" in by_command
    assert out.startswith("missing: ") and "source: https://www.kaggle.com" in out
    assert not (tmp_path / "aptos").exists()


class Hub(types.ModuleType):
    """Stands for kagglehub: gives folders and files that are there."""

    def __init__(self, given: Path | Exception) -> None:
        super().__init__("kagglehub")
        self.given = given

    def competition_download(self, handle: str, path: str | None = None) -> str:
        if isinstance(self.given, Exception):
            raise self.given
        return str(self.given / path if path else self.given)

    def dataset_download(self, handle: str) -> str:
        return self.competition_download(handle)


def with_hub(monkeypatch: pytest.MonkeyPatch, given: Path | Exception) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", Hub(given))
    monkeypatch.setattr(kaggle.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", "0")


def test_kaggle_with_package_and_token(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLIC_SETS, "aptos", replace(PUBLIC_SETS["aptos"], images=3))
    with_hub(monkeypatch, aptos(tmp_path / "cache"))
    (tmp_path / "cache/test_images").mkdir()
    root = tmp_path / "aptos"
    status, out, err = run("aptos", "--root", root)
    assert (status, err) == (0, "") and out.splitlines()[-1].startswith("complete: APTOS 2019")
    assert sorted(path.name for path in root.iterdir()) == ["train.csv", "train_images"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aptos", "cache"]
    assert run("aptos", "--root", root)[0] == 0

    (root / f"train_images/{1:012x}.png").unlink()
    status, out, err = run("aptos", "--root", root)
    assert status == 2 and "expected an absent or empty folder to download into" in err
    assert "expected 3 images, found 2, first train.csv, row 3: expected the image" in out

    with_hub(monkeypatch, RuntimeError("403 Client Error.\nmore"))
    status, _, err = run("aptos", "--root", tmp_path / "other")
    assert status == 1 and "403 Client Error. (have you accepted the competition's rules on its page?)" in err
    assert len(err.splitlines()) == 1 and not (tmp_path / "other").exists()


def test_a_set_of_kaggle_that_lacks_files_is_not_taken(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_hub(monkeypatch, tmp_path / "cache")
    aptos(tmp_path / "cache")
    (tmp_path / "cache/train.csv").unlink()
    status, _, err = run("aptos", "--root", tmp_path / "aptos")
    assert status == 1 and "expected train.csv in what was downloaded" in err and not (tmp_path / "aptos").exists()


@pytest.mark.parametrize("whole", [True, False])
def test_archives_in_parts_are_joined(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    picture = cv2.imencode(".jpeg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    (tmp_path / "cache").mkdir()
    with zipfile.ZipFile(tmp_path / "cache/trainLabels.csv.zip", "w") as archive:
        archive.writestr("trainLabels.csv", "image,level\n1_left,0\n1_right,3\n")
    with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
        archive.writestr("train/1_left.jpeg", picture)
        archive.writestr("train/1_right.jpeg", picture)
    content = packed.getvalue()
    cut = len(content) // 5 + 1
    for part in range(5 if whole else 4):
        (tmp_path / f"cache/train.zip.{part + 1:03d}").write_bytes(content[part * cut : (part + 1) * cut])
    if not whole:
        (tmp_path / "cache/train.zip.005").write_bytes(b"")
    monkeypatch.setitem(PUBLIC_SETS, "kaggle_dr", replace(PUBLIC_SETS["kaggle_dr"], images=2))
    with_hub(monkeypatch, tmp_path / "cache")
    status, _, err = run("kaggle_dr", "--root", tmp_path / "set")
    if whole:
        assert (status, err) == (0, "") and (tmp_path / "set/train/1_right.jpeg").read_bytes() == picture
    else:
        assert status == 1 and "train.zip: expected a complete zip archive" in err and not (tmp_path / "set").exists()


def test_fewer_images_than_the_whole_set_are_not_complete(tmp_path: Path, run: Run, no_kaggle: None) -> None:
    status, out, err = run("aptos", "--root", aptos(tmp_path / "aptos"))
    assert (
        status == 1
        and "missing: " in out
        and "expected 3,662 images, found 3" in out
        and "kagglehub" in out
        and "two ways" in err
    )


def test_phantoms_are_generated_and_own_images_counted(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(PUBLIC_SETS["phantom_dermoscopy"], module=partial(PhantomDermoscopy, lesions=7, side=32))
    monkeypatch.setitem(PUBLIC_SETS, "phantom_dermoscopy", small)
    for _ in range(2):
        status, out, err = run("phantom_dermoscopy", "--root", tmp_path / "phantom")
        assert (status, err) == (0, "") and "9 images" in out and len(out.splitlines()) == 1
    for name in ("a/1.png", "a/2.png", "b/1.png"):
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_bytes(b"")
    status, out, _ = run("image_folder", "--root", tmp_path / "own")
    assert status == 0 and "3 images" in out
    status, _, err = run("image_folder", "--root", tmp_path / "none")
    assert status == 1 and "put them into" in err and len(err.splitlines()) == 1
    status, out, _ = run("digits")
    assert status == 0 and "1,797 images" in out


def test_what_cannot_be_downloaded_is_named(tmp_path: Path, run: Run) -> None:
    status, out, err = run("isic", "--root", tmp_path / "isic")
    assert status == 1 and "open https://challenge.isic-archive.com" in err and "source: https" in out


def test_help_and_mistakes(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0 and all(name in out for name in [*PUBLIC_SETS, "medmnist"])
    assert run("aptoss", "--root", "x")[::2] == (2, "error: there is no dataset 'aptoss'; did you mean aptos?\n")
    status, _, err = run("aptos")
    assert status == 2 and err == "error: the following arguments are required: --root\n"
    status, _, err = run("medmnist", "--root", "x", "--dataset", "pathmnist", "--size", 30)
    assert status == 2 and "invalid choice" in err and len(err.splitlines()) == 1


def test_every_dataset_can_be_prepared() -> None:
    """A data module with a name of its own is in the catalogue, also tomorrow's."""
    known = {getattr(one.module, "func", one.module) for one in PUBLIC_SETS.values()}
    known |= {medmnist(name, 28).module.func for name in MEDMNIST}  # type: ignore[attr-defined]
    named = {
        one
        for one in vars(datamodules).values()
        if isinstance(one, type) and issubclass(one, datamodules.MedicalDataModule) and not one.__abstractmethods__
    }
    names = {one.name for one in known if "name" in vars(one)}
    assert not {one.__name__ for one in named - known if vars(one).get("name") not in names}


def test_the_sets_of_medmnist() -> None:
    assert len(MEDMNIST) == 12
    for name in MEDMNIST:
        for size in SIZES:
            (file,) = medmnist(name, size).files
            assert file.name == (f"{name}.npz" if size == 28 else f"{name}_{size}.npz") and len(file.md5) == 32
            assert file.url == f"https://zenodo.org/records/10519652/files/{file.name}?download=1"
    checksums = [medmnist(name, size).files[0].md5 for name in MEDMNIST for size in SIZES]
    assert len(set(checksums)) == len(checksums)


def test_large_files_are_verified_by_their_checksum_alone(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"twelve bytes"
    (tmp_path / "pathmnist_224.npz").write_bytes(content)
    whole: Any = medmnist("pathmnist", 224)
    known = replace(whole, files=(replace(whole.files[0], md5=digest(content)),))
    found = obtaining.look(known, tmp_path)
    assert (found.images, found.problem) == (107180, "")
    status, _, err = run("medmnist", "--root", tmp_path, "--dataset", "pathmnist", "--size", "224")
    assert status == 1 and "expected the MD5 checksum 2c51a510bcdc9cf8ddb2af93af1eadec" in err


@pytest.mark.slow
@pytest.mark.processes
def test_a_program_that_is_stopped_keeps_what_has_arrived(tmp_path: Path, shelf: Shelf) -> None:
    """A true exit status and one sentence; the second run asks for the rest alone."""
    content = bytes(range(256)) * 80
    shelf.files["/breastmnist.npz"], shelf.slow = content, 0.2
    program = (
        "import sys; from dataclasses import replace; from datamodules import catalogue; from cli import prepare; "
        "known = catalogue.medmnist('breastmnist', 64); "
        f"file = replace(known.files[0], url={shelf.address + '/breastmnist.npz'!r}, md5={digest(content)!r}); "
        "prepare.medmnist = lambda *words: replace(known, files=(file,)); prepare.main()"
    )
    words = ["medmnist", "--dataset", "breastmnist", "--size", "64", "--root", str(tmp_path / "set")]
    command = [sys.executable, "-c", program, *words]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    part = tmp_path / "set/.breastmnist_64.npz.part"
    while child.poll() is None and not (part.exists() and part.stat().st_size):
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    err = child.communicate(timeout=60)[1]
    assert (child.returncode, err) == (
        143,
        "stopped by SIGTERM: what has arrived is kept; run the same command again\n",
    )
    there = part.stat().st_size
    shelf.slow = 0
    assert subprocess.run(command, cwd=ROOT, timeout=300).returncode == 0
    assert shelf.asked[-1][1] == f"bytes={there}-" and (tmp_path / "set/breastmnist_64.npz").read_bytes() == content
