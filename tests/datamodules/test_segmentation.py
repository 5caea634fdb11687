"""Segmentation: masks are read, checked, moved with their images, batched and written down."""

import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import Sample, Scene, SegmentationDataModule
from datamodules.splits import Fractions
from datamodules.transforms import Augmentation

HALVES = Fractions(0.5, 0, 0, 0.5)


class Lungs(SegmentationDataModule):
    """Images beside masks of background, left and right lung."""

    name, class_names = "lungs", ("background", "left", "right")

    def index(self) -> list[Sample[Path]]:
        images = sorted((self.root.absolute() / "images").glob("*.png"))
        return [
            Sample(path, f"images/{path.name}", path.parents[1] / "masks" / path.name, path.stem) for path in images
        ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight grey images of 6 x 4 pixels: black, 102 where the mask is 1 (columns 0, 1), 204 where it is 2 (4, 5)."""
    mask = np.zeros((4, 6), np.uint8)
    mask[:, :2], mask[:, 4:] = 1, 2
    image = mask * 102
    for place in range(8):
        image[3, 0] = 102 + place  # or all would be the same image
        for folder, pixels in (("images", image), ("masks", mask)):
            (tmp_path / "lungs" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "lungs" / folder / f"{place}.png")
    return tmp_path / "lungs"


def data(root: Path, kind: type[SegmentationDataModule] = Lungs, **options: Any) -> SegmentationDataModule:
    """A small data module that is set up."""
    module = kind(root, **{"image_size": 4, "channels": 1, "fractions": HALVES, "batch_size": 4} | options)
    module.setup()
    return module


@pytest.mark.parametrize(
    ("resize", "side", "row"),
    [
        ("crop", 4, [1, 0, 0, 2]),  # columns 1 to 4 of 0 to 5
        ("squash", 2, [1, 2]),  # centres at 1.5 and 4.5, in columns 1 and 4
    ],
)
def test_batches(root: Path, resize: Any, side: int, row: list[int]) -> None:
    (batch,) = data(root, resize=resize, image_size=side, num_workers=1).test_dataloader()
    assert batch["image"].shape == (4, 1, side, side) and len(batch["id"]) == 4
    assert batch["target"].dtype == torch.int64
    assert batch["target"].tolist() == [[row] * side] * 4


def test_padding_is_ignored(root: Path) -> None:
    # 6 x 4 to 6 x 6: a row above and a row below show nothing
    (batch,) = data(root, image_size=6, resize="pad").test_dataloader()
    assert batch["target"][0].tolist() == [[-1] * 6, *[[1, 1, 0, 0, 2, 2]] * 4, [-1] * 6]
    assert batch["image"][0, 0, 0].tolist() == [0] * 6


def test_training_moves_masks_with_their_images(root: Path) -> None:
    torch.manual_seed(0)
    flip = Augmentation(rotation=0, shift=0, scale=0, horizontal_flip=0.5)
    module, seen = data(root, augment=flip, fractions=Fractions(1, 0, 0, 0)), set()
    for batch in module.train_dataloader():
        for image, mask in zip(batch["image"], batch["target"], strict=True):
            torch.testing.assert_close(image[0] * 255 / 102, mask.float())
            seen.add(tuple(mask[0].tolist()))
    assert seen == {(1, 0, 0, 2), (2, 0, 0, 1)}


def test_values_of_the_files_are_mapped_to_labels(root: Path) -> None:
    class Lung(Lungs):
        class_names = ("background", "lung")
        mask_values = {0: 0, 1: 1, 2: -1}  # noqa: RUF012

    (batch,) = data(root, Lung).test_dataloader()
    assert batch["target"][0, 0].tolist() == [1, 0, 0, -1]
    Image.fromarray(np.full((4, 6), 7, np.uint8)).save(root / "masks/3.png")
    module = data(root, Lung)
    with pytest.raises(ValueError, match=r"masks/3.png: expected a mask of the values 0, 1, 2, got 7"):
        [module.read_checked(sample) for members in module.splits.values() for sample in members]


def broken(root: Path, name: str, kind: str) -> None:
    """Replace a mask by a bad one."""
    path = root / "masks" / name
    if kind == "missing":
        path.unlink()
    elif kind == "text":
        path.write_text("moved")
    elif kind == "shape":
        Image.fromarray(np.zeros((4, 5), np.uint8)).save(path)
    elif kind == "label":
        Image.fromarray(np.full((4, 6), 3, np.uint8)).save(path)
    elif kind == "colours":
        Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3)).save(path)


REASONS = {
    "missing": r"masks/5.png: expected a complete mask image .* cannot be read \(No such file or directory\)",
    "text": r"masks/5.png: expected a complete mask image with one integer per pixel, got 5 bytes .*not an image",
    "shape": r"masks/5.png: expected a mask of 6 x 4 pixels as its image, got 5 x 4",
    "label": r"masks/5.png: expected labels from 0 to 2 \(background, left, right\) or negative ones to ignore, got 3",
    "colours": r"masks/5.png: expected a complete mask image .*colours that are not grey",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_bad_mask_raises_or_is_skipped(root: Path, kind: str) -> None:
    broken(root, "5.png", kind)
    module = data(root)
    with pytest.raises(ValueError, match=REASONS[kind]):
        [list(module.dataloader_of(split)) for split in ("train", "adv_test")]
    with pytest.warns(UserWarning, match="skipped 1 of 8 images that cannot be read: images/5.png"):
        module = data(root, on_bad_sample="skip")
    ((id, reason),) = module.bad_samples
    assert id == "images/5.png" and reason.startswith("masks/5.png: expected") and str(root) not in reason
    assert sum(len(batch["id"]) for split in ("train", "adv_test") for batch in module.dataloader_of(split)) == 7
    assert module.describe()["skipped"] == 1


def test_a_bad_image_is_skipped_as_well(root: Path) -> None:
    (root / "images/2.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="skipped 1 of 8"):
        assert data(root, on_bad_sample="skip").bad_samples[0][1].endswith("got an empty file")
    for file in (root / "masks").iterdir():
        file.unlink()
    reason = "expected images, found 8 of which none is good, first images/0.png: masks/0.png: expected a complete mask"
    with pytest.warns(UserWarning, match="skipped 8 of 8"), pytest.raises(ValueError, match=reason):
        data(root, on_bad_sample="skip")


def test_description_and_fingerprint(root: Path, tmp_path: Path) -> None:
    module = data(root)
    assert module.task == module.describe()["task"] == "segmentation" and module.num_classes == 3
    assert module.describe()["splits"]["train"] == {"images": 4, "patients": 4}
    moved = Path(shutil.copytree(root, tmp_path / "elsewhere/lungs"))
    assert data(moved).fingerprint("train") == module.fingerprint("train")

    class TwoLungs(Lungs):
        mask_values = {0: 0, 1: 2, 2: 1}  # noqa: RUF012

    class Sides(Lungs):
        class_names = ("background", "right", "left")

    # another meaning of the labels, another size, another split
    variants = [data(root, TwoLungs), data(root, Sides), data(root, image_size=5), data(root, split_seed=1)]
    assert len({module.fingerprint("train"), *(variant.fingerprint("train") for variant in variants)}) == 5


def test_split_file(root: Path, tmp_path: Path) -> None:
    module = data(root)
    module.export_splits(tmp_path / "splits.csv")
    id = module.splits["train"][0].id
    assert f"{id},train,../masks/{Path(id).name},{Path(id).stem}\n" in (tmp_path / "splits.csv").read_text()
    assert data(root, split_file=tmp_path / "splits.csv").splits == module.splits
    text = (tmp_path / "splits.csv").read_text().replace("../masks/0.png", "../masks/1.png")
    (tmp_path / "wrong.csv").write_text(text)
    with pytest.raises(ValueError, match=r"row \d+: expected the target '../masks/0.png' .*, got '../masks/1.png'"):
        data(root, split_file=tmp_path / "wrong.csv")


def test_strata_of_the_index_are_kept(root: Path) -> None:
    class Scanners(Lungs):
        def index(self) -> list[Sample[Path]]:
            return [
                Sample(s.path, s.id, s.target, s.patient, f"scanner {int(s.patient) // 4}") for s in super().index()
            ]

    module = data(root, Scanners)
    for members in (module.splits["train"], module.splits["adv_test"]):
        assert sorted(sample.stratum for sample in members) == ["scanner 0"] * 2 + ["scanner 1"] * 2
    (batch,) = module.reference_dataloader(per_class=1)
    assert sorted(int(Path(id).stem) // 4 for id in batch["id"]) == [0, 1]


def test_workers_need_no_trainer(root: Path) -> None:
    module = data(root)
    module.trainer = SimpleNamespace(state=SimpleNamespace(fn="test"), callback=lambda: None)  # type: ignore[assignment]
    loader = pickle.loads(pickle.dumps(module.dataloader_of("train").dataset))  # as a spawned worker receives it
    torch.testing.assert_close(loader[0]["target"], module.dataloader_of("train").dataset[0]["target"])
    assert module.trainer is not None


def test_masks_in_memory(tmp_path: Path) -> None:
    class Memory(SegmentationDataModule):
        name, class_names = "memory", ("outside", "inside")

        def index(self) -> list[Sample[Any]]:
            return [Sample(Path(f"{n}"), f"{n}", None, f"{n}") for n in range(4)]

        def read(self, sample: Sample[Any]) -> Scene:
            mask = np.eye(4, dtype=np.int64)
            return Scene(mask[:, :, None].astype(np.float32), mask)

    (batch,) = data(tmp_path, Memory).test_dataloader()
    torch.testing.assert_close(batch["target"], torch.eye(4, dtype=torch.int64).repeat(2, 1, 1))
