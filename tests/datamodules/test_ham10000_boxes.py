"""HAM10000's lesions as boxes: the smallest around each mask, in one class, two or seven."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import HAM10000Boxes, PhantomDermoscopy
from datamodules.dermoscopy import DIAGNOSES
from datamodules.splits import Fractions

HALVES = Fractions(0.5, 0, 0, 0.5)
MASKS = "HAM10000_segmentations_lesion_tschandl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two lesions of each diagnosis, the first with two images; all lie at (3, 2) to (7, 5) of 12 x 9 pixels."""
    lines = ["lesion_id,image_id,dx"]
    for place, code in enumerate(DIAGNOSES):
        for number in range(3):
            lines.append(f"L{place}{number // 2},{code}{number},{code}")
            write(tmp_path, f"{code}{number}", 3 * place + number)
    (tmp_path / "HAM10000_metadata.csv").write_text("\n".join(lines))
    return tmp_path


def write(root: Path, name: str, seed: int) -> None:
    """An image that no other is like, and the mask of an L."""
    image = np.random.default_rng(seed).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    mask = np.zeros((9, 12), np.uint8)
    mask[2:5, 3] = mask[4, 3:7] = 255
    for folder, pixels, suffix in (("HAM10000_images_part_1", image, ".jpg"), (MASKS, mask, "_segmentation.png")):
        (root / folder).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / folder / f"{name}{suffix}")


def data(root: Path, **options: Any) -> HAM10000Boxes:
    """A small data module that is set up."""
    module = HAM10000Boxes(root, **{"image_size": 8, "fractions": HALVES, "batch_size": 32, "resize": "pad"} | options)
    module.setup()
    return module


@pytest.mark.parametrize(
    ("classes", "names", "label"),
    [
        ("lesion", ("lesion",), dict.fromkeys(DIAGNOSES, 0)),
        ("seven", DIAGNOSES, {code: place for place, code in enumerate(DIAGNOSES)}),
        ("malignant", ("benign", "malignant"), {code: int(code in ("akiec", "bcc", "mel")) for code in DIAGNOSES}),
    ],
)
def test_boxes_of_masks(root: Path, classes: Any, names: tuple[str, ...], label: dict[str, int]) -> None:
    module = data(root, classes=classes)
    assert module.class_names == names
    seen = 0
    for split in ("train", "adv_test"):
        (batch,) = module.dataloader_of(split)
        for id, target in zip(batch["id"], batch["target"], strict=True):
            expected = torch.tensor([[2, 7 / 3, 14 / 3, 13 / 3]])  # two thirds of the corners, below a row of nothing
            torch.testing.assert_close(target["boxes"], expected, rtol=0, atol=0.01)
            assert target["labels"].tolist() == [label[id.split("/")[1][:-5]]]
            seen += 1
    assert seen == 21
    described = module.describe()["splits"]
    assert sum(sum(one["boxes"].values()) for one in described.values()) == 21 and set(
        described["train"]["boxes"]
    ) == set(names)
    for members in (module.splits["train"], module.splits["adv_test"]):
        assert {sample.stratum for sample in members} == set(DIAGNOSES)  # each diagnosis in both splits
    homes = {(s.patient, split) for split, members in module.splits.items() for s in members}
    assert len(homes) == 14  # both images of a lesion are in one split


def test_the_mask_is_part_of_the_fingerprint(root: Path, tmp_path: Path) -> None:
    module = data(root)
    before = {split: module.fingerprint(split) for split in ("train", "adv_test")}
    assert data(root, classes="seven").fingerprint("train") != before["train"]
    changed = module.splits["train"][0]
    mask = np.zeros((9, 12), np.uint8)
    mask[1, 1] = 1
    Image.fromarray(mask).save(root / MASKS / f"{changed.path.stem}_segmentation.png")
    again = data(root)
    assert again.fingerprint("adv_test") == before["adv_test"] and again.fingerprint("train") != before["train"]
    module.export_splits(tmp_path / "splits.csv")
    assert data(root, split_file=tmp_path / "splits.csv").splits == module.splits


def test_bad_masks(root: Path) -> None:
    file = root / MASKS / "mel1_segmentation.png"
    for pixels, words in (
        (np.zeros((9, 12), np.uint8), "expected the mask of a lesion, got one that is 0 everywhere"),
        (np.ones((12, 8), np.uint8), "expected a mask of 12 x 9 pixels as its image, got 8 x 12"),
    ):
        Image.fromarray(pixels).save(file)
        with pytest.raises(ValueError, match=f"mel1_segmentation.png: {words}"):
            [list(data(root).dataloader_of(split)) for split in ("train", "adv_test")]
        with pytest.warns(UserWarning, match="skipped 1 of 21"):
            assert data(root, on_bad_sample="skip").bad_samples[0][0] == "HAM10000_images_part_1/mel1.jpg"
    file.unlink()
    with pytest.raises(ValueError, match="mel1_segmentation.png: expected the mask of HAM10000_images_part_1/mel1"):
        data(root)
    with (root / "HAM10000_metadata.csv").open("a") as table:
        table.write("\nL99,gone,mel\n")
    with pytest.warns(UserWarning, match="skipped 2 of 22"):
        module = data(root, on_bad_sample="skip")
    assert {id for id, _ in module.bad_samples} == {"gone", "HAM10000_images_part_1/mel1.jpg"}


def test_what_is_not_there(tmp_path: Path, root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected HAM10000 as HAM10000_metadata.csv"):
        data(tmp_path / "none")
    (root / MASKS).rename(root / "masks")
    with pytest.raises(FileNotFoundError, match=f"expected the lesions' masks as {MASKS}/"):
        data(root)
    with pytest.raises(ValueError, match="classes is one of lesion, seven, malignant, got 'two'"):
        HAM10000Boxes(root, classes="two")  # type: ignore[arg-type]


def test_the_phantoms_of_dermoscopy_have_boxes_too(tmp_path: Path) -> None:
    PhantomDermoscopy(tmp_path / "set", lesions=14, side=48).prepare_data()
    module = data(tmp_path / "set", image_size=48, resize="crop")
    (batch,) = module.test_dataloader()
    for target in batch["target"]:
        (box,) = target["boxes"].tolist()
        assert 0 <= box[0] < 24 < box[2] <= 48 and 0 <= box[1] < 24 < box[3] <= 48  # lesions are about the middle
