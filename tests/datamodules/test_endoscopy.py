"""Endoscopy in EAD-2019's layout: lines of text files to boxes, videos, strata, and one sentence for every mistake."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import Endoscopy, samplers
from datamodules.endoscopy import ARTEFACTS, video_of
from datamodules.splits import Fractions
from datamodules.transforms import Augmentation

HALVES = Fractions(0.5, 0, 0, 0.5)
# corners (2, 1) to (6, 3) of class 1 and (0, 0) to (1, 4) of class 0, in an image of 8 x 4 pixels
TWO = "1 0.5 0.5 0.5 0.5\n\n0.0 0.0625 0.5 0.125 1\n"


def write(root: Path, name: str, text: str | None, folder: str = "trainingData_detection") -> Path:
    """A frame of 8 x 4 pixels that no other is like, and its text file."""
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(list(name.encode())).integers(0, 256, (4, 8, 3)).astype(np.uint8)
    Image.fromarray(values).save(path, quality=95)
    if text is not None:
        path.with_suffix(".txt").write_text(text)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six frames; the first has no box."""
    for place in range(6):
        write(tmp_path / "set", f"0000{place}.png", TWO if place else "")
    return tmp_path / "set"


def data(root: Path, **options: Any) -> Endoscopy:
    """A small data module that is set up."""
    module = Endoscopy(root, **{"image_size": 4, "fractions": HALVES, "batch_size": 8, "resize": "squash"} | options)
    module.setup()
    return module


def targets(module: Endoscopy) -> dict[str, dict[str, torch.Tensor]]:
    """The boxes and labels of every image of both splits."""
    batches = [batch for split in ("train", "adv_test") for batch in module.dataloader_of(split)]
    return {id: one for batch in batches for id, one in zip(batch["id"], batch["target"], strict=True)}


def test_lines_are_boxes(root: Path) -> None:
    module = data(root)
    assert module.class_names == ARTEFACTS and module.num_classes == 7 and module.task == "boxes"
    found = targets(module)
    assert sorted(found) == [f"trainingData_detection/0000{place}.png" for place in range(6)]
    empty = found.pop("trainingData_detection/00000.png")
    assert empty["boxes"].shape == (0, 4) and empty["boxes"].dtype == torch.float32
    assert empty["labels"].shape == (0,) and empty["labels"].dtype == torch.int64
    for one in found.values():  # x / 2
        assert one["boxes"].tolist() == [[1, 1, 3, 3], [0, 0, 0.5, 4]] and one["labels"].tolist() == [1, 0]


def test_frames_of_any_kind_in_any_folder(tmp_path: Path) -> None:
    # one folder of the public archive holds another of the same name, annotation tools leave lists of classes
    names = ["a/1.jpg", "a/2.JPEG", "a/3.tif", "4.tiff", "5.PNG", "b/1.jpg"]
    for name in names:
        write(tmp_path, name, TWO)
    (tmp_path / "trainingData_detection/classes.txt").write_text("x\ny\n")
    (tmp_path / "trainingData_detection/a/class_list.txt").write_text("x\n")
    (tmp_path / "notes.txt").write_text("mine")
    found = targets(data(tmp_path))
    assert sorted(found) == sorted(f"trainingData_detection/{name}" for name in names)
    write(tmp_path / "other", "1.png", TWO, folder="frames")
    write(tmp_path / "other", "2.png", TWO, folder="frames")
    assert len(targets(data(tmp_path / "other", folder="frames"))) == 2


