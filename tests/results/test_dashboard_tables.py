"""What a comparison says of runs: who is ranked with whom and why not, and every number of its tables by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from medrobust.results.dashboard.comparison import Comparison, compare_runs
from medrobust.results.dashboard.configuration import configuration_of, differing
from medrobust.results.dashboard.detectors import best_detector, detector_rows
from medrobust.results.dashboard.leaderboard import worst_key
from medrobust.results.dashboard.tables import Column, Table, cell, interval
from medrobust.results.statistics import rate_interval
from medrobust.results.summary import read_summary, write_summary
from tests.made_runs import write_run

ONE, TWO = 1 / 255, 2 / 255
PGD, CW = ("pgd", ONE), ("cw", ONE)


def why(tmp_path: Path, *runs: dict[str, Any]) -> str:
    """What the second group says of the first."""
    places = [write_run(tmp_path, f"run{number}", **run) for number, run in enumerate(runs)]
    comparison = compare_runs(places)
    assert [len(one.group.runs) for one in comparison.groups] == [1, 1]
    return comparison.groups[1].group.why


def column(table: Table, key: str) -> list[Any]:
    return [row.get(key) for row in table.rows]


SAME: dict[str, Any] = {"attacks": {PGD: "1100"}}


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"data": {"name": "clinic"}}, "other data (clinic adv_test instead of phantom adv_test)"),
        ({"data": {"split": "val"}}, "other data (phantom val instead of phantom adv_test)"),
        ({"data": {"fingerprint": "beef"}}, "other images of the same data (4 instead of 4, or with other contents)"),
        ({"attacks": {PGD: "110"}, "data": {"images": 4}}, "other images of the split were tried (3 instead of 4)"),
        (
            {"attacks": {PGD: "110-", CW: "1111"}},
            "other images of the split were tried (not all of them by every attack)",
        ),
        ({"ids": list("abcd")}, "other images of the split were tried (both 4, but others)"),
        ({"attacks": {PGD: "110-", CW: "1111"}}, "other attacks (with cw at 1/255)"),
        ({"attacks": {("pgd", TWO): "1100"}}, "other attacks (without pgd at 1/255, with pgd at 2/255)"),
        ({"parameters": {"steps": 40}}, "other attacks (pgd at 1/255 with steps 40 instead of 20)"),
        ({"data": {"task": "segmentation"}}, "another task (segmentation instead of classification)"),
    ],
)
def test_what_cannot_be_compared_is_not_ranked_together(tmp_path: Path, other: dict[str, Any], words: str) -> None:
    said = why(tmp_path, SAME, SAME | other)
    assert said.startswith("Not ranked with group 1: ") and words in said


def test_a_control_keeps_no_run_out_of_a_group(tmp_path: Path) -> None:
    places = [
        write_run(tmp_path, "a", {PGD: "1100", ("noise", ONE): "1111"}),
        write_run(tmp_path, "b", {PGD: "1000"}),
    ]
    (one,) = compare_runs(places).groups
    assert column(one.leaderboard, "run") == ["a", "b"]


def ranked(tmp_path: Path) -> Comparison:
    """Three runs on ten images; pgd and cw together leave 5, 3 and 3 of ten at 1/255, and 0, 2 and 1 at 2/255."""
    second = ("pgd", TWO)
    attacks = {
        "low": {PGD: "1111100000", CW: "1110010000", second: "1100000000"},
        "high": {PGD: "1111111000", CW: "1111100000", second: "0000000000"},
        "equal": {PGD: "1110000000", CW: "1111100000", second: "1000000000"},
    }
    return compare_runs([write_run(tmp_path, name, own, clean="1111111110") for name, own in attacks.items()])


def test_the_leaderboard_ranks_by_the_worst_case_of_all_attacks(tmp_path: Path) -> None:
    (one,) = ranked(tmp_path).groups
    board = one.leaderboard
    assert one.group.headline == ONE  # 9 of ten are right; two of three runs have lost half of them there
    assert column(board, "run") == ["high", "low", "equal"]
    assert column(board, worst_key(ONE)) == [0.5, 0.3, 0.3] and column(board, worst_key(TWO)) == [0.0, 0.2, 0.1]
    assert column(board, "rank") == [1, 2, 2]
    assert "Ranked by the accuracy under the worst case at ε = 1/255" in board.note
    right = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0], bool)
    assert board.rows[0][f"{worst_key(ONE)}_interval"] == rate_interval(right, np.arange(10))


def test_the_images_of_a_worst_case_are_counted_where_not_every_attack_has_tried_all(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", {PGD: "1100", ("bim", ONE): "10--"})
    (row,) = compare_runs([run]).groups[0].leaderboard.rows
    assert row["tried"] == "2–4 / 4" and row[f"worst_{ONE:.8g}"] == 1 / 2


def test_a_clean_image_that_two_commands_judged_otherwise_keeps_no_run_out(tmp_path: Path) -> None:
    """A resumed evaluation may judge a clean image on the boundary otherwise, as batches round: image 0 under bim."""
    run = write_run(tmp_path, "a", {PGD: "1100", ("bim", ONE): "1110"})
    records = pl.read_parquet(run / "evaluate" / "records.parquet")
    other = (pl.col("attack") == "bim") & (pl.col("id") == "0.png")
    records.with_columns(correct_before=pl.col("correct_before") & ~other).write_parquet(
        run / "evaluate" / "records.parquet"
    )
    write_summary(run / "evaluate")
    comparison = compare_runs([run])
    (row,) = comparison.groups[0].leaderboard.rows
    assert not comparison.left_out and (row["clean"], row[f"worst_{ONE:.8g}"]) == (1.0, 1 / 4)


def test_images_that_no_attack_has_tried_yet_are_neither_robust_nor_of_a_patient_who_is(tmp_path: Path) -> None:
    """Noise has tried four images and pgd two, of which it makes one wrong at 1/255."""
    run = write_run(tmp_path, "a", {("noise", ONE): "1111", PGD: "01--", ("pgd", TWO): "01--"}, "1110")
    comparison = compare_runs([run])
    (row,) = comparison.groups[0].leaderboard.rows
    assert row["smallest"] == read_summary(run)["smallest"]["median"] == pytest.approx(ONE)
    (table,) = comparison.patients
    assert column(table, "patient") == ["patient 0", "patient 1"] and table.title.endswith("all 2 patients")
    assert column(table, "left") == [0.0, 1.0]


def test_a_heading_names_no_class_that_another_run_calls_otherwise(tmp_path: Path) -> None:
    targets = [0, 1]
    runs = [write_run(tmp_path, "a", {PGD: "10"}, targets=targets)]
    runs.append(write_run(tmp_path, "b", {PGD: "10"}, targets=targets, data={"class_names": ["PNEUMONIA", "NORMAL"]}))
    for count, words in ((1, "PNEUMONIA"), (2, "the second class")):
        (one,) = compare_runs(runs[:count]).groups
        headings = [named.heading for named in one.leaderboard.columns]
        assert f"sensitivity of {words}" in headings and f"specificity of {words}" in headings


def test_the_smallest_perturbation_is_a_median_over_images(tmp_path: Path) -> None:
    """By image: 0 (wrong from the start), 1/255, 2/255, 2/255, and two that only the search breaks or nobody does."""
    attacks = {PGD: "001111", ("pgd", TWO): "000011", ("cw2", None): "000001"}
    distances = [0.5, 0.5, 0.0001, 0.5, 0.02, 0.7]
    board = compare_runs([write_run(tmp_path, "a", attacks, "011111", distances=distances)]).groups[0].leaderboard
    # 0, 1/255, 0.0001, 2/255, 0.02, infinity: the third smallest makes half of the six wrong
    assert board.rows[0]["smallest"] == pytest.approx(ONE)
    strong = write_run(tmp_path, "b", {PGD: "1110"})
    row = compare_runs([strong]).groups[0].leaderboard.rows[0]
    assert row["smallest"] == np.inf
    assert cell(Column("smallest", "", "linf"), row) == "> 1/255"


def test_runs_without_a_radius_are_ranked_by_the_smallest_perturbation(tmp_path: Path) -> None:
    search = {("cw2", None): "0000"}
    places = [write_run(tmp_path, name, search, distances=[d] * 4) for name, d in (("weak", 0.01), ("strong", 0.02))]
    (one,) = compare_runs(places).groups
    assert column(one.leaderboard, "run") == ["strong", "weak"] and one.curves == []


def test_classes_lose_what_any_attack_takes(tmp_path: Path) -> None:
    """Three classes of two images each; the specificity of a class falls where either attack makes others look so."""
    targets = [0, 0, 1, 1, 2, 2]
    attacks = {PGD: "110011", CW: "101101"}
    predictions = {PGD: [0, 0, 0, 2, 2, 2], CW: [0, 1, 1, 1, 0, 2]}
    data = {"class_names": ["mild", "grave", "none"]}
    run = write_run(tmp_path, "a", attacks, targets=targets, predictions=predictions, data=data)
    table = compare_runs([run]).groups[0].classes
    assert table is not None
    assert column(table, "class") == ["mild", "grave", "none"] and column(table, "n") == [2, 2, 2]
    assert column(table, "sensitivity_clean") == [1.0, 1.0, 1.0]
    # right under both: images 0 and 5
    assert column(table, f"sensitivity_{ONE:.8g}") == [0.5, 0.0, 0.5]
    # taken for mild: 2 (pgd) and 4 (cw) of the four others; for grave: 1; for none: 3
    assert column(table, f"specificity_{ONE:.8g}") == [0.5, 0.75, 0.75]


def test_patients_are_ordered_by_what_is_left_of_them(tmp_path: Path) -> None:
    """p1 has two images: of run a one is left at 1/255 and none at 2/255, of run b both and one.

    Run b is wrong about p2 before.
    """
    patients = ["p1", "p1", "p2"]
    one = write_run(tmp_path, "a", {PGD: "101", ("pgd", TWO): "001"}, patients=patients)
    other = write_run(tmp_path, "b", {PGD: "111", ("pgd", TWO): "101"}, "110", patients=patients)
    (table,) = compare_runs([one, other]).patients
    assert column(table, "patient") == ["p2", "p1"] and column(table, "images") == [1, 2]
    assert column(table, "left") == pytest.approx([(1.0 + 0.0) / 2, (1 / 4 + 3 / 4) / 2])
    assert column(table, "clean") == [0.5, 1.0]


def judged(detector: str, attack: str, auroc: float | None, flagged: float | None, n: int) -> dict[str, Any]:
    share = {"rate": flagged, "interval": None, "n": n}
    kinds = dict.fromkeys(("successful", "clean", "noisy"), share)
    head = {"detector": detector, "fit": "same", "attack": attack, "epsilon": ONE}
    return {**head, "auroc": auroc, "auroc_interval": None, "n_positive": n, "flagged": kinds}


def detection_summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    worst = [{"epsilon": ONE, "accuracy": 0.1, "n": 10}]
    return {"detection": {"rows": rows}, "rows": [{"clean_accuracy": 1.0}], "worst_case": worst}


def test_the_best_detector_is_that_of_the_verdict() -> None:
    rows = [judged("kd", "pgd", 0.9, 0.5, 10), judged("kd", "cw", 0.7, 0.8, 30)]  # half of pgd's pass it
    rows += [judged("lid", "pgd", 0.95, 0.7, 10), judged("lid", "cw", 0.6, 0.6, 30)]  # 40 % of cw's
    rows += [judged("maha", "pgd", 0.99, 1.0, 10)]  # has judged one attack only
    summary = detection_summary(rows)
    assert [row["detector"] for row in detector_rows(summary)] == ["maha", "kd", "lid"]
    best = best_detector(summary)
    assert best["detector"] == "lid, fitted on the same attack" and best["detector_auroc"] == 0.6
    assert best["passes_detector"] == pytest.approx(0.4)
    assert best_detector({}) == {"detector": None}


def test_without_thresholds_the_best_detector_has_the_highest_mean_auroc_over_all_attacks() -> None:
    rows = [judged("kd", "pgd", 0.9, None, 10), judged("kd", "cw", 0.7, None, 30)]
    rows += [judged("lid", "pgd", 0.95, None, 10)]
    found = best_detector(detection_summary(rows))
    assert found["detector"] == "kd, fitted on the same attack" and found["detector_auroc"] == pytest.approx(0.8)
    assert found["passes_detector"] is None


def test_the_difference_of_configurations_is_told_key_by_key(tmp_path: Path) -> None:
    places = []
    for name, rate, steps in (("a", 0.1, 20), ("b", 0.2, 20), ("c", 0.1, 40)):
        run = write_run(tmp_path, name, {PGD: "11"})
        model = (
            f"model: {{class_path: X.Y, init_args: {{lr: {rate}, deep: [1, 2]}}}}\nroot: runs/{name}/x\nname: {name}\n"
        )
        (run / "train.yaml").write_text(model)
        (run / "evaluate" / "evaluate.yaml").write_text(f"{model}attack: {{steps: {steps}}}\n")
        places.append(run)
    (tmp_path / "b" / "evaluate" / "evaluate.yaml").unlink()
    comparison = compare_runs(places)
    found = differing([run.configuration for run in comparison.runs])
    assert found["train.yaml: model.lr"] == ["0.1", "0.2", "0.1"]
    assert found["evaluate.yaml: attack.steps"] == ["20", None, "40"]
    # the run's own name is no difference, nor what an evaluation repeats of the training
    assert set(found) == {"train.yaml: model.lr", "evaluate.yaml: attack.steps", "manifest: victim.weights"}
    told = {(row["key"], row["value"]): row["runs"] for row in comparison.configuration.rows}
    assert told["model.lr", "0.1"] == "a, c" and told["attack.steps", "40"] == "c"


def test_a_fraction_is_no_path_of_a_run_with_a_number_for_a_name(tmp_path: Path) -> None:
    runs = []
    for name in ("4", "8"):
        runs.append(write_run(tmp_path, name, {PGD: "11"}))
        (runs[-1] / "train.yaml").write_text(f"defence: {{epsilon: {name}/255}}\nroot: runs/{name}\n")
    found = differing([run.configuration for run in compare_runs(runs).runs])
    assert found["train.yaml: defence.epsilon"] == ["4/255", "8/255"] and "train.yaml: root" not in found


def test_a_configuration_names_classes_by_their_own_key(tmp_path: Path) -> None:
    run = write_run(tmp_path, "a", {PGD: "11"})
    (run / "train.yaml").write_text(
        "model: {class_path: X.Y, init_args: {parts: [{depth: 2}], fast: true, none: null}}\n"
    )
    found = configuration_of(run / "evaluate", {"run": "a"})
    flat = {"model": "X.Y", "model.parts[0].depth": "2", "model.fast": "true", "model.none": "null"}
    assert found == {f"train.yaml: {key}": value for key, value in flat.items()}


def test_masks_are_ranked_by_their_quality(tmp_path: Path) -> None:
    data = {"task": "segmentation", "class_names": ["background", "lung"]}
    victim = {"threshold": 0.5}
    places = [
        write_run(tmp_path, name, {PGD: "10"}, data=data, victim=victim, quality_before=0.9, quality_after=left)
        for name, left in (("less", 0.2), ("more", 0.4))
    ]
    (one,) = compare_runs(places).groups
    assert column(one.leaderboard, "run") == ["more", "less"]
    assert column(one.leaderboard, worst_key(ONE, "quality")) == [0.4, 0.2]
    assert "mean Jaccard under the worst case" in one.leaderboard.note
    assert "auroc" not in [shown.key for shown in one.leaderboard.columns]


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("rate", 0.5, "50.0 %"),
        ("score", 0.5, "50.0"),
        ("difference", -0.0004, "0.0"),
        ("difference", 0.051, "+5.1"),
        ("chance", 0.00005, "< 0.0001"),
        ("chance", 0.0312, "0.0312"),
        ("chance", 0.25, "0.25"),
        ("linf", 0.0, "0"),
        ("linf", float("inf"), "∞"),
        ("linf", 0.0241, "6.15/255"),
        ("l2", 2 / 255, "0.00784"),
        ("count", 12345, "12,345"),
        ("words", None, "–"),
    ],
)
def test_values_are_written_as_papers_do(kind: Any, value: Any, shown: str) -> None:
    assert cell(Column("x", "x", kind), {"x": value}) == shown


def test_limits_of_a_difference_have_signs() -> None:
    row = {"x": 0.1, "x_interval": [-0.02, 0.22]}
    assert interval(Column("x", "x", "difference"), row) == "−2.0 to +22.0"
    assert interval(Column("x", "x", "share"), row) == ""


def test_lengths_in_two_norms_have_no_common_median(tmp_path: Path) -> None:
    """The patient's image takes 0.001 in L2 in one run, which does not count, and 2/255 in L-infinity in the other."""
    radii = {"a": TWO, "b": 0.001}
    runs = [write_run(tmp_path, name, {("pgd", radius): "0"}, patients=["anna"]) for name, radius in radii.items()]
    path = runs[1] / "evaluate" / "summary.json"
    summary = json.loads(path.read_text())
    summary["manifest"]["attacks"] = [one | {"norm": "l2"} for one in summary["manifest"]["attacks"]]
    path.write_text(json.dumps(summary))
    (patients,) = compare_runs(runs).patients
    (row,) = patients.rows
    column = next(one for one in patients.columns if one.key == "smallest")
    assert row["smallest"] == pytest.approx(TWO) and column.heading == "median smallest L∞ perturbation"
    assert row["runs"] == 2 and row["smallest_above"] == pytest.approx(TWO) and cell(column, row) == "2/255"
