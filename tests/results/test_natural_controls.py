"""What nature does, in tables, checks, verdicts and figures: beside the attacks, and never among them."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from medrobust.results.evidence.performance import under_noise
from medrobust.results.evidence.threat_model import threat_model
from medrobust.results.figures.bias_fields import bias_fields
from medrobust.results.figures.corruption_sweep import corruption_sweep
from medrobust.results.figures.sheet import NothingToDrawError, write_sheet
from medrobust.results.figures.studied_run import StudiedRun
from medrobust.results.report.page import finish
from medrobust.results.report.worst_figure import worst_figure, worst_table
from medrobust.results.studied import Kept, Studied
from medrobust.results.verdict import verdict
from tests.results.test_report import evaluation
from tests.results.test_summary import attack, raised, rows, summary_of
from tests.results.test_verdict import row, summary, worst


def field(name: str, stops: float, lowest: int = 1, control: bool = False) -> dict[str, Any]:
    """An entry of a bias field."""
    parameters = {"max_stops": stops, "degree": 10, "lowest_degree": lowest}
    method = "RandomBiasField" if control else "AdvSBF"
    entry: dict[str, Any] = attack(name, None, control, method=method, parameters=parameters, norm="none")
    return entry | {"minimal": False}


@pytest.mark.parametrize(("stops", "lowest", "flagged"), [(1.0, 1, True), (2.0, 1, False), (1.0, 0, False)])
def test_a_random_field_that_beats_the_attack_of_its_family_and_bound_is_flagged(
    stops: float, lowest: int, flagged: bool
) -> None:
    blind, sighted = field("random", stops, lowest, control=True), field("sbf", 1.0)
    found = summary_of([blind, sighted], rows(blind, "1" * 20 + "0" * 20) + rows(sighted, "0" * 40))
    assert raised(found) == ([("noise", "sbf", None)] if flagged else [])
    if flagged:
        assert found["flags"][0]["message"] == (
            "The random bias field random of the same bound fools 50.0 % and sbf 0.0 %: the attack's gradients do not "
            "help it."
        )


def test_controls_without_a_radius_count_neither_in_the_worst_case_nor_as_blind_attacks() -> None:
    """A corruption that fools all, beside an attack with gradients that fools half, masks no gradient."""
    nature = attack("jpeg", None, True, method="Corruption", norm="none", minimal=False)
    pgd = attack("pgd")
    found = summary_of([nature, pgd], rows(nature, "1" * 40) + rows(pgd, "1" * 20 + "0" * 20))
    assert raised(found) == []
    assert found["worst_case"][0]["attacks"] == ["pgd"] and found["worst_case"][0]["n_correct_after"] == 20
    assert [one["kind"] for one in found["rows"]] == ["clean", "control", "attack"]


def test_a_verdict_tells_the_harshest_of_what_no_attacker_does() -> None:
    nature = [row("control", f"jpeg-{one}", None, one, method="Corruption") for one in (1, 2, 3)]
    said = verdict(summary([row("attack", "pgd", success=75), *nature], worst(75)))
    words = (
        "Without an attacker, the harshest of 3 controls, jpeg-3, makes it wrong about 3 of the 100 images that it was "
        "right about."
    )
    assert said.count(words) == 1 and said.index(words) > 0
    assert verdict(summary(nature)) == ["No attack has been recorded yet.", words]
    only = verdict(summary([row("attack", "pgd", success=75), nature[0]], worst(75)))
    assert "Without an attacker, jpeg-1 makes it wrong about 1 of the 100 images that it was right about." in only


def test_a_bound_in_stops_is_told_as_one() -> None:
    found = summary([row("attack", "sbf-1", None, 75, method="AdvSBF"), row("attack", "sbf", None, 60)])
    found["manifest"]["attacks"][0]["parameters"] = {"max_stops": 1.0}
    assert verdict(found)[0].startswith(
        "With no value of an image brightened or darkened by more than 1 photographic stop, an attacker who knows the "
        "model makes it wrong about 75 of the 100 images"
    )
    found["manifest"]["attacks"][0]["parameters"] = {"max_stops": None}
    assert verdict(found)[0].startswith("Without a bound on its change of an image, an attacker")
    entries = [
        {"attack": name, "method": "AdvSBF", "key": name, "parameters": {"max_stops": stops}, "control": False}
        for name, stops in (("sbf-1", 1.0), ("sbf", None))
    ]
    rest = {"control": False, "mean_forwards": 21.0, "transfer": {}}
    shown = [row("attack", entry["attack"], None, key=entry["key"], **rest) for entry in entries]
    budget = threat_model({"rows": shown, "manifest": {"attacks": entries}})["budget"]
    assert "sbf-1 within 1 photographic stop, with" in budget["answer"] and "sbf without a bound" in budget["answer"]
    assert budget["values"]["photographic_stops"] == {"sbf-1": 1.0} and list(budget["values"]["unbounded"]) == ["sbf"]


def test_of_many_controls_the_harshest_is_a_line_across_the_figure(tmp_path: Path) -> None:
    attacks = [("pgd", 1 / 255, False, 0.5), ("pgd", 2 / 255, False, 0.9)]
    attacks += [(f"blur-{one}", None, True, one / 10) for one in range(1, 6)]
    found = finish(evaluation(tmp_path, attacks))
    words = " ".join(ElementTree.fromstring(worst_figure(found)).itertext())
    assert "blur-5 (of 5)" in words and "blur-4" not in words
    assert [line[0] for line in worst_table(found).lines[-5:]] == [f"blur-{one}" for one in range(1, 6)]


def test_evidence_tells_noise_and_corruptions_apart() -> None:
    limits = {"accuracy_under_attack_interval": [0.1, 0.9], "control": True}
    noise = row("control", "noise", success=10, **limits)
    nature = [row("control", f"jpeg-{one}", None, one, **limits) for one in (1, 5)]
    told = under_noise({"rows": [noise, *nature]}, "asked")["answer"]
    assert told is not None and "uniform noise" in told and "the harshest of 2 corruptions, jpeg-5: 90.5 %" in told
    alone = under_noise({"rows": nature}, "asked")["answer"]
    assert alone is not None and "uniform noise" not in alone
    assert str(under_noise({"rows": [noise]}, "asked")["answer"]).endswith("no other disturbance is tried")


NONE = Studied("fields", "BiasFields", {}, [], [], {})


def told(entries: list[dict[str, Any]], accuracies: list[float], **means: float) -> dict[str, Any]:
    """A summary of some attacks, of which each leaves a share right."""
    found: list[dict[str, Any]] = [{"key": None, "kind": "clean", "n": 10, "clean_accuracy": 1.0}]
    for entry, accuracy in zip(entries, accuracies, strict=True):
        interval = [max(0.0, accuracy - 0.1), min(1.0, accuracy + 0.1)]
        found.append(
            {"key": entry["key"], "attack": entry["attack"], "kind": "attack", "n": 10, "n_correct_before": 8}
            | {"accuracy_under_attack": accuracy, "accuracy_under_attack_interval": interval}
            | {"success_rate": 1 - accuracy, "success_rate_interval": interval, "means": means}
        )
    return {"rows": found, "manifest": {"run": "a", "attacks": entries}}


def test_the_sweep_of_corruptions_has_a_row_for_each_kind_and_severity() -> None:
    entries = [
        attack(f"{kind}-{one}", None, True, method="Corruption")
        | {"parameters": {"modality": "xray", "kind": kind, "severity": one, "strength": one / 10}}
        for kind in ("jpeg", "vignetting")
        for one in (2, 1)
    ]
    found = told([*entries, attack("pgd")], [0.5, 0.9, 0.6, 0.8, 0.0], ssim=0.7)
    accuracy, similarity = corruption_sweep([StudiedRun("a", found, NONE)])
    ordered = accuracy.table.sort("kind", "severity")
    assert ordered["accuracy"].to_list() == [0.9, 0.5, 0.8, 0.6] and ordered["strength"].to_list() == [0.1, 0.2] * 2
    assert accuracy.label.endswith("a: at least 50.0 %, under jpeg of severity 2.")
    assert similarity.table["ssim"].to_list() == [0.7] * 4
    with pytest.raises(NothingToDrawError, match="No corruption has a record"):
        corruption_sweep([StudiedRun("a", told([attack("pgd")], [0.5]), NONE)])


def kept(id: str, name: str, stops: float, fooled: bool = False) -> Kept:
    """What a study keeps of a field that rises from the left, 0, to the right."""
    image = np.full((1, 4, 5), 0.5, np.float16)
    about = {"attack": name, "epsilon": None, "right_before": True, "right_after": not fooled}
    return Kept(id, about, {"clean": image, "changed": image, "stops": np.linspace(0, stops, 5) * np.ones((4, 1))})


def test_fields_are_drawn_over_images_and_success_against_the_bound(tmp_path: Path) -> None:
    entries = [field("sbf-1", 1.0), field("sbf-2", 2.0), field("random-1", 1.0, control=True)]
    entries[0]["parameters"] = {**entries[0]["parameters"]}
    free = field("sbf", 1.0)
    free["parameters"]["max_stops"] = None
    found = told([*entries, free], [0.5, 0.25, 1.0, 0.0], ssim=0.9, brisque=20.0, brisque_clean=15.0, field_largest=0.5)
    attacked = {one["key"]: [kept(id, one["attack"], 1.0, id == "x") for id in "xy"] for one in entries}
    attacked["other"] = [Kept("x", {"attack": "pgd"}, {})]
    studied = NONE._replace(attacked=attacked)
    fields, bounds = bias_fields([StudiedRun("a", found, studied)])
    assert fields.table["fooled"].to_list() == [True] * 3 + [False] * 3
    assert fields.table["highest"].to_list() == [1.0] * 6
    lines = {
        (line, stops): success
        for line, stops, success in bounds.table.select("line", "max_stops", "success").iter_rows()
    }
    assert lines == {("sbf", 1.0): 0.5, ("sbf", 2.0): 0.75, ("random-1", 1.0): 0.0, ("sbf", None): 1.0}
    assert bounds.table["largest"].to_list() == pytest.approx([0.5 / np.log(2)] * 4)
    assert pl.Series([False, False, True, False]).equals(bounds.table["control"])
    for sheet in (fields, bounds):
        assert write_sheet(tmp_path, sheet).svg
    assert [one.name for one in bias_fields([StudiedRun("a", found, NONE)])] == ["bounds"]
    with pytest.raises(NothingToDrawError, match="No attack makes a bias field"):
        bias_fields([StudiedRun("a", told([attack("pgd")], [0.5]), NONE)])


def test_what_differs_by_more_than_its_bound_or_severity_is_another_line() -> None:
    entries = [
        attack(f"jpeg-{modality}-{one}", None, True, method="Corruption")
        | {"parameters": {"modality": modality, "kind": "jpeg", "severity": one, "strength": one / 10}}
        for modality in ("xray", "dermoscopy")
        for one in (1, 2)
    ]
    (accuracy,) = corruption_sweep([StudiedRun("a", told(entries, [0.9, 0.5, 0.8, 0.6]), NONE)])
    shown = accuracy.table.filter(accuracy.table["kind"] == "jpeg (dermoscopy)").sort("severity")
    assert shown["accuracy"].to_list() == [0.8, 0.6] and "jpeg (xray) of severity 2" in accuracy.label
    fields = [field("sbf-1", 1.0), field("sbf-2", 2.0), field("sbf-3", 1.0, lowest=0), field("sbf-4", 2.0, lowest=0)]
    (bounds,) = bias_fields([StudiedRun("a", told(fields, [0.9, 0.8, 0.4, 0.3], ssim=0.9), NONE)])
    assert bounds.table["line"].to_list() == ["sbf-1, sbf-2"] * 2 + ["sbf-3, sbf-4"] * 2
