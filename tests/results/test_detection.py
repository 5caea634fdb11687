"""Detection from the records alone: who counts, what the summary says, and how it is shown."""

import itertools
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from rich.console import Console

import compare
from medrobust.results.columns import COLUMNS
from medrobust.results.detection import detection
from medrobust.results.manifest import write_manifest
from medrobust.results.records import Journal, read_records
from medrobust.results.report.detection import (
    console_detection,
    detection_grids,
    detection_markdown,
    read_pair,
    roc_figure,
    roc_note,
)
from medrobust.results.report.page import finish
from medrobust.results.summary import summarise

KINDS = ("_clean", "_noisy", "")


def evaluation(folder, attacks, detectors=("kd", "bu"), fits=("same",), images=60, change=None, seed=0):
    """An evaluation whose scores are made up: `attacks` are (name, epsilon, control, shift of adversarial scores).

    A detector's later scores are rounder, so that some of them tie.
    """
    random = np.random.default_rng(seed)
    right = random.random(images) < 0.9
    entries, records = [], []
    for number, (name, epsilon, control, shift) in enumerate(attacks):
        head = {"key": f"{number:016x}", "attack": name, "method": "BIM", "epsilon": epsilon}
        entries.append({**head, "control": control, "parameters": {}})
        fooled = right & (random.random(images) < 0.8) & (shift is not None)
        for image in range(images):
            record = dict.fromkeys(set(COLUMNS) - {"schema"}) | head
            record |= {"run": "demo", "victim": "v", "dataset": "d", "split": "s", "id": f"{image:03d}", "seed": 42}
            record |= {"correct_before": bool(right[image]), "correct_after": bool(right[image] and not fooled[image])}
            record |= {"reached": bool(fooled[image]), "success": bool(fooled[image])}
            record |= {"linf": epsilon or 0.01, "l2": 0.5, "zero_gradients": 0}
            record |= {"forwards": 2, "backwards": 1, "psnr": 40.0}
            for (place, detector), fit in itertools.product(enumerate(detectors), fits):
                usual = random.normal(0, 1)
                values = usual, usual + random.normal(0.1, 0.3), usual + random.normal(shift or 0, 1)
                for kind, value in zip(KINDS, values, strict=True):
                    record[f"detector_{detector}_{fit}{kind}"] = round(float(100 * value), 3 - 4 * (place > 0))
            if change:
                change(record)
            records.append(record)
    known = {"detectors": list(detectors), "fits": list(fits), "n_reference": 500, "n_fit": 200}
    manifest = {"schema": 1, "run": "demo", "data": {"name": "phantom", "images": images}, "attacks": entries}
    write_manifest(folder, manifest | ({"listeners": {"detection": known}} if detectors else {}))
    with Journal(folder) as journal:
        journal.append(records)
    return folder


RADIUS = 1 / 256
ATTACKS = [
    ("noise", RADIUS, True, 0.0),
    ("fgsm", RADIUS, False, 1.0),
    ("bim", RADIUS, False, 2.0),
    ("bim-hfc", RADIUS, False, -1.0),
]


def row_of(summary, attack, detector, fit="same"):
    wanted = {"attack": attack, "detector": detector, "fit": fit}
    (found,) = [row for row in summary["detection"]["rows"] if wanted.items() <= row.items()]
    return found


@pytest.mark.parametrize("detector", ["kd", "bu"])
def test_a_cell_is_recomputed_from_the_parquet_file_by_all_pairs(tmp_path, detector):
    finish(evaluation(tmp_path, ATTACKS))
    summary = json.loads((tmp_path / "summary.json").read_text())
    records = pl.read_parquet(tmp_path / "records.parquet").filter(pl.col("attack") == "bim").to_dicts()
    counted = [record for record in records if record["correct_before"]]
    positives = [record[f"detector_{detector}_same"] for record in counted if record["success"]]
    negatives = [record[f"detector_{detector}_same_{kind}"] for record in counted for kind in ("clean", "noisy")]
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    thresholds = [t for t in negatives if sum(n > t for n in negatives) <= 0.1 * len(negatives)]
    row = row_of(summary, "bim", detector)
    assert 0 < len(positives) < len(counted) < len(records)
    assert (row["n_positive"], row["n_negative"]) == (len(positives), 2 * len(counted))
    assert row["auroc"] == pytest.approx(wins / (len(positives) * len(negatives)), abs=1e-12)
    assert row["tpr"] == pytest.approx(sum(p > min(thresholds) for p in positives) / len(positives), abs=1e-12)
    for name in ("auroc", "tpr"):
        assert row[f"{name}_interval"][0] <= row[name] <= row[f"{name}_interval"][1]