def test_the_list_of_classes(root: Path) -> None:
    (root / "class_list.txt").write_text("polyp\r\n\n wound \n")
    module = data(root)
    assert module.class_names == ("polyp", "wound")
    assert Endoscopy(root).class_names == ("polyp", "wound")  # with which a checkpoint is compared before the set-up
    before = module.fingerprint("train")
    (root / "class_list.txt").write_text("wound\npolyp\n")
    assert data(root).fingerprint("train") != before
    for text, got in (("", "none"), ("polyp\npolyp\n", "polyp, polyp")):
        (root / "class_list.txt").write_text(text)
        with pytest.raises(ValueError, match=rf"class_list.txt: expected different names of classes.*, got {got}$"):
            data(root)
    (root / "class_list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="class_list.txt: expected text in UTF-8"):
        data(root)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.5", "expected class xc yc w h, 5 numbers, got 4 fields"),
        ("0 0.5 0.5 0.5 0.5 0.9", "expected class xc yc w h, 5 numbers, got 6 fields"),
        ("0,0.5,0.5,0.5,0.5", "expected class xc yc w h, 5 numbers, got 1 fields"),
        ("blur 0.5 0.5 0.5 0.5", "expected class xc yc w h, 5 numbers, got 'blur 0.5 0.5 0.5 0.5'"),
        ("0 0.5 nan 0.5 0.5", "expected finite numbers, got '0 0.5 nan 0.5 0.5'"),
        ("0 0.5 0.5 inf 0.5", "expected finite numbers, got '0 0.5 0.5 inf 0.5'"),
        ("nan 0.5 0.5 0.5 0.5", "expected finite numbers, got 'nan 0.5 0.5 0.5 0.5'"),
        ("7 0.5 0.5 0.5 0.5", r"expected a class from 0 to 6 \(specularity, .*, instrument\), got 7"),
        ("-1 0.5 0.5 0.5 0.5", r"expected a class from 0 to 6 \(specularity, .*, instrument\), got -1"),
        ("1.5 0.5 0.5 0.5 0.5", r"expected a class from 0 to 6 \(specularity, .*, instrument\), got 1.5"),
        ("0 0.5 0.5 0 0.5", "expected a box with a width and a height above 0, got 0 x 0.5"),
        ("0 0.5 0.5 0.5 -0.25", "expected a box with a width and a height above 0, got 0.5 x -0.25"),
        ("0 4 2 4 2", r"expected a box whose centre is given as shares of the image, 0 to 1, got \(4, 2\)"),
    ],
)
def test_a_bad_line_is_named(root: Path, line: str, reason: str) -> None:
    (root / "trainingData_detection/00004.txt").write_text(f"{TWO}{line}\n")
    with pytest.raises(ValueError, match=rf"trainingData_detection/00004.txt, line 4: {reason}$"):
        data(root)
    with pytest.warns(UserWarning, match="skipped 1 of 6 images that cannot be read: trainingData_detection/00004.png"):
        module = data(root, on_bad_sample="skip")
    ((id, given),) = module.bad_samples
    assert id == "trainingData_detection/00004.png" and given.startswith("trainingData_detection/00004.txt, line 4: ")
    assert sum(map(len, module.splits.values())) == 5 and module.describe()["skipped"] == 1


def test_a_box_outside_its_image_is_named(root: Path) -> None:
    text = root / "trainingData_detection/00004.txt"
    text.write_text("0 0.5 0.5 1.0005 1.0005\n")  # 0.002 and 0.001 pixels outside: rounded
    assert targets(data(root))["trainingData_detection/00004.png"]["boxes"].tolist() == [[0, 0, 4, 4]]
    text.write_text(TWO + "0 1 0.5 0.5 0.5\n")
    reason = (
        r"00004.txt, line 4: expected a box inside its image of 8 x 4 pixels, got \(6, 1\) to \(10, 3\)$"  # 1 +- 0.25
    )
    with pytest.raises(ValueError, match=reason):
        targets(data(root))
    with pytest.warns(UserWarning, match="skipped 1 of 6"):
        module = data(root, on_bad_sample="skip")
    assert len(targets(module)) == 5


def test_frames_and_texts_belong_together(root: Path) -> None:
    folder = root / "trainingData_detection"
    (folder / "00001.txt").rename(folder / "lost.txt")
    with pytest.raises(ValueError, match=r"00001.png: expected its boxes in 00001.txt .* missing_text: no_boxes"):
        data(root)
    with pytest.raises(ValueError, match=r"lost.txt: expected the frame lost.jpg beside its boxes, found none"):
        data(root, missing_text="no_boxes")
    with pytest.warns(UserWarning, match="skipped 2 of 7"):
        module = data(root, on_bad_sample="skip")
    assert [id for id, _ in module.bad_samples] == [
        f"trainingData_detection/{name}" for name in ("00001.png", "lost.txt")
    ]
    (folder / "lost.txt").unlink()
    module = data(root, missing_text="no_boxes")
    assert targets(module)["trainingData_detection/00001.png"]["boxes"].shape == (0, 4)
    before = module.fingerprint("train"), module.fingerprint("adv_test")
    (folder / "00001.txt").write_text("")
    assert (data(root).fingerprint("train"), data(root).fingerprint("adv_test")) != before
    shutil.copy(folder / "00001.png", folder / "00001.jpg")
    with pytest.raises(ValueError, match=r"expected one frame 00001, found 00001.jpg and 00001.png"):
        data(root)


