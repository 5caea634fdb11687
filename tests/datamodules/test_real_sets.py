"""The real samples of public sets, where a checkout has them beside itself."""

import gzip
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import (
    CIFAR10,
    HAM10000,
    MNIST,
    CovidCT,
    Endoscopy,
    HAM10000Boxes,
    HAM10000Masks,
    ImageFolder,
    KvasirMasks,
    LungCT,
    MedicalDataModule,
    NIHChestXRay,
    NIHChestXRayLabels,
    SegmentationDataModule,
)
from datamodules.images import read_mask
from datamodules.nih import FINDINGS
from datamodules.splits import Fractions
from datamodules.tables import read_table

ROOT = Path(__file__).resolve().parents[3] / "shared/data"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not ROOT.is_dir(), reason="no real samples beside the checkout"),
]


def set_up(module: MedicalDataModule[Any]) -> dict[str, int]:
    """Set up; the number of images of each class or with each label, once all splits are disjoint by patient."""
    module.setup()
    for one, other in itertools.combinations(module.splits.values(), 2):
        assert not {sample.patient for sample in one} & {sample.patient for sample in other}
    batch = next(iter(module.test_dataloader()))
    assert 0 <= batch["image"].min() < 0.4 < batch["image"].max() <= 1
    return sum(
        (Counter(part.get("classes") or part["labels"]) for part in module.describe()["splits"].values()), Counter()
    )


def test_ham10000() -> None:
    module = HAM10000(ROOT / "ham10000", image_size=64)
    found = set_up(module)
    assert found == {"nv": 480, "mel": 361, "bkl": 330, "bcc": 250, "akiec": 180, "vasc": 80, "df": 70}
    assert len({sample.patient for members in module.splits.values() for sample in members}) == 1192
    test = module.describe()["splits"]["adv_test"]
    assert all(abs(test["classes"][name] - 0.15 * count) <= 2 for name, count in found.items())
    binary = HAM10000(ROOT / "ham10000", classes="malignant", image_size=64)
    assert set_up(binary) == {"malignant": 361 + 250 + 180, "benign": 480 + 330 + 80 + 70}


def test_nih_chest_xrays() -> None:
    assert set_up(NIHChestXRay(ROOT / "nih_cxr14", image_size=64)) == {"No Finding": 435, "Pneumothorax": 10}
    module = NIHChestXRay(ROOT / "nih_cxr14", classes="cxr4", image_size=64)
    assert set_up(module) == {"No Finding": 435, "Pneumothorax": 10, "Mass": 4, "Nodule": 13}
    for split in ("train", "val", "adv_test"):
        assert min(module.describe()["splits"][split]["classes"].values()) >= 1
    labels = set_up(NIHChestXRayLabels(ROOT / "nih_cxr14", image_size=64))
    assert (labels["Nodule"], labels["Pneumothorax"], labels["Mass"]) == (30, 25, 22) and set(labels) == set(FINDINGS)


def test_the_first_rows_of_the_whole_nih_table(tmp_path: Path) -> None:
    path = tmp_path / "Data_Entry_2017.csv"
    path.write_bytes(gzip.decompress((ROOT / "nih_cxr14/Data_Entry_2017.first39999rows.csv.gz").read_bytes()))
    rows = read_table(path, {"image": ("Image Index",), "findings": ("Finding Labels",), "patient": ("Patient ID",)})
    (tmp_path / "images").mkdir()
    for row in rows:
        (tmp_path / "images" / row.cells["image"]).touch()
    module = NIHChestXRayLabels(tmp_path)
    samples = module.index()
    assert len(rows) == len(samples) == 40000  # and a header
    counts = dict(zip(module.class_names, module.label_counts(samples), strict=True))
    assert (counts["Mass"], counts["Hernia"], counts["Pleural_Thickening"]) == (1630, 111, 1168)


def test_cifar10_as_files() -> None:
    found = set_up(CIFAR10(ROOT / "cifar10", image_size=32))
    assert found.total() == 3100 and set(found) == set(CIFAR10.class_names)
    kept = ImageFolder(ROOT / "cifar10", image_size=32)
    assert set_up(kept) == found and kept.class_names == CIFAR10.class_names
    assert len(kept.splits["adv_train"]) + len(kept.splits["adv_test"]) == 600


def test_mnist() -> None:
    found = set_up(MNIST(ROOT / "mnist", image_size=28, channels=1))
    # the published numbers of each digit in the test set
    numbers = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
    assert found == {str(digit): number for digit, number in enumerate(numbers)}


def set_up_masks(module: SegmentationDataModule) -> dict[str, float]:
    """Set up; the share of each split's pixels that is marked, once all splits are disjoint by patient."""
    module.setup()
    for one, other in itertools.combinations(module.splits.values(), 2):
        assert not {sample.patient for sample in one} & {sample.patient for sample in other}
    shares = {}
    for split, members in module.splits.items():
        if members:
            masks = torch.cat([batch["target"] for batch in module.dataloader_of(split)])
            assert len(masks) == len(members) and set(masks.unique().tolist()) == {0, 1}
            shares[split] = float((masks > 0).float().mean())
    return shares


