"""Fits of detectors that evaluations of one run share: the same numbers, and only where all that decides is equal."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from medrobust.attacks import FGSM, Attack
from medrobust.detectors import KernelDensity, load_detectors, read_header
from medrobust.evaluation.plan import weights_hash
from medrobust.results.records import read_records
from medrobust.results.report.page import finish
from tests.listeners.test_detection import ATTACKS, data_of, evaluate, fits, records, some_detectors, victim_of

__all__ = ["fits"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has been evaluated once, under two attacks."""
    run = tmp_path_factory.mktemp("run")
    evaluate(run / "evaluate", some_detectors())
    finish(run / "evaluate")
    return run


def another(first: Path, name: str, **settings: Any) -> Path:
    """A further evaluation of that run, by default of one of its attacks."""
    folder = first / "evaluations" / name
    asked = {"detectors": some_detectors(), "attacks": {"fgsm": FGSM(epsilon=0.03)}, **settings}
    evaluate(folder, asked.pop("detectors"), asked.pop("attacks"), **asked)
    return folder


def test_what_another_evaluation_of_the_run_has_fitted_is_taken_and_gives_the_same_records(
    fits: list[list[str]], first: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        folder = another(first, "shared")
    assert not fits
    assert [text for text in caplog.messages if f"that {first / 'evaluate'} has fitted" in text]

    evaluate(tmp_path / "alone", some_detectors(), {"fgsm": FGSM(epsilon=0.03)})
    assert fits == [["fgsm"]]
    one, other = records(folder), records(tmp_path / "alone")
    assert one.equals(other.select(one.columns))
    (taken,), (own,) = ((place / "detectors").iterdir() for place in (folder, tmp_path / "alone"))
    weights = weights_hash(victim_of().state_dict())
    found, expected = load_detectors(taken, weights), load_detectors(own, weights)
    assert found.keys() == expected.keys()
    for name in expected:
        ours, theirs = found[name].state_dict(), expected[name].state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(values, ours[key]) for key, values in theirs.items())
    assert read_header(taken)["about"] == read_header(own)["about"]


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"folds": 3},
        {"fit_per_class": 5},
        {"reference_per_class": 5},
        {"layers": ["act2"]},
        {"detectors": {**some_detectors(), "kd": KernelDensity()}},
        {"detectors": some_detectors(epochs=6)},
        {"attacks": {"fgsm": FGSM(epsilon=0.04)}},
        {"attacks": {**ATTACKS, "other": FGSM(epsilon=0.03)}},
    ],
    ids=["seed", "folds", "fit_per_class", "reference_per_class", "layer", "more", "epochs", "radius", "attack"],
)
def test_whatever_decides_a_fit_and_is_different_has_it_made_again(
    fits: list[list[str]], first: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    another(first, tmp_path.name, **changed)
    assert len(fits) == 1


def test_other_weights_have_it_made_again(fits: list[list[str]], first: Path) -> None:
    victim = victim_of()
    with torch.no_grad():
        next(victim.parameters())[0, 0, 0, 0] += 1e-3
    another(first, "weights", victim=victim)
    assert len(fits) == 1


def test_other_images_to_fit_on_have_it_made_again(fits: list[list[str]], first: Path) -> None:
    data = data_of()
    samples = data.splits["adv_train"]
    data.splits["adv_train"] = samples[:-1]
    another(first, "fewer", data=data)
    assert len(fits) == 1


def test_an_evaluation_of_another_run_gives_nothing(fits: list[list[str]], first: Path, tmp_path: Path) -> None:
    evaluate(tmp_path / "other" / "evaluate", some_detectors(), {"fgsm": FGSM(epsilon=0.03)})
    assert len(fits) == 1


def test_a_damaged_file_gives_nothing(fits: list[list[str]], tmp_path: Path) -> None:
    attacks: dict[str, Attack] = {"fgsm": FGSM(epsilon=0.03)}
    evaluate(tmp_path / "evaluate", some_detectors(), attacks)
    finish(tmp_path / "evaluate")
    (file,) = (tmp_path / "evaluate" / "detectors").iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    another(tmp_path, "after")
    assert len(fits) == 2
    one, other = read_records(tmp_path / "evaluate"), records(tmp_path / "evaluations" / "after")
    assert one.equals(other.select(one.columns))


def test_a_fit_that_lacks_something_is_made_again_and_says_so_again(
    fits: list[list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harmless: dict[str, Attack] = {"fgsm": FGSM(epsilon=1e-7)}  # fools nobody, so that no classifier can be fitted
    evaluate(tmp_path / "evaluate", some_detectors(), harmless)
    finish(tmp_path / "evaluate")
    caplog.clear()
    another(tmp_path, "after", attacks=harmless)
    assert len(fits) == 2
    assert sum("is left out" in text for text in caplog.messages) == 2
