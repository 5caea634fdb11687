"""The page of a comparison and the commands around it: what is read, said, linked, escaped and written."""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

import compare
from medrobust.results.dashboard.comparison import compare_runs
from medrobust.results.dashboard.embedded import Embedded
from medrobust.results.dashboard.figure import curve_figure, style_of
from medrobust.results.dashboard.page import ALL_PAIRS, script_json, write_dashboard
from medrobust.results.dashboard.pictures import Pictures
from medrobust.results.dashboard.tables import Column, cell
from tests.made_runs import key_of, write_run
from tests.results.test_report import Page

ROOT = Path(__file__).resolve().parents[2]
ONE, TWO = 1 / 255, 2 / 255
PGD = ("pgd", ONE)


def two_runs(tmp_path: Path) -> list[Path]:
    second = ("pgd", TWO)
    return [
        write_run(tmp_path, "a", {PGD: "111100", second: "110000"}),
        write_run(tmp_path, "b", {PGD: "110010", second: "100000"}),
    ]


def page_of(folder: Path, given: list[Any]) -> str:
    write_dashboard(given, folder / "page.html")
    return (folder / "page.html").read_text()


def data_of(html: str) -> list[Any]:
    """What the page's script works with."""
    return [json.loads(text) for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.S)]


def test_the_page_stands_alone(tmp_path: Path) -> None:
    runs = two_runs(tmp_path)
    (runs[0] / "evaluate" / "report.html").write_text("a report")
    html = page_of(tmp_path, runs)
    page = Page(html)
    assert not [tag for tag, found in page.tags if tag in ("link", "iframe", "img") or "src" in found]
    assert "http:" not in html.replace("http://www.w3.org/2000/svg", "") and "https:" not in html
    assert "default-src 'none'" in html
    assert page.count("a", href="a/evaluate/report.html") >= 1 and not page.count("a", href="b/evaluate/report.html")
    assert page.count("a", href="#main", **{"class": "skip"}) == 1 and page.count("main", id="main") == 1
    targets = {found["href"][1:] for tag, found in page.tags if tag == "a" and found["href"].startswith("#")}
    assert targets <= {found.get("id") for _, found in page.tags}


def test_every_table_is_there_without_script(tmp_path: Path) -> None:
    page = Page(page_of(tmp_path, two_runs(tmp_path)))
    text = " ".join(page.text.split())
    for words in (
        "Leaderboard",
        "Curves",
        "Classes",
        "Pairs",
        "Most fragile patients",
        "Cost",
        "worst case at ε = 2/255",
    ):
        assert words in text
    tables = [found for tag, found in page.tags if tag == "table"]
    assert page.count("caption") == len(tables) > 8
    assert page.count("div", tabindex="0", role="group") >= len(tables)
    assert "Only a is right (2)" in text and "Only b is right (1)" in text
    assert "66.7\N{NO-BREAK SPACE}%" in page.text  # four of six at 1/255
    assert [found for tag, found in page.tags if tag == "svg"]


