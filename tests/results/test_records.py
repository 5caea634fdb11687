"""Records: what a journal keeps through kills, resumes and later versions."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from medrobust.evaluation.plan import record_key
from medrobust.results.columns import COLUMNS, TYPES
from medrobust.results.manifest import read_manifest, write_json, write_manifest
from medrobust.results.records import Journal, finished, merge, read_journal, read_records
from tests.sample_record import record

ROOT = Path(__file__).resolve().parents[2]


def manifest(*attacks, images=2):
    entries = [{"attack": a, "method": a.upper(), "epsilon": e, "key": k, "control": False} for a, e, k in attacks]
    return {"schema": 1, "run": "demo", "data": {"name": "phantom", "images": images}, "attacks": entries}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_column_of_the_table_has_one_line_of_meaning():
    assert list(COLUMNS) == list(TYPES) == ["schema", *record()]
    assert len({column.meaning for column in COLUMNS.values()}) == len(COLUMNS)
    assert all(column.meaning and "\n" not in column.meaning for column in COLUMNS.values())
    assert (COLUMNS["patient"].type, COLUMNS["patient"].nullable) == (pl.String(), True)


def test_keys_do_not_change_with_the_columns():
    assert record_key("weights", {"epsilon": 0.5}) == "ec78efa8f27565fd"  # of the text [3, "weights", {"epsilon": 0.5}]


def test_journal_round_trip(tmp_path):
    with Journal(tmp_path, rank=3) as journal:
        journal.append([record("a"), record("b", goal=0)])
        assert len(lines(tmp_path / "journal/rank-3-0.jsonl")) == 2  # already there before it is closed
        journal.append([])
    frame = read_journal(tmp_path)
    assert frame.schema == pl.Schema(TYPES)
    assert frame.to_dicts() == [{"schema": 2, **record("a")}, {"schema": 2, **record("b", goal=0)}]


def test_every_opening_starts_a_fresh_file_and_an_unused_journal_leaves_none(tmp_path):
    Journal(tmp_path).close()
    assert not (tmp_path / "journal").exists()
    for image in "abc":
        with Journal(tmp_path, rank=1) as journal:
            journal.append([record(image)])
    assert sorted(path.name for path in (tmp_path / "journal").iterdir()) == [f"rank-1-{n}.jsonl" for n in range(3)]


@pytest.mark.parametrize("kept", [1, 20, 60, -2])
def test_a_torn_last_line_is_dropped_and_never_continued(tmp_path, kept):
    with Journal(tmp_path) as journal:
        journal.append([record("a"), record("b")])
    path = tmp_path / "journal/rank-0-0.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    assert finished(tmp_path) == {"k1": {"a"}}
    with Journal(tmp_path) as journal:  # the resumed run
        journal.append([record("b")])
    assert read_journal(tmp_path)["id"].to_list() == ["a", "b"]


def test_a_last_line_that_lost_only_its_end_of_line_is_whole(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append([record("a"), record("b")])
    path = tmp_path / "journal/rank-0-0.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert finished(tmp_path) == {"k1": {"a", "b"}}


@pytest.mark.parametrize("damage", ['{"schema": 1, "key": "k1", "id"', "[1, 2]", '{"schema": 1, "l2": NaN}', "}{"])
@pytest.mark.parametrize("read", [read_journal, finished])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damage, read):
    with Journal(tmp_path, rank=2) as journal:
        journal.append([record("a"), record("b")])
    path = tmp_path / "journal/rank-2-0.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{damage}\n{second}\n")
    with pytest.raises(ValueError, match=r"rank-2-0\.jsonl, line 2 is damaged"):
        read(tmp_path)


def test_line_numbers_go_on_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("medrobust.results.records.BLOCK", 1000)
    with Journal(tmp_path) as journal:
        journal.append([record(str(image)) for image in range(40)])
    assert read_journal(tmp_path)["id"].to_list() == [str(image) for image in range(40)]
    path = tmp_path / "journal/rank-0-0.jsonl"
    whole = path.read_text().splitlines()
    path.write_text("\n".join([*whole[:30], "garbage", *whole[30:]]) + "\n")
    with pytest.raises(ValueError, match="line 31 is damaged: 'garbage'"):
        finished(tmp_path)


def test_of_duplicates_the_first_counts_in_the_order_of_ranks_and_numbers(tmp_path):
    for rank, seed in ((10, 3), (2, 1), (2, 2)):  # rank-10-0, rank-2-0, rank-2-1: as text, 10 would come first
        with Journal(tmp_path, rank) as journal:
            journal.append([record("a", seed=seed)])
    assert read_journal(tmp_path)["seed"].to_list() == [1]


def test_finished_finds_by_key_and_knows_keys_without_images(tmp_path):
    assert finished(tmp_path / "nothing") == {}
    assert finished(tmp_path / "nothing", ["k1"]) == {"k1": set()}
    with Journal(tmp_path) as journal:
        journal.append([record("a"), record("b"), record("a", key="k2")])
    assert finished(tmp_path) == {"k1": {"a", "b"}, "k2": {"a"}}
    assert finished(tmp_path, ["k2", "k3"]) == {"k2": {"a"}, "k3": set()}


def test_resumed_result_equals_an_uninterrupted_one(tmp_path):
    images = [f"{number:02d}" for number in range(20)]
    plan = manifest(("pgd", 1 / 255, "k1"), images=20)
    write_manifest(tmp_path / "once", plan)
    with Journal(tmp_path / "once") as journal:
        journal.append([record(image) for image in images])
    write_manifest(tmp_path / "twice", plan)
    for rank in range(3):  # killed at image 11, on three ranks; one of them torn
        with Journal(tmp_path / "twice", rank) as journal:
            journal.append([record(image) for image in images[:11][rank::3]])
    torn = tmp_path / "twice/journal/rank-1-0.jsonl"
    torn.write_bytes(torn.read_bytes()[:-40])
    left = [image for image in images if image not in finished(tmp_path / "twice")["k1"]]
    assert len(left) == 10
    with Journal(tmp_path / "twice", 0) as journal:  # goes on, on one rank
        journal.append([record(image) for image in left])
    assert merge(tmp_path / "twice").equals(merge(tmp_path / "once"))


def test_merge_keeps_the_manifests_attacks_in_its_order(tmp_path):
    write_manifest(tmp_path, manifest(("pgd", 2 / 255, "k2"), ("bim", None, "k3"), ("pgd", 1 / 255, "k1")))
    with Journal(tmp_path) as journal:
        journal.append([record("b", "k3", attack="bim", epsilon=None), record("a", "foreign")])
        journal.append([record("b", "k2", epsilon=2 / 255), record("b"), record("a")])
    merged = merge(tmp_path)
    assert list(zip(merged["key"], merged["id"], strict=True)) == [("k1", "a"), ("k1", "b"), ("k2", "b"), ("k3", "b")]
    assert read_records(tmp_path).equals(merged)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_merge_of_nothing_is_typed(tmp_path):
    write_manifest(tmp_path, manifest())
    assert merge(tmp_path).schema == pl.Schema(TYPES)
    assert read_records(tmp_path / "records.parquet").is_empty()


def test_columns_keep_their_types_when_they_are_null(tmp_path):
    empty = dict.fromkeys(name for name, column in COLUMNS.items() if column.nullable)
    assert len(empty) == 11
    with Journal(tmp_path) as journal:
        journal.append([record(**empty)])
    assert read_journal(tmp_path).schema == pl.Schema(TYPES)


def test_unknown_columns_flow_through(tmp_path):
    write_manifest(tmp_path, manifest(("pgd", 1 / 255, "k1")))
    with Journal(tmp_path) as journal:
        journal.append([record("a", psnr=40, score_kd=None)])
    with Journal(tmp_path) as journal:
        journal.append([record("b", psnr=41.5, var=0.25, score_kd=None)])
    merge(tmp_path)
    records = read_records(tmp_path)
    assert records.columns == [*COLUMNS, "var", "psnr", "score_kd"]
    assert records["psnr"].to_list() == [40.0, 41.5]
    assert records["var"].to_list() == [None, 0.25]
    assert records["score_kd"].dtype == pl.Float64


def test_wrong_types_are_refused(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append([record("a", l0=3.0, l2=1)])  # whole numbers are whole numbers, however they are written
    assert read_journal(tmp_path).select("l0", "l2").row(0) == (3, 1.0)
    with Journal(tmp_path) as journal:
        journal.append([record("b", l0=3.5)])
    with pytest.raises(ValueError, match="'l0' holds whole numbers"):
        read_journal(tmp_path)
    with Journal(tmp_path / "other") as journal:
        journal.append([record("b", linf="big")])
    with pytest.raises(ValueError, match="column 'linf' is Float64, got String"):
        read_journal(tmp_path / "other")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_refused_and_nothing_is_written(tmp_path, value):
    with (
        Journal(tmp_path) as journal,
        pytest.raises(ValueError, match="infinity in l2 of image 'b' under attack 'pgd'"),
    ):
        journal.append([record("a"), record("b", l2=value)])
    assert finished(tmp_path) == {}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"value": value})
    assert list(tmp_path.iterdir()) == []


def test_a_record_without_a_column_is_refused(tmp_path):
    incomplete = record()
    del incomplete["forwards"], incomplete["patient"]
    with pytest.raises(ValueError, match="without patient, forwards$"):
        Journal(tmp_path).append([incomplete])


def test_a_null_is_refused_by_name_where_there_must_be_a_value(tmp_path):
    with pytest.raises(ValueError, match="a value of correct_after, l2, got null for image 'a' under attack 'pgd'"):
        Journal(tmp_path).append([record(l2=None, correct_after=None, l0=None)])
    assert not (tmp_path / "journal").exists()
    put(tmp_path, "rank-0-0", {"schema": 2, **record("a")}, {"schema": 2, **record("b", l2=None)})
    with pytest.raises(ValueError, match=r"rank-0-0\.jsonl: column 'l2' needs a value in every record, got 1 without"):
        read_journal(tmp_path)


@pytest.mark.parametrize("columns", [(False, True, True), (True, False, True), (True, True, False)])
def test_success_is_refused_where_it_contradicts_the_other_columns(tmp_path, columns):
    before, reached, success = columns
    wrong = record(correct_before=before, reached=reached, success=success)
    with pytest.raises(ValueError, match=f"success means correct_before and reached, got {success} for {before} and"):
        Journal(tmp_path).append([wrong])
    with Journal(tmp_path) as journal:
        journal.append([wrong | {"success": before and reached}])
    assert read_journal(tmp_path)["success"].to_list() == [before and reached]


def put(folder, name, *rows):
    """A journal file as another version, or a hand, may have written it."""
    (folder / "journal").mkdir(parents=True, exist_ok=True)
    (folder / f"journal/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def of_schema_1(image, before, success, **changes):
    """A record as it was written before: `success` says what is `reached` now, and there is no quality."""
    old = {"schema": 1, **record(image, correct_before=before, success=success)}
    for name in ("patient", "reached", "quality_before", "quality_after"):
        del old[name]
    return old | changes


MEANINGS = [("a", True, True), ("b", True, False), ("c", False, True), ("d", False, False)]
EXPECTED = {
    "schema": [2, 2, 2, 2],
    "correct_before": [True, True, False, False],
    "reached": [True, False, True, False],
    "success": [True, False, False, False],
    "quality_before": [None] * 4,
    "quality_after": [None] * 4,
    "patient": [None] * 4,
}


def test_a_journal_of_schema_1_is_read_as_schema_2(tmp_path):
    put(tmp_path, "rank-0-0", *(of_schema_1(*row, psnr=40.0) for row in MEANINGS))
    write_manifest(tmp_path, manifest(("pgd", 1 / 255, "k1"), images=4))
    assert finished(tmp_path) == {"k1": {"a", "b", "c", "d"}}
    for records in (read_journal(tmp_path), merge(tmp_path), read_records(tmp_path)):
        assert records.select(list(EXPECTED)).to_dict(as_series=False) == EXPECTED
        assert records.columns == [*COLUMNS, "psnr"]
        assert dict(records.schema) == {**TYPES, "psnr": pl.Float64()}


def test_a_parquet_file_of_schema_1_is_read_as_schema_2(tmp_path):
    rows = [of_schema_1(*row, patient="p7", cos=0.5) for row in MEANINGS]
    pl.DataFrame(rows, schema_overrides={"goal": pl.Int64()}).write_parquet(tmp_path / "records.parquet")
    records = read_records(tmp_path)
    assert records.select(list(EXPECTED)).to_dict(as_series=False) == {**EXPECTED, "patient": ["p7"] * 4}
    assert records.columns == [*COLUMNS, "cos"]


def test_a_parquet_file_of_schema_1_without_patients_is_read(tmp_path):
    frame = pl.DataFrame([of_schema_1(*row) for row in MEANINGS], schema_overrides={"goal": pl.Int64()})
    unknown = pl.lit(None, pl.Float64()).alias("patient")  # as a column of nulls alone was merged
    frame.with_columns(unknown).write_parquet(tmp_path / "records.parquet")
    records = read_records(tmp_path)
    assert records.select(list(EXPECTED)).to_dict(as_series=False) == EXPECTED
    assert records.schema["patient"] == pl.String()


def test_a_journal_goes_on_in_schema_2_where_schema_1_left_off(tmp_path):
    put(tmp_path, "rank-0-0", of_schema_1("c", False, True), of_schema_1("a", True, True, patient="p1"))
    with Journal(tmp_path) as journal:  # "a" again, which counts once, as the older file has it
        journal.append([record("a"), record("b"), record("d", correct_before=False, success=False)])
    assert [path.name for path in sorted((tmp_path / "journal").iterdir())] == ["rank-0-0.jsonl", "rank-0-1.jsonl"]
    write_manifest(tmp_path, manifest(("pgd", 1 / 255, "k1"), images=4))
    assert finished(tmp_path, ["k1"]) == {"k1": {"a", "b", "c", "d"}}
    merged = merge(tmp_path)
    assert merged.select("id", "reached", "success", "quality_after", "patient", "schema").rows() == [
        ("a", True, True, None, "p1", 2),
        ("b", True, True, 0.25, "p1", 2),
        ("c", True, False, None, None, 2),
        ("d", True, False, 0.25, "p1", 2),
    ]
    assert read_records(tmp_path).equals(merged)


@pytest.mark.parametrize("schema", [0, 3, None])
def test_other_schemas_are_refused(tmp_path, schema):
    put(tmp_path, "rank-0-0", {"schema": 2, **record("a")}, {"schema": schema, **record("b")})
    for read in (read_journal, finished):
        with pytest.raises(ValueError, match=f"reads records of schema 1 and 2, got {schema}"):
            read(tmp_path)
    pl.DataFrame([record("a") | {"schema": schema}]).write_parquet(tmp_path / "records.parquet")
    with pytest.raises(ValueError, match=f"reads records of schema 1 and 2, got {schema}"):
        read_records(tmp_path)


def test_the_journal_says_which_schema_it_writes(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append([record("a", schema=1)])
    assert lines(tmp_path / "journal/rank-0-0.jsonl")[0] == {"schema": 2, **record("a")}


def test_other_manifests_are_refused(tmp_path):
    with pytest.raises(ValueError, match="schema 1, got 7"):
        write_manifest(tmp_path, manifest() | {"schema": 7})


def test_manifest_errors_name_the_folder(tmp_path):
    with pytest.raises(ValueError, match="is not the folder of an evaluation"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        read_manifest(tmp_path)
    with pytest.raises(ValueError, match=r"lacks data\.images"):
        write_manifest(tmp_path, {"schema": 1, "run": "x", "data": {}, "attacks": []})
    with pytest.raises(ValueError, match="run the evaluation again"):
        read_records(tmp_path)


def test_results_needs_neither_torch_nor_lightning():
    modules = "medrobust.results.report.page, medrobust.results.report.tables, compare"
    code = f"import sys, {modules}; print({{'torch', 'pytorch_lightning', 'scipy'}} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"linf": "big"}, "line 2: column 'linf' is Float64, got String"),
        ({"correct_before": "yes"}, "line 2: column 'correct_before' is Boolean, got String"),
        ({"forwards": 1.5}, "column 'forwards' holds whole numbers, got fractions"),
        ({"psnr": "high"}, "line 2: column 'psnr' holds numbers, got String"),
        ({"detector_kd_bim": [1]}, "line 2: column 'detector_kd_bim' holds numbers"),
        ({"l2": None}, "column 'l2' needs a value in every record, got 1 without one"),
        ({"epsilon": {}}, "line 2: column 'epsilon' is Float64, got dict"),
    ],
)
def test_values_of_a_wrong_type_are_found_before_anything_is_attacked_with_a_remedy(tmp_path, changes, words):
    put(tmp_path, "rank-0-0", {"schema": 2, **record("a")}, {"schema": 2, **record("b"), **changes})
    with pytest.raises(ValueError) as refused:
        finished(tmp_path, ["k1"])
    sentence = str(refused.value)
    assert words in sentence and "rank-0-0.jsonl" in sentence and "\n" not in sentence
    assert sentence.endswith("delete the line or the file, and its images are attacked again")


def test_columns_stand_in_the_same_order_whichever_came_first(tmp_path):
    tables = []
    for name, columns in (("one", ("ssim", "judge_b_after", "psnr")), ("two", ("psnr", "judge_b_after", "ssim"))):
        write_manifest(tmp_path / name, manifest(("pgd", 1 / 255, "k1")))
        with Journal(tmp_path / name) as journal:
            journal.append([record("a", **dict.fromkeys(columns, 1.0))])
        tables.append(merge(tmp_path / name))
    assert tables[0].equals(tables[1])
    assert tables[0].columns == [*COLUMNS, "psnr", "ssim", "judge_b_after"]


def test_a_full_disk_leaves_the_records_before_it_and_names_the_file(tmp_path, monkeypatch):
    with Journal(tmp_path) as journal:
        journal.append([record("a")])
        file = journal._file
        monkeypatch.setattr(journal, "_file", FullDisk(file))
        with pytest.raises(OSError) as refused:
            journal.append([record("b")])
        monkeypatch.setattr(journal, "_file", file)
    assert refused.value.errno == errno.ENOSPC and str(refused.value.filename).endswith("rank-0-0.jsonl")
    assert finished(tmp_path) == {"k1": {"a"}}  # half a line of "b" is dropped


class FullDisk:
    """A file on a disk that has room for 40 bytes more."""

    def __init__(self, file):
        self.file, self.name, self.left = file, file.name, 40

    def write(self, content):
        if not self.left:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.file.write(content[: self.left])
        self.left = 0
        return written
