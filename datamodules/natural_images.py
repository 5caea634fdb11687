"""Natural images as a control for medical ones: CIFAR-10, MNIST and scikit-learn's digits."""

import codecs
import gzip
import pickle
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities import rank_zero_warn
from sklearn.datasets import load_digits

from datamodules.classification import ClassificationDataModule
from datamodules.image_folder import images_of_class, tell_skipped, visible_folders
from datamodules.public_splits import PublicSplits
from datamodules.samples import Sample
from datamodules.stored import StoredImages

_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
_DIGITS = tuple(map(str, range(10)))
_GZIP = b"\x1f\x8b"


class NaturalImages(StoredImages[int], PublicSplits[int], ClassificationDataModule):
    """Images of ten classes in arrays, which are published in a part for training and a part for test."""

    def samples_of(self, name: str, images: np.ndarray, labels: Sequence[int], file: Path) -> list[Sample[int]]:
        """A sample for each image of an array.

        Raises:
            ValueError: The array is no array of images, or has another number of labels, or a label has no class and
                bad samples are not skipped.
        """
        if len(images) != len(labels):
            raise ValueError(f"{file}: expected a label for each of {len(images)} images, got {len(labels)}")
        samples = []
        for id, place in self.keep_array(name, images, file):
            label = int(labels[place])
            if 0 <= label < self.num_classes:
                samples.append(Sample(file, id, label, id))
            else:
                classes = f"a class from 0 to {self.num_classes - 1}"
                self.refuse_row(id, f"{file}, image {place}: expected {classes}, got {label}")
        return samples


