"""The transfer matrix: which numbers stand where, and what a user reads when a run cannot be compared."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import compare
from medrobust.results.transfer import read_summaries, transfer_markdown, transfer_rows, transfer_table


def judged(rate: float, same: bool = False) -> dict[str, Any]:
    return {"success_rate": rate, "same_weights": same, "success_rate_interval": [rate, rate]}


def run(
    folder: Path, name: str, rates: dict[str, dict[str, float]], own: str | None, brisque: float | None = 30.0
) -> str:
    """A run's summary: rates by attack and judge."""
    rows: list[dict[str, Any]] = [{"attack": "clean", "kind": "clean", "transfer": {}, "means": {}, "epsilon": None}]
    for attack, by_judge in rates.items():
        rows.append(
            {
                "attack": attack,
                "kind": "attack",
                "epsilon": None if attack == "sbf" else 1 / 255,
                "n": 50,
                "success_rate": 0.5,
                "transfer": {judge: judged(rate, judge == own) for judge, rate in by_judge.items()},
                "n_changed": 40,
                "means": {} if brisque is None else {"brisque": brisque, "brisque_clean": 20.0},
            }
        )
    place = folder / name / "evaluate"
    place.mkdir(parents=True)
    (place / "summary.json").write_text(json.dumps({"schema": 1, "rows": rows, "manifest": {"run": name}}))
    return str(folder / name)


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    first = run(tmp_path, "a", {"bim": {"A": 1.0, "B": 0.02}, "sbf": {"A": 0.33, "B": 0.125}}, "A")
    second = run(tmp_path, "b", {"bim": {"A": 0.01, "B": 0.99}, "sbf": {"A": 0.2, "B": 0.4}}, None, None)
    return [first, second]


def test_sources_stand_below_each_other_and_judges_beside(runs: list[str]) -> None:
    rows = transfer_rows(read_summaries(runs))
    assert [(row["attack"], row["source"]) for row in rows] == [("bim", "A"), ("bim", "b"), ("sbf", "A"), ("sbf", "b")]
    assert [row["white_box"] for row in rows] == ["A", None, "A", None]
    assert transfer_markdown(rows).splitlines() == [
        "| attack | ε | crafted on | n | A | B | changed | BRISQUE | BRISQUE clean |",
        "| --- | --: | --- | --: | --: | --: | --: | --: | --: |",
        "| bim | 1/255 | A | 50 | 100.0 % * | 2.0 % | 40 | 30.0 | 20.0 |",
        "| bim | 1/255 | b | 50 | 1.0 % | 99.0 % | 40 | – | – |",
        "| sbf | – | A | 50 | 33.0 % * | 12.5 % | 40 | 30.0 | 20.0 |",
        "| sbf | – | b | 50 | 20.0 % | 40.0 % | 40 | – | – |",
    ]
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(transfer_table(rows))
    text = console.export_text()
    assert "12.5 %" in text
    assert "white box" in text


def test_the_command_prints_and_writes(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare.main(["transfer", *runs, "--markdown", str(tmp_path / "matrix.md")])
    assert "crafted on" in capsys.readouterr().out
    assert (tmp_path / "matrix.md").read_text().count("\n") == 6


def test_runs_that_cannot_be_compared_get_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        compare.main(["transfer", str(tmp_path / "none")])
    assert left.value.code == 2
    assert "evaluate that run first" in capsys.readouterr().err
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "summary.json").write_text('{"rows": [')
    with pytest.raises(ValueError, match="is damaged"):
        read_summaries([tmp_path / "torn"])
    alone = run(tmp_path, "alone", {"bim": {}}, None)
    with pytest.raises(ValueError, match="has no judges"):
        read_summaries([alone])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "reads summaries of schema 1, got None"),
        ("[]", "reads summaries of schema 1, got None"),
        ('{"schema": 99, "rows": []}', "reads summaries of schema 1, got 99"),
        ('{"schema": 1}', "has no manifest and no rows"),
        ('{"schema": 1, "manifest": [], "rows": {}}', "has no manifest and no rows"),
        ("", "is damaged"),
        ("\x00\x01", "is damaged"),
    ],
)
@pytest.mark.parametrize("command", ["table", "detection", "transfer"])
def test_a_summary_of_another_kind_gets_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, content: str, words: str
) -> None:
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(SystemExit) as left:
        compare.main([command, str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and words in line and line.endswith("attacks no image anew")


def test_damaged_records_get_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "records.parquet").write_bytes(b"PAR1 junk")
    with pytest.raises(SystemExit) as left:
        compare.main(["records", str(tmp_path), str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and "records.parquet is damaged" in line


def test_control_characters_in_names_are_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = run(tmp_path, "a", {"bim\x1b[2J": {"A": 1.0}}, None)
    compare.main(["transfer", place])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\\x1b[2J" in printed


def test_a_run_is_printed_as_tables_in_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "attack": "bim",
        "kind": "attack",
        "control": False,
        "epsilon": 1 / 255,
        "n": 50,
        "accuracy_under_attack": 0.25,
        "accuracy_under_attack_interval": [0.2, 0.3],
        "success_rate": 0.5,
        "success_rate_interval": [0.4, 0.6],
        "mean_forwards": 10.0,
        "mean_backwards": 9.0,
        "n_changed": 48,
        "median_linf": 1 / 255,
        "median_l2": 0.5,
        "means": {"mine": 12.345, "psnr": 50.0, "cos": 0.25},
    }
    place = tmp_path / "a" / "evaluate"
    place.mkdir(parents=True)
    (place / "summary.json").write_text(json.dumps({"schema": 1, "manifest": {"data": {}}, "rows": [row], "flags": []}))
    compare.main(["table", str(tmp_path / "a")])
    printed = capsys.readouterr().out
    assert "| bim | 1/255 | 50 | 25.0 % | 20.0–30.0 | 50.0 % | 40.0–60.0 | 19 |" in printed
    assert printed.splitlines()[-5:-2] == [
        "| attack | ε | changed | median L∞ | median L2 | cos | PSNR | mine |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
        "| bim | 1/255 | 48 | 1/255 | 0.5 | 0.250 | 50.0 | 12.3 |",
    ]
    means = (
        "cos: mean cosine between consecutive updates of an image (SMIA21 Table 1); PSNR: peak signal-to-noise ratio"
    )
    assert printed.splitlines()[-1].startswith(f"Medians and means over the images that the attack changed. {means}")


def test_runs_of_other_judges_or_images_are_not_put_side_by_side(tmp_path: Path) -> None:
    places = []
    for name, weights, images in (("a", "11", "x"), ("b", "22", "x"), ("c", "11", "y")):
        places.append(run(tmp_path, name, {"bim": {"A": 1.0}}, None))
        path = Path(places[-1]) / "evaluate" / "summary.json"
        summary = json.loads(path.read_text())
        summary["manifest"] |= {"listeners": {"judges": {"A": weights}}, "data": {"fingerprint": images}}
        path.write_text(json.dumps(summary))
    with pytest.raises(ValueError, match="judge A has other weights in b"):
        read_summaries(places[:2])
    with pytest.raises(ValueError, match="c and a were evaluated on different images"):
        read_summaries([places[0], places[2]])