def test_what_is_not_there(tmp_path: Path, root: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"none: expected the layout of EAD-2019, trainingData_detection/\*.jpg"
    ):
        data(tmp_path / "none")
    (tmp_path / "bare/trainingData_detection").mkdir(parents=True)
    with pytest.raises(ValueError, match="expected images, found 0"):
        data(tmp_path / "bare")
    (root / "trainingData_detection/00002.png").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match="00002.png: expected a complete"):
        targets(data(root))
    for options, words in (
        ({"missing_text": "maybe"}, "missing_text is one of refuse, no_boxes, got 'maybe'"),
        ({"videos": "all"}, "videos is one of names, none, got 'all'"),
    ):
        with pytest.raises(ValueError, match=words):
            Endoscopy(root, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stem", "video"),
    [  # names of the public set, and of frames that tell nothing
        ("1772_A_M62_00012", "1772_A_M62"),
        ("AN12_82", "AN12"),
        ("CT56_colitis_05496", "CT56_colitis"),
        ("DB58_colitis_full_01908", "DB58_colitis_full"),
        ("FL-WL_00179", "FL-WL"),
        ("375_EPFL2", "EPFL2"),
        ("912_JR2_U1", "JR2_U1"),
        ("00060_batch2", None),
        ("010214", None),
        ("EAD2020_frameOnly_01111", None),
        ("frame_0001", None),
        ("cju45n0oxn5vu08500yfrt9jn", None),
    ],
)
def test_the_video_of_a_name(stem: str, video: str | None) -> None:
    assert video_of(stem) == video


def test_frames_of_a_video_share_a_split(tmp_path: Path) -> None:
    for video in range(5):
        for frame in range(4):
            write(tmp_path, f"V{video}_{frame:05d}.png", TWO)
    module = data(tmp_path)
    homes = {s.id: (s.patient, split) for split, members in module.splits.items() for s in members}
    assert {patient for patient, _ in homes.values()} == {f"V{video}" for video in range(5)}
    assert len(set(homes.values())) == 5
    assert {s.patient for s in data(tmp_path, videos="none").splits["train"]} == {
        s.id for s in data(tmp_path, videos="none").splits["train"]
    }


