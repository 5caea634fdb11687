"""A plain folder of images: layouts, patients, and every kind of bad row and file."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from datamodules import ImageFolder
from datamodules.splits import Fractions
from tests.miniatures import picture, write_table

QUARTERS = Fractions(0.25, 0.25, 0.25, 0.25)


def write(root: Path, *places: str, count: int = 12) -> Path:
    """Write so many images to each of these folders, of every suffix."""
    suffixes = ("png", "JPG", "jpeg", "bmp", "tif")
    for place, n in itertools.product(places, range(count)):
        picture(root / place / f"{n:03d}.{suffixes[n % 5]}", sum(map(ord, place)) * 1000 + n)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of twelve images, one of them in folders below its own."""
    return write(write(tmp_path / "own", "nevus", "melanoma"), "other/a", "other/b", count=6)


def set_up(root: Path, **options: Any) -> ImageFolder:
    """The data module, set up."""
    module = ImageFolder(root, **{"image_size": 8, "fractions": QUARTERS} | options)
    module.setup()
    return module


def table(root: Path, rows: Sequence[Sequence[Any]], name: str = "patients.csv") -> str:
    """Write a table of patients."""
    write_table(root / name, [("patient", "age", "id"), *rows])
    return name


def pairs(root: Path) -> list[list[str]]:
    """A patient for each two neighbouring images."""
    ids = [sample.id for sample in set_up(root).index()]
    return [[f"p{place // 2}", "50", id] for place, id in enumerate(ids)]


def ids_of(module: ImageFolder) -> set[str]:
    """Ids of all images."""
    return {sample.id for members in module.splits.values() for sample in members}


def test_classes_are_folders_in_the_order_of_their_names(root: Path) -> None:
    module = set_up(root)
    assert module.class_names == ("melanoma", "nevus", "other") and module.name == "own"
    assert module.class_names == ImageFolder(root).class_names
    samples = module.index()
    assert [sample.id for sample in samples] == sorted(
        path.relative_to(root).as_posix() for path in root.rglob("*.*") if path.is_file()
    )
    for sample in samples:
        assert sample.path == root / sample.id
        assert module.class_names[sample.target] == sample.id.split("/")[0] and sample.patient == sample.id
    for members in module.splits.values():
        assert sorted(sample.target for sample in members) == [0] * 3 + [1] * 3 + [2] * 3
    batch = next(iter(module.test_dataloader()))
    assert batch["image"].shape == (9, 3, 8, 8) and module.describe()["public"] is None


def test_chosen_classes_in_their_own_order(root: Path) -> None:
    with pytest.warns(UserWarning, match="skipped 12 files .*12 in the folder melanoma"):
        module = set_up(root, classes=["other", "nevus"], name="mine")
    assert module.class_names == ("other", "nevus") and module.name == "mine"
    assert {sample.target for sample in module.index() if sample.id.startswith("other")} == {0}
    with pytest.raises(ValueError, match="expected images of the class none, found none"):
        set_up(root, classes=["nevus", "none"])
    with pytest.raises(ValueError, match=r"classes are at least two different names of folders, got \['a', 'a'\]"):
        ImageFolder(root, classes=["a", "a"])


def test_files_that_are_no_images_are_counted(root: Path) -> None:
    for name in ("nevus/notes.txt", "other/a/scan.dcm", "loose.png", ".hidden/x.png", "nevus/._001.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("not read")
    with pytest.warns(UserWarning, match=r"skipped 3 files .*: 1 \.dcm, 1 \.png, 1 \.txt") as caught:
        assert len(set_up(root).index()) == 36
    assert {str(one.message) for one in caught} == {str(caught[0].message)}


def test_published_parts_are_kept_or_pooled(tmp_path: Path) -> None:
    write(tmp_path, *(f"{part}/{name}" for part in ("train", "Valid", "test") for name in ("ant", "bee")), count=8)
    homes = {"train": {"train"}, "val": {"Valid"}, "adv_train": {"test"}, "adv_test": {"test"}}
    kept = set_up(tmp_path)
    assert {s: {sample.id.split("/")[0] for sample in members} for s, members in kept.splits.items()} == homes
    assert kept.class_names == ("ant", "bee") and kept.describe()["public"] == "keep"
    pooled = set_up(tmp_path, public="pool")
    assert ids_of(pooled) == ids_of(kept) and all(
        len({sample.id.split("/")[0] for sample in members}) > 1 for members in pooled.splits.values()
    )


def test_folders_beside_those_of_the_parts_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path, *(f"{part}/{name}" for part in ("train", "test") for name in ("ant", "bee")), "masks", count=8)
    expected = "expected folders of classes, or test and train alone with the classes below them, found masks beside"
    with pytest.raises(ValueError, match=expected):
        set_up(tmp_path)
    named = set_up(tmp_path, classes=["ant", "bee"])
    assert named.class_names == ("ant", "bee") and len(ids_of(named)) == 32 and named.describe()["public"] == "keep"
    taken = set_up(tmp_path, classes=["test", "train", "masks"])  # whoever names them means them
    assert taken.class_names == ("test", "train", "masks") and len(ids_of(taken)) == 40


def test_names_of_classes_that_differ_in_letter_case_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "train/ANT", "train/bee", "test/ant", "test/bee", count=8)
    with pytest.raises(ValueError, match="expected names of classes that differ in more than letter case, found ANT"):
        set_up(tmp_path)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "own", "ant", "bee")
    write(tmp_path, "elsewhere", "moved", count=5)
    (tmp_path / "own/ant/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own/ant/loop").symlink_to(tmp_path / "own")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "own/ant")
    ids = [sample.id for sample in ImageFolder(tmp_path / "own").index()]
    assert len(ids) == len(set(ids)) == 12 + 5 + 12 and sum(id.startswith("ant/more/") for id in ids) == 5


