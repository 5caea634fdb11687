"""Figures against the radius and the iteration: their numbers by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from medrobust.results.figures.detection_sweep import detection_sweep
from medrobust.results.figures.sheet import NothingToDrawError, unit_of_radii, write_sheet
from medrobust.results.figures.studied_run import StudiedRun
from medrobust.results.figures.trajectory import trajectory
from medrobust.results.studied import Kept, Studied

NONE = Studied("sweep", "DetectionSweep", {}, [], [], {})
TERMS = [{"class": "CrossEntropy"}, {"class": "FeatureConstraint"}]
HIDES = {"objective": {"class": "WeightedSum", "terms": TERMS, "weights": [1.0, 2.0]}}


def judged(attack: str, epsilon: float | None, detector: str, auroc: float | None, fit: str = "bim") -> dict[str, Any]:
    interval = None if auroc is None else [auroc - 0.1, auroc + 0.1]
    head = {"attack": attack, "epsilon": epsilon, "key": f"{attack}-{epsilon}", "detector": detector, "fit": fit}
    return {**head, "auroc": auroc, "auroc_interval": interval, "n_positive": 5, "n_negative": 20}


def summary(fits: tuple[str, ...] = ("bim",)) -> dict[str, Any]:
    rows = [
        judged(attack, radius, detector, value + radius, fit)
        for fit in fits
        for attack, value in (("bim", 0.8), ("hfc", 0.3))
        for radius in (1 / 256, 2 / 256)
        for detector in ("kd", "maha", "svm", "dnn")
    ]
    rows += [judged("bim", 4 / 256, "kd", None), judged("free", None, "kd", 0.9)]
    rows.append(judged("bim", 1 / 256, "bu", None))
    entries = [
        {"key": key, "parameters": HIDES if key.startswith("hfc") else {}} for key in {row["key"] for row in rows}
    ]
    detected = {"detectors": ["kd", "maha"], "fits": list(fits), "rows": rows}
    return {"manifest": {"run": "a", "attacks": entries}, "rows": [], "detection": detected}


def test_detection_is_drawn_against_the_radius_with_and_without_hiding(tmp_path: Path) -> None:
    for runs in ([StudiedRun("a", summary(), NONE)], [StudiedRun(one, summary(), NONE) for one in "ab"]):
        (sheet,) = detection_sweep(runs)
        assert write_sheet(tmp_path, sheet).svg
        own = sheet.table.filter((pl.col("run") == "a") & (pl.col("detector") == "kd"))
        found = {
            (attack, radius): (value, hides)
            for attack, radius, value, hides in own.select("attack", "epsilon", "auroc", "hides").iter_rows()
        }
        assert found["bim", 1 / 256] == (pytest.approx(0.8 + 1 / 256), False)
        assert found["hfc", 2 / 256] == (pytest.approx(0.3 + 2 / 256), True)
        assert found["bim", 4 / 256] == (None, False) and "free" not in set(own["attack"])
    assert (
        "a, bim: 80.4 at 1/256 (5 images) and 80.8 at 2/256 (5 images); a, hfc: 30.4 at 1/256 (5 images) and 30.8 at "
        "2/256 (5 images). Without any AUROC: bu." in detection_sweep([StudiedRun("a", summary(), NONE)])[0].note
    )


def test_each_fit_has_a_figure_and_a_study_may_name_its_attacks() -> None:
    sheets = detection_sweep([StudiedRun("a", summary(("bim", "same")), NONE)])
    assert [sheet.name for sheet in sheets] == ["bim", "same"] and "fitted on each attack itself" in sheets[1].title
    named = NONE._replace(parameters={"attacks": ["hfc"]})
    assert set(detection_sweep([StudiedRun("a", summary(), named)])[0].table["attack"]) == {"hfc"}


def test_detection_needs_detectors_at_two_radii() -> None:
    with pytest.raises(NothingToDrawError, match="needs detectors, and attacks that succeed at two radii or more"):
        detection_sweep([StudiedRun("a", {**summary(), "detection": {}}, NONE)])


@pytest.mark.parametrize(
    ("values", "unit"), [([1 / 255, 0.3 / 255], 255), ([0.5 / 256, 4 / 256], 256), ([0.01, 0.1], 255), ([0.0], 255)]
)
def test_radii_are_counted_in_their_own_unit(values: list[float], unit: int) -> None:
    assert unit_of_radii(values) == unit


def followed(label: str = "a") -> StudiedRun:
    def one(id: str, right: bool, var: list[float], cos: list[float], still: list[bool]) -> Kept:
        about = {"attack": "smia", "epsilon": 0.1, "right_before": right, "right_after": still[-1]}
        pictures = np.zeros((1, 3, 4, 4), dtype=np.float16)
        arrays = {"var": np.array(var), "cos": np.array(cos), "right": np.array(still), "perturbations": pictures}
        return Kept(id, about, arrays)

    kept = [
        one("1", True, [0.1, 0.4], [np.nan, 0.5], [True, False]),
        one("2", True, [0.3, 0.6], [np.nan, 0.7], [True, True]),
        one("3", False, [0.2, 0.5], [np.nan, np.nan], [False, False]),
    ]
    nothing = [Kept("1", {"attack": "deepfool", "epsilon": None, "right_before": True, "right_after": False}, {})]
    studied = Studied("t", "Trajectory", {}, ["1", "2", "3"], [], {"s": kept, "d": nothing})
    rows = [
        {"key": "s", "attack": "smia", "epsilon": 0.1, "kind": "attack"},
        {"key": "d", "attack": "deepfool", "epsilon": None, "kind": "attack"},
    ]
    return StudiedRun(label, {"manifest": {"run": "a"}, "rows": rows}, studied)


def test_each_iteration_has_means_quartiles_and_what_is_still_right(tmp_path: Path) -> None:
    for runs in ([followed()], [followed(), followed("b")]):
        iterations, perturbations = trajectory(runs)
        assert write_sheet(tmp_path, iterations).svg and write_sheet(tmp_path, perturbations).svg
        own = iterations.table.filter(pl.col("run") == "a").sort("iteration")
        assert own["attack"].to_list() == ["smia"] * 2  # the other one has no iterations
        np.testing.assert_allclose(own["var"], [0.2, 0.5])
        np.testing.assert_allclose(own["var_lower"], [0.15, 0.45])
        assert own["cos"][0] is None and own["cos"][1] == pytest.approx(0.6)
        assert own["still_right"].to_list() == [1.0, 0.5] and own["n_right_before"].to_list() == [2, 2]
        assert perturbations.table.filter(pl.col("run") == "a").select("iteration", "var").rows() == [(1, 0.1)]


def test_iterations_need_an_attack_that_has_them() -> None:
    run = followed()
    attacked = {"d": run.studied.attacked["d"]}
    with pytest.raises(NothingToDrawError, match="No image of an attack with steps of a fixed length"):
        trajectory([run._replace(studied=run.studied._replace(attacked=attacked))])
