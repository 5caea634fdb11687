"""What a command prints when an evaluation has come to its end."""

from pathlib import Path
from typing import Any

import pytest

from cli.results_shown import show_results


def shown(capsys: pytest.CaptureFixture[str], *arguments: Any, **options: Any) -> str:
    """What is printed of results, on one line."""
    show_results(*arguments, **options)
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the big tables."""
    monkeypatch.setattr("cli.results_shown.console_table", lambda *_: "")
    monkeypatch.setattr("cli.results_shown.console_detection", lambda *_: None)


def test_numbers_of_clean_images_are_those_of_the_records(capsys: pytest.CaptureFixture[str], quiet: None) -> None:
    clean = {"kind": "clean", "auroc": 0.75, "kappa": None, "calibration_error": 0.125}
    summary = {"rows": [{"n": 12, "clean_accuracy": 0.5}], "classes": {"rows": [clean]}}
    metrics = [("auroc", 0.5), ("loss", 1.0), ("auroc_Mild", 0.625), ("loss_No DR", 2.0)]
    expected = "victim on the 12 clean images of the records: accuracy 0.5000, AUROC 0.7500, calibration error 0.1250"
    said = shown(capsys, summary, metrics, bare=False, dry=True)
    assert expected in said and "loss" not in said and "Mild" not in said
    said = shown(capsys, summary, metrics, bare=True, dry=True)  # the defence is in the records, not in the metrics
    assert expected in said and "without its input defence, on the same images: auroc 0.5000, loss 1.0000" in said
    assert "Mild" not in said and "No DR" not in said
    assert "without" not in shown(capsys, summary, [], bare=True, dry=True)


def test_numbers_of_labels_are_those_of_the_records(capsys: pytest.CaptureFixture[str], quiet: None) -> None:
    summary = {"rows": [{"n": 7, "clean_accuracy": 0.25}], "labels": {"rows": [{"kind": "clean", "auroc": 0.75}]}}
    said = shown(capsys, summary, [], bare=False, dry=True)
    assert "the 7 clean images of the records: accuracy 0.2500, AUROC 0.7500; those of each label are in" in said


def test_an_evaluation_without_a_record_says_nothing_of_clean_images(
    capsys: pytest.CaptureFixture[str], quiet: None
) -> None:
    assert "clean images" not in shown(capsys, {}, [("auroc", 0.5)], bare=False, dry=True)


def test_tables_of_masks_and_boxes_are_shown(capsys: pytest.CaptureFixture[str], quiet: None) -> None:
    row = {"attack": "pgd", "epsilon": 2 / 255, "kind": "attack", "n": 3, "n_boxes": 9, "map50": 0.625, "map": 0.5}
    row |= {"iou": 0.25, "ead_score": 0.375, "lost": 2, "relabelled": 0, "invented": 7, "classes": []}
    show_results({"boxes": {"rows": [row]}}, [], bare=False, dry=True)
    printed = " ".join(capsys.readouterr().out.split())
    assert "mAP@0.5" in printed and "62.5" in printed and "37.5" in printed and "9 true boxes in 3 images" in printed
    assert "each class" not in printed  # of which there are none


def test_the_figures_of_studies_are_named_where_there_are_some(
    capsys: pytest.CaptureFixture[str], quiet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cli.results_shown.console_flags", lambda *_: "")
    paths = {kind: tmp_path / kind for kind in ("report", "summary", "evidence", "records")}
    assert "figures" not in shown(capsys, {"paths": paths}, [], bare=False, dry=False)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "saliency.svg").touch()
    assert shown(capsys, {"paths": paths}, [], bare=False, dry=False).endswith("records records figures figures")
