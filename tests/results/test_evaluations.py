"""The evaluations of a run are found in their order, and nothing else is."""

from pathlib import Path

import pytest

from medrobust.results.evaluations import evaluations_of
from medrobust.results.summary import read_summary


def test_the_evaluations_of_a_run_come_in_their_order(tmp_path: Path) -> None:
    run = tmp_path / "run"
    held = ["evaluate", "evaluations/a", "evaluations/b", "evaluate_on/away", "validate"]
    for name in (*reversed(held), "dry_run", "checkpoints"):
        (run / name).mkdir(parents=True)
        (run / name / "manifest.json").write_text("{}")
    (run / "evaluations" / "empty").mkdir()
    (run / "evaluations" / "notes.txt").write_text("")
    assert [path.relative_to(run).as_posix() for path in evaluations_of(run)] == held
    assert evaluations_of(run / "evaluations" / "a") == [run / "evaluations" / "a"]
    (run / "evaluate" / "manifest.json").unlink()
    assert evaluations_of(run)[0] == run / "evaluations" / "a"
    with pytest.raises(ValueError, match="there is no summary.json in .*: give .*evaluations/a or .*evaluations/b or "):
        read_summary(run)
    assert evaluations_of(tmp_path) == [] and evaluations_of(tmp_path / "nothing") == []