def test_what_the_script_shows_is_what_the_tables_say(tmp_path: Path) -> None:
    runs = [*two_runs(tmp_path), write_run(tmp_path, "c", {PGD: "1111"}, ids=[f"{n}.png" for n in range(4)])]
    comparison = compare_runs([*runs[:2], write_run(tmp_path, "d", {PGD: "000011", ("pgd", TWO): "000001"}), runs[2]])
    (paired,) = comparison.pairs
    data = json.loads(script_json(Embedded(Pictures()).of_pairs(paired)))
    assert sorted(data["runs"]) == ["a", "b", "c", "d"]
    shapes = set()
    for shown, (condition, rows) in zip(data["conditions"], paired.conditions, strict=True):
        assert shown["label"] == condition.label
        shapes.add(shown["n"])
        step = 6 if shown["n"] is not None else 11
        found = [shown["pairs"][at : at + step] for at in range(0, len(shown["pairs"]), step)]
        assert len(found) == len(rows)
        for numbers, row in zip(found, rows, strict=True):
            only, other, low, high, p, holm = numbers[-6:]
            assert (only, other) == (row["only_first"], row["only_second"])
            assert (low, high) == pytest.approx([1000 * limit for limit in row["difference_interval"]], abs=0.5)
            for chance, name in ((p, "p"), (holm, "holm")):
                written = f"{chance / 1e4:.4f}" if chance <= 1000 else f"{(chance - 1000) / 100:.2f}"
                assert written == cell(Column(name, "", "chance"), row)
            if step == 11:
                names = [data["runs"][place] for place in numbers[:2]]
                assert [*names, numbers[2]] == [row["first"], row["second"], row["n"]]
                assert numbers[3:5] == [round(row["n"] * row[name]) for name in ("first_rate", "second_rate")]
        for verdicts in condition.verdicts:
            bits, mask = shown["sides"][str(data["runs"].index(verdicts.run.name))]
            unpacked = np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8))[: len(data["ids"])]
            right = {image for image, hit in zip(data["ids"], unpacked, strict=True) if hit}
            outcomes = verdicts.run.outcomes
            assert right == {image for image, hit in zip(outcomes.ids, verdicts.right, strict=True) if hit}
            assert (mask is None) == (verdicts.run.name != "c")
    assert None in shapes and len(shapes) > 1  # both ways of writing pairs


EVIL = "<img src=x onerror=alert(1)>"


def test_html_in_names_is_text(tmp_path: Path) -> None:
    evil, close = f"a{EVIL}", "</script><b>"
    data = {"class_names": [EVIL, f"x{close}"], "name": f"data{EVIL}"}
    ids = [f"{EVIL}{close}{n}" for n in range(4)]
    runs = [
        write_run(tmp_path, f"run{number}", {PGD: right}, ids=ids, data=data, targets=[0, 1, 0, 1], patients=ids)
        for number, right in enumerate(("1100", "1010"))
    ]
    for number, run in enumerate(runs):
        path = run / "evaluate" / "manifest.json"
        path.write_text(path.read_text().replace('"run": "run', f'"run": "{evil}{close}'))
        summary = json.loads((run / "evaluate" / "summary.json").read_text())
        summary["manifest"] |= {"run": f"{evil}{close}{number}", "victim": {"name": f"{EVIL}{close}"}}
        (run / "evaluate" / "summary.json").write_text(json.dumps(summary))
        (run / "train.yaml").write_text(json.dumps({f"key{EVIL}": f"{close}{number}"}))
    html = page_of(tmp_path, [*runs, tmp_path / f"no{EVIL}"])
    page = Page(html)
    assert not page.count("img") and not [found for _, found in page.tags if "onerror" in found]
    assert evil in page.text and html.count("</script>") == html.count("<script")
    assert [type(one) for one in data_of(html)] == [dict, list, dict]


def test_control_characters_do_not_reach_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, "a\x1b[2J", {PGD: "10"}, ids=["x\x1b[2J", "y"])
    other = write_run(tmp_path, "b", {PGD: "01"}, ids=["x\x1b[2J", "y"])
    compare.main(["list", str(tmp_path)])
    compare.main(["diff", str(run), str(other)])
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and "a\\x1b[2J" in shown.out


def broken(tmp_path: Path) -> dict[str, Path]:
    """Runs that cannot be read, by a word of the sentence that says why."""

    def run(name: str) -> tuple[Path, Path]:
        folder = write_run(tmp_path, name, {PGD: "10"})
        return folder, folder / "evaluate"

    found = {"does not exist": tmp_path / "nowhere", "is a file": tmp_path / "file"}
    (tmp_path / "file").write_text("")
    (tmp_path / "trained" / "checkpoints").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    found |= {"has not been evaluated yet": tmp_path / "trained", "holds no run": tmp_path / "empty"}
    for word, file, content in (
        ("has not ended", "summary.json", None),
        ("summary.json is damaged", "summary.json", "{"),
        ("reads summaries of schema 1, got 9", "summary.json", '{"schema": 9}'),
        ("records.parquet does not exist", "records.parquet", None),
        ("records.parquet is damaged", "records.parquet", "no parquet"),
        ("reads manifests of schema 1, got 7", "manifest.json", '{"schema": 7}'),
    ):
        found[word], place = run(f"run{len(found)}")
        (place / file).write_text(content) if content else (place / file).unlink()
    for word, change in (
        ("reads records of schema 1 and 2, got 5", {"schema": 5}),
        ("contradict each other", {"correct_after": False}),
        ("contradict each other:", {"correct_before": False}),
    ):
        found[word], place = run(f"run{len(found)}")
        records = pl.read_parquet(place / "records.parquet")
        changed = records.with_columns(**{name: pl.lit(value) for name, value in change.items()})
        changed.write_parquet(place / "records.parquet")
    found["is damaged (KeyError"], place = run("lacking")
    summary = json.loads((place / "summary.json").read_text())
    del summary["rows"][0]["clean_accuracy"]
    (place / "summary.json").write_text(json.dumps(summary))
    return found


