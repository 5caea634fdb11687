"""The first page of a report: what stands there, and what is left out."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from medrobust.results.manifest import read_manifest, write_manifest
from medrobust.results.records import Journal
from medrobust.results.report.first_page import class_table, first_page, headlines, radii_shown
from medrobust.results.report.page import finish, write_report
from medrobust.results.report.worst_figure import worst_figure, worst_table
from medrobust.results.timings import Timings
from tests.results.test_dense_report import boxes_of, masks_of
from tests.results.test_dense_report import evaluation as dense_evaluation
from tests.results.test_report import Page, evaluation, read, sweep
from tests.sample_record import record


def flat(page: Page) -> str:
    return " ".join(page.text.replace("\N{NO-BREAK SPACE}", " ").split())


def test_the_first_page_stands_before_all_details_and_has_anchors(tmp_path: Path) -> None:
    html, page = read(evaluation(tmp_path, sweep(), versions={"medrobust": "1.2.3", "python": "3.11"}))
    ids = {found["id"] for _, found in page.tags if "id" in found}
    links = [found["href"] for tag, found in page.tags if tag == "a" and found.get("href", "").startswith("#")]
    assert len(links) > 8 and {link[1:] for link in links} <= ids
    places = [
        html.index(f'id="{name}"') for name in ("verdict", "worst-case", "by-class", "smallest", "victim", "cost")
    ]
    assert places == sorted(places) and places[-1] < html.index('id="all-attacks"')
    assert "MedRobust 1.2.3 · python 3.11" in flat(page)
    assert "These records hold no seconds" in flat(page)


def test_a_failed_check_is_a_banner_and_a_remark_is_not(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, sweep())
    read(folder)
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    flag = {"check": "weak_victim", "attack": None, "epsilon": None, "message": "It is right about 51.5 %."}
    for flags, banners in (([], 0), (["warning"], 0), (["error", "warning"], 1)):
        summary["flags"] = [flag | {"severity": severity} for severity in flags]
        path.write_text(json.dumps(summary))
        write_report(folder)
        html = (folder / "report.html").read_text()
        page = Page(html)
        assert page.count("div", **{"class": "banner"}) == html.count("<h2>Do not trust these numbers</h2>") == banners
        assert flat(page).count("It is right about 51.5 %.") == len(flags)
        if banners:
            assert html.index('class="banner"') < html.index('id="verdict"')


def test_every_figure_has_a_description_and_its_numbers_behind_it(tmp_path: Path) -> None:
    html, page = read(evaluation(tmp_path, sweep()))
    figures = re.findall(
        r'<div class="plot">(<svg.*?</svg>)</div>\s*(<details class="behind">)?', html, flags=re.DOTALL
    )
    assert len(figures) == 13 and all(behind for _, behind in figures)
    labels = [ElementTree.fromstring(figure).get("aria-label") for figure, _ in figures]
    assert all(labels) and "worst case" in str(labels[0]) and "NORMAL right" in str(labels[1])
    assert all(found.get("alt") for tag, found in page.tags if tag == "img")
    assert not [found for tag, found in page.tags if "title" in found]  # which no keyboard reaches
    assert not re.search(r"<th[^>]*></th>", html)  # a heading without words says nothing to those who hear the page


def test_the_worst_case_has_an_interval_everywhere(tmp_path: Path) -> None:
    summary = finish(evaluation(tmp_path, sweep(radii=(1, 2))))
    page = Page((tmp_path / "report.html").read_text())
    for worst in summary["worst_case"]:
        low, high = worst["accuracy_interval"]
        written = f"{100 * low:.1f}–{100 * high:.1f}"
        assert f"{100 * worst['accuracy']:.1f} % ({written}) at ε" in flat(page)
        lines = [line for line in worst_table(summary).lines if line[0] == "worst case"]
        assert written in {line[3] for line in lines}
    figure = ElementTree.fromstring(worst_figure(summary))
    assert [one.get("class") for one in figure.iter() if one.get("class") == "band"] == ["band"]
    assert "noise (control)" in " ".join(figure.itertext())


def test_controls_without_a_radius_are_lines_across_the_figure(tmp_path: Path) -> None:
    attacks = [("pgd", 1 / 255, False, 0.5), ("pgd", 2 / 255, False, 0.9), ("contrast", None, True, 0.1)]
    summary = finish(evaluation(tmp_path, attacks))
    assert "contrast" in " ".join(ElementTree.fromstring(worst_figure(summary)).itertext())
    assert worst_table(summary).lines[-1][0] == "contrast"


def test_classes_are_shown_clean_under_the_control_and_in_the_worst_case(tmp_path: Path) -> None:
    summary = finish(evaluation(tmp_path, sweep(radii=(1, 2))))
    table = class_table(summary)
    assert table is not None
    assert table.head == ["images", "clean", "noise, 2/255", "worst, 1/255", "worst, 2/255"]
    assert [name for name, _ in table.lines] == ["NORMAL", "PNEUMONIA"]
    classes = summary["classes"]["rows"][0]["classes"]
    assert [cells[1].value for _, cells in table.lines] == [f"{100 * one['sensitivity']:.1f}" for one in classes]
    worst = summary["worst_case_classes"][1]["classes"]
    assert [cells[4].value for _, cells in table.lines] == [f"{100 * one['right']:.1f}" for one in worst]


def test_of_many_radii_some_are_shown_and_the_verdicts_among_them() -> None:
    radii = [number / 255 for number in range(1, 11)]
    worst = [{"epsilon": one, "n": 1, "accuracy": 0.9 if one < 4 / 255 else 0.1} for one in radii]
    shown = radii_shown({"worst_case": worst, "rows": [{"clean_accuracy": 1.0}]})
    assert len(shown) == 5 and {radii[0], radii[3], radii[-1]} <= set(shown)


def test_the_large_numbers_say_more_than_where_nothing_is_enough(tmp_path: Path) -> None:
    summary = finish(evaluation(tmp_path, [("pgd", 1 / 255, False, 0.2), ("pgd", 2 / 255, False, 0.3)]))
    found = {one.title: one.value for one in headlines(summary)}
    assert found["Median smallest perturbation"] == "> 2/255"
    assert found["Accuracy, the one attack at ε = 2/255"] == f"{100 * summary['worst_case'][1]['accuracy']:.1f} %"


def test_seconds_are_shown_where_they_were_measured(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, [("pgd", 1 / 255, False, 0.5)], device="cpu")
    key = read_manifest(folder)["attacks"][0]["key"]
    Timings(folder).append(key, 40, 10.0)
    summary = finish(folder)
    assert (summary["rows"][1]["mean_seconds"], summary["rows"][1]["n_timed"]) == (0.25, 40)
    words = flat(Page((folder / "report.html").read_text()))
    assert "Seconds, in the table, are those of the wall clock" in words and "the machine (cpu)" in words
    assert first_page(summary)["cost_table"].lines[0][-1] == "0.25"


@pytest.mark.parametrize("part", ["worst_case_classes", "smallest", "fragile_patients", "victim_curves"])
def test_a_summary_without_a_part_has_a_page(part: str, tmp_path: Path) -> None:
    folder = evaluation(tmp_path, sweep(radii=(1,)))
    finish(folder)
    path = folder / "summary.json"
    summary: dict[str, Any] = json.loads(path.read_text())
    del summary[part]
    for row in summary["rows"]:
        del row["mean_seconds"]
    path.write_text(json.dumps(summary))
    page = write_report(folder).read_text()
    Page(page)
    assert 'id="worst-case"' in page and 'id="all-attacks"' in page


def test_where_no_detector_has_a_score_no_table_pretends_so(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, sweep(radii=(1,)))
    manifest = read_manifest(folder)
    passing = {"detectors": {"kd": {}}, "fits": ["same"], "threshold": {"passing": 0.9}}
    write_manifest(folder, manifest | {"listeners": {"detection": passing}})
    words = flat(Page(finish(folder)["paths"]["report"].read_text()))
    assert "No detector fitted on the same attack has scored an image" in words
    assert "A detector flags an image whose score is above its threshold" not in words and "Images flagged" not in words


def test_labels_have_their_worst_case_too(tmp_path: Path) -> None:
    entry = {"attack": "pgd", "epsilon": 1 / 255, "key": "k1", "control": False}
    data = {"images": 4, "class_names": ["Mass", "No Finding"], "task": "multilabel"}
    write_manifest(tmp_path, {"schema": 1, "run": "r", "data": data, "attacks": [entry]})
    nothing = dict.fromkeys(("target", "clean_prediction", "adversarial_prediction"))
    with Journal(tmp_path) as journal:
        for image in range(4):
            there = float(image % 2)
            columns = {f"label_{name}_{what}": there for name in ("Mass", "No_Finding") for what in ("true", "before")}
            columns |= {"label_Mass_after": 0.1, "label_No_Finding_after": there}
            journal.append([record(f"{image}") | nothing | columns])
    summary = finish(tmp_path)
    table = class_table(summary)
    assert table is not None and table.title == "Label by label"
    assert table.head[:4] == ["images with it", "AUROC, clean", "sensitivity, clean", "sensitivity, worst, 1/255"]
    values = {name: [cell.value for cell in cells] for name, cells in table.lines}
    assert values["Mass"] == ["2", "100.0", "100.0", "0.0", "100.0", "100.0"]
    assert values["No Finding"] == ["2", "100.0", "100.0", "100.0", "100.0", "100.0"]
    words = flat(Page((tmp_path / "report.html").read_text()))
    assert "An image counts as right where all of its known labels are." in words and "Label by label" in words


@pytest.mark.parametrize(("task", "head"), [("segmentation", "Jaccard"), ("boxes", "Average precision")])
def test_masks_and_boxes_are_shown_under_the_attack_that_leaves_least(task: str, head: str, tmp_path: Path) -> None:
    summary = dense_evaluation(tmp_path, task)  # dag leaves less than pgd
    summary |= {"masks": masks_of(summary)} if task == "segmentation" else {"boxes": boxes_of(summary)}
    table = class_table(summary)
    assert table is not None and head in table.note
    assert table.head == ["clean", "noise, 8/255", "dag, 8/255"]
    if task == "boxes":
        assert [(name, [cell.value for cell in cells]) for name, cells in table.lines[-3:]] == [
            ("boxes lost", ["–", "7", "7"]),
            ("boxes relabelled", ["–", "0", "0"]),
            ("boxes invented", ["–", "11", "11"]),
        ]
    else:
        assert [(name, [cell.value for cell in cells]) for name, cells in table.lines] == [
            ("left lung", ["90.0", "80.0", "60.0"]),
            ("right lung", ["89.0", "79.0", "59.0"]),
        ]


def test_patients_images_and_labels_are_escaped(tmp_path: Path) -> None:
    nasty = '"><img src=x onerror=alert(1)>{{ 7 * 7 }}'
    entry = {"attack": nasty, "epsilon": 1 / 255, "key": "k1", "control": False}
    data = {"images": 2, "name": nasty, "class_names": [nasty, "b"]}
    write_manifest(tmp_path, {"schema": 1, "run": nasty, "data": data, "attacks": [entry], "victim": {"name": nasty}})
    with Journal(tmp_path) as journal:
        journal.append([record(f"{place}{nasty}", patient=nasty, target=place, attack=nasty) for place in (0, 1)])
    html = write_report_of(tmp_path)
    assert "<img src=x" not in html and "49" not in re.findall(r"onerror=alert\(1\)&gt;(\S\S)", html)
    page = Page(html)
    assert page.count("img") == 0 and page.text.count(nasty) > 8
    assert not [found for _, found in page.tags if "onerror" in found]


def write_report_of(folder: Path) -> str:
    finish(folder)
    return (folder / "report.html").read_text()
