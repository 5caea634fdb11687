"""The journal: right records, a manifest without the machine, and runs that go on where they were."""

import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

import polars
import pytest
import torch

from medrobust.attacks import FGSM, MIM, PGD, Attack, UniformNoise, WorstCase
from medrobust.evaluation import AdversarialBatch
from medrobust.listeners import RecordJournal
from medrobust.results.columns import COLUMNS
from medrobust.results.manifest import read_manifest
from medrobust.results.records import finished, merge, read_journal, read_records
from medrobust.results.timings import read_timings
from tests import recording
from tests.in_memory import InMemoryData, random_data
from tests.recording import Recorder, Stopped
from tests.tiny_networks import linear_victim

COUNT = 11
ATTACKS: dict[str, Attack] = {"fgsm": FGSM(epsilon=0.05), "pgd": PGD(epsilon=0.05, steps=3, seed=4)}


def data_of(origin: str = "first") -> InMemoryData:
    """Random images with known targets."""
    data: InMemoryData = random_data(COUNT, batch_size=4, origin=origin)
    return data


def evaluate(
    folder: Path,
    attacks: dict[str, Attack] = ATTACKS,
    victim: Any = None,
    data: InMemoryData | None = None,
    resume: bool = True,
    **options: Any,
) -> list[AdversarialBatch]:
    """Evaluate with a journal and uniform noise as control, and give the batches that were made."""
    journal = RecordJournal(str(folder), "tiny", resume=resume, seed=42)
    options = {"controls": True, **options}
    return recording.evaluate(victim or linear_victim(), data or data_of(), attacks, journal, **options).batches


def lines(folder: Path) -> list[dict[str, Any]]:
    """Every journal line."""
    return [json.loads(line) for file in sorted(folder.glob("journal/*")) for line in file.read_text().splitlines()]


def made(batches: list[AdversarialBatch]) -> dict[str, int]:
    """Images attacked, by attack."""
    recorder = Recorder()
    recorder.batches = batches
    return recorder.counts()


def test_a_record_says_what_was_done_to_its_image(tmp_path: Path) -> None:
    attacks, data = {**ATTACKS, "aimed": MIM(epsilon=0.05, steps=2, targeted=True)}, data_of()
    targets = {sample.id: sample.target for sample in data.splits["adv_test"]}
    batches = evaluate(tmp_path, attacks, data=data)
    records = {(line["attack"], line["id"]): line for line in lines(tmp_path)}

    assert len(records) == len(lines(tmp_path)) == 4 * COUNT
    verdicts = {(record["reached"], record["success"]) for record in records.values()}
    assert verdicts == {(True, True), (True, False), (False, False)}  # the second: wrong from the start
    for batch in batches:
        for row, id in enumerate(batch.ids):
            record = records[batch.planned.name, id]
            assert set(record) == {"var", *batch.measures, *COLUMNS}
            difference = [a - c for a, c in zip(batch.adversarial[row].flatten().tolist(), batch.clean[row].flatten())]
            values = [float(value) for value in difference]
            assert record["linf"] == pytest.approx(max(map(abs, values)), abs=1e-9)
            assert record["l2"] == pytest.approx(math.sqrt(sum(value * value for value in values)), rel=1e-6)
            assert record["l0"] == sum(value != 0 for value in values)
            for name, outputs in (("clean", batch.clean_outputs), ("adversarial", batch.adversarial_outputs)):
                logits = outputs[row].tolist()
                assert record[f"{name}_prediction"] == logits.index(max(logits))
                confidence = 1 / sum(math.exp(logit - max(logits)) for logit in logits)
                assert record[f"{name}_confidence"] == pytest.approx(confidence, rel=1e-5)
                of_the_truth = math.exp(logits[targets[id]] - max(logits)) * confidence
                when = {"clean": "before", "adversarial": "after"}[name]
                assert record[f"quality_{when}"] == pytest.approx(of_the_truth, rel=1e-5)
            target = targets[id]
            aimed = batch.planned.name == "aimed"
            assert record["target"] == target and record["goal"] == (1 - target if aimed else None)
            assert record["correct_before"] == (record["clean_prediction"] == target)
            assert record["correct_after"] == (record["adversarial_prediction"] == target)
            assert record["reached"] == (not record["correct_after"])  # of two classes, the goal is the other one
            assert record["success"] == (record["reached"] and record["correct_before"])
            assert record["forwards"] == int(batch.forwards[row])
            assert record["backwards"] == {"noise": 0, "fgsm": 1, "pgd": 3, "aimed": 2}[record["attack"]]
            methods = {"noise": "UniformNoise", "fgsm": "FGSM", "pgd": "PGD", "aimed": "MIM"}
            assert record["method"] == methods[record["attack"]]
            assert record["zero_gradients"] == 0 and record["epsilon"] == 0.05
            assert record["seed"] == (4 if record["attack"] == "pgd" else 0)
            assert record["key"] == batch.planned.key and record["patient"] == id
            about = {name: record[name] for name in ("run", "victim", "dataset", "split")}
            assert about == {"run": "tiny", "victim": "LinearNet", "dataset": "items", "split": "adv_test"}