@pytest.mark.parametrize("test_split", ["adv_test", "all"])
def test_one_picture_with_two_labels_is_told(root: Path, test_split: Any) -> None:
    for name in ("nevus/000.png", "nevus/005.png"):
        (root / "melanoma" / Path(name).name).write_bytes((root / name).read_bytes())
    (root / "nevus/again.png").write_bytes((root / "nevus/010.png").read_bytes())
    with pytest.warns(UserWarning, match="2 images have the same pixels as another one and another target: ") as caught:
        set_up(root, test_split=test_split)
    (said,) = (str(one.message) for one in caught if "another target" in str(one.message))
    assert all(f"{kind}/{name}.png" in said for kind in ("nevus", "melanoma") for name in ("000", "005"))


@pytest.mark.parametrize("public", ["keep", "pool"])
def test_a_patient_in_two_published_parts(tmp_path: Path, public: Any) -> None:
    write(tmp_path, *(f"{part}/{name}" for part in ("train", "test") for name in ("ant", "bee")), count=8)
    ids = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
    rows = [[f"p{place}" if place not in (0, len(ids) - 1) else "both", "50", id] for place, id in enumerate(ids)]
    patients = table(tmp_path, rows)
    if public == "keep":
        words = "expected each patient in one split, found 'both' in train and adv_|in val and adv_"
        with pytest.raises(ValueError, match=words):
            set_up(tmp_path, patients=patients, public=public)
    else:
        assert len(ids_of(set_up(tmp_path, patients=patients, public=public))) == 32


@pytest.mark.parametrize("form", ["path", "without suffix", "name"])
def test_images_of_a_patient_stay_together(root: Path, form: str) -> None:
    for place, path in enumerate(sorted(path for path in root.rglob("*.*") if path.is_file())):
        path.rename(path.with_stem(f"{place:03d}"))
    rows = pairs(root)
    expected = {id: patient for patient, _, id in rows}
    for row in rows:
        row[2] = {"path": row[2], "without suffix": str(Path(row[2]).with_suffix("")), "name": Path(row[2]).name}[form]
    module = set_up(root, patients=table(root, rows))
    assert {sample.id: sample.patient for sample in module.index()} == expected
    for one, other in itertools.combinations(module.splits.values(), 2):
        assert not {sample.patient for sample in one} & {sample.patient for sample in other}
    assert module.describe()["splits"]["train"]["patients"] < module.describe()["splits"]["train"]["images"]


@pytest.mark.parametrize(
    ("change", "words", "lost"),
    [
        (
            lambda rows: rows.append(["p", "", "nevus/none.png"]),
            "row 38: expected an image 'nevus/none.png', found none",
            0,
        ),
        (
            lambda rows: rows.append(["p", "", "000"]),
            "row 38: expected an image '000', found 4 such as melanoma/000",
            0,
        ),
        (lambda rows: rows.append(rows[0]), "row 38: expected each image once, got .* again after row 2", 0),
        (lambda rows: rows.append(["x", "", rows[0][2]]), "row 38: expected each image once, got .* after row 2", 1),
        (lambda rows: rows[-1].__setitem__(0, ""), "row 37: expected a value of patient, got an empty cell", 1),
        (lambda rows: rows.pop(), "patients.csv: expected a row for the image 'other/b/005.png', found none", 1),
    ],
)
def test_bad_rows(root: Path, change: Any, words: str, lost: int) -> None:
    rows = pairs(root)
    change(rows)
    lines = [",".join(row) for row in [["patient", "age", "id"], *rows]]
    (root / "patients.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=words):
        set_up(root, patients="patients.csv")
    with pytest.warns(UserWarning, match=f"skipped {1 + (lost and 'x' in lines[-1][:1])} of"):
        module = set_up(root, patients="patients.csv", on_bad_sample="skip")
    assert len(ids_of(module)) == 36 - lost


def test_missing_columns_and_files(root: Path, tmp_path: Path) -> None:
    (root / "patients.csv").write_text("id,person\n")
    with pytest.raises(ValueError, match="row 1: expected the columns id, patient, missing patient, got id, person"):
        set_up(root, patients="patients.csv")
    with pytest.raises(FileNotFoundError, match="none.csv: expected a CSV file with the columns id, patient"):
        set_up(root, patients="none.csv")
    with pytest.raises(FileNotFoundError, match="nowhere: expected images at CLASS/.*, found no folder"):
        set_up(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected folders of at least two classes as in .*, found other"):
        set_up(write(tmp_path / "single", "other", count=2))


def test_a_bad_image_is_named_or_skipped(root: Path) -> None:
    path = root / "nevus/000.png"
    path.write_bytes(path.read_bytes()[:40])
    module = set_up(root)
    with pytest.raises(ValueError, match="000.png: expected a complete"):
        [module.fingerprint(split) for split in module.splits]
    with pytest.warns(UserWarning, match="skipped 1 of 36 images that cannot be read: nevus/000.png"):
        assert len(ids_of(set_up(root, on_bad_sample="skip"))) == 35


def test_splits_do_not_depend_on_where_the_folder_lies_or_on_the_order_of_files(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "moved/own"
    for path in sorted((path for path in root.rglob("*.*") if path.is_file()), reverse=True):
        (other / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        (other / path.relative_to(root)).write_bytes(path.read_bytes())
    one, two = set_up(root), set_up(other)
    assert [one.fingerprint(split) for split in one.splits] == [two.fingerprint(split) for split in two.splits]
