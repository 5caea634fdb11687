"""The section of classes and of labels in a report, and its figures."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from medrobust.results.manifest import write_manifest
from medrobust.results.records import Journal
from medrobust.results.report.classes import MOST, class_groups
from medrobust.results.report.page import finish
from tests.sample_record import record

NAMES = ["none", "mild & early", "severe"]


def evaluated(folder: Path, attacks: list[tuple[str, float]], **data: Any) -> dict[str, Any]:
    """Ten images of three grades, all of which each attack turns into the grade above, at most 2."""
    entries, records = [], []
    for number, (name, epsilon) in enumerate(attacks):
        key = f"{number:016x}"
        entries.append({"attack": name, "epsilon": epsilon, "key": key, "control": False})
        for image in range(10):
            target, after = image % 3, min(image % 3 + 1, 2)
            outcome = {"correct_after": target == after, "reached": target != after, "success": target != after}
            shown = {"target": target, "clean_prediction": target, "adversarial_prediction": after}
            whose = {"attack": name, "epsilon": epsilon, "linf": epsilon, "patient": f"p{image}"}
            records.append(record(f"{image}", key, **whose, **shown, **outcome))
    data = {"images": 10, "class_names": NAMES, **data}
    write_manifest(folder, {"schema": 1, "run": "r", "data": data, "attacks": entries})
    with Journal(folder) as journal:
        journal.append(records)
    return finish(folder)


def figures(folder: Path) -> list[Any]:
    html = (folder / "report.html").read_text()
    found = re.findall(r'<div data-class="\d+">\s*<div class="plot">(<svg.*?</svg>)</div>', html, flags=re.DOTALL)
    return [ElementTree.fromstring(one) for one in found]


def words_of(figure: Any) -> list[str]:
    return [element.text for element in figure.iter() if element.tag.endswith("text")]


def titles_of(figure: Any) -> list[str]:
    return [element.text for element in figure.iter() if element.tag.endswith("title")]


def test_the_report_draws_confusion_and_calibration_of_clean_and_attacked_images(tmp_path: Path) -> None:
    evaluated(tmp_path, [("pgd", 1 / 255)], ordered=True)
    (figure,) = figures(tmp_path)

    titles = titles_of(figure)
    assert "none taken for none\n4 of 4 images (100.0 %)" in titles
    assert "none taken for mild & early\n4 of 4 images (100.0 %)" in titles
    assert "mild & early taken for severe\n3 of 3 images (100.0 %)" in titles
    assert "clean, confidence 0.87 to 0.93: 10 images\nmean confidence 90.0 %, right 100.0 % [72.2–100.0]" in titles
    assert any(title.startswith("attacked, confidence 0.73 to 0.80: 10 images") for title in titles)
    counts = [word for word in words_of(figure) if word.isdigit() and word not in ("0", "1")]
    assert counts == ["4", "3", "3", "4", "3", "3"]
    html = (tmp_path / "report.html").read_text()
    # distances are 1 for 7 of 10 images; by chance, with 0, 4 and 6 of each prediction, (4 * 28 + 3 * 6 + 3 * 4) / 100
    assert f"{1 - 0.7 / 1.42:.3f}" in html and "κ" in html and "journal.probabilities" in html


def test_kappa_is_shown_for_grades_alone(tmp_path: Path) -> None:
    summary = evaluated(tmp_path, [("pgd", 1 / 255)])
    assert "κ" not in (tmp_path / "report.html").read_text() and summary["classes"]["rows"][1]["kappa"] is None


def test_many_attacks_are_drawn_at_their_largest_radius(tmp_path: Path) -> None:
    radii = [number / 255 for number in range(1, MOST + 1)]
    summary = evaluated(tmp_path, [("pgd", radius) for radius in radii] + [("fgsm", 1 / 255)])
    assert [(one.attack, one.epsilon) for one in class_groups(summary)] == [("pgd", MOST / 255), ("fgsm", 1 / 255)]
    assert len(figures(tmp_path)) == 2


def test_an_older_summary_has_no_such_section() -> None:
    assert class_groups({"rows": []}) == []


def test_labels_have_a_table_of_their_own(tmp_path: Path) -> None:
    entry = {"attack": "pgd", "epsilon": 1 / 255, "key": "k1", "control": False}
    data = {"images": 4, "class_names": ["Mass", "No Finding"], "task": "multilabel"}
    write_manifest(tmp_path, {"schema": 1, "run": "r", "data": data, "attacks": [entry]})
    nothing = dict.fromkeys(("target", "clean_prediction", "adversarial_prediction"))
    confidences = dict.fromkeys(("clean_confidence", "adversarial_confidence"))
    with Journal(tmp_path) as journal:
        for image in range(4):
            before, after = (image % 2) * 0.8 + 0.1, 0.3
            columns = {f"label_{name}_true": image % 2 for name in ("Mass", "No_Finding")}
            columns |= {f"label_{name}_before": before for name in ("Mass", "No_Finding")}
            columns |= {"label_Mass_after": after, "label_No_Finding_after": before}
            journal.append([record(f"{image}") | nothing | confidences | columns])
    summary = finish(tmp_path)
    html = (tmp_path / "report.html").read_text()

    assert summary["classes"] == {} and "<h2>Classes under each attack</h2>" not in html
    assert [label["flipped"] for label in summary["labels"]["rows"][1]["labels"]] == [0.5, 0.0]
    table = re.search(r"<h2>Labels under each attack</h2>.*?</section>", html, flags=re.DOTALL)
    assert table is not None and "<b>50.0</b>" in table.group() and "No Finding" in table.group()


@pytest.mark.parametrize("count", [2, 14])
def test_names_that_are_wider_than_a_cell_stand_upright(count: int, tmp_path: Path) -> None:
    evaluated(tmp_path, [("pgd", 1 / 255)], class_names=[*NAMES, *map(str, range(count))])
    (figure,) = figures(tmp_path)
    assert sum("rotate" in element.get("transform", "") for element in figure.iter()) > 2