def test_the_manifest_says_what_was_attacked_with_what_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "/".join(("", "somewhere", "else", "evaluate.py"))
    monkeypatch.setattr(sys, "argv", [script, "test", "-c", "a file.yaml"])
    victim = linear_victim()
    evaluate(tmp_path, {"fgsm": FGSM(epsilon=0.1)}, victim, epsilons=[0.05])
    manifest = read_manifest(tmp_path)

    assert manifest["run"] == "tiny" and manifest["seed"] == 42
    assert manifest["command"] == "python evaluate.py test -c 'a file.yaml'"
    assert manifest["victim"]["name"] == "LinearNet" and manifest["victim"]["parameters"] == 128
    assert manifest["victim"]["input"] == [1, 8, 8] and manifest["victim"]["class"] == "WrappedClassifier"
    assert manifest["data"]["images"] == COUNT and manifest["data"]["split"] == "adv_test"
    assert manifest["data"]["fingerprint"] == data_of().fingerprint("adv_test")
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["versions"]["python"] == platform.python_version()
    assert manifest["device"] == "cpu" and manifest["world_size"] == 1
    noise, fgsm = manifest["attacks"]
    assert (noise["attack"], noise["method"], noise["control"]) == ("noise", "UniformNoise", True)
    assert (fgsm["attack"], fgsm["method"], fgsm["control"]) == ("fgsm", "FGSM", False)
    assert fgsm["epsilon"] == fgsm["parameters"]["epsilon"] == 0.05 and fgsm["parameters"]["steps"] == 1
    assert {entry["key"] for entry in manifest["attacks"]} == {line["key"] for line in lines(tmp_path)}
    folder = str(tmp_path.parent)
    assert folder not in (tmp_path / "manifest.json").read_text()


