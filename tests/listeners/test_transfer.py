"""Transfer: what other victims make of images that were crafted on the one under evaluation."""

from pathlib import Path
from typing import Any

import pytest
import torch

from medrobust.attacks import BIM, Attack
from medrobust.listeners import RecordJournal, Transfer
from medrobust.results.records import merge
from medrobust.results.summary import write_summary
from tests.in_lightning import random_resnet
from tests.in_memory import InMemoryData, random_split
from tests.recording import evaluate
from tests.tiny_networks import linear_victim


def data_of() -> InMemoryData:
    """Six random images with known targets."""
    return InMemoryData({"adv_test": random_split(6, side=32)})


def test_judges_add_what_they_make_of_the_images(tmp_path: Path, run_of: Any) -> None:
    victim, other = random_resnet(0), random_resnet(1, backbone="resnet18", mean=0.4, std=0.3)
    judges = {"same": run_of(tmp_path / "a", victim), "other": run_of(tmp_path / "b", other)}
    attacks: dict[str, Attack] = {"bim": BIM(epsilon=0.2, steps=3), "aim": BIM(epsilon=0.2, steps=3, targeted=True)}
    recorder = evaluate(victim, data_of(), attacks, Transfer(judges), RecordJournal(str(tmp_path / "e"), "run"))
    records, summary = merge(tmp_path / "e"), write_summary(tmp_path / "e")
    other.eval()
    for batch in recorder.batches:
        aims = batch.targets if batch.goals is None else batch.goals
        with torch.no_grad():
            before, after = (other(images).argmax(1) for images in (batch.clean, batch.adversarial))
        assert batch.columns["judge_other_before"].tolist() == (before == batch.targets).tolist()
        assert batch.columns["judge_other_after"].tolist() == (after == batch.targets).tolist()
        reached = after == aims if batch.goals is not None else after != aims
        assert batch.columns["judge_other_success"].tolist() == reached.tolist()
    for row in summary["rows"][1:]:
        assert row["transfer"]["same"]["same_weights"]
        assert row["transfer"]["same"]["success_rate"] == row["success_rate"]
        assert not row["transfer"]["other"]["same_weights"]
    assert records["judge_same_after"].to_list() == records["correct_after"].to_list()


def test_other_judges_are_other_records(tmp_path: Path, run_of: Any) -> None:
    victim, journal = random_resnet(), str(tmp_path / "e")
    judges = {"a": run_of(tmp_path / "a", random_resnet(1))}
    evaluate(victim, data_of(), {"bim": BIM(steps=1)}, RecordJournal(journal, "run"))
    with pytest.raises(ValueError, match="holds an evaluation without judges, whose tables would be lost"):
        evaluate(victim, data_of(), {"bim": BIM(steps=1)}, RecordJournal(journal, "run"), Transfer(judges))
    evaluate(victim, data_of(), {"bim": BIM(steps=1)}, RecordJournal(journal, "run", resume=False), Transfer(judges))
    assert merge(tmp_path / "e")["judge_a_after"].null_count() == 0


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ("nowhere", "there is no checkpoint .*nowhere"),
        ("torn", "not a checkpoint that train.py wrote"),
        ("three", "num_classes 3, the victim 2"),
    ],
)
def test_unusable_judges_are_refused_in_one_sentence(judge: str, words: str, tmp_path: Path, run_of: Any) -> None:
    (tmp_path / "torn").write_bytes(b"no checkpoint")
    run_of(tmp_path / "three", random_resnet(num_classes=3))
    with pytest.raises(ValueError, match=words):
        evaluate(random_resnet(), data_of(), {"bim": BIM(steps=1)}, Transfer({"x": str(tmp_path / judge)}))
    with pytest.raises(ValueError, match="letters, digits"):
        Transfer({"a b": "x"})


def test_a_victim_that_no_checkpoint_can_be_read_into_has_no_judges(tmp_path: Path) -> None:
    data = InMemoryData({"adv_test": random_split(2)})
    with pytest.raises(ValueError, match="judge x is read from a checkpoint, and a WrappedClassifier cannot be built"):
        evaluate(linear_victim(), data, {"bim": BIM(steps=1)}, Transfer({"x": str(tmp_path)}))
    assert not data.read


def test_without_judges_there_is_no_column_and_no_identity() -> None:
    recorder = evaluate(linear_victim(), InMemoryData({"adv_test": random_split(2)}), {"bim": BIM()}, Transfer())
    assert recorder.plans[0].listeners == {}
    assert not recorder.batches[0].columns


def test_a_judge_whose_outputs_are_not_finite_is_not_fooled_but_refused(tmp_path: Path, run_of: Any) -> None:
    broken = random_resnet(1)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    judges = {"broken": run_of(tmp_path / "a", broken)}
    with pytest.raises(
        ValueError, match=r"\(judge broken, clean\) are not finite for 4 of 4 images, first 'adv_test-00'"
    ):
        evaluate(random_resnet(0), data_of(), {"bim": BIM(steps=1)}, Transfer(judges))