class CIFAR10(NaturalImages):
    """CIFAR-10 (Krizhevsky, 2009): 60,000 photographs of ten classes, 32 x 32 pixels in colour.

    Either the batches for Python, ``cifar-10-batches-py/{data_batch_1..5,test_batch}``, in the root or in that folder
    below it; or image files, ``{train,test}/CLASS/*``. Where both are there, the batches are read. Only arrays and
    plain values are taken from the pickled batches: other objects are refused.

    Args:
        root: Folder of the dataset.
        public: ``pool`` splits all images anew; ``keep`` takes Train and Val from the published training part, AdvTrain
            and AdvTest from the test part.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "cifar10"
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def index(self) -> list[Sample[int]]:
        """All samples, sorted by id; image files are not read, batches are.

        Raises:
            FileNotFoundError: The root holds neither batches nor folders of images.
            ValueError: A batch is damaged, or there is a folder of another class.
        """
        root = self.root.absolute()
        self._arrays.clear()
        for base in (root, root / "cifar-10-batches-py"):
            if files := [base / name for name in _BATCHES if (base / name).is_file()]:
                if lacking := [name for name in _BATCHES if base / name not in files]:
                    rank_zero_warn(f"{base}: only a part of CIFAR-10 is there, without {', '.join(lacking)}")
                return sorted((one for file in files for one in self._batch(file)), key=lambda sample: sample.id)
        folders = [root / part for part in ("train", "test") if (root / part).is_dir()]
        if not folders:
            found = "a folder without them" if root.is_dir() else "no folder"
            raise FileNotFoundError(
                f"{root}: expected CIFAR-10 as cifar-10-batches-py/data_batch_* or {{train,test}}/CLASS/*, "
                f"found {found}"
            )
        return sorted((one for folder in folders for one in self._folder(folder)), key=lambda sample: sample.id)

    def _batch(self, file: Path) -> list[Sample[int]]:
        """The samples of a batch."""
        content = _unpickled(file)
        data, labels = content.get(b"data"), content.get(b"labels")
        if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3072 or not isinstance(labels, list):
            got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else "none"
            raise ValueError(f"{file}: expected data (N, 3072) and a list of labels, got {got}")
        images = np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        part = "test" if file.name == "test_batch" else "train"
        return self.samples_of(f"{part}/{file.name}", images, labels, file)

    def _folder(self, folder: Path) -> list[Sample[int]]:
        """The samples of the folders of one part."""
        samples = []
        for directory in visible_folders(folder):
            if directory.name not in self.class_names:
                expected = ", ".join(self.class_names)
                raise ValueError(f"{directory}: expected a folder among {expected}, got {directory.name}")
            paths, skipped = images_of_class(directory)
            tell_skipped(directory, skipped)
            target = self.class_names.index(directory.name)
            ids = [path.relative_to(folder.parent).as_posix() for path in paths]
            samples += [Sample(path, id, target, id) for path, id in zip(paths, ids, strict=True)]
        return samples


class MNIST(NaturalImages):
    """MNIST (LeCun et al., 1998): 70,000 handwritten digits, 28 x 28 pixels, in grey.

    The public layout is ``{train,t10k}-images-idx3-ubyte`` and ``{train,t10k}-labels-idx1-ubyte``, gzipped or not, in
    the root or in ``raw`` or ``MNIST/raw`` below it. One of the two parts is enough unless ``public`` is ``keep``.

    Args:
        root: Folder of the dataset.
        public: ``pool`` splits all images anew; ``keep`` takes Train and Val from the published training part, AdvTrain
            and AdvTest from the test part.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "mnist"
    class_names = _DIGITS

    def index(self) -> list[Sample[int]]:
        """All samples, sorted by id.

        Raises:
            FileNotFoundError: The root does not hold the files.
            ValueError: A file is damaged, or has labels without images or the other way round.
        """
        root = self.root.absolute()
        self._arrays.clear()
        samples: list[Sample[int]] = []
        for prefix in ("train", "t10k"):
            places = (self._part(base, prefix) for base in (root, root / "raw", root / "MNIST" / "raw"))
            samples += next((found for found in places if found), [])
        if samples:
            return sorted(samples, key=lambda sample: sample.id)
        found = "a folder without them" if root.is_dir() else "no folder"
        raise FileNotFoundError(
            f"{root}: expected MNIST as {{train,t10k}}-{{images-idx3,labels-idx1}}-ubyte, gzipped or not, found {found}"
        )

    def _part(self, base: Path, prefix: str) -> list[Sample[int]]:
        """The samples of one part; none if it is not there."""
        images, labels = (_existing(base, f"{prefix}-{kind}") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
        if images is None and labels is None:
            return []
        if images is None or labels is None:
            lone, lacking = (labels, "images-idx3-ubyte") if images is None else (images, "labels-idx1-ubyte")
            raise ValueError(f"{lone}: expected {prefix}-{lacking} beside it, found no such file")
        part = "train" if prefix == "train" else "test"
        return self.samples_of(part, _idx(images, 3), _idx(labels, 1).tolist(), images)


class Digits(NaturalImages):
    """Scikit-learn's digits (Alpaydin and Kaynak, 1998): 1,797 handwritten digits, 8 x 8 pixels of 17 greys.

    They come with scikit-learn: no file is read.

    Args:
        root: Not read; the name of the folder that descriptions state.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "digits"
    class_names = _DIGITS

    def __init__(self, root: str | Path = "digits", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)

    def index(self) -> list[Sample[int]]:
        """All samples, sorted by id."""
        digits = load_digits()
        return self.samples_of("test", (digits.images / 16).astype(np.float32), digits.target.tolist(), self.root)

    def files_of(self, sample: Sample[int]) -> list[Path]:
        """No file."""
        return []


def _existing(base: Path, name: str) -> Path | None:
    """The file of this name, gzipped or not, as it was published or as some tools rename it."""
    names = (name, name.replace("-idx", ".idx"))
    return next(
        (base / f"{one}{end}" for one in names for end in ("", ".gz") if (base / f"{one}{end}").is_file()), None
    )


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of an idx file as an array of so many dimensions."""
    expected = f"a complete idx file of bytes in {dimensions} dimension{'s' if dimensions > 1 else ''}"
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected {expected}, but it cannot be read ({error})") from None
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes((0, 0, 8, dimensions)):
        raise ValueError(f"{path}: expected {expected}, got {len(data)} bytes that begin with {data[:4].hex()}")
    shape = np.frombuffer(data, ">u4", dimensions, 4).tolist()
    if len(data) != header + int(np.prod(shape)):
        raise ValueError(f"{path}: expected {expected}, got {len(data) - header} bytes for the shape {tuple(shape)}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


class _ArraysOnly(pickle.Unpickler):
    """Reads arrays and plain values: a pickle may otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        if name in ("_reconstruct", "ndarray", "dtype") and module.split(".")[0] == "numpy":
            return np.empty(0).__reduce__()[0] if name == "_reconstruct" else getattr(np, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _unpickled(path: Path) -> dict[bytes, Any]:
    """The content of a pickled batch."""
    expected = "a complete batch of CIFAR-10 for Python"
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="bytes").load()
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise ValueError(f"{path}: expected {expected}, but it cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected {expected}, got {type(content).__name__}")
    return content