def test_strata_and_numbers_of_boxes(tmp_path: Path) -> None:
    # of 12 frames 8 show class 0, 4 of these class 2 too, which is the rarer one; 4 show nothing
    for place in range(12):
        line = {0: "", 1: "0 0.5 0.5 0.5 0.5\n"}.get(place // 4, "0 0.5 0.5 0.5 0.5\n" * 2 + "2 0.5 0.5 0.2 0.2\n")
        write(tmp_path, f"{place:05d}.png", line)
    module = data(tmp_path)
    for members in module.splits.values():
        strata = [sample.stratum for sample in members]
        assert {name: strata.count(name) for name in set(strata)} == (
            {"no box": 2, "specularity": 2, "artifact": 2} if members else {}
        )
    (batch,) = module.reference_dataloader(per_class=1)
    assert sorted(len(one["boxes"]) for one in batch["target"]) == [0, 1, 3]
    train = module.describe()["splits"]["train"]
    assert train == {
        "images": 6,
        "patients": 6,
        "boxes": {**dict.fromkeys(ARTEFACTS, 0), "specularity": 2 + 2 * 2, "artifact": 2},
        "without_box": 2,
    }
    assert json.loads(json.dumps(module.describe(), allow_nan=False)) == module.describe()


def test_a_set_without_any_box(tmp_path: Path) -> None:
    for place in range(8):
        write(tmp_path, f"{place:05d}.png", "")
    module = data(tmp_path, fractions=Fractions(0.25, 0.25, 0.25, 0.25), cache="ram")
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        (batch,) = loader
        assert [one["boxes"].shape for one in batch["target"]] == [(0, 4)] * 2
        assert [one["labels"].shape for one in batch["target"]] == [(0,)] * 2
    assert module.describe()["splits"]["val"]["without_box"] == 2


def test_a_changed_text_changes_fingerprint_hashes_and_cache(root: Path, tmp_path: Path) -> None:
    def of(path: Path) -> tuple[Any, ...]:
        module = data(path, cache="disk")
        found = targets(module)["trainingData_detection/00003.png"]
        split = next(split for split, members in module.splits.items() if any("00003" in s.id for s in members))
        place = [sample.id for sample in module.splits[split]].index("trainingData_detection/00003.png")
        hashes = module.hashes(split)
        numbers = [int(hashes[name][place]) for name in ("ids", "data", "pixels")]
        return module.fingerprint(split), module.findings_key(), numbers, found["boxes"].tolist()

    before = of(root)
    assert of(Path(shutil.copytree(root, tmp_path / "moved"))) == before
    (root / "trainingData_detection/00003.txt").write_text("1 0.5 0.5 0.5 0.25\n0 0.0625 0.5 0.125 1\n")
    after = of(root)
    assert after[0] != before[0] and after[1] != before[1]
    assert [a == b for a, b in zip(after[2], before[2], strict=True)] == [True, False, True]
    assert before[3][0] == [1, 1, 3, 3] and after[3][0] == [1, 1.5, 3, 2.5]


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two batches agree in every value."""
    assert one["id"] == other["id"] and torch.equal(one["image"], other["image"])
    torch.testing.assert_close(one["target"], other["target"], rtol=0, atol=1e-3)


def test_batches_of_a_worker_and_a_cache_are_those_of_the_files(root: Path) -> None:
    plain, kept = data(root), data(root, num_workers=1, cache="ram")
    for ours, theirs in zip(plain.test_dataloader(), kept.test_dataloader(), strict=True):
        assert_same(ours, theirs)
    torch.manual_seed(3)
    for ours, theirs in zip(plain.train_dataloader(), kept.train_dataloader(), strict=True):
        assert_same(ours, theirs)


def test_several_ranks_get_each_frame_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = data(root)
    alone, dealt = targets(module), {}
    for rank in range(2):
        monkeypatch.setattr(samplers, "rank_and_world", lambda rank=rank: (rank, 2))
        mine = targets(module)
        assert not dealt.keys() & mine.keys() and len(mine) in (2, 4)  # 3 frames of each split
        dealt |= mine
    assert dealt.keys() == alone.keys()
    for id, one in dealt.items():
        torch.testing.assert_close(one, alone[id])


def test_splits_are_exported_and_read_back(root: Path, tmp_path: Path) -> None:
    module = data(root)
    module.export_splits(tmp_path / "splits.csv")
    assert data(root, split_file=tmp_path / "splits.csv").splits == module.splits
    rows = [line.split(",") for line in (tmp_path / "splits.csv").read_text().splitlines()[1:]]
    assert {row[2] for row in rows} == {f"0000{place}.txt" for place in range(6)}


def test_augmentation_turns_upside_down_and_changes_colours(root: Path) -> None:
    """Of the classes' two boxes the second lies at the left edge, so that a mirror image is known by it."""
    module = data(root, fractions=Fractions(1, 0, 0, 0))
    options = module._augmentation()
    assert options is not None and options.vertical_flip == 0.5 and options.saturation > 0 and options.hue > 0
    given = Augmentation(rotation=0, shift=0, scale=0)
    assert data(root, augment=given)._augmentation() == given
    plain = data(root, augment=False, fractions=Fractions(1, 0, 0, 0))
    (batch,) = plain.train_dataloader()
    still = dict(zip(batch["id"], batch["image"], strict=True))
    (batch,) = module.train_dataloader()
    assert all(not torch.equal(image, still[id]) for id, image in zip(batch["id"], batch["image"], strict=True))
    assert 0 <= batch["image"].min() and batch["image"].max() <= 1
