"""Folders of images beside folders of masks, lesions' masks with a table, and slices in Hounsfield units."""

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import HAM10000Masks, KvasirMasks, LungCT, SegmentationDataModule
from datamodules.splits import Fractions

HALVES = Fractions(0.5, 0, 0, 0.5)
MASKS = "HAM10000_segmentations_lesion_tschandl"
PARTS = ("HAM10000_images_part_1", "HAM10000_images_part_2")


def mask_of(number: int) -> np.ndarray:
    """A square of 255 that grows with the number, in 12 x 16 pixels."""
    mask = np.zeros((12, 16), np.uint8)
    mask[4:8, 4 : 6 + number % 4] = 255
    return mask


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (12, 16), np.uint8)


def save(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def data(kind: type[SegmentationDataModule], root: Path, **options: Any) -> SegmentationDataModule:
    module = kind(root, **{"image_size": 8, "fractions": HALVES, "batch_size": 4} | options)
    module.setup()
    return module


def every(module: SegmentationDataModule) -> list[Any]:
    return sorted((one for members in module.splits.values() for one in members), key=lambda one: one.id)


def lungs(root: Path, ending: str = ".png") -> None:
    for number in range(6):
        save(root / f"2d_images/ID_{number:04d}_Z_0100{ending}", picture(number))
        save(root / f"2d_masks/ID_{number:04d}_Z_0100{ending}", mask_of(number) // (1 if number % 2 else 255))


def polyps(root: Path, folder: str = "images", ending: str = ".jpg") -> None:
    for number in range(6):
        save(root / f"{folder}/c{number}.jpg", np.stack([picture(number)] * 3, axis=2))
        (root / folder / f"c{number}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
        save(root / f"masks/c{number}{ending}", mask_of(number), **({"quality": 75} if ending == ".jpg" else {}))


def lesions(root: Path) -> None:
    """Seven images of five lesions: the first two have two images each."""
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for number in range(7):
        lesion = f"HAM_{number % 5}"
        rows.append(f"{lesion},ISIC_{number},{'mel' if number % 5 < 2 else 'nv'},histo,50.0,male,back")
        save(root / PARTS[number % 2] / f"ISIC_{number}.jpg", np.stack([picture(number)] * 3, axis=2))
        save(root / MASKS / f"ISIC_{number}_segmentation.png", mask_of(number))
    (root / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")


KINDS: dict[str, tuple[type[SegmentationDataModule], Callable[[Path], None]]] = {
    "lungs": (LungCT, lungs),
    "polyps": (KvasirMasks, polyps),
    "lesions": (HAM10000Masks, lesions),
}
each = pytest.mark.parametrize("kind", KINDS)


@each
def test_each_image_with_its_mask(tmp_path: Path, kind: str) -> None:
    build, write = KINDS[kind]
    write(tmp_path)
    module = data(build, tmp_path)
    for sample in every(module):
        number = int("".join(letter for letter in sample.path.stem.replace("_Z_0100", "") if letter.isdigit()))
        scene = module.read_checked(sample)
        np.testing.assert_array_equal(scene.mask, mask_of(number) > 0)
        assert scene.image.shape == (12, 16, 1 if kind == "lungs" else 3)
    (batch,) = module.test_dataloader()
    assert set(batch["target"].unique().tolist()) == {0, 1} and batch["target"].shape[1:] == (8, 8)
    assert module.num_classes == 2 and module.class_names[0] == "background"


def test_kvasir_beside_its_boxes(tmp_path: Path) -> None:
    polyps(tmp_path, "trainingData_detection", ".png")
    module = data(KvasirMasks, tmp_path)
    assert [sample.id for sample in every(module)] == [f"trainingData_detection/c{number}.jpg" for number in range(6)]


def test_a_mask_with_losses_has_to_be_black_and_white(tmp_path: Path) -> None:
    polyps(tmp_path)
    save(tmp_path / "masks/c2.jpg", np.full((12, 16), 120, np.uint8))
    with pytest.raises(ValueError, match=r"masks/c2.jpg: expected a black and white mask, got one of which 100 %"):
        module = data(KvasirMasks, tmp_path)
        [module.read_checked(sample) for sample in every(module)]


def test_lesions_share_a_split_with_all_of_their_images(tmp_path: Path) -> None:
    lesions(tmp_path)
    module = data(HAM10000Masks, tmp_path)
    assert {sample.patient for sample in every(module)} == {f"HAM_{number}" for number in range(5)}
    assert {sample.stratum for sample in every(module)} == {"mel", "nv"}
    homes = {sample.patient: split for split, members in module.splits.items() for sample in members}
    assert all(homes[sample.patient] == split for split, members in module.splits.items() for sample in members)
    assert every(module)[0].id == "HAM10000_images_part_1/ISIC_0.jpg"


@each
@pytest.mark.parametrize("fault", ["missing", "value", "shape"])
def test_a_bad_mask_raises_or_is_skipped_and_counted(tmp_path: Path, kind: str, fault: str) -> None:
    build, write = KINDS[kind]
    write(tmp_path)
    if kind == "polyps":
        for file in (tmp_path / "masks").iterdir():
            file.unlink()
        for number in range(6):
            save(tmp_path / f"masks/c{number}.png", mask_of(number))
    mask = sorted(path for path in tmp_path.rglob("*.png") if "mask" in path.parts[-2] or "segm" in path.parts[-2])[1]
    if fault == "missing":
        mask.unlink()
        said = "expected the mask .* found none"
    elif fault == "value":
        save(mask, np.full((12, 16), 7, np.uint8))
        said = f"{mask.name}: expected a mask of the values 0, 1, 255, got 7"
    else:
        save(mask, mask_of(0)[:, :15])
        said = f"{mask.name}: expected a mask of 16 x 12 pixels as its image, got 15 x 12"
    with pytest.raises(ValueError, match=said):
        module = data(build, tmp_path)
        [module.read_checked(sample) for sample in every(module)]
    with pytest.warns(UserWarning, match="skipped 1 of"):
        module = data(build, tmp_path, on_bad_sample="skip")
    assert len(every(module)) == (6 if kind == "lesions" else 5) and module.describe()["skipped"] == 1


@each
def test_masks_without_an_image_are_told(tmp_path: Path, kind: str) -> None:
    build, write = KINDS[kind]
    write(tmp_path)
    folder = {"lungs": "2d_masks", "polyps": "masks", "lesions": MASKS}[kind]
    save(tmp_path / folder / f"other{'_segmentation' if kind == 'lesions' else ''}.png", mask_of(0))
    with pytest.warns(UserWarning, match=f"left out 1 mask without an image, first {folder}/other"):
        data(build, tmp_path)


@each
def test_a_mask_decides_the_fingerprint(tmp_path: Path, kind: str) -> None:
    build, write = KINDS[kind]
    write(tmp_path)
    before = data(build, tmp_path)
    mask = before.splits["train"][0].target
    save(mask, mask_of(3) if mask_of(3).sum() != (np.asarray(Image.open(mask)) > 127).sum() * 255 else mask_of(1))
    after = data(build, tmp_path)
    assert after.fingerprint("train") != before.fingerprint("train")
    assert after.fingerprint("adv_test") == before.fingerprint("adv_test")


@each
def test_missing_folders(tmp_path: Path, kind: str) -> None:
    build, write = KINDS[kind]
    write(tmp_path)
    with pytest.raises(FileNotFoundError, match="found no folder"):
        data(build, tmp_path / "elsewhere")
    folder = {"lungs": "2d_masks", "polyps": "masks", "lesions": MASKS}[kind]
    (tmp_path / folder).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"mask.*{folder}"):
        data(build, tmp_path)


def test_an_image_that_is_there_twice(tmp_path: Path) -> None:
    lungs(tmp_path)
    save(tmp_path / "2d_images/ID_0001_Z_0100.tif", picture(1))
    with pytest.raises(ValueError, match=r"expected one image 'ID_0001_Z_0100', found .*\.png and .*\.tif"):
        data(LungCT, tmp_path)


def test_slices_of_one_scan_share_a_split(tmp_path: Path) -> None:
    lungs(tmp_path)
    for number in (0, 1):
        save(tmp_path / f"2d_images/ID_{number:04d}_Z_0200.png", picture(number + 50))
        save(tmp_path / f"2d_masks/ID_{number:04d}_Z_0200.png", mask_of(0))
    assert len({sample.patient for sample in every(data(LungCT, tmp_path))}) == 6
    save(tmp_path / "2d_images/17.png", picture(60))
    save(tmp_path / "2d_masks/17.png", mask_of(0))
    assert "17" in {sample.patient for sample in every(data(LungCT, tmp_path))}


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_slices_in_hounsfield_units(tmp_path: Path, kind: type) -> None:
    lungs(tmp_path, ".tif")
    path = tmp_path / "2d_images/ID_0002_Z_0100.tif"
    values = np.full((12, 16), -500, kind)
    values[0, :4] = -2000, -1250, 250, 3000
    save(path, values)
    module = data(LungCT, tmp_path)
    (sample,) = (one for one in every(module) if one.path == path)
    image = module.read_checked(sample).image
    assert image.shape == (12, 16, 1) and image[0, :5, 0].tolist() == [0, 0, 1, 1, 0.5]
    narrow = data(LungCT, tmp_path, window=(-1000, 0), channels=3)
    assert narrow.read_checked(sample).image[0, 4].tolist() == [0.5] * 3
    split = next(split for split, members in module.splits.items() if sample in members)
    assert narrow.fingerprint(split) != data(LungCT, tmp_path, channels=3).fingerprint(split)
    # greys of 8 bits have no window
    grey = next(one for one in every(module) if one.path != path)
    np.testing.assert_array_equal(module.read_checked(grey).image, narrow.read_checked(grey).image[:, :, :1])
    if kind is np.float32:
        values[5, 5] = np.nan
        save(path, values)
        with pytest.raises(ValueError, match=r"ID_0002_Z_0100.tif: expected finite Hounsfield units, got nan"):
            module.read_checked(sample)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"ID_0002_Z_0100.tif: expected"):
        module.read_checked(sample)


def test_own_masks_of_several_classes_are_read_as_the_documentation_says(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/own-images.md").read_text()
    block = re.search(r"my_masks\.py <<END\n(.*?)\nEND\n", page, re.DOTALL)
    assert block
    names: dict[str, Any] = {}
    exec(textwrap.dedent(block[1]), names)
    for patient in ("anna", "ben"):
        for number in range(2):
            mask = mask_of(number)  # 255 in 4 x 2 or 4 x 3 pixels; the first row, of 16, gets 128
            mask[0] = 128
            save(tmp_path / f"images/{patient}_{number}.jpg", np.stack([picture(number)] * 3, axis=2))
            save(tmp_path / f"masks/{patient}_{number}.png", mask)
    module = names["MyMasks"](tmp_path)
    samples = module.index()
    assert [sample.patient for sample in samples] == ["anna", "anna", "ben", "ben"]
    labels = module.read_mask(samples[0])
    assert [(labels == label).sum() for label in range(3)] == [12 * 16 - 16 - 8, 16, 8]
    (tmp_path / "masks/anna_0.png").unlink()
    save(tmp_path / "masks/anna_0.jpg", mask_of(0))
    with pytest.raises(
        ValueError, match=r"anna_0.jpg: .* such as PNG, for a mask of background, polyp, tool, got a JPEG"
    ):
        module.read_mask(module.index()[0])
