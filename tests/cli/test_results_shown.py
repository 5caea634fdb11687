"""What a command prints when an evaluation has come to its end."""

import pytest

from cli.results_shown import show_results


def test_numbers_of_each_class_are_left_to_the_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.results_shown.console_table", lambda *_: "")
    monkeypatch.setattr("cli.results_shown.console_detection", lambda *_: None)
    joint = [("auroc", 0.5), ("calibration_error", 0.25), ("loss", 1.0)]
    show_results({}, [*joint, ("auroc_Mild", 0.625), ("loss_No DR", 2.0)], bare=False, dry=True)
    printed = " ".join(capsys.readouterr().out.split())
    assert "victim on clean images: auroc 0.5000, calibration_error 0.2500, loss 1.0000; those of each class" in printed
    assert "Mild" not in printed and "No DR" not in printed
    show_results({}, joint, bare=False, dry=True)
    assert "each class" not in capsys.readouterr().out


def test_tables_of_masks_and_boxes_are_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.results_shown.console_table", lambda *_: "")
    monkeypatch.setattr("cli.results_shown.console_detection", lambda *_: None)
    row = {"attack": "pgd", "epsilon": 2 / 255, "kind": "attack", "n": 3, "n_boxes": 9, "map50": 0.625, "map": 0.5}
    row |= {"iou": 0.25, "ead_score": 0.375, "lost": 2, "relabelled": 0, "invented": 7, "classes": []}
    show_results({"boxes": {"rows": [row]}}, [], bare=False, dry=True)
    printed = " ".join(capsys.readouterr().out.split())
    assert "mAP@0.5" in printed and "62.5" in printed and "37.5" in printed and "9 true boxes in 3 images" in printed
    assert "each class" not in printed  # of which there are none