def test_summary_has_a_row_for_each_attack_fit_and_detector(tmp_path):
    summary = finish(evaluation(tmp_path, ATTACKS, fits=("fgsm", "same")))
    found = summary["detection"]
    assert (found["detectors"], found["fits"], found["tnr"]) == (["kd", "bu"], ["fgsm", "same"], 0.9)
    assert [(row["attack"], row["fit"], row["detector"]) for row in found["rows"]] == list(
        itertools.product(["fgsm", "bim", "bim-hfc"], ["fgsm", "same"], ["kd", "bu"])
    )
    assert all(2 <= len(row["roc"]["fpr"]) == len(row["roc"]["tpr"]) <= 60 for row in found["rows"])
    assert all(row["means"].keys() <= {"psnr"} for row in summary["rows"])
    assert finish(tmp_path)["detection"] == found


def test_noise_is_no_attack_to_be_detected(tmp_path):
    summary = finish(evaluation(tmp_path, ATTACKS[:1]))
    assert summary["detection"] == {"detectors": ["kd", "bu"], "fits": ["same"], "tnr": 0.9, "rows": []}
    assert console_detection(summary) is None
    assert "<h2>Detection</h2>" not in (tmp_path / "report.html").read_text()


def test_without_detection_nothing_is_said(tmp_path):
    summary = finish(evaluation(tmp_path, ATTACKS, detectors=()))
    html = (tmp_path / "report.html").read_text()
    assert summary["detection"] == {}
    assert console_detection(summary) is None
    assert detection_grids({"rows": []}) == []  # of a version that knew no detectors
    assert "<h2>Detection</h2>" not in html
    assert "AUROC" not in html
    with pytest.raises(ValueError, match="demo has no scores of detectors"):
        detection_markdown(summary)


def test_a_detector_uses_the_scores_that_it_has(tmp_path):
    def change(record):
        image = int(record["id"])
        if image % 2:
            record |= {f"detector_kd_same{kind}": None for kind in KINDS}
        if image == 2:
            record["detector_kd_same_noisy"] = None
        record |= {f"detector_bu_same{kind}": None for kind in KINDS}

    summary = finish(evaluation(tmp_path, ATTACKS, change=change))
    records = read_records(tmp_path).filter((pl.col("attack") == "bim") & pl.col("correct_before"))
    assert "002" in records["id"]
    scored = records.filter(pl.col("detector_kd_same").is_not_null())
    row = row_of(summary, "bim", "kd")
    assert row["n_positive"] == scored["success"].sum() < records["success"].sum()
    assert row["n_negative"] == 2 * len(scored) - 1
    assert row["auroc"] > 0.5
    never = row_of(summary, "bim", "bu")
    assert (never["n_positive"], never["n_negative"], never["roc"]) == (0, 0, {"fpr": [], "tpr": []})
    assert [never[name] for name in ("auroc", "auroc_interval", "tpr", "tpr_interval")] == [None] * 4
    text = detection_markdown(summary)
    assert re.search(r"^\| bu \| – \| – \| – \|$", text, flags=re.MULTILINE)
    assert f"| positives | {row_of(summary, 'fgsm', 'kd')['n_positive']} |" in text  # bu has no score to count


def test_an_attack_that_never_succeeds_and_columns_that_are_missing_give_none(tmp_path):
    attacks = [*ATTACKS, ("never", RADIUS, False, None)]
    summary = finish(evaluation(tmp_path, attacks))
    row = row_of(summary, "never", "kd")
    assert (row["n_positive"], row["auroc"], row["tpr"], row["auroc_interval"]) == (0, None, None, None)
    assert row["n_negative"] > 0
    assert "without positives" in roc_note(detection_grids(summary)[0])
    records = read_records(tmp_path).drop([f"detector_bu_same{kind}" for kind in KINDS])
    without = summarise(records, summary["manifest"])
    assert row_of(without, "bim", "bu")["auroc"] is None
    assert row_of(without, "bim", "kd") == row_of(summary, "bim", "kd")
    nothing = summarise(records.clear(), summary["manifest"])
    assert {row["n_negative"] for row in nothing["detection"]["rows"]} == {0}


def test_nan_is_no_score(tmp_path):
    summary = finish(evaluation(tmp_path, ATTACKS))
    hole = pl.when(pl.col("id") == "002").then(float("nan")).otherwise(pl.col("detector_kd_same"))
    holed = summarise(read_records(tmp_path).with_columns(hole.alias("detector_kd_same")), summary["manifest"])
    was = row_of(summary, "bim", "kd")["n_positive"]
    assert row_of(holed, "bim", "kd")["n_positive"] in (was, was - 1)
    assert row_of(holed, "bim", "kd")["auroc"] is not None


