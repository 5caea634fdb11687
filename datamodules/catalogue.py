"""The public datasets: what each holds, where it comes from, and the checksums that are known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.base import MedicalDataModule
from datamodules.chest_xray import ChestXRay
from datamodules.covid_ct import CovidCT
from datamodules.dermoscopy import HAM10000, ISIC
from datamodules.endoscopy import LAYOUT, Endoscopy
from datamodules.fundus import APTOS, KaggleDR
from datamodules.ham10000_boxes import MASKS, HAM10000Boxes
from datamodules.image_folder import ImageFolder
from datamodules.kvasir_boxes import KvasirBoxes
from datamodules.kvasir_masks import KvasirMasks
from datamodules.lesion_masks import HAM10000Masks
from datamodules.lung_ct import LungCT
from datamodules.medmnist import MedMNIST, MedMNISTLabels
from datamodules.natural_images import CIFAR10, MNIST, Digits
from datamodules.nih import NIHChestXRayLabels
from datamodules.phantom import PhantomChestXRay
from datamodules.phantom_ct import PhantomCT
from datamodules.phantom_dermoscopy import PhantomDermoscopy
from datamodules.phantom_endoscopy import PhantomEndoscopy
from datamodules.phantom_fundus import PhantomAPTOS, PhantomFundus


@dataclass(frozen=True)
class PublicFile:
    """A file that can be downloaded without an account.

    Args:
        name: Its path relative to the root.
        url: Where it is.
        md5: Its MD5 checksum.
    """

    name: str
    url: str
    md5: str


@dataclass(frozen=True)
class PublicArchive:
    """A tar archive that can be downloaded without an account, and holds one folder.

    Args:
        file: The archive.
        folder: The folder's name.
        members: Checksums of its files by their names.
    """

    file: PublicFile
    folder: str
    members: Mapping[str, str]


@dataclass(frozen=True)
class KaggleSource:
    """What Kaggle has of a dataset.

    Args:
        handle: Name of the dataset, ``OWNER/NAME``, or of the competition.
        wanted: Patterns of the files and folders to take; for a competition with archives, these archives.
        archives: Whether they are zip archives, some of them in parts, to be unpacked.
    """

    handle: str
    wanted: tuple[str, ...]
    archives: bool = False

    @property
    def competition(self) -> bool:
        """Whether its rules have to be accepted first."""
        return "/" not in self.handle

    @property
    def page(self) -> str:
        """Its web page."""
        return f"https://www.kaggle.com/{'competitions' if self.competition else 'datasets'}/{self.handle}"


@dataclass(frozen=True)
class PublicSet:
    """A dataset that can be prepared.

    Args:
        title: What it is.
        module: Builds the data module that reads it, given its root and arguments of any data module.
        home: Where it comes from; empty for what is generated, or the user's own.
        layout: What has to be at the root.
        images: How many images the data module finds in the whole set; None if that is not known.
        files: What can be downloaded without an account.
        archive: What can be downloaded without an account and is unpacked.
        kaggle: What Kaggle has of it.
        generated: Whether the data module generates it, or it needs no file at all.
        counted: Whether its images are counted when it is verified; where checksums say all, that can be left out.
    """

    title: str
    module: Callable[..., MedicalDataModule[Any]]
    home: str
    layout: str
    images: int | None = None
    files: tuple[PublicFile, ...] = field(default=())
    archive: PublicArchive | None = None
    kaggle: KaggleSource | None = None
    generated: bool = False
    counted: bool = True

    def at(self, root: Path) -> MedicalDataModule[Any]:
        """The data module of the set at a root, which counts bad rows instead of stopping at the first."""
        return self.module(root, on_bad_sample="skip")


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_CIFAR10 = PublicArchive(
    PublicFile(
        "cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
    ),
    "cifar-10-batches-py",
    {
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
)
_EYEPACS = ("trainLabels.csv.zip", *(f"train.zip.{part:03d}" for part in range(1, 6)))

PUBLIC_SETS: dict[str, PublicSet] = {
    "aptos": PublicSet(
        "APTOS 2019: fundus photographs with grades of diabetic retinopathy",
        APTOS,
        "https://www.kaggle.com/competitions/aptos2019-blindness-detection",
        "train.csv and train_images/*.png",
        3662,
        kaggle=KaggleSource("aptos2019-blindness-detection", ("train.csv", "train_images")),
    ),
    "chest_xray": PublicSet(
        "chest X-rays of children, normal or pneumonia",
        ChestXRay,
        "https://data.mendeley.com/datasets/rscbjbr9sj",
        "{train,val,test}/{NORMAL,PNEUMONIA}/*.jpeg",
        5856,
        kaggle=KaggleSource(
            "paultimothymooney/chest-xray-pneumonia", tuple(f"chest_xray/{s}" for s in ("train", "val", "test"))
        ),
    ),
    "cifar10": PublicSet(
        "CIFAR-10: natural images of ten classes, a control",
        CIFAR10,
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        "cifar-10-batches-py/{data_batch_*,test_batch}",
        60000,
        archive=_CIFAR10,
    ),
    "covid_ct": PublicSet(
        "COVID-19 CT: 20 volumes of the chest with masks of the lungs, slice by slice",
        CovidCT,
        "https://zenodo.org/records/3757476",
        "metadata.csv, ct_scans/*.nii and lung_mask/*.nii, as Kaggle has them",
        kaggle=KaggleSource("andrewmvd/covid19-ct-scans", ("metadata.csv", "ct_scans", "lung_mask")),
    ),
    "digits": PublicSet(
        "scikit-learn's digits, which come with it: a control",
        Digits,
        "",
        "",
        1797,
        generated=True,
    ),
    "ead2019": PublicSet(
        "EAD-2019: endoscopic frames with boxes of seven kinds of artefacts, or other boxes in its layout",
        Endoscopy,
        "https://ead2019.grand-challenge.org/Data",
        LAYOUT,
    ),
    "ham10000": PublicSet(
        "HAM10000: dermoscopic images of skin lesions in seven classes",
        HAM10000,
        "https://doi.org/10.7910/DVN/DBW86T",
        "HAM10000_metadata.csv and HAM10000_images_part_{1,2}/*.jpg",
        10015,
        kaggle=KaggleSource(
            "kmader/skin-cancer-mnist-ham10000",
            ("HAM10000_metadata.csv", "HAM10000_images_part_1", "HAM10000_images_part_2"),
        ),
    ),
    "ham10000_masks": PublicSet(
        "HAM10000 with masks of the lesions",
        HAM10000Masks,
        "https://doi.org/10.7910/DVN/DBW86T",
        "HAM10000_metadata.csv, HAM10000_images_part_{1,2}/*.jpg and "
        "HAM10000_segmentations_lesion_tschandl/*_segmentation.png",
        10015,
    ),
    "ham10000_boxes": PublicSet(
        "HAM10000 with the boxes of its lesions' masks",
        HAM10000Boxes,
        "https://doi.org/10.7910/DVN/DBW86T",
        f"HAM10000_metadata.csv, HAM10000_images_part_{{1,2}}/*.jpg and {MASKS}/*_segmentation.png",
        10015,
    ),
    "image_folder": PublicSet(
        "your own images, in a folder for each class",
        ImageFolder,
        "",
        "CLASS/*.png",
    ),
    "isic": PublicSet(
        "tables and images of the ISIC archive and of its challenges",
        ISIC,
        "https://challenge.isic-archive.com/data (without an account; choose a year)",
        "a CSV file with labels beside folders of images",
    ),
    "kaggle_dr": PublicSet(
        "Kaggle-DR (EyePACS): fundus photographs of both eyes with grades of diabetic retinopathy",
        KaggleDR,
        "https://www.kaggle.com/competitions/diabetic-retinopathy-detection",
        "trainLabels.csv and train/*.jpeg",
        35126,
        kaggle=KaggleSource("diabetic-retinopathy-detection", _EYEPACS, archives=True),
    ),
    "kvasir_boxes": PublicSet(
        "Kvasir-SEG with the boxes of its polyps",
        KvasirBoxes,
        "https://datasets.simula.no/kvasir-seg",
        "images/*.jpg and kavsir_bboxes.json",
        1000,
    ),
    "kvasir_masks": PublicSet(
        "Kvasir-SEG: frames of colonoscopies with masks of the polyps",
        KvasirMasks,
        "https://datasets.simula.no/kvasir-seg",
        "images/*.jpg and masks/*.jpg",
        1000,
    ),
    "lung_ct": PublicSet(
        "finding lungs in CT: single slices of the chest with masks of the lungs",
        LungCT,
        "https://www.kaggle.com/datasets/kmader/finding-lungs-in-ct-data",
        "2d_images/*.tif and 2d_masks/*.tif",
        267,
        kaggle=KaggleSource("kmader/finding-lungs-in-ct-data", ("2d_images", "2d_masks")),
    ),
    "mnist": PublicSet(
        "MNIST: handwritten digits, a control",
        MNIST,
        "https://yann.lecun.com/exdb/mnist",
        "{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz",
        70000,
        files=(
            PublicFile(
                "train-images-idx3-ubyte.gz", f"{_MNIST}train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"
            ),
            PublicFile(
                "train-labels-idx1-ubyte.gz", f"{_MNIST}train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"
            ),
            PublicFile(
                "t10k-images-idx3-ubyte.gz", f"{_MNIST}t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"
            ),
            PublicFile(
                "t10k-labels-idx1-ubyte.gz", f"{_MNIST}t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"
            ),
        ),
    ),
    "nih_cxr14": PublicSet(
        "NIH ChestX-ray14: chest X-rays with up to fourteen findings",
        NIHChestXRayLabels,
        "https://nihcc.app.box.com/v/ChestXray-NIHCC",
        "Data_Entry_2017*.csv and images*/**/*.png",
        112120,
        kaggle=KaggleSource("nih-chest-xrays/data", ("Data_Entry_2017*.csv", "images_*")),
    ),
    "phantom_aptos": PublicSet(
        "generated fundus photographs in the layout of APTOS 2019",
        PhantomAPTOS,
        "",
        PhantomAPTOS.layout,
        generated=True,
    ),
    "phantom_chest_xray": PublicSet(
        "generated chest X-rays", PhantomChestXRay, "", PhantomChestXRay.layout, generated=True
    ),
    "phantom_ct": PublicSet(
        "generated chest CT with masks of the lungs in the layout of COVID-19 CT",
        PhantomCT,
        "",
        PhantomCT.layout,
        generated=True,
    ),
    "phantom_dermoscopy": PublicSet(
        "generated dermoscopic images in the layout of HAM10000",
        PhantomDermoscopy,
        "",
        PhantomDermoscopy.layout,
        generated=True,
    ),
    "phantom_endoscopy": PublicSet(
        "generated endoscopic frames with boxes of artefacts in the layout of EAD-2019",
        PhantomEndoscopy,
        "",
        PhantomEndoscopy.layout,
        generated=True,
    ),
    "phantom_fundus": PublicSet(
        "generated fundus photographs in the layout of Kaggle-DR",
        PhantomFundus,
        "",
        PhantomFundus.layout,
        generated=True,
    ),
}

# number of images, and checksums for 28, 64, 128 and 224 pixels, as the package medmnist 3 states them
_MEDMNIST: dict[str, tuple[int, str, str, str, str]] = {
    "pathmnist": (
        107180,
        "a8b06965200029087d5bd730944a56c1",
        "55aa9c1e0525abe5a6b9d8343a507616",
        "ac42d08fb904d92c244187169d1fd1d9",
        "2c51a510bcdc9cf8ddb2af93af1eadec",
    ),
    "chestmnist": (
        112120,
        "02c8a6516a18b556561a56cbdd36c4a8",
        "9de6cd0b934ebb5b7426cfba5efbae16",
        "db107e5590b27930b62dbaf558aebee3",
        "45bd33e6f06c3e8cdb481c74a89152aa",
    ),
    "dermamnist": (
        10015,
        "0744692d530f8e62ec473284d019b0c7",
        "b70a2f5635c6199aeaa28c31d7202e1f",
        "2defd784463fa5243564e855ed717de1",
        "8974907d8e169bef5f5b96bc506ae45d",
    ),
    "octmnist": (
        109309,
        "c68d92d5b585d8d81f7112f81e2d0842",
        "e229e9440236b774d9f0dfef9d07bdaf",
        "0a97e76651ace45c5d943ee3f65b63ae",
        "abc493b6d529d5de7569faaef2773ba3",
    ),
    "pneumoniamnist": (
        5856,
        "28209eda62fecd6e6a2d98b1501bb15f",
        "8f4eceb4ccffa70c672198ea285246c6",
        "05b46931834c231683c68f40c47b2971",
        "d6a3c71de1b945ea11211b03746c1fe1",
    ),
    "retinamnist": (
        1600,
        "bd4c0672f1bba3e3a89f0e4e876791e4",
        "afda852cc34dcda56f86ad2b2457dbcc",
        "e48e916a24454daf90583d4e6efb1a18",
        "eae7e3b6f3fcbda4ae613ebdcbe35348",
    ),
    "breastmnist": (
        780,
        "750601b1f35ba3300ea97c75c52ff8f6",
        "742edef2a1fd1524b2efff4bd7ba9364",
        "363e4b3f8d712e9b5de15470a2aaadf1",
        "b56378a6eefa9fed602bb16d192d4c8b",
    ),
    "bloodmnist": (
        17092,
        "7053d0359d879ad8a5505303e11de1dc",
        "2b94928a2ae4916078ca51e05b6b800b",
        "adace1e0ed228fccda1f39692059dd4c",
        "b718ff6835fcbdb22ba9eacccd7b2601",
    ),
    "tissuemnist": (
        236386,
        "ebe78ee8b05294063de985d821c1c34b",
        "123ece2eba09d0aa5d698fda57103344",
        "61b955355d7425a89687b06cca3ce0c2",
        "b077128c4a949f0a4eb01517f9037b9c",
    ),
    "organamnist": (
        58830,
        "68e3f8846a6bd62f0c9bf841c0d9eacc",
        "2dcccc29b88e6da5a01161ef20cda288",
        "eeae80d0a227a8d099027e1b3cfd3b60",
        "50747347e05c87dd3aaf92c49f9f3170",
    ),
    "organcmnist": (
        23583,
        "b9ceb9546e10131b32923c5bbeaea2b1",
        "3ce34a8724ea6f548e6db4744d03b6a9",
        "773c1f009daa3fe5d9a2a201b2a7ed94",
        "050f5e875dc056f6768abf94ec9995d1",
    ),
    "organsmnist": (
        25211,
        "9ab87b696fb54e2a387ebe992d6ed5f1",
        "53a6d115339d874c25e309a994ff46d3",
        "ded0c5fa01a95dc4978b956f613e9b8e",
        "b354719e553fbbb2513d5533f52a4cb1",
    ),
}
MEDMNIST = tuple(_MEDMNIST)
SIZES = (28, 64, 128, 224)


def medmnist(dataset: str, size: int) -> PublicSet:
    """A set of MedMNIST.

    Args:
        dataset: Its name, one of `MEDMNIST`.
        size: Side of its images in pixels, one of `SIZES`.
    """
    images, *checksums = _MEDMNIST[dataset]
    name = f"{dataset}.npz" if size == SIZES[0] else f"{dataset}_{size}.npz"
    url = f"https://zenodo.org/records/10519652/files/{name}?download=1"
    build: Any = MedMNISTLabels if dataset == "chestmnist" else MedMNIST
    return PublicSet(
        f"MedMNIST's {dataset} with images of {size} x {size} pixels",
        partial(build, dataset=dataset, size=size),
        "https://zenodo.org/records/10519652",
        name,
        images,
        files=(PublicFile(name, url, checksums[SIZES.index(size)]),),
        counted=size == SIZES[0],
    )