def test_covid_ct() -> None:
    options: dict[str, Any] = {"fractions": Fractions(0.5, 0, 0, 0.5), "image_size": 64, "cache": "none"}
    module = CovidCT(ROOT / "covid_ct", labels="lung", **options)
    shares = set_up_masks(module)
    assert sorted(len(members) for members in module.splits.values()) == [0, 0, 56, 61]
    assert all(0.05 < share < 0.3 for share in shares.values())
    for sample in (sample for members in module.splits.values() for sample in members if sample.id.endswith("#040")):
        scene = module.read_checked(sample)
        assert scene.mask is not None and scene.image.shape == (128, 128, 1)
        assert 0.2 < np.median(scene.image[:, :, 0][scene.mask > 0]) < 0.35  # about -850 HU
        # bone is brightest at the spine, which lies at the back, below
        bone = (scene.image[:, 48:80, 0] > 0.98).sum(axis=1)
        rows = np.flatnonzero(scene.mask.any(axis=1))
        assert rows.mean() < np.average(np.arange(128), weights=bone)
    with pytest.raises(ValueError, match="do not tell the lungs apart; use labels: lung"):
        CovidCT(ROOT / "covid_ct", **options).setup()
    with pytest.raises(ValueError, match=r"expected at least 4 volumes, .* found 2"):
        CovidCT(ROOT / "covid_ct", labels="lung").setup()


def test_lung_ct() -> None:
    shares = set_up_masks(LungCT(ROOT / "lung_ct_2d", image_size=64))
    assert len(shares) == 4 and all(0.1 < share < 0.45 for share in shares.values())


def test_ham10000_masks() -> None:
    module = HAM10000Masks(ROOT / "ham10000", image_size=64, limit=30)
    shares = set_up_masks(module)
    assert all(0.15 < share < 0.5 for share in shares.values())
    samples = module.index()
    assert len(samples) == 1751 and len({sample.patient for sample in samples}) == 1192


def test_kvasir_masks() -> None:
    module = KvasirMasks(ROOT / "kvasir_boxes", image_size=64, limit=30)
    shares = set_up_masks(module)
    assert all(0.08 < share < 0.3 for share in shares.values())
    assert len(module.index()) == 400


def test_the_frames_of_ead() -> None:
    module = Endoscopy(ROOT / "ead2019_sample", image_size=128, resize="squash", test_split="all")
    module.setup()
    described = module.describe()["splits"]["all"]
    assert (described["images"], sum(described["boxes"].values()), described["without_box"]) == (5, 30, 0)
    assert described["boxes"]["bubbles"] == 14 and described["boxes"]["contrast"] == 0
    (batch,) = module.test_dataloader()
    found = dict(zip(batch["id"], batch["target"], strict=True))["trainingData_detection/00017.jpg"]
    # 0.4140625 0.451171875 0.08203125 0.0859375 of 128 pixels, and so on
    assert found["labels"].tolist() == [0, 1, 5, 3, 0]
    assert found["boxes"][0].tolist() == pytest.approx([47.75, 52.25, 58.25, 63.25])


def test_the_boxes_of_kvasir() -> None:
    module = Endoscopy(ROOT / "kvasir_boxes", image_size=128, resize="squash")
    module.setup()
    assert module.class_names == ("polyp",)
    described = module.describe()["splits"].values()
    assert sum(one["images"] for one in described) == sum(one["patients"] for one in described) == 400
    boxes = [target["boxes"] for batch in module.test_dataloader() for target in batch["target"]]
    assert sum(map(len, boxes)) == module.describe()["splits"]["adv_test"]["boxes"]["polyp"] >= 60
    assert all(0 <= box.min() and box.max() <= 128 and (box[:, 2:] > box[:, :2]).all() for box in boxes)
    # the masks of the same frames are what the boxes were made of
    sample = module.splits["train"][0]
    mask = read_mask(ROOT / f"kvasir_boxes/masks/{sample.path.stem}.png") > 127
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    given = module.read_checked(sample).boxes
    assert given is not None
    around = [given[:, 0].min(), given[:, 1].min(), given[:, 2].max(), given[:, 3].max()]
    assert around == pytest.approx([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], abs=3)


def test_the_boxes_of_ham10000() -> None:
    module = HAM10000Boxes(ROOT / "ham10000", classes="seven", image_size=64, resize="squash")
    module.setup()
    boxes = sum((Counter(one["boxes"]) for one in module.describe()["splits"].values()), Counter())
    assert boxes == {"nv": 480, "mel": 361, "bkl": 330, "bcc": 250, "akiec": 180, "vasc": 80, "df": 70}
    for batch in module.test_dataloader():
        assert all(target["boxes"].shape == (1, 4) for target in batch["target"])