def test_a_large_study_has_a_row_for_each_attack_fit_and_detector():
    detectors, fits = [f"d{number}" for number in range(9)], ["fgsm", "pgd", "same"]
    random = np.random.default_rng(0)
    shown = {f"detector_{d}_{f}{k}": random.normal(k == "", 1, 200) for d in detectors for f in fits for k in KINDS}
    ids = [f"{row:03}" for row in range(200)]
    table = pl.DataFrame({"id": ids, "correct_before": [True] * 200, "success": [True] * 200, **shown})
    entries = [{"attack": f"a{number}", "epsilon": RADIUS, "key": str(number)} for number in range(10)]
    manifest = {"listeners": {"detection": {"detectors": detectors, "fits": fits}}}
    assert len(detection(entries, {entry["key"]: table for entry in entries}, manifest)["rows"]) == 270


def printed(summary, width):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(console_detection(summary, width))
    return console.export_text()


def test_console_has_a_table_for_each_fit(tmp_path):
    summary = finish(evaluation(tmp_path, ATTACKS, fits=("fgsm", "same")))
    text = printed(summary, 80)
    assert "fitted on fgsm" in text
    assert "fitted on each attack itself" in text
    assert f"{100 * row_of(summary, 'bim', 'bu', 'fgsm')['auroc']:.1f}" in text
    assert "right before" in text


@pytest.mark.parametrize("width", [50, 80, 120])
def test_console_cuts_no_number(tmp_path, width):
    radii = [(f"{name}-attack", radius / 255, False, 1.0) for name in ("one", "other") for radius in (0.5, 1, 2, 4)]
    summary = finish(evaluation(tmp_path, radii, images=30))
    text = printed(summary, width)
    assert "…" not in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert text.count("0.5/255") == 2
    for row in summary["detection"]["rows"]:
        assert f"{100 * row['auroc']:.1f}" in text


def test_markdown_tables(tmp_path):
    summary = finish(evaluation(tmp_path, ATTACKS))
    lines = detection_markdown(summary).splitlines()
    row = row_of(summary, "fgsm", "kd")
    written = [
        f"{100 * row[name]:.1f} ({100 * row[f'{name}_interval'][0]:.1f}–{100 * row[f'{name}_interval'][1]:.1f})"
        for name in ("auroc", "tpr")
    ]
    assert lines.count("| detector | fgsm | bim | bim-hfc |") == 2
    starts = [line for line in lines if line.startswith("| kd | ")]
    assert [line.split(" | ")[1] for line in starts] == written
    counts = [row_of(summary, name, "kd")["n_positive"] for name in ("fgsm", "bim", "bim-hfc")]
    assert f"| positives | {' | '.join(map(str, counts))} |" in lines
    assert "fitted on |" not in "\n".join(lines)


def test_several_fits_stand_below_each_other(tmp_path):
    summary = finish(evaluation(tmp_path, ATTACKS, fits=("fgsm", "bim", "same")))
    text = detection_markdown(summary)
    assert "| detector | fitted on | fgsm | bim | bim-hfc |" in text

    def score(attack, fit):
        return f"{100 * row_of(summary, attack, 'kd', fit)['auroc']:.1f}"

    assert f"| kd | bim | {score('fgsm', 'bim')} | {score('bim', 'bim')} * | {score('bim-hfc', 'bim')} |" in text
    own = " | ".join(f"{score(attack, 'same')} *" for attack in ("fgsm", "bim", "bim-hfc"))
    assert f"| kd | itself | {own} |" in text


def test_pairs_stand_as_without_and_with_under_the_fit_of_the_first(tmp_path, capsys):
    run = tmp_path / "run"
    summary = finish(evaluation(run / "evaluate", ATTACKS, fits=("fgsm", "bim")))
    compare.main(["detection", str(run), "--pair", "bim:bim-hfc", "--pair", "fgsm:bim-hfc"])
    text = capsys.readouterr().out
    without, having = (row_of(summary, attack, "kd", "bim") for attack in ("bim", "bim-hfc"))
    cells = [f"{100 * without[name]:.1f} / {100 * having[name]:.1f}" for name in ("auroc", "tpr")]
    assert f"| kd | {cells[0]} | {cells[1]} |" in text
    assert text.count("AUROC bim / bim-hfc") == text.count("AUROC fgsm / bim-hfc") == 1
    under = text.split("**AUROC and TPR at 90 % TNR, ")[1:]
    assert [part.split("**")[0] for part in under] == ["fitted on fgsm", "fitted on bim"]
    assert text.startswith(detection_markdown(summary).split("\n")[0])


