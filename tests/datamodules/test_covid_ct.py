"""CT volumes: slices with lung, seen from the feet, in a window, split by volume, and every kind of bad file."""

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from datamodules import CovidCT
from datamodules.splits import Fractions

HALVES = Fractions(0.5, 0, 0, 0.5)
LAS = np.diag([-2.0, 2.0, 5.0, 1.0])
PREFIX = "../input/covid19-ct-scans"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDROBUST_CACHE", str(tmp_path / "cache"))


def write(path: Path, voxels: np.ndarray, affine: np.ndarray = LAS, **header: float) -> None:
    """A NIfTI file, gzipped if its name says so."""
    image = nibabel.Nifti1Image(voxels, affine)
    content = bytearray(image.to_bytes())
    for name, value in header.items():  # where nibabel would choose the scale itself
        place = {"scl_slope": 112, "scl_inter": 116}[name]
        content[place : place + 4] = np.float32(value).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(bytes(content), mtime=0) if path.suffix == ".gz" else bytes(content))


def volume(number: int, depth: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Four slices of 6 x 8 voxels with the axes LAS; slices 1 and 2 have a left lung at x = 4 and a right one at 1."""
    scan = np.full((6, 8, depth), 50, np.int16)
    scan[0, 0] = 20 * number - 990  # or all would be the same image
    mask = np.zeros(scan.shape, np.uint8)
    mask[4, 2:6, 1:3], mask[1, 2:6, 1:3] = 1, 2
    scan[mask > 0] = -800
    scan[1, 5, 1:3] = -950  # the front of the right lung
    return scan, mask


def table(root: Path, names: list[str], ending: str = ".nii.gz") -> None:
    lines = [f"{PREFIX}/ct_scans/{name}{ending},{PREFIX}/lung_mask/{name}{ending},," for name in names]
    header = "ct_scan,lung_mask,infection_mask,lung_and_infection_mask"
    (root / "metadata.csv").write_text("\n".join([header, *lines]) + "\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four volumes in the public layout."""
    names = [f"id{number}" for number in range(4)]
    for number, name in enumerate(names):
        scan, mask = volume(number)
        write(tmp_path / f"set/ct_scans/{name}.nii.gz", scan)
        write(tmp_path / f"set/lung_mask/{name}.nii.gz", mask)
    table(tmp_path / "set", names)
    return tmp_path / "set"


def data(root: Path, **options: Any) -> CovidCT:
    """The volumes, set up."""
    module = CovidCT(root, **{"image_size": 8, "resize": "pad", "fractions": HALVES, "cache": "none"} | options)
    module.setup()
    return module


def every(module: CovidCT) -> list[Any]:
    return sorted((one for members in module.splits.values() for one in members), key=lambda one: one.id)


def test_slices_with_lung_split_by_volume(root: Path) -> None:
    module = data(root, batch_size=3)
    assert [one.id for one in every(module)] == [
        f"ct_scans/id{number}.nii.gz#{place:03d}" for number in range(4) for place in (1, 2)
    ]
    homes = {split: {sample.patient for sample in members} for split, members in module.splits.items()}
    assert {split: len(patients) for split, patients in homes.items()} == {
        "train": 2,
        "val": 0,
        "adv_train": 0,
        "adv_test": 2,
    }
    assert not homes["train"] & homes["adv_test"]
    batches = list(module.test_dataloader())
    assert sum(len(batch["id"]) for batch in batches) == 4
    assert batches[0]["image"].shape == (2, 1, 8, 8) and batches[0]["target"].dtype == torch.int64
    assert len(every(data(root, slices="all"))) == 16
    assert module.describe()["window"] == [-1250, 250] and module.describe()["labels"] == "left_right"
    assert module.class_names == ("background", "left lung", "right lung")


def turned(voxels: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """A volume with the axes LAS, stored with others."""
    orient = nibabel.orientations
    change = orient.ornt_transform(orient.axcodes2ornt("LAS"), orient.axcodes2ornt(axes))
    return orient.apply_orientation(voxels, change), LAS @ orient.inv_ornt_aff(change, voxels.shape)


@pytest.mark.parametrize("axes", ["LAS", "RAS", "LPS", "SLP", "AIR"])
def test_a_slice_is_seen_from_the_feet_with_the_front_above(root: Path, axes: str) -> None:
    scan, mask = volume(0)
    for folder, voxels in (("ct_scans", scan), ("lung_mask", mask)):
        write(root / folder / "id0.nii.gz", *turned(voxels, axes))
    module = data(root)
    sample = every(module)[0]
    scene = module.read_checked(sample)
    assert sample.id.endswith("id0.nii.gz#001") and scene.image.shape == (8, 6, 1) and scene.mask is not None
    # x leads to the left: the right lung (2) is in column 1, the left one (1) in column 4; y = 5, 4, 3, 2 from the
    # front are rows 2 to 5
    expected = np.zeros((8, 6), int)
    expected[2:6, 1], expected[2:6, 4] = 2, 1
    np.testing.assert_array_equal(scene.mask, expected)
    # -800 HU is (1250 - 800) / 1500 = 0.3, -950 is 0.2 and 50 is 1300 / 1500
    np.testing.assert_allclose(scene.image[2:6, 1, 0], [0.2, 0.3, 0.3, 0.3], atol=1e-6)
    assert scene.image[0, 3, 0] == pytest.approx(1300 / 1500)


def test_windows_and_labels(root: Path) -> None:
    module = data(root, window=(-1000, -600), labels="lung")
    scene = module.read_checked(every(module)[0])
    assert scene.mask is not None and scene.mask[3].tolist() == [0, 1, 0, 0, 1, 0]
    # -950 is 50 / 400, -800 is half, 50 lies above
    np.testing.assert_allclose(scene.image[2:4, [1, 3], 0], [[0.125, 1], [0.5, 1]], atol=1e-6)
    assert module.num_classes == 2
    coloured = data(root, channels=3)
    image = coloured.read_checked(every(coloured)[0]).image
    assert image.shape == (8, 6, 3) and (image == image[:, :, :1]).all()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("store", "header"),
    [
        (lambda hu: hu.astype(np.float32), {}),
        (lambda hu: hu.astype(np.float64), {}),
        (lambda hu: (hu + 1024).astype(np.uint16), {"scl_slope": 1, "scl_inter": -1024}),
        (lambda hu: (hu * 2).astype(np.int16), {"scl_slope": 0.5, "scl_inter": 0}),
        (lambda hu: hu.astype(np.int16), {"scl_slope": 0, "scl_inter": 0}),  # 0 means that there is no scale
        (lambda hu: hu.astype(np.int16), {"scl_slope": np.nan, "scl_inter": np.nan}),
    ],
)
def test_types_and_scales_of_the_files(
    root: Path, ending: str, store: Callable[[np.ndarray], np.ndarray], header: dict[str, float]
) -> None:
    expected = [data(root).read_checked(sample).image for sample in every(data(root))[:2]]
    scan, mask = volume(0)
    for folder in ("ct_scans", "lung_mask"):
        (root / folder / "id0.nii.gz").unlink()
    write(root / f"ct_scans/id0{ending}", store(scan.astype(np.float64)), **header)
    write(root / f"lung_mask/id0{ending}", mask)  # the table says .nii.gz
    module = data(root)
    assert every(module)[0].id == f"ct_scans/id0{ending}#001"
    for sample, image in zip(every(module)[:2], expected, strict=True):
        np.testing.assert_allclose(module.read_checked(sample).image, image, atol=1e-6)


def test_volumes_that_were_published_with_eight_bits(root: Path) -> None:
    scan, _ = volume(0)
    scan[0, 0] = -1250
    expected = np.rint((scan.clip(-1250, 250) + 1250) / 1500 * 255)
    write(root / "ct_scans/id0.nii.gz", expected.astype(np.float32))
    module = data(root)
    image = module.read_checked(every(module)[0]).image
    assert image[3, 1, 0] == pytest.approx(round(0.3 * 255) / 255, abs=1e-6)  # -800 HU
    # in the window from -1000 to -600 HU, 76 of 255 is -1250 + 76 / 255 * 1500 = -802.94 HU, 0.4926 of the window
    narrow = data(root, window=(-1000, -600))
    assert narrow.read_checked(every(narrow)[0]).image[3, 1, 0] == pytest.approx(0.4926, abs=1e-4)


def test_volumes_of_one_case_share_a_split(root: Path) -> None:
    names = ["radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm", "radiopaedia_org_covid-19-pneumonia-10_85902_3-dcm"]
    for number, name in enumerate(names):
        for folder in ("ct_scans", "lung_mask"):
            (root / folder / f"id{number}.nii.gz").rename(root / folder / f"{name}.nii.gz")
    table(root, [*names, "id2", "id3"])
    assert len({sample.patient for sample in every(data(root))}) == 3


def test_too_few_volumes_for_the_splits(root: Path) -> None:
    with pytest.raises(ValueError, match=r"at least 4 volumes, one for each of train, val, adv_train, adv_test, found"):
        table(root, ["id0", "id1"])
        data(root, fractions=Fractions())
    assert [len(members) for members in data(root).splits.values()] == [2, 0, 0, 2]
    table(root, ["id0", "id1", "id2", "id3"])
    assert [len(members) for members in data(root, fractions=Fractions()).splits.values()] == [2, 2, 2, 2]


def spoil(root: Path, kind: str) -> None:
    """Make the second volume a bad one."""
    scan, mask = volume(1)
    path, other = root / "ct_scans/id1.nii.gz", root / "lung_mask/id1.nii.gz"
    if kind == "shape":
        write(other, mask[:, :, :3])
    elif kind == "axes":
        write(other, mask, np.diag([2.0, 2.0, 5.0, 1.0]))
    elif kind == "nan":
        scan = scan.astype(np.float32)
        scan[3, 3, 2] = np.nan
        write(path, scan)
    elif kind == "infinite":
        scan = scan.astype(np.float32)
        scan[3, 3, 0] = np.inf
        write(path, scan)
    elif kind == "no mask":
        other.unlink()
    elif kind == "empty cell":
        text = (root / "metadata.csv").read_text()
        (root / "metadata.csv").write_text(text.replace(f"{PREFIX}/lung_mask/id1.nii.gz", ""))
    elif kind == "no volume":
        path.unlink()
    elif kind == "label":
        mask[0, 0, 3] = 3
        write(other, mask)
    elif kind == "half a label":
        write(other, mask * np.float32(0.5))
    elif kind == "one lung":
        write(other, (mask > 0).astype(np.uint8))
    elif kind == "no lung":
        write(other, mask * 0)
    elif kind == "text":
        path.write_bytes(b"moved to another place, sorry" * 20)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-60])
    elif kind == "four axes":
        write(path, np.stack([scan, scan], axis=3))
    elif kind == "colours":
        write(path, np.zeros(scan.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")]))
    elif kind == "twice":
        with (root / "metadata.csv").open("a") as file:
            file.write("ct_scans/id1.nii.gz,lung_mask/id1.nii.gz,,\n")


KINDS = {
    "shape": r"metadata.csv, row 3: .*lung_mask/id1.nii.gz: expected a mask of 6 x 8 x 4 voxels .* got 6 x 8 x 3",
    "axes": r"row 3: .*lung_mask/id1.nii.gz: expected a mask .* with the axes LAS .* got .* with the axes RAS",
    "nan": r"row 3: .*ct_scans/id1.nii.gz: expected a volume of finite numbers, got nan in slice 2",
    "infinite": r"row 3: .*ct_scans/id1.nii.gz: expected a volume of finite numbers, got inf in slice 0",
    "no mask": r"row 3: expected the mask lung_mask/id1.nii.gz in .*, found no file",
    "empty cell": r"row 3: expected a value of lung_mask, got an empty cell",
    "no volume": r"row 3: expected the volume ct_scans/id1.nii.gz in .*, found no file",
    "label": r"row 3: .*id1.nii.gz: expected the labels 0 \(background\), 1 \(left lung\) and 2 .* got 3 in slice 3",
    "half a label": r"row 3: .*lung_mask/id1.nii.gz: expected the labels 0 .* got 0.5 in slice 1",
    "one lung": r"row 3: .*id1.nii.gz: expected the labels .* got only 0, 1, which do not tell .* use labels: lung "
    r"\(--data.labels lung --model.num_classes 2\)",
    "no lung": r"row 3: .*lung_mask/id1.nii.gz: expected a mask with lung, got background alone",
    "text": r"row 3: .*ct_scans/id1.nii.gz: expected a NIfTI volume, got one that cannot be read",
    "truncated": r"row 3: .*ct_scans/id1.nii.gz: expected a.* NIfTI volume, got",
    "four axes": r"row 3: .*id1.nii.gz: expected a NIfTI volume with three axes, got 4 \(6 x 8 x 4 x 2\)",
    "colours": r"row 3: .*ct_scans/id1.nii.gz: expected a NIfTI volume of numbers, got",
    "twice": r"row 6: expected each volume once, got ct_scans/id1.nii.gz again after row 3",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_volume_raises_or_is_skipped_and_counted(root: Path, kind: str) -> None:
    spoil(root, kind)
    with pytest.raises(ValueError, match=KINDS[kind]) as error:
        data(root)
    assert "\n" not in str(error.value)
    with pytest.warns(UserWarning, match="skipped 1 of") as warned:
        module = data(root, on_bad_sample="skip")
    assert not [one for one in warned if "not in metadata.csv" in str(one.message)]
    assert len(every(module)) == (8 if kind == "twice" else 6) and module.describe()["skipped"] == 1
    assert str(root) not in module.bad_samples[0][1].partition("found")[0].partition(" in ")[0]


def test_masks_that_do_not_tell_the_lungs_apart_are_masks_of_lung(root: Path) -> None:
    spoil(root, "one lung")
    assert len(every(data(root, labels="lung"))) == 8


def test_a_missing_table_and_bad_arguments(tmp_path: Path, root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected metadata.csv and the CT volumes .* found no folder"):
        data(tmp_path / "nowhere")
    (root / "metadata.csv").unlink()
    with pytest.raises(FileNotFoundError, match="found no metadata.csv"):
        data(root)
    for options, words in (
        ({"window": (250, -1250)}, r"window is two numbers .* got \[250, -1250\]"),
        ({"window": (float("nan"), 0)}, "window is two numbers"),
        ({"labels": "three"}, "labels is one of left_right, lung, got 'three'"),
        ({"slices": "some"}, "slices is one of lung, all, got 'some'"),
    ):
        with pytest.raises(ValueError, match=words):
            CovidCT(root, **options)


def test_lungs_on_the_wrong_side_are_told(root: Path) -> None:
    mirrored = np.diag([2.0, 2.0, 5.0, 1.0])
    for folder, voxels in zip(("ct_scans", "lung_mask"), volume(2), strict=True):
        write(root / folder / "id2.nii.gz", voxels, mirrored)
    with pytest.warns(UserWarning, match=r"patient's right in 1 of 4 volumes, first ct_scans/id2.nii.gz: their labels"):
        data(root)


def test_volumes_that_no_row_names_are_told(root: Path) -> None:
    table(root, ["id0", "id2", "id3"])
    with pytest.warns(UserWarning, match="left out 1 volume that is not in metadata.csv, first ct_scans/id1.nii.gz"):
        assert len(every(data(root))) == 6


def test_fingerprints_change_with_what_decides_a_slice(root: Path) -> None:
    module = data(root)
    prints = {split: module.fingerprint(split) for split in ("train", "adv_test")}
    assert {split: data(root).fingerprint(split) for split in prints} == prints
    for options in ({"window": (-1250, 300)}, {"labels": "lung"}):
        assert data(root, **options).fingerprint("train") != prints["train"]
    sample = module.splits["train"][0]
    scan, mask = volume(int(sample.patient[2:]))
    place = int(sample.id[-3:])
    mask[4, 2, place] = 0
    write(sample.target, mask)
    changed = data(root)
    assert changed.fingerprint("train") != prints["train"] and changed.fingerprint("adv_test") == prints["adv_test"]
    differ = changed.hashes("train")["data"] != module.hashes("train")["data"]
    assert differ.sum() == 1 and changed.splits["train"][int(differ.nonzero())].id == sample.id
    write(sample.target, volume(0)[1])
    scan[3, 3, place] = 60
    write(sample.path, scan)
    assert data(root).fingerprint("train") != prints["train"]


@pytest.mark.parametrize("kind", ["disk", "ram"])
def test_what_a_cache_keeps_is_what_the_files_hold(root: Path, kind: Any) -> None:
    read = []
    for module in (data(root, num_workers=1), data(root, cache=kind, num_workers=1)):
        read.append([batch for split in ("train", "adv_test") for batch in module.dataloader_of(split)])
    for plain, kept in zip(*read, strict=True):
        assert plain["id"] == kept["id"]
        torch.testing.assert_close(plain["image"], kept["image"], rtol=0, atol=0)
        torch.testing.assert_close(plain["target"], kept["target"], rtol=0, atol=0)


def test_a_volume_is_unpacked_once_for_all_of_its_slices(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("volumes", "content"):  # as if the files had been left alone for long
        monkeypatch.setattr(f"datamodules.{name}.STILL", -1e18)
    for number in range(4):
        for folder, voxels in zip(("ct_scans", "lung_mask"), volume(number, 16), strict=True):
            write(root / folder / f"id{number}.nii.gz", voxels)
    opened: list[str] = []
    load = nibabel.load
    monkeypatch.setattr("datamodules.volumes.nibabel.load", lambda path: opened.append(path.name) or load(path))
    module = data(root, cache="disk", slices="all")
    # 4 volumes and 4 masks of 16 slices: once to know their slices, once for the hashes of what these hold, and
    # perhaps again where one thread is two volumes behind the others
    assert 16 <= len(opened) <= 20
    opened.clear()
    list(module.dataloader_of("train")), list(module.dataloader_of("train"))
    assert len(opened) <= 4  # two volumes and their masks, which are open still or again
    assert len(module._volumes) <= 4
    opened.clear()
    list(data(root, cache="disk", slices="all").dataloader_of("train"))
    assert len(opened) <= 4  # three slices are compared with the kept ones


def test_only_slices_of_a_few_volumes_are_held(root: Path) -> None:
    for number in range(4, 9):
        scan, mask = volume(number)
        write(root / f"ct_scans/id{number}.nii.gz", scan)
        write(root / f"lung_mask/id{number}.nii.gz", mask)
    table(root, [f"id{number}" for number in range(9)])
    module = data(root)
    most = 0
    for sample in every(module):
        module.read_checked(sample)
        most = max(most, len(module._volumes))
    assert most == 4  # two volumes with their masks
    sent = pickle.loads(pickle.dumps(module.dataloader_of("train").dataset))
    assert len(sent.reader._volumes) == 0
    torch.testing.assert_close(sent[0]["image"], module.dataloader_of("train").dataset[0]["image"])


def test_an_uncompressed_volume_stays_on_the_disk(root: Path) -> None:
    scan, mask = volume(0)
    write(root / "ct_scans/plain.nii", scan)
    write(root / "lung_mask/plain.nii", mask)
    table(root, ["plain"], ".nii")
    module = data(root, fractions=Fractions(1, 0, 0, 0), test_split="train")
    sample = every(module)[0]
    module.read_checked(sample)
    held = module._volumes(sample.path).voxels
    while not isinstance(held, np.memmap) and held.base is not None:
        held = held.base
    assert isinstance(held, np.memmap)


def test_what_is_known_of_a_volume_is_read_again_when_a_file_changes(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.volumes.STILL", -1e18)  # as if the files had been left alone for long
    module = CovidCT(root)
    assert len(module.index()) == 8
    opened: list[Path] = []
    load = nibabel.load
    monkeypatch.setattr("datamodules.volumes.nibabel.load", lambda path: opened.append(path) or load(path))
    assert CovidCT(root).index() == module.index() and not opened
    scan, mask = volume(0)
    mask[4, 2, 3] = 1
    write(root / "lung_mask/id0.nii.gz", mask)
    assert len(CovidCT(root).index()) == 9 and len(opened) == 2


def test_lungs_are_mirrored_only_where_they_have_one_label(root: Path) -> None:
    both, one = data(root, batch_size=4), data(root, labels="lung", batch_size=4)
    assert both._augmentation() is not None and both._augmentation().horizontal_flip == 0
    assert one._augmentation() is None  # the defaults, which mirror every second image
    for batch in both.train_dataloader():
        for target in batch["target"]:
            left, right = ((target == label).nonzero()[:, 1].float().mean() for label in (1, 2))
            assert right < left
