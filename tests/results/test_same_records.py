"""The comparison of two evaluations' records, on tables whose differences are known."""

from pathlib import Path

import polars as pl
import pytest

import compare
from medrobust.results.columns import TYPES
from medrobust.results.same_records import differences


def records(count: int = 3, **changes: list) -> pl.DataFrame:
    """Records of one attack, all values alike but the ids; some columns replaced."""
    values = {pl.String(): "a", pl.Int64(): 1, pl.Float64(): 0.5, pl.Boolean(): True}
    columns = {name: [2 if name == "schema" else values[kind]] * count for name, kind in TYPES.items()}
    return pl.DataFrame(columns | {"id": [str(n) for n in range(count)]} | changes, schema=TYPES)


def test_records_in_another_order_by_another_name_are_the_same() -> None:
    other = records(run=["b"] * 3).reverse().with_columns(pl.lit(1.0).alias("brightness"))
    assert list(differences(records(), other)) == [] == list(differences(other, records()))


def test_each_differing_column_is_named_with_its_largest_difference() -> None:
    other = records(l2=[0.5, 0.75, 0.6], epsilon=[0.5] * 3, target=[1, None, 2])
    assert list(differences(records(), other)) == [
        "target differs in 2 of 3 records",
        "l2 differs in 2 of 3 records, by 0.25 at most",
    ]
    assert "l2 differs in 1 of 3 records, by 0.25 at most" in list(differences(records(), other, tolerance=0.11))


def test_a_number_beside_none_differs_whatever_the_tolerance() -> None:
    other = records(quality_after=[0.5, None, 0.5])
    assert list(differences(records(), other, tolerance=9.0)) == ["quality_after differs in 1 of 3 records"]


def test_words_beside_a_column_without_any_differ() -> None:
    """No image was broken on one side: its column of names holds nothing, and nothing tells that it is one of words."""
    names = records().with_columns(pl.Series("broken_by", ["PGD", None, None]))
    none = records().with_columns(pl.Series("broken_by", [None] * 3, pl.Float64()))
    assert list(differences(names, none)) == ["broken_by differs in 1 of 3 records"] == list(differences(none, names))
    assert list(differences(names.with_columns(broken_by=pl.lit(None, pl.String())), none)) == []


def test_rounding_in_lists_of_boxes_is_that_of_numbers() -> None:
    """A corner is 0.002 further right; beyond any tolerance, a box is of another class, or missing."""
    texts = ["[[1, 0.9, 2.0, 2.0, 4.0, 4.0]]", "[]", "[[1, 0.9, 2.0, 2.0, 4.0, 4.0]]"]
    one = records().with_columns(pl.Series("boxes_after", texts))
    moved = one.with_columns(pl.Series("boxes_after", [texts[0].replace("4.0]", "4.002]"), *texts[1:]]))
    assert list(differences(one, moved)) == ["boxes_after differs in 1 of 3 records, by 0.002 at most"]
    assert list(differences(one, moved, tolerance=0.01)) == []
    for text in (texts[0].replace("[[1", "[[2"), "[]"):
        other = one.with_columns(pl.Series("boxes_after", [text, *texts[1:]]))
        assert list(differences(one, other, tolerance=9.0)) == ["boxes_after differs in 1 of 3 records"]


def test_images_that_one_side_lacks_are_counted() -> None:
    assert list(differences(records(), records(2))) == [
        "the first has 3 records, the second 2",
        "2 records have the same attack, radius and image on both sides",
    ]


@pytest.mark.parametrize(
    ("changes", "status", "line"),
    [
        ({}, 0, "all 3 records are the same"),
        ({"l2": [0.5, 0.5, 1.0]}, 1, "l2 differs in 1 of 3 records, by 0.5 at most"),
    ],
)
def test_the_command_says_so_by_its_exit_status(
    changes: dict, status: int, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, table in (("a", records()), ("b/evaluate", records(**changes))):  # an evaluation's folder, and a run's
        (tmp_path / name).mkdir(parents=True)
        table.write_parquet(tmp_path / name / "records.parquet")
    with pytest.raises(SystemExit) as stopped:
        compare.main(["records", str(tmp_path / "a"), str(tmp_path / "b")])
    assert stopped.value.code == status and capsys.readouterr().out == f"{line}\n"


def test_a_folder_without_records_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        compare.main(["records", str(tmp_path), str(tmp_path)])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "records.parquet do not exist: run the evaluation again" in said and "evaluate/records.parquet" in said