def test_a_pair_is_of_one_radius(tmp_path):
    attacks = [(name, k / 255, False, 1.0) for name in ("pgd", "pgd-hfc") for k in (1, 2)]
    attacks += [("far", 4 / 255, False, 1.0)]
    summary = finish(evaluation(tmp_path, attacks, images=30))
    text = detection_markdown(summary, [("pgd", "pgd-hfc")])
    assert "| detector | AUROC pgd / pgd-hfc 1/255 | TPR pgd / pgd-hfc 1/255 | AUROC pgd / pgd-hfc 2/255 |" in text
    with pytest.raises(ValueError, match="pgd and far, which share none"):
        detection_markdown(summary, [("pgd", "far")])


def test_mistakes_at_the_command_line_get_one_sentence(tmp_path, capsys):
    folder = str(evaluation(tmp_path, ATTACKS))
    finish(folder)
    for words, sentence in (("bim", "a colon between them"), ("bim:nothing", r"(fgsm, bim, bim-hfc), got 'nothing'")):
        with pytest.raises(SystemExit) as left:
            compare.main(["detection", folder, "--pair", words])
        assert left.value.code == 2
        assert sentence in capsys.readouterr().err
    assert read_pair("a_b:c-d") == ("a_b", "c-d")
    for words in ("", ":", "a:", ":b", "a:b:c"):
        with pytest.raises(ValueError, match="a pair is two names"):
            read_pair(words)


class Balanced(HTMLParser):
    """Tags of a page; one that is not closed is an error."""

    def __init__(self, html):
        super().__init__()
        self.open, self.text = [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "input", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += "" if {"script", "style"} & set(self.open) else data


def test_report_shows_tables_and_curves_of_each_fit(tmp_path):
    finish(evaluation(tmp_path, ATTACKS, fits=("fgsm", "same")))
    html = (tmp_path / "report.html").read_text()
    page = Balanced(html)
    assert html.count('<table class="separation">') == 4
    assert html.count('class="group" data-fit=') == 2
    assert "Only images that the victim got right before the attack count" in page.text
    figures = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(figures) == 4  # two of robustness
    for figure in figures:
        assert "nan" not in figure.lower()
        ElementTree.fromstring(figure)
    for heat in re.findall(r"--h:([^\"]*)\"", html):
        assert 0 <= float(heat) <= 1
    assert html.index("<h2>Results</h2>") < html.index("<h2>Detection</h2>") < html.index("Accuracy under each attack")


def test_nasty_names_are_escaped_and_many_plots_are_thinned(tmp_path):
    nasty = "<b>&\"a|b'"
    attacks = [(name, k / 255, False, 1.0) for name in (nasty, "bim", "pgd", "mim") for k in (1, 2, 4, 8)]
    summary = finish(evaluation(tmp_path, attacks, detectors=("kd",), images=30))
    (grid,) = detection_grids(summary)
    figure = roc_figure(grid, 0.9)
    assert figure.count("8/255") == 4 * 2  # title and tooltip of each attack at its largest radius
    assert "4/255" not in figure
    assert "largest radius" in roc_note(grid)
    words = " ".join(ElementTree.fromstring(figure).itertext())
    assert nasty in words
    html = (tmp_path / "report.html").read_text()
    assert "<b>&" not in html
    Balanced(html)
    rows = [line for line in detection_markdown(summary).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1


def test_images_of_a_patient_are_drawn_together() -> None:
    """If every patient's images are copies of each other, the intervals are those of one image per patient."""
    random = np.random.default_rng(1)
    one = {f"detector_kd_pgd{kind}": random.normal(kind == "", 1, 60) for kind in KINDS}

    def table(copies: int, patients: bool) -> pl.DataFrame:
        columns = {name: np.repeat(values, copies) for name, values in one.items()}
        names = [f"{row:03}" for row in range(60 * copies)]
        known = {"patient": [f"p{row // copies:03}" for row in range(60 * copies)]} if patients else {}
        return pl.DataFrame({"id": names, "correct_before": True, "success": True, **known, **columns})

    def interval(records: pl.DataFrame) -> list[float]:
        manifest = {"listeners": {"detection": {"detectors": ["kd"], "fits": ["pgd"]}}}
        entry = {"attack": "pgd", "epsilon": RADIUS, "key": "k"}
        return detection([entry], {"k": records}, manifest)["rows"][0]["auroc_interval"]

    assert interval(table(4, patients=True)) == pytest.approx(interval(table(1, patients=False)), abs=1e-9)
    low, high = interval(table(4, patients=False))
    alone = interval(table(1, patients=False))
    assert high - low < 0.7 * (alone[1] - alone[0])
