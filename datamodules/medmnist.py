"""MedMNIST (Yang et al., Scientific Data 2023): twelve sets of small medical images, each in one ``.npz`` file."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from datamodules.classification import ClassificationDataModule
from datamodules.multilabel import Labels, MultiLabelDataModule
from datamodules.public_splits import PARTS, Public, PublicSplits
from datamodules.samples import Sample, Target
from datamodules.stored import StoredImages

Classified = Literal[
    "pathmnist",
    "dermamnist",
    "octmnist",
    "pneumoniamnist",
    "retinamnist",
    "breastmnist",
    "bloodmnist",
    "tissuemnist",
    "organamnist",
    "organcmnist",
    "organsmnist",
]
Labelled = Literal["chestmnist"]
Size = Literal[28, 64, 128, 224]

_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left"),
    *("lung-right", "pancreas", "spleen"),
)
CLASSES: dict[str, tuple[str, ...]] = {
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
        *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "chestmnist": (
        *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax"),
        *("consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
    ),
    "dermamnist": (
        *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions"),
        *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "breastmnist": ("malignant", "normal, benign"),
    "bloodmnist": (
        *("basophil", "eosinophil", "erythroblast"),
        "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
        *("lymphocyte", "monocyte", "neutrophil", "platelet"),
    ),
    "tissuemnist": (
        *("Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells"),
        *("Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments"),
        "Thick Ascending Limb",
    ),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}


class MedMNISTFile(StoredImages[Target], PublicSplits[Target]):
    """One set of MedMNIST, ``NAME.npz`` for 28 x 28 pixels and ``NAME_SIZE.npz`` for larger images.

    The whole file is held in memory.

    Args:
        root: Folder of the file.
        dataset: Name of the set.
        size: Side of the stored images, in pixels: 28, 64, 128 or 224.
        public: ``keep`` takes Train and Val from the published parts, AdvTrain and AdvTest from the test part;
            ``pool`` splits all images anew.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    def __init__(self, root: str | Path, dataset: str, size: Size = 28, public: Public = "keep", **kwargs: Any) -> None:
        super().__init__(root, public=public, **kwargs)
        if size not in get_args(Size):
            raise ValueError(f"size is one of {', '.join(map(str, get_args(Size)))}, got {size!r}")
        self.name = self.dataset = dataset
        self.size = size
        self.class_names = CLASSES[dataset]

    @property
    def file(self) -> Path:
        """The file with the images and their labels."""
        return self.root.absolute() / (f"{self.dataset}.npz" if self.size == 28 else f"{self.dataset}_{self.size}.npz")

    def target_settings(self) -> list[Any]:
        """The size of the stored images, and the names of the classes."""
        return [self.size, list(self.class_names)]

    def labelled(self, width: int) -> Iterator[tuple[str, np.ndarray]]:
        """The id of each image, and its row of so many numbers.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or holds no such arrays.
        """
        self._arrays.clear()
        for part in PARTS:
            images, labels = self._array(f"{part}_images"), self._array(f"{part}_labels")
            if images.shape[1:3] != (self.size, self.size):
                expected = f"images of {self.size} x {self.size} pixels"
                raise ValueError(f"{self.file}: expected {expected} in {part}_images, got {images.shape}")
            if labels.shape != (len(images), width) or not np.issubdtype(labels.dtype, np.integer):
                expected = f"integers ({len(images)}, {width}) in {part}_labels"
                raise ValueError(f"{self.file}: expected {expected}, got {labels.dtype} {labels.shape}")
            for id, place in self.keep_array(part, images, self.file):
                yield id, labels[place]

    def _array(self, name: str) -> np.ndarray:
        """One array of the file."""
        expected = f"a complete .npz file of MedMNIST with {name}"
        if not self.file.is_file():
            raise FileNotFoundError(f"{self.file}: expected {expected}, found no file")
        try:
            with np.load(self.file, allow_pickle=False) as arrays:
                return np.asarray(arrays[name])
        except KeyError:
            raise ValueError(f"{self.file}: expected {expected}, got one without it") from None
        except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{self.file}: expected {expected}, but it cannot be read ({error})") from None


class MedMNIST(MedMNISTFile[int], ClassificationDataModule):
    """The sets of MedMNIST with one class for each image; the grades of RetinaMNIST are ordered.

    The file is ``NAME.npz`` for 28 x 28 pixels and ``NAME_SIZE.npz`` for larger images; it is held in memory. It does
    not say which images show the same patient. The published parts were split by patient where the source allowed it,
    so they are kept by default; those of DermaMNIST share lesions.

    Args:
        root: Folder of the file.
        dataset: Name of the set.
        size: Side of the stored images, in pixels: 28, 64, 128 or 224.
        public: ``keep`` takes Train and Val from the published parts, AdvTrain and AdvTest from the test part;
            ``pool`` splits all images anew.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    def __init__(
        self, root: str | Path, dataset: Classified, size: Size = 28, public: Public = "keep", **kwargs: Any
    ) -> None:
        if dataset not in get_args(Classified):
            raise ValueError(f"dataset is one of {', '.join(get_args(Classified))}, got {dataset!r}")
        super().__init__(root, dataset=dataset, size=size, public=public, **kwargs)
        self.ordered = dataset == "retinamnist"

    def index(self) -> list[Sample[int]]:
        """All samples, sorted by id.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or an image has no class and bad samples are not skipped.
        """
        samples = []
        for id, numbers in self.labelled(1):
            label = int(numbers[0])
            if 0 <= label < self.num_classes:
                samples.append(Sample(self.file, id, label, id))
            else:
                classes = f"a class from 0 to {self.num_classes - 1}"
                self.refuse_row(id, f"{self.file}, image {id}: expected {classes}, got {label}")
        return sorted(samples, key=lambda sample: sample.id)


class MedMNISTLabels(MedMNISTFile[Labels], MultiLabelDataModule):
    """The set of MedMNIST with several labels for each image: ChestMNIST, with the 14 findings of NIH ChestX-ray14.

    The file is ``chestmnist.npz`` for 28 x 28 pixels and ``chestmnist_SIZE.npz`` for larger images; it is held in
    memory. It does not say which images show the same patient. The published parts are the official ones of NIH
    ChestX-ray14, which share no patient, so they are kept by default.

    Args:
        root: Folder of the file.
        dataset: Name of the set.
        size: Side of the stored images, in pixels: 28, 64, 128 or 224.
        public: ``keep`` takes Train and Val from the published parts, AdvTrain and AdvTest from the test part;
            ``pool`` splits all images anew.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    def __init__(
        self,
        root: str | Path,
        dataset: Labelled = "chestmnist",
        size: Size = 28,
        public: Public = "keep",
        **kwargs: Any,
    ) -> None:
        if dataset not in get_args(Labelled):
            raise ValueError(f"dataset is one of {', '.join(get_args(Labelled))}, got {dataset!r}")
        super().__init__(root, dataset=dataset, size=size, public=public, **kwargs)

    def index(self) -> list[Sample[Labels]]:
        """All samples, sorted by id.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or a label is neither 0 nor 1 and bad samples are not skipped.
        """
        samples = []
        for id, numbers in self.labelled(self.num_classes):
            labels = tuple(numbers.tolist())
            if set(labels) <= {0, 1}:
                samples.append(Sample(self.file, id, labels, id))
            else:
                self.refuse_row(id, f"{self.file}, image {id}: expected labels of 0 and 1, got {list(labels)}")
        return sorted(samples, key=lambda sample: sample.id)
