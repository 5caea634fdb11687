"""The pages of results: every number comes from a stored summary, and the pages that ship are what these give."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

from benchmarks.result_pages import PAGES, STORED, TEMPLATE, read_stored, store, written_page
from medrobust.results.summary import read_summary, write_summary
from tests.made_runs import write_run

PGD, BIM = ("pgd", 1 / 255), ("bim", 2 / 255)


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """Four images of which PGD leaves two and BIM one; all are right before."""
    folder: Path = write_run(tmp_path, "a", {PGD: "1010", BIM: "1000"})
    found = folder if (folder / "manifest.json").is_file() else folder / "evaluate"
    write_summary(found)
    return found


def page_of(folder: Path, words: str, evaluation: Path) -> str:
    (folder / f"one{TEMPLATE}").write_text(words)
    return written_page(folder / f"one{TEMPLATE}", {"a": read_stored(store([evaluation], folder)[0].parent)["a"]})


def test_a_page_quotes_rates_with_their_intervals(evaluation: Path, tmp_path: Path) -> None:
    row = next(row for row in read_summary(evaluation)["rows"] if row["attack"] == "pgd")
    low, high = (100 * limit for limit in row["accuracy_under_attack_interval"])
    words = "{% set a = run('a') %}{{ a.row('pgd', '1/255') | rate }}; {{ a.worst('2/255') | rate('accuracy') }}; "
    words += "{{ a.images }}"
    first, second, images = page_of(tmp_path, words, evaluation).split("; ")
    assert first == f"50.0 ({low:.1f}–{high:.1f})"
    assert second.startswith("25.0 (") and images == "4"


def test_what_is_not_stored_cannot_be_quoted(evaluation: Path, tmp_path: Path) -> None:
    for words, message in (
        ("{{ run('b').images }}", "one.md.j2 quotes 'b', and stored are a"),
        ("{{ run('a').row('cw') | rate }}", "a: expected one row of cw, found 0"),
        ("{{ run('a').row('pgd', '8/255') | rate }}", "a: expected one row of pgd at 8/255, found 0"),
        ("{{ run('a').row('pgd').acuracy }}", "one.md.j2: .*acuracy"),
        ("{{ run('a').row('pgd', '1/255') | rate('acuracy') }}", "expected one of .*got 'acuracy'"),
        ("{{ run('a').masks('pgd') }}", "a: nothing is stored of masks, only "),
    ):
        with pytest.raises(ValueError, match=message):
            page_of(tmp_path, words, evaluation)


def test_an_evaluation_that_has_not_ended_is_not_stored(evaluation: Path, tmp_path: Path) -> None:
    path = evaluation / "summary.json"
    summary = json.loads(path.read_bytes())
    summary["rows"][-1]["n"] -= 1
    path.write_text(json.dumps(summary))
    with pytest.raises(ValueError, match="not every image has been attacked by bim: let the evaluation end"):
        store([evaluation], tmp_path / "stored")
    assert not (tmp_path / "stored").exists()


def test_two_evaluations_of_one_name_are_not_stored_over_each_other(tmp_path: Path) -> None:
    for scale in ("small", "paper"):
        write_summary(write_run(tmp_path / scale, "a", {PGD: "1010"}) / "evaluate")
    one, other = (tmp_path / scale / "a" / "evaluate" for scale in ("small", "paper"))
    with pytest.raises(ValueError, match="would both be stored as a.json: store one of them"):
        store([one, other], tmp_path / "stored")
    assert not (tmp_path / "stored").exists()
    assert store([one, one], tmp_path / "stored") == [tmp_path / "stored" / "a.json"]  # named twice


def test_the_pages_are_what_the_stored_summaries_give() -> None:
    runs = read_stored(PAGES / STORED)
    stale = {
        template.name
        for template in sorted(PAGES.glob(f"*{TEMPLATE}"))
        if template.with_name(template.name.removesuffix(".j2")).read_text() != written_page(template, runs)
    }
    assert not stale, "write them again: python -m benchmarks.result_pages"


def test_numbers_of_images_become_means_with_intervals(evaluation: Path, tmp_path: Path) -> None:
    (evaluation / "figures").mkdir()
    of_images = pl.DataFrame(
        {
            "run": ["a"] * 4,
            "attack": ["pgd", "pgd", "pgd", "bim"],
            "image": list("wxyz"),
            "overlap": [1.0, 2.0, 3.0, 5.0],
        }
    )
    of_images.write_parquet(evaluation / "figures" / "cam_overlap.parquet")
    pl.DataFrame({"run": ["a"], "attack": ["pgd"], "epsilon": [1 / 255], "area": [0.25]}).write_parquet(
        evaluation / "figures" / "sweep_smallest.parquet"
    )
    half = 1.96 / 3**0.5  # the standard deviation of 1, 2 and 3 is 1
    words = "{% set a = run('a') %}{{ a.drawn('cam_overlap', attack='pgd') | number('overlap') }}; "
    words += "{{ a.drawn('cam_overlap', attack='bim') | number('overlap', 1) }}; "
    words += "{{ a.drawn('sweep_smallest', epsilon='1/255').area | decimals }}"
    assert page_of(tmp_path, words, evaluation) == f"2.00 ({2 - half:.2f}–{2 + half:.2f}); 5.0; 0.25"
    with pytest.raises(ValueError, match="a: expected a stored figure, cam_overlap, sweep_smallest, got 'maps'"):
        page_of(tmp_path, "{{ run('a').figure('maps') }}", evaluation)


def test_numbers_that_are_not_finite_are_dashes_and_n_counts_what_has_a_number(
    evaluation: Path, tmp_path: Path
) -> None:
    (evaluation / "figures").mkdir()
    gini = pl.DataFrame({"image": list("wxyz"), "gini": [1.0, float("nan"), None, 0.5]})
    gini.write_parquet(evaluation / "figures" / "maps.parquet")
    pl.DataFrame({"attack": ["pgd"], "area": [float("inf")]}).write_parquet(evaluation / "figures" / "other.parquet")
    words = "{% set a = run('a') %}{{ a.figure('maps')[0].n }} {{ a.figure('maps')[0] | number('gini') }} "
    words += "{{ a.figure('other')[0].area | decimals }}"
    images, mean, area = page_of(tmp_path, words, evaluation).split(" ", 2)
    assert images == "2" and mean.startswith("0.75") and area.endswith("–")


def test_figures_that_were_drawn_before_the_summary_are_not_stored(evaluation: Path, tmp_path: Path) -> None:
    (evaluation / "figures").mkdir()
    figure = evaluation / "figures" / "sweep_smallest.parquet"
    pl.DataFrame({"area": [0.25]}).write_parquet(figure)
    os.utime(figure, (0, 0))
    with pytest.raises(ValueError, match=r"sweep_smallest.parquet is older than summary.json"):
        store([evaluation], tmp_path / "stored")


def test_several_commands_stand_under_each_other(evaluation: Path, tmp_path: Path) -> None:
    stored = store([evaluation], tmp_path)[0]
    run = read_stored(tmp_path)[stored.stem]
    manifest = {**run.summary["manifest"], "command": "python evaluate.py test -c a\\npython evaluate.py test -c b"}
    both = type(run)("a", {**run.summary, "manifest": manifest})
    assert both.command.splitlines() == ["python evaluate.py test -c a", "python evaluate.py test -c b"]


def test_a_long_command_is_written_on_several_lines(evaluation: Path, tmp_path: Path) -> None:
    stored = store([evaluation], tmp_path)[0]
    run = read_stored(tmp_path)[stored.stem]
    command = "python evaluate.py test -c runs/a/train.yaml -c " + "x" * 60 + " --ckpt_path best --evaluation name"
    long = type(run)("a", {**run.summary, "manifest": {**run.summary["manifest"], "command": command}})
    lines = long.command.split(" \\\n")
    assert len(lines) == 3 and max(map(len, lines)) < 100
    assert " ".join(line.strip() for line in lines) == command