def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = broken(tmp_path)
    good = write_run(tmp_path, "good", {PGD: "10"})
    (good / "train.yaml").write_text("a: [")
    page = tmp_path / "page.html"
    compare.main(["dashboard", *map(str, found.values()), str(good), "--out", str(page)])
    told = capsys.readouterr()
    assert told.out == f"{page}: 1 run\n"
    lines = told.err.splitlines()
    assert len(lines) == len(found) + 1 and all(line.startswith("left out: ") and line.endswith(".") for line in lines)
    text = Page(page.read_text()).text
    for word in [*found, "is not YAML, so that its configuration is not compared"]:
        assert word in told.err and word in text, word
    for place in found.values():
        with pytest.raises(SystemExit) as ended:
            compare.main(["dashboard", str(place), "--out", str(tmp_path / "none.html")])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("error: there is no run that can be compared.") and said.count("\n") == 1
    assert not (tmp_path / "none.html").exists()


@pytest.mark.parametrize(
    "harm",
    [
        lambda summary: summary["manifest"].pop("data"),
        lambda summary: summary["manifest"]["attacks"][0].pop("attack"),
        lambda summary: summary["worst_case"][0].update(accuracy="much"),
        lambda summary: summary["rows"][0].pop("clean_accuracy_interval"),
    ],
)
def test_a_damaged_summary_keeps_no_other_run_from_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[dict[str, Any]], Any]
) -> None:
    runs = two_runs(tmp_path)
    path = runs[0] / "evaluate" / "summary.json"
    summary = json.loads(path.read_bytes())
    harm(summary)
    path.write_text(json.dumps(summary))
    compare.main(["dashboard", *map(str, runs), "--out", str(tmp_path / "page.html")])
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'page.html'}: 1 run\n" and re.match(r"left out: .*\ba\b.*\.\n$", told.err)


