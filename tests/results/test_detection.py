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
from scipy.stats import norm

import compare
from medrobust.results.columns import COLUMNS
from medrobust.results.detection import detection
from medrobust.results.formats import format_percent
from medrobust.results.manifest import write_manifest
from medrobust.results.records import Journal, read_records
from medrobust.results.report.detection import console_detection, detection_markdown, read_pair
from medrobust.results.report.detection_grids import OLD, detection_grids
from medrobust.results.report.page import finish
from medrobust.results.report.roc_curves import roc_figure, roc_note
from medrobust.results.report.tables import console_flags
from medrobust.results.separation import auroc_score_interval
from medrobust.results.summary import summarise

KINDS = ("_clean", "_noisy", "_signs", "")
THRESHOLD = 120.0  # of scores whose clean ones have a standard deviation of 100


def evaluation(folder, attacks, detectors=("kd", "bu"), fits=("same",), images=60, change=None, seed=0, old=False):
    """An evaluation whose scores are made up: `attacks` are (name, epsilon, control, shift of adversarial scores).

    A detector's later scores are rounder, so that some of them tie. An old one has no thresholds and no random signs.
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
                steps = 0, random.normal(0.1, 0.3), random.normal(1, 1), random.normal(shift or 0, 1)
                for kind, step in zip(KINDS, steps, strict=True):
                    value = round(float(100 * (usual + step)), 3 - 4 * (place > 0))
                    record |= {} if old and kind == "_signs" else {f"detector_{detector}_{fit}{kind}": value}
                facts = {f"detector_{detector}_{fit}_threshold": THRESHOLD, f"fitted_{fit}_positives": 60.0}
                record |= {} if old else facts
            if change:
                change(record)
            records.append(record)
    known = {"detectors": list(detectors), "fits": list(fits)}
    known |= {} if old else {"threshold": {"passing": 0.9, "folds": 5}}
    manifest = {"schema": 1, "run": "demo", "data": {"name": "phantom", "images": images}, "attacks": entries}
    write_manifest(folder, manifest | ({"listeners": {"detection": known}} if detectors else {}))
    with Journal(folder) as journal:
        journal.append(records)
    return folder


FLAGGED = ("successful", "clean", "noisy", "signs", "unsuccessful")
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
    table = pl.DataFrame({"id": ids, "correct_before": True, "success": True, "linf": 0.1, **shown})
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
    assert "Detectors fitted on the same attack: AUROC" in text
    assert f"{100 * row_of(summary, 'bim', 'bu', 'fgsm')['auroc']:.1f}" in text
    assert "right before" in text


@pytest.mark.parametrize("width", [50, 80, 120])
def test_console_cuts_no_number(tmp_path, width):
    radii = [(f"{name}-attack", radius / 255, False, 1.0) for name in ("one", "other") for radius in (0.5, 1, 2, 4)]
    summary = finish(evaluation(tmp_path, radii, images=30))
    text = printed(summary, width)
    assert "…" not in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines())
    assert text.count("0.5/255") == 4  # one and other, in both tables
    for row in summary["detection"]["rows"]:
        assert f"{100 * row['auroc']:.1f}" in text
        others = [row["flagged"][kind]["rate"] for kind in ("clean", "noisy", "signs", "unsuccessful")]
        assert ", ".join(f"{100 * rate:.0f}" for rate in others) in text


def test_markdown_tables(tmp_path):
    summary = finish(evaluation(tmp_path, ATTACKS))
    lines = detection_markdown(summary).splitlines()
    row = row_of(summary, "fgsm", "kd")
    share = row["flagged"]["successful"]
    pairs = (
        (row["auroc"], row["auroc_interval"]),
        (share["rate"], share["interval"]),
        (row["tpr"], row["tpr_interval"]),
    )
    area, tpr, ideal = (f"{100 * value:.1f} ({100 * low:.1f}–{100 * high:.1f})" for value, (low, high) in pairs)
    controls = f"{100 * row['controls']['signs']:.1f} / {100 * row['controls']['unsuccessful']:.1f}"
    flagged = [row["flagged"][kind] for kind in ("clean", "noisy", "signs", "unsuccessful")]
    alarms = " / ".join(f"{100 * one['rate']:.1f}" for one in flagged)
    assert lines.count("| detector | fgsm | bim | bim-hfc |") == 5
    starts = [line for line in lines if line.startswith("| kd | ")]
    assert [line.split(" | ")[1] for line in starts] == [area, controls, tpr, alarms, ideal]
    numbers = [line.split(" | ")[1] for line in lines if line.startswith("| images | ")]
    assert numbers == [" / ".join(str(one["n"]) for one in group) for group in (flagged[2:], flagged)]
    counts = [row_of(summary, name, "kd")["n_positive"] for name in ("fgsm", "bim", "bim-hfc")]
    assert f"| positives | {' | '.join(map(str, counts))} |" in lines
    assert "fitted on |" not in "\n".join(lines)


def test_several_fits_stand_below_each_other(tmp_path):
    summary = finish(evaluation(tmp_path, ATTACKS, fits=("fgsm", "bim", "same")))
    text = detection_markdown(summary)
    assert "| detector | fitted on | fgsm | bim | bim-hfc |" in text

    def score(attack, fit):
        row = row_of(summary, attack, "kd", fit)
        star = " *" if fit in ("same", attack) else ""
        controls = " / ".join(f"{100 * row['controls'][kind]:.1f}" for kind in ("signs", "unsuccessful"))
        return f"{100 * row['auroc']:.1f}{star} ({controls})"

    assert f"| kd | bim | {score('fgsm', 'bim')} | {score('bim', 'bim')} | {score('bim-hfc', 'bim')} |" in text
    assert score("bim", "bim").count("*") == 1
    own = " | ".join(score(attack, "same") for attack in ("fgsm", "bim", "bim-hfc"))
    assert f"| kd | same attack | {own} |" in text


def test_pairs_stand_as_without_and_with_under_the_fit_of_the_first(tmp_path, capsys):
    run = tmp_path / "run"
    summary = finish(evaluation(run / "evaluate", ATTACKS, fits=("fgsm", "bim")))
    compare.main(["detection", str(run), "--pair", "bim:bim-hfc", "--pair", "fgsm:bim-hfc"])
    text = capsys.readouterr().out
    without, having = (row_of(summary, attack, "kd", "bim") for attack in ("bim", "bim-hfc"))
    values = [
        (row["auroc"], *(row["flagged"][kind]["rate"] for kind in FLAGGED), row["tpr"]) for row in (without, having)
    ]
    cells = " | ".join(f"{100 * one:.1f} / {100 * other:.1f}" for one, other in zip(*values, strict=True))
    assert f"| kd | {cells} |" in text
    assert text.count("AUROC bim / bim-hfc") == text.count("AUROC fgsm / bim-hfc") == 1
    under = text.split("**Pairs of attacks, ")[1:]
    assert [part.split("**")[0] for part in under] == [
        "detectors fitted on fgsm",
        "detectors fitted on bim",
    ]
    assert text.startswith(detection_markdown(summary).split("\n")[0])


def test_a_pair_is_of_one_radius(tmp_path):
    attacks = [(name, k / 255, False, 1.0) for name in ("pgd", "pgd-hfc") for k in (1, 2)]
    attacks += [("far", 4 / 255, False, 1.0)]
    summary = finish(evaluation(tmp_path, attacks, images=30))
    text = detection_markdown(summary, [("pgd", "pgd-hfc")])
    flagged = ("clean flagged", "noisy flagged", "signs flagged", "failed flagged")
    words = ("AUROC", "TPR", *flagged, "TPR at 90 % TNR")
    head = " | ".join(f"{word} pgd / pgd-hfc {k}/255" for k in (1, 2) for word in words)
    assert f"| detector | {head} |" in text
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
    assert html.count('<table class="separation">') == 4 + 2 * 3  # and one of each attack, for each fit
    assert html.count('class="group" data-fit=') == 2
    assert "Only images that the victim got right before the attack count" in page.text
    figures = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(figures) == 6  # four of robustness
    for figure in figures:
        assert "nan" not in figure.lower()
        ElementTree.fromstring(figure)
    for heat in re.findall(r"--h:([^\"]*)\"", html):
        assert 0 <= float(heat) <= 1
    assert (
        html.index("<h2>All attacks</h2>") < html.index("<h2>Detection</h2>") < html.index("Accuracy under each attack")
    )


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
        return pl.DataFrame({"id": names, "correct_before": True, "success": True, "linf": 0.1, **known, **columns})

    def interval(records: pl.DataFrame) -> list[float]:
        manifest = {"listeners": {"detection": {"detectors": ["kd"], "fits": ["pgd"]}}}
        entry = {"attack": "pgd", "epsilon": RADIUS, "key": "k"}
        return detection([entry], {"k": records}, manifest)["rows"][0]["auroc_interval"]

    assert interval(table(4, patients=True)) == pytest.approx(interval(table(1, patients=False)), abs=1e-9)
    low, high = interval(table(4, patients=False))
    alone = interval(table(1, patients=False))
    assert high - low < 0.7 * (alone[1] - alone[0])


def test_rates_at_the_fitted_threshold_are_recomputed_from_the_parquet_file(tmp_path):
    def change(record):
        record["linf"] = 0.0 if int(record["id"]) % 7 == 0 and not record["success"] else record["linf"]

    summary = finish(evaluation(tmp_path, ATTACKS, change=change))
    records = pl.read_parquet(tmp_path / "records.parquet").filter(pl.col("attack") == "bim").to_dicts()
    counted = [record for record in records if record["correct_before"]]
    failed = [record for record in counted if not record["success"]]
    tried = [record["detector_kd_same"] for record in failed if record["linf"] > 0]
    assert 0 < len(tried) < len(failed)
    scores = {
        "successful": [record["detector_kd_same"] for record in counted if record["success"]],
        **{kind: [record[f"detector_kd_same_{kind}"] for record in counted] for kind in ("clean", "noisy", "signs")},
        "unsuccessful": tried,
    }
    row = row_of(summary, "bim", "kd")
    assert row["threshold"] == THRESHOLD
    for kind, values in scores.items():
        share = sum(value > THRESHOLD for value in values) / len(values)
        assert row["flagged"][kind]["rate"] == pytest.approx(share, abs=1e-12)
        assert row["flagged"][kind]["n"] == len(values)
        assert row["flagged"][kind]["interval"][0] <= share <= row["flagged"][kind]["interval"][1]
    negatives = scores["clean"] + scores["noisy"]
    for kind in ("signs", "unsuccessful"):
        wins = sum((p > n) + 0.5 * (p == n) for p in scores[kind] for n in negatives)
        assert row["controls"][kind] == pytest.approx(wins / len(scores[kind]) / len(negatives), abs=1e-12)


def gaussian(means, threshold, count=4000):
    """The row of a detector whose scores are normal with a standard deviation of 1 and these means."""
    random = np.random.default_rng(0)
    shown = {f"detector_kd_pgd{kind}": random.normal(mean, 1, count) for kind, mean in zip(KINDS, means, strict=True)}
    success = np.arange(count) % 2 == 0
    table = {"id": [f"{row:05}" for row in range(count)], "correct_before": True, "success": success, "linf": 0.1}
    facts = {"detector_kd_pgd_threshold": threshold, "fitted_pgd_positives": 99.0, "detector_kd_pgd_wrong_signs": 2.0}
    manifest = {"listeners": {"detection": {"detectors": ["kd"], "fits": ["pgd"]}}}
    entry = {"attack": "pgd", "epsilon": RADIUS, "key": "k"}
    return detection([entry], {"k": pl.DataFrame({**table, **shown, **facts})}, manifest)["rows"][0]


def test_gaussian_scores_have_their_closed_form_rates():
    """A threshold at the 90 % quantile of the clean scores says nothing about noisy ones that score higher."""
    threshold = norm.ppf(0.9)
    row = gaussian(means=(0, 1, 4, 2), threshold=threshold)
    expected = {"clean": 0, "noisy": 1, "signs": 4, "successful": 2, "unsuccessful": 2}
    for kind, mean in expected.items():
        assert row["flagged"][kind]["rate"] == pytest.approx(norm.sf(threshold - mean), abs=0.03), kind
    low, high = row["flagged"]["clean"]["interval"]
    assert low < 0.1 < high
    assert high - low < 0.03
    assert row["auroc"] == pytest.approx((norm.cdf(2 / 2**0.5) + norm.cdf(1 / 2**0.5)) / 2, abs=0.02)
    assert row["controls"]["signs"] == pytest.approx((norm.cdf(4 / 2**0.5) + norm.cdf(3 / 2**0.5)) / 2, abs=0.02)
    assert (row["fitted_positives"], row["wrong_signs"]) == (99, 2)
    # at 90 % TNR of both kinds together, the noisy ones push the threshold up, and hardly a clean one is flagged
    assert row["tpr"] < row["flagged"]["successful"]["rate"] - 0.2


def test_records_of_a_version_without_thresholds_and_signs_show_dashes_and_say_why(tmp_path):
    summary = finish(evaluation(tmp_path, ATTACKS, old=True))
    row = row_of(summary, "bim", "kd")
    assert row["auroc"] is not None
    assert (row["threshold"], row["flagged"]["successful"]["rate"], row["controls"]["signs"]) == (None, None, None)
    text = detection_markdown(summary)
    assert re.search(r"^\| kd \| – \| – \| – \|$", text, flags=re.MULTILINE)
    assert OLD in text
    html = (tmp_path / "report.html").read_text()
    assert "thresholds, or scores of random signs, that are not in these records" in html
    assert "thresholds, or scores of random signs, that are not in these records" in printed(summary, 400)
    new = finish(evaluation(tmp_path / "new", ATTACKS))
    assert OLD not in detection_markdown(new)
    assert "90 % of the clean images of AdvTrain" in detection_markdown(new)
    for row in summary["detection"]["rows"]:  # as an old summary.json has it
        for name in ("threshold", "flagged", "controls", "fitted_positives", "wrong_signs"):
            del row[name]
    text = detection_markdown(summary)
    assert OLD in text
    assert "| kd | – / – | – / – | – / – |" in text
    assert console_detection(summary) is not None


def test_perfect_separation_and_few_patients_are_no_certainty(tmp_path):
    def change(record):
        patient = int(record["id"]) // 4
        record["patient"] = f"p{patient}"
        record["detector_kd_same"] = 900.0  # everything attacked is recognised
        if record["attack"] == "fgsm" and patient > 4:
            record |= {"success": False, "reached": False}

    summary = finish(evaluation(tmp_path, ATTACKS, detectors=("kd",), change=change, images=80))
    row = row_of(summary, "bim", "kd")
    assert row["auroc"] == row["flagged"]["successful"]["rate"] == row["tpr"] == 1
    patients = 20
    low = patients / (
        patients + 1.959964**2
    )  # Wilson's limit for 20 of 20, though there are three times as many images
    assert row["flagged"]["successful"]["interval"] == pytest.approx([low, 1])
    assert row["tpr_interval"] == pytest.approx([low, 1])
    assert row["auroc_interval"] == pytest.approx(auroc_score_interval(1.0, patients, patients))
    assert row["auroc_interval"][0] < 0.95
    few = row_of(summary, "fgsm", "kd")
    assert (few["auroc"], few["auroc_interval"]) == (1, None)
    assert few["tpr_interval"][0] < 0.6  # 5 of 5 patients
    assert "| kd | 100.0 (no interval) |" in detection_markdown(summary)
    assert "<small>no interval</small>" in (tmp_path / "report.html").read_text()
    assert "100.0–100.0" not in (tmp_path / "report.html").read_text() + detection_markdown(summary)


def flags_of(summary, check):
    return [flag["message"] for flag in summary["flags"] if flag["check"] == check]


def test_doubtful_detectors_are_flagged_in_report_and_console(tmp_path):
    def change(record):
        record["detector_kd_fgsm_wrong_signs"] = 3.0
        record["detector_bu_fgsm_wrong_signs"] = 0.0
        record["fitted_fgsm_positives"] = 29.0

    summary = finish(evaluation(tmp_path, ATTACKS, fits=("same", "fgsm"), change=change, images=120))
    assert row_of(summary, "bim-hfc", "kd")["auroc"] < 0.5 < row_of(summary, "bim", "kd")["auroc"]
    (wrong,) = flags_of(summary, "wrong_signs")  # once, not for each attack that it judges
    assert wrong.startswith(
        "Some detectors fitted on fgsm give measurements the wrong sign, with the number in brackets: kd (3). "
    )
    (few,) = flags_of(summary, "few_positives")
    assert few.startswith("The detectors fitted on fgsm learnt from 29 adversarial images, fewer than 50")
    guessing = flags_of(summary, "worse_than_guessing")
    areas = [f"{name} ({100 * row_of(summary, 'bim-hfc', name)['auroc']:.1f})" for name in ("kd", "bu")]
    assert guessing[0].startswith(f"AUROC below 50 on bim-hfc: {', '.join(areas)}. ")
    assert guessing[1].startswith("AUROC below 50 on bim-hfc, fitted on fgsm: ")
    assert len(guessing) == 2
    html = (tmp_path / "report.html").read_text()
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(console_flags(summary))
    shown = console.export_text()
    for message in (wrong, few, *guessing):
        assert message.replace(" %", "\u00a0%") in html
        assert message in shown
    made = {check["check"]: (check["comparisons"], check["flags"]) for check in summary["checks"]}
    assert made["worse_than_guessing"] == (6, 2)  # attacks and fits
    assert made["wrong_signs"] == (1, 1)
    assert made["few_positives"] == (3 + 3 + 1, 1)  # judged attacks, their own fits, and the one on fgsm


def test_a_detector_that_flags_too_many_clean_images_is_flagged_once(tmp_path):
    """Every image has a patient of its own: of 60, half are beyond chance for one in ten, and eight are not."""

    def change(record):
        for detector, most in (("kd", 30), ("bu", 8)):
            above = int(record["id"]) < most
            record[f"detector_{detector}_same_clean"] = THRESHOLD + (1.0 if above else -1.0)

    summary = finish(evaluation(tmp_path, ATTACKS, change=change))
    (message,) = flags_of(summary, "false_alarms")
    share = format_percent(row_of(summary, "fgsm", "kd")["flagged"]["clean"]["rate"])  # of the images that were right
    assert message.startswith("Detectors judged on fgsm flag more clean images than the 10.0 % that their thresholds")
    assert f"beyond chance: kd ({share}). " in message


def test_too_few_positives_to_judge_by_are_flagged_beside_the_attack(tmp_path):
    summary = finish(evaluation(tmp_path, ATTACKS, images=60))
    counts = {name: row_of(summary, name, "kd")["n_positive"] for name in ("fgsm", "bim", "bim-hfc")}
    messages = flags_of(summary, "few_positives")
    assert messages and all(count < 50 for count in counts.values())
    assert [message.split(":")[0] for message in messages] == [
        f"Only {count} adversarial images of {name} could be used to judge the detectors, fewer than 50"
        for name, count in counts.items()
    ]
