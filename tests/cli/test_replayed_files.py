"""What a replay reads of a run: the configuration that a record was made with, wherever the run lies now."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.replayed_files import linked_files, stored_configuration
from medrobust.results.evaluations import run_folder_of

RECORD: dict[str, Any] = {"attack": "pgd", "epsilon": 1 / 255}


def write(path: Path, attacks: dict[str, str | None], **more: Any) -> Path:
    """A stored configuration with attacks at radii."""
    entries = {name: {"class_path": "PGD", "init_args": {"epsilon": radius}} for name, radius in attacks.items()}
    section = {"attacks": entries, "epsilons": None, "controls": True, "fit_batches": 2, **more.pop("attack", {})}
    content = {"name": "small", "runs": "runs", "attack": section, "trainer": {"devices": 4, "max_epochs": 3}, **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path.parent


def test_one_process_without_loggers_and_without_limits(tmp_path: Path) -> None:
    folder = write(tmp_path / "evaluate.yaml", {"pgd": "1/255"})
    config = stored_configuration(folder, RECORD)
    trainer = config["trainer"]
    assert (trainer["devices"], trainer["logger"], trainer["limit_test_batches"]) == (1, False, None)
    assert trainer["max_epochs"] == 3 and config["attack"]["fit_batches"] == 0


@pytest.mark.parametrize(
    ("record", "number"),
    [
        (RECORD, 2),  # 0.5/255 in evaluate.yaml, 1/255 in evaluate-2.yaml
        ({"attack": "pgd", "epsilon": 0.5 / 255}, 0),
        ({"attack": "pgd", "epsilon": 4 / 255}, 1),  # by the sweep, whatever its own radius is
        ({"attack": "cw", "epsilon": None}, 2),
        ({"attack": "noise", "epsilon": 4 / 255}, 1),  # the control, of the one that has controls
        ({"attack": "noise", "epsilon": 1 / 255}, 2),
        ({"attack": "gone", "epsilon": None}, 0),  # nobody's: the last command's
    ],
)
def test_each_record_has_the_configuration_of_its_command(tmp_path: Path, record: dict[str, Any], number: int) -> None:
    write(tmp_path / "evaluate.yaml", {"pgd": "0.5/255"}, number=0, attack={"controls": False})
    write(tmp_path / "evaluate-1.yaml", {"pgd": "9/255"}, number=1, attack={"epsilons": ["2/255", "4/255"]})
    write(tmp_path / "evaluate-2.yaml", {"pgd": "1/255", "cw": None}, number=2)
    assert stored_configuration(tmp_path, record)["number"] == number


def test_a_moved_run_takes_its_own_checkpoint_and_that_of_another_run_stays(tmp_path: Path) -> None:
    run = tmp_path / "moved"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "best.ckpt").write_bytes(b"")
    for name in ("evaluate", "evaluations/first", "evaluate_on/away", "validate"):
        folder = write(run / name / "evaluate.yaml", {"pgd": "1/255"}, ckpt_path="runs/small/checkpoints/best.ckpt")
        assert run_folder_of(folder) == run
        assert stored_configuration(folder, RECORD)["ckpt_path"] == str(run / "checkpoints" / "best.ckpt")
    folder = write(run / "evaluate/evaluate.yaml", {"pgd": "1/255"}, ckpt_path="runs/other/checkpoints/best.ckpt")
    assert stored_configuration(folder, RECORD)["ckpt_path"] == "runs/other/checkpoints/best.ckpt"


def test_damaged_configurations_are_named(tmp_path: Path) -> None:
    (tmp_path / "evaluate.yaml").write_text("a: [1\n")
    with pytest.raises(ValueError, match=r"evaluate.yaml is damaged: while parsing"):
        stored_configuration(tmp_path, RECORD)
    (tmp_path / "evaluate.yaml").write_text("words\n")
    with pytest.raises(ValueError, match="expected the configuration of an evaluation, got str"):
        stored_configuration(tmp_path, RECORD)


def test_new_files_beside_linked_ones_leave_the_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "fitted").mkdir()
    (tmp_path / "fitted" / "one").write_text("1")
    place = linked_files(tmp_path / "fitted", tmp_path / "scratch" / "fitted")
    (place / "two").write_text("2")
    assert (place / "one").read_text() == "1"
    assert [path.name for path in (tmp_path / "fitted").iterdir()] == ["one"]
    assert list(linked_files(tmp_path / "none", tmp_path / "other").iterdir()) == []