def test_a_radius_of_0_has_no_place_on_a_logarithmic_axis(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", {("pgd", 0.0): "1110", PGD: "1100"})
    none = write_run(tmp_path, "b", {("pgd", 0.0): "1110"})
    text = Page(page_of(tmp_path, [run, none])).text
    assert "ε = 0" in text and "ε = 1/255" in text
    drawn = [curve_figure(one.curves[0]) for one in compare_runs([run, none]).groups]
    assert ["ε = 1/255: 50.0" in one for one in drawn] == [True, False] and drawn[1] == ""


def test_runs_of_schema_1_and_of_other_ranks_are_read(tmp_path: Path) -> None:
    """Records of an older version lack columns; those of several ranks come in any order."""
    run = write_run(tmp_path, "a", {PGD: "1100"})
    path = run / "evaluate" / "records.parquet"
    records = pl.read_parquet(path).with_columns(schema=pl.lit(1)).drop("patient", "quality_before").reverse()
    records.write_parquet(path)
    (one,) = compare_runs([run]).groups
    assert one.leaderboard.rows[0]["clean"] == 1.0 and one.leaderboard.rows[0]["tried"] == "4 / 4"


def test_a_run_with_several_evaluations_has_several_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ("evaluate", "evaluations/strong", "evaluate_on/clinic", "validate")
    for place in places:
        write_run(tmp_path, "a", {PGD: "1100"}, place=place)
    write_run(tmp_path / "other", "a", {PGD: "1000"})
    comparison = compare_runs([tmp_path / "a", tmp_path / "a" / "evaluate", tmp_path / "other"])
    names = [run.name for run in comparison.runs]
    assert names[1:4] == ["a · strong", "a · clinic", "a · validate"]
    assert [name.partition(" (")[0] for name in (names[0], names[4])] == ["a", "a"] and len(set(names)) == 5
    compare.main(["diff", str(tmp_path / "a"), str(tmp_path / "other" / "a")])
    assert "has 4 evaluations, of which" in capsys.readouterr().out


def test_the_list_has_a_line_for_each_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_runs(tmp_path)
    (tmp_path / "trained" / "checkpoints").mkdir(parents=True)
    compare.main(["list", str(tmp_path)])
    told = capsys.readouterr()
    (line,) = [line for line in told.out.splitlines() if line.split()[:1] == ["a"]]
    shown = ["a", "classification", "phantom adv_test", "6 / 6", "100.0 %", "33.3 % at 2/255", "2026-01-02"]
    assert [line.find(word) >= 0 for word in shown] == [True] * len(shown)
    explained = " ".join(told.out.split())
    assert "tried / n: images that were attacked" in explained and "clean: accuracy without an attack." in explained
    assert told.err == f"left out: {tmp_path / 'trained'} has not been evaluated yet.\n"


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path / place, "a", {PGD: "10"}) for place in ("x", "y")]
    assert [run.name for run in compare_runs(runs).runs] == [f"a ({run / 'evaluate'})" for run in runs]
    compare.main(["list", *map(str, runs)])
    told = "".join(capsys.readouterr().out.split())
    assert all(f"{place}/a/evaluate)" in told for place in "xy")
    with pytest.raises(SystemExit):
        compare.main(["dashboard", str(runs[0]), "--out", ""])
    assert capsys.readouterr().err == "error: the name of a file to write was expected, got '.'\n"


