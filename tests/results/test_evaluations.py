"""Where the evaluations of a run are found."""

from pathlib import Path

from medrobust.results.evaluations import evaluations_of


def manifest(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def test_the_evaluations_of_a_run_come_in_a_fixed_order(tmp_path: Path) -> None:
    run = tmp_path / "run"
    validate, other, second, first, plain = (
        manifest(run / place)
        for place in ("validate", "evaluate_on/clinic", "evaluations/b", "evaluations/a", "evaluate")
    )
    (run / "evaluations" / "empty").mkdir()
    (run / "checkpoints").mkdir()
    assert evaluations_of(run) == [plain, first, second, other, validate]


def test_an_evaluation_is_its_own_only_one(tmp_path: Path) -> None:
    folder = manifest(tmp_path / "run" / "evaluate")
    manifest(folder / "evaluate")
    assert evaluations_of(folder) == [folder]


def test_a_run_that_was_only_trained_has_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert evaluations_of(tmp_path) == evaluations_of(tmp_path / "nowhere") == []
