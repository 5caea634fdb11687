"""Tables: what is no CSV file, rows that do not fit their header, and the time that many rows take."""

import time
from pathlib import Path

import pytest

from datamodules import NIHChestXRay
from datamodules.splits import split_by_patient
from datamodules.tables import ImageFiles, read_table

COLUMNS = {"image": ("image", "name"), "grade": ("level",)}


def written(path: Path, content: str | bytes) -> Path:
    """Write a table."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path / "" if path.is_dir() else path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image,level\na,1\nb\n", "row 3: expected 2 values as in the header, got 1"),
        ("image,level\na,1,2\n", "row 2: expected 2 values as in the header, got 3"),
        ("image,level\n\na,1\n\nb, \n", "row 5: expected a value of level, got an empty cell"),
        ("image,level,Image\n", "row 1: expected the column image once, got it twice"),
        ("name,grade\n", "row 1: expected the columns image or name, level, missing level, got name, grade"),
        ("", "row 1: expected the columns image or name, level, missing image, got an empty file"),
        ('image,level\na,1\n"b,2\nc,3\n', "row 4: expected a row of a CSV file, got unexpected end of data"),
        (b"image,level\n\xe9,1\n", "expected a CSV file in UTF-8, got 'utf-8' codec can't decode"),
        (b"\xff\xfei\0m\0", "expected a CSV file in UTF-8, got 'utf-8' codec can't decode"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_one_sentence(content: str | bytes, words: str, tmp_path: Path) -> None:
    path = written(tmp_path / "table.csv", content)
    with pytest.raises(ValueError, match=words) as caught:
        read_table(path, COLUMNS)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_rows_are_numbered_by_their_last_line_and_optional_columns_may_be_absent_or_empty(tmp_path: Path) -> None:
    path = written(
        tmp_path / "table.tsv", '\ufeffnote\tlevel\tname\tsex\t\r\n"two\r\nlines"\t1\t a \t\t\r\n\r\nx\t2\tb\tf\t\t\n'
    )
    rows = read_table(path, COLUMNS, {"sex": ("sex",), "age": ("age",)})
    assert [(row.number, row.cells) for row in rows] == [
        (3, {"image": "a", "grade": "1", "sex": ""}),
        (5, {"image": "b", "grade": "2", "sex": "f"}),
    ]
    assert str(rows[1]) == f"{path}, row 5"


def test_two_images_of_a_name_are_refused_only_if_a_row_needs_them(tmp_path: Path) -> None:
    for name in ("one/a.png", "two/a.jpg", "two/b.png", "two/.b.jpg", "__MACOSX/two/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    images = ImageFiles(tmp_path, [tmp_path])
    assert images.find("b") == images.find("b.png") == "two/b.png" and len(images) == 2
    with pytest.raises(ValueError, match="expected one image 'a.png', found one/a.png and two/a.jpg"):
        images.find("a.png")
    with pytest.raises(ValueError, match="expected the image '../b' in the root, found none"):
        images.find("../b")


@pytest.mark.parametrize(
    ("rows", "seconds"), [(20_000, 20), pytest.param(100_000, 30, marks=pytest.mark.slow)], ids=["20k", "100k"]
)
def test_many_rows_are_indexed_and_split_in_seconds(rows: int, seconds: float, tmp_path: Path) -> None:
    """Far more than they take, so that a busy machine passes; what is quadratic in the rows would take minutes."""
    folders = [tmp_path / f"images_{n:03d}/images" for n in range(12)]
    for folder in folders:
        folder.mkdir(parents=True)
    names = [f"{n // 4:08d}_{n % 4:03d}.png" for n in range(rows)]
    for n, name in enumerate(names):
        (folders[n % 12] / name).touch()
    findings = ("No Finding", "No Finding", "Mass", "Pneumothorax", "Nodule", "Edema", "Mass|Nodule")
    lines = (f"{name},{findings[n * 7919 % 97 % 7]},0,{n // 4}" for n, name in enumerate(names))
    (tmp_path / "Data_Entry_2017.csv").write_text(
        "\n".join(["Image Index,Finding Labels,Follow-up #,Patient ID", *lines])
    )

    data = NIHChestXRay(tmp_path, classes="cxr4")
    start = time.perf_counter()
    samples = data.stratified(data.index())
    splits = split_by_patient(samples, data.fractions, 0)

    assert time.perf_counter() - start < seconds
    assert sum(map(len, splits.values())) == len(samples) > rows / 2