def test_two_runs_are_compared_in_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = two_runs(tmp_path)
    compare.main(["diff", str(first), str(second)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "They can be ranked together." in shown
    assert "worst case at ε = 1/255 6 66.7 % 50.0 % +16.7 (" in shown and ") 2 1 1.00" in shown
    assert "worst case at ε = 1/255, only A right (2): 2.png, 3.png" in shown
    assert "victim.weights a b" in shown
    with pytest.raises(SystemExit) as ended:
        compare.main(["diff", str(first), str(first / "evaluate")])
    assert ended.value.code == 2 and "two runs are compared, got" in capsys.readouterr().err


def test_the_tables_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = two_runs(tmp_path)
    for kind in ("csv", "parquet", "latex"):
        compare.main(["export", *map(str, runs), "--format", kind, "--out", str(tmp_path / kind)])
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert all(path.is_file() for path in written)
    names = ["groups", "leaderboard-1", "curves-1", "classes-1", "pairs-1", "patients-1", "cost", "configuration"]
    assert [path.name for path in written] == [f"{one}.{end}" for end in ("csv", "parquet", "tex") for one in names]
    board = pl.read_csv(tmp_path / "csv" / "leaderboard-1.csv")
    assert board["run"].to_list() == ["a", "b"] and board["worst_0.0039215686"].to_list() == pytest.approx(
        [4 / 6, 3 / 6]
    )
    assert (board["worst_0.0039215686_lower"] < board["worst_0.0039215686"]).all()
    pairs = pl.read_parquet(tmp_path / "parquet" / "pairs-1.parquet")
    assert pairs.filter(condition="worst case at ε = 1/255").select("only_first", "only_second").rows() == [(2, 1)]
    curves = pl.read_parquet(tmp_path / "parquet" / "curves-1.parquet").filter(curve="pgd", run="b")
    assert curves["epsilon"].to_list() == pytest.approx([ONE, TWO]) and curves["value"].to_list() == [3 / 6, 1 / 6]
    latex = (tmp_path / "latex" / "leaderboard-1.tex").read_text()
    assert r"\toprule" in latex and r"66.7~\% (" in latex and r"phantom adv\_test" in latex


def test_pictures_are_shown_where_both_runs_have_kept_them(tmp_path: Path) -> None:
    runs = two_runs(tmp_path)
    for run in runs:
        folder = run / "evaluate" / "panels"
        folder.mkdir()
        for image in (0, 2) if run.name == "a" else (2, 4):  # only image 2 changed sides and is kept by both
            for kind in ("clean", "adversarial"):
                shade = image if kind == "clean" else 100 + 50 * (run.name == "b")
                Image.new("L", (8, 8), shade).save(folder / f"{image}-{kind}.png")
            panel = {"key": key_of(run.name, 0), "attack": "pgd", "id": f"{image}.png", "target": 0}
            panel |= {"clean_prediction": 0, "clean_confidence": 0.9}
            panel |= {"adversarial_prediction": int(run.name == "b"), "adversarial_confidence": 0.8}
            panel |= {"images": {kind: f"{image}-{kind}.png" for kind in ("clean", "adversarial")}}
            (folder / f"{image}.json").write_text(json.dumps(panel))
        (folder / "torn.json").write_text("{")
    html = page_of(tmp_path, runs)
    pairs, stored = [one for one in data_of(html) if isinstance(one, list) or "pictures" in one]
    assert list(pairs["pictures"]["clean"]) == ["2.png"] and len(stored) == 3
    seen = pairs["pictures"]["seen"][0]
    a, b = pairs["runs"].index("a"), pairs["runs"].index("b")
    assert seen[str(a)]["2.png"][1:] == ["pgd: NORMAL, 80.0 %", True]
    assert seen[str(b)]["2.png"][1:] == ["pgd: PNEUMONIA, 80.0 %", False]
    budget = Pictures(budget=10)
    assert Embedded(budget).of_pairs(compare_runs(runs).pairs[0])["pictures"]["clean"] == {}
    assert budget.full and budget.uris == []


def test_many_runs_keep_the_page_small(tmp_path: Path) -> None:
    """Eleven runs have 55 pairs; without script the best run stands against each of the others."""
    random = np.random.default_rng(0)
    runs = [
        write_run(tmp_path, f"run{number:02d}", {PGD: "".join(random.choice(["0", "1"], 12))}) for number in range(11)
    ]
    html = page_of(tmp_path, runs)
    assert 55 > ALL_PAIRS and "55 pairs in all, for which p is corrected" in html
    (data,) = [one for one in data_of(html) if isinstance(one, dict) and "conditions" in one]
    assert [len(one["pairs"]) // 6 for one in data["conditions"]] == [55, 55]


def test_lines_differ_by_more_than_their_colour() -> None:
    styles = [style_of(place) for place in range(32)]
    assert len(set(styles)) == 32
    assert all(one.split()[1] != other.split()[1] for one, other in zip(styles, styles[1:], strict=False) if one)


def test_the_figure_says_what_its_marks_are(tmp_path: Path) -> None:
    (one,) = compare_runs(two_runs(tmp_path)).groups
    drawn = curve_figure(one.curves[0])
    assert drawn.count('class="series') == 2 and drawn.count('class="band"') == 2
    assert "a, ε = 1/255: 66.7 % (" in drawn and "ε, logarithmic" in drawn
    assert curve_figure(one.curves[0]._replace(rows=[])) == ""


def test_help_and_a_misspelt_command_import_next_to_nothing() -> None:
    heavy = "{'torch', 'pytorch_lightning', 'polars', 'numpy', 'jinja2', 'rich', 'yaml', 'pandas'} & set(sys.modules)"
    code = (
        "import sys, contextlib, compare\n"
        "for words in (['--help'], ['lst']):\n"
        "    with contextlib.suppress(SystemExit): compare.main(words)\n"
        f"print(sorted({heavy}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_comparing_needs_neither_torch_nor_lightning(tmp_path: Path) -> None:
    two_runs(tmp_path)
    code = (
        "import sys, compare\n"
        f"compare.main(['dashboard', {str(tmp_path)!r}, '--out', {str(tmp_path / 'page.html')!r}])\n"
        "print(sorted({'torch', 'pytorch_lightning', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