def test_a_command_line_names_no_folder_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is made to be handed on: an absolute argument says who ran it and where."""
    root = tmp_path / "data"
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "test", "--data.root", str(root), f"--runs={tmp_path}"])
    evaluate(tmp_path, {"fgsm": FGSM(epsilon=0.05)})

    command = read_manifest(tmp_path)["command"]
    assert command.startswith("python evaluate.py test --data.root ") and "--runs" in command
    assert str(tmp_path) not in command


def test_a_worst_case_names_the_attack_that_broke_the_image(tmp_path: Path) -> None:
    worst = WorstCase(attacks=(FGSM(), PGD(steps=5)), epsilon=0.05)
    (batch, *_) = evaluate(tmp_path, {"worst": worst}, controls=False)
    found = merge(tmp_path)
    assert found["broken_by"].dtype == polars.String
    assert set(found["broken_by"].drop_nulls()) <= {"FGSM", "PGD"}
    assert (found["broken_by"].is_not_null() == found["reached"]).all()
    assert "first_success" not in found.columns
    assert found["cos"].dtype == polars.Float64  # a measure of PGD's
    assert "first_success" in batch.measures


def test_a_finished_evaluation_attacks_nothing_again(tmp_path: Path) -> None:
    assert made(evaluate(tmp_path)) == {"noise": COUNT, "fgsm": COUNT, "pgd": COUNT}
    before = lines(tmp_path)

    assert evaluate(tmp_path) == []
    assert lines(tmp_path) == before


def test_seconds_of_all_batches_are_kept_beside_the_records(tmp_path: Path) -> None:
    with pytest.raises(recording.Stopped):
        evaluate(tmp_path, stop_after=1)
    first = read_timings(tmp_path)
    evaluate(tmp_path)
    found = read_timings(tmp_path)
    assert {key: timing.images for key, timing in found.items()} == dict.fromkeys(found, COUNT)
    assert found.keys() == {line["key"] for line in lines(tmp_path)}
    assert all(timing.seconds > first[key].seconds > 0 for key, timing in found.items() if key in first)
    assert first and "seconds" not in lines(tmp_path)[0]
    evaluate(tmp_path, resume=False)
    assert {timing.images for timing in read_timings(tmp_path).values()} == {COUNT}  # the old ones are gone


def test_a_torn_journal_is_completed_and_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    evaluate(tmp_path / "whole")
    evaluate(tmp_path / "torn")
    (file,) = (tmp_path / "torn" / "journal").glob("*.jsonl")
    text = file.read_text().splitlines(keepends=True)
    file.write_text("".join(text[:13]) + text[13][:40])

    assert sum(made(evaluate(tmp_path / "torn")).values()) == 3 * COUNT - 13
    tables = []
    for name in ("whole", "torn"):
        merge(tmp_path / name)
        tables.append(read_records(tmp_path / name).sort("attack", "id"))
    assert (
        tables[0]
        .drop("l2", "linf", "clean_confidence", "adversarial_confidence")
        .equals(tables[1].drop("l2", "linf", "clean_confidence", "adversarial_confidence"))
    )
    assert (tables[0]["l2"] - tables[1]["l2"]).abs().max() < 1e-6
    assert (tables[0]["linf"] - tables[1]["linf"]).abs().max() < 1e-6


def test_one_attack_more_is_the_only_one_that_runs(tmp_path: Path) -> None:
    evaluate(tmp_path)
    before = {(line["key"], line["id"]): line for line in lines(tmp_path)}

    assert made(evaluate(tmp_path, {**ATTACKS, "mim": MIM(epsilon=0.05, steps=2)})) == {"mim": COUNT}
    merge(tmp_path)
    assert read_records(tmp_path)["attack"].value_counts().sort("attack").rows() == [
        ("fgsm", COUNT),
        ("mim", COUNT),
        ("noise", COUNT),
        ("pgd", COUNT),
    ]
    after = {(line["key"], line["id"]): line for line in lines(tmp_path)}
    assert {place: after[place] for place in before} == before


def test_an_attack_of_another_name_with_the_same_settings_has_records_under_its_name(tmp_path: Path) -> None:
    evaluate(tmp_path, {"fgsm": FGSM(epsilon=0.05)})
    assert made(evaluate(tmp_path, {"renamed": FGSM(epsilon=0.05)})) == {"renamed": COUNT}
    merge(tmp_path)

    assert set(read_records(tmp_path)["attack"]) == {"noise", "fgsm", "renamed"}


def test_two_names_for_one_attack_give_a_row_each(tmp_path: Path) -> None:
    evaluate(tmp_path, {"one": FGSM(epsilon=0.05), "two": FGSM(epsilon=0.05)})
    merge(tmp_path)

    counts = read_records(tmp_path)["attack"].value_counts().sort("attack").rows()
    assert counts == [("noise", COUNT), ("one", COUNT), ("two", COUNT)]


def test_without_resume_the_evaluation_starts_afresh(tmp_path: Path) -> None:
    evaluate(tmp_path)
    assert sum(made(evaluate(tmp_path, resume=False)).values()) == 3 * COUNT
    assert len(lines(tmp_path)) == 3 * COUNT


def test_without_resume_nothing_is_lost_before_there_is_something_new(tmp_path: Path) -> None:
    evaluate(tmp_path)
    before = lines(tmp_path)
    with pytest.raises(Stopped):
        evaluate(tmp_path, resume=False, stop_after=0)
    assert lines(tmp_path) == before


def test_records_are_on_disk_before_the_next_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    craft = Attack.craft

    def watched(self: Attack, *arguments: Any) -> Any:
        sizes.append(len(read_journal(tmp_path)) if (tmp_path / "journal").exists() else 0)
        return craft(self, *arguments)

    monkeypatch.setattr(Attack, "craft", watched)
    evaluate(tmp_path, {"grain": UniformNoise(epsilon=0.05), "fgsm": FGSM(epsilon=0.05)})

    assert sizes == [0, 4, 8, 12, 16, 19]


def test_a_journal_without_a_folder_is_refused() -> None:
    with pytest.raises(ValueError, match=r"journal\.folder"):
        recording.evaluate(linear_victim(), data_of(), {"fgsm": FGSM()}, RecordJournal())


def test_records_have_the_columns_of_the_schema_and_are_found_as_finished(tmp_path: Path) -> None:
    evaluate(tmp_path)
    frame = read_journal(tmp_path)
    assert isinstance(frame, polars.DataFrame) and set(frame.columns) >= {"var", *COLUMNS}
    assert all(ids == set(data_of().ids("adv_test")) for ids in finished(tmp_path).values())
    assert len(finished(tmp_path)) == 3


def test_a_folder_that_another_process_writes_into_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    about = {"host": "elsewhere", "process": 4321, "since": "2026-01-02T03:04:05Z", "token": "x"}
    (tmp_path / "writer.lock").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="by process 4321 on elsewhere since 2026-01-02T03:04:05Z"):
        evaluate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["writer.lock"]


def test_the_folder_is_free_again_when_the_evaluation_has_ended(tmp_path: Path) -> None:
    evaluate(tmp_path)
    assert not (tmp_path / "writer.lock").exists()


def test_results_that_will_be_replaced_are_announced_before_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate(tmp_path)
    evaluate(tmp_path, {"pgd": ATTACKS["pgd"]}, resume=False)  # there is no report yet that could change
    merge(tmp_path)
    evaluate(tmp_path)  # which adds to it
    merge(tmp_path)
    evaluate(tmp_path, resume=False)
    assert not [text for text in caplog.messages if "no longer" in text]
    with pytest.raises(Stopped):
        evaluate(tmp_path, {"other": PGD(epsilon=0.1, steps=2)}, controls=False, stop_after=0, resume=False)
    (said,) = [text for text in caplog.messages if "no longer show" in text]
    assert "of attacks that are not configured now" in said and "fgsm at 0.05" in said and "pgd at 0.05" in said
    assert str(tmp_path) in said and "--evaluation NAME" in said
    caplog.clear()
    evaluate(tmp_path)
    merge(tmp_path)
    evaluate(tmp_path, data=data_of("second"), resume=False)
    assert [text for text in caplog.messages if "of other weights, data or settings" in text]
    assert len(merge(tmp_path)) == len(lines(tmp_path)) == 3 * COUNT


def test_records_that_no_manifest_names_are_not_used_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Stopped):
        evaluate(tmp_path, data=data_of("other pixels"), stop_after=3)
    (tmp_path / "manifest.json").unlink()
    old = len(lines(tmp_path))
    evaluate(tmp_path)
    assert old and f"{old} records in {tmp_path} are of other weights, data, attacks or settings" in caplog.text
    assert len(merge(tmp_path)) == 3 * COUNT and len(lines(tmp_path)) == 3 * COUNT + old
