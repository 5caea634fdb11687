"""Evaluations accumulate in a folder: other attacks join, and whatever would mix or lose records is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medrobust.attacks import FGSM, MIM, PGD, Attack
from medrobust.evaluation import EvaluationListener
from medrobust.listeners import RecordJournal
from medrobust.networks import BitDepth
from medrobust.networks.defended_victim import defended
from medrobust.results.manifest import read_manifest
from medrobust.results.records import merge, read_records
from medrobust.results.same_records import differences
from medrobust.results.summary import summarise
from tests import recording
from tests.in_memory import InMemoryData, random_data
from tests.recording import Stopped
from tests.tiny_networks import linear_victim

COUNT = 11
ATTACKS: dict[str, Attack] = {"fgsm": FGSM(epsilon=0.05), "pgd": PGD(epsilon=0.05, steps=3, seed=4)}
OTHERS: dict[str, Attack] = {"mim": MIM(epsilon=0.1, steps=2), "fgsm": FGSM(epsilon=0.02)}


def data_of(origin: str = "first") -> InMemoryData:
    """Random images with known targets."""
    data: InMemoryData = random_data(COUNT, batch_size=4, origin=origin)
    return data


def evaluate(
    folder: Path, attacks: dict[str, Attack] = ATTACKS, *listeners: Any, victim: Any = None, **options: Any
) -> dict[str, int]:
    """Evaluate with a journal and uniform noise as control; how many images each attack was run on."""
    journal = RecordJournal(str(folder), "tiny", resume=options.pop("resume", True), seed=42)
    data = options.pop("data", None) or data_of()
    options = {"controls": True, **options}
    found = recording.evaluate(victim or linear_victim(), data, attacks, *listeners, journal, **options)
    return found.counts()


def written(folder: Path) -> dict[str, bytes]:
    """The content of every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def attacks_of(folder: Path) -> list[tuple[str, float | None]]:
    """Names and radii of a manifest's attacks."""
    return [(entry["attack"], entry["epsilon"]) for entry in read_manifest(folder)["attacks"]]


def test_other_attacks_join_those_that_are_there(tmp_path: Path) -> None:
    evaluate(tmp_path)
    before = merge(tmp_path)
    assert evaluate(tmp_path, OTHERS) == {"noise": 2 * COUNT, "mim": COUNT, "fgsm": COUNT}
    assert attacks_of(tmp_path) == [
        *(("noise", radius) for radius in (0.02, 0.05, 0.1)),
        *(("fgsm", 0.05), ("pgd", 0.05), ("mim", 0.1), ("fgsm", 0.02)),
    ]
    after = merge(tmp_path)
    assert len(after) == 7 * COUNT
    kept = after.filter(after["key"].is_in(before["key"].unique().to_list()))
    assert not list(differences(before, kept))
    assert evaluate(tmp_path) == {}  # the first command again adds nothing and loses nothing
    assert attacks_of(tmp_path)[3:] == [("fgsm", 0.05), ("pgd", 0.05), ("mim", 0.1), ("fgsm", 0.02)]
    assert not list(differences(after, merge(tmp_path)))


def test_a_kill_other_attacks_and_a_resume_give_the_tables_of_one_evaluation(tmp_path: Path) -> None:
    """At once, with the attacks in one configuration, or one after the other, killed in between."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    evaluate(whole, {**ATTACKS, "mim": OTHERS["mim"]})
    with pytest.raises(Stopped):
        evaluate(parts, stop_after=4)
    begun = len(read_manifest(parts)["attacks"])
    evaluate(parts, {"mim": OTHERS["mim"]})
    evaluate(parts)
    tables = [merge(folder) for folder in (whole, parts)]
    assert begun == 3 and not list(differences(*tables, tolerance=1e-6)) and tables[0].columns == tables[1].columns
    first, second = (summarise(merge(folder), read_manifest(folder)) for folder in (whole, parts))
    assert [row["attack"] for row in second["rows"]] == ["clean", "noise", "noise", "fgsm", "pgd", "mim"]
    for part in ("rows", "worst_case", "checks", "flags", "classes"):
        assert json.dumps(first[part]) == pytest.approx(json.dumps(second[part])) or close(first[part], second[part])


def close(one: Any, other: Any) -> bool:
    """Whether two values are the same but for rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return bool(one == pytest.approx(other, abs=1e-6) if isinstance(one, float) else one == other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("weights", "holds an evaluation of other weights, whose tables would be lost"),
        ("buffer", "of other weights"),
        ("mean", "with mean [0.5] (now [0.4"),
        ("defence", "without input_defence"),
        ("data", "on other images or contents of their files (11 images)"),
        ("split", "on another split (adv_test)"),
        ("detectors", "without detectors"),
        ("probabilities", "without journal.probabilities"),
        ("parameter", "holds results of pgd at 0.05 with other settings (steps 3 (now 4)): give this attack another"),
        ("seed", "holds results of fgsm at 0.05 with other settings (seed 0 (now 11))"),
        ("version", "holds an evaluation by another version"),
    ],
)
def test_whatever_would_mix_or_lose_records_is_refused_and_says_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, words: str
) -> None:
    evaluate(tmp_path)
    merge(tmp_path)
    before = written(tmp_path)
    victim, options, listeners = linear_victim(), dict[str, Any](attacks=dict(ATTACKS)), list[Any]()
    if change == "weights":
        with torch.no_grad():
            victim.network.weight[0, 0] += 1e-6
    elif change == "buffer":
        victim.network.register_buffer("running", torch.ones(1))
    elif change == "mean":
        victim.mean.fill_(0.4)
    elif change == "defence":
        victim = defended(victim, BitDepth())
    elif change == "data":
        options["data"] = data_of("second")
    elif change == "split":
        options["split"] = "val"
    elif change == "detectors":
        listeners = [Detecting()]
    elif change == "probabilities":
        monkeypatch.setattr(RecordJournal, "__init__", _with_probabilities(RecordJournal.__init__))
    elif change == "parameter":
        options["attacks"]["pgd"] = PGD(epsilon=0.05, steps=4, seed=4)
    elif change == "seed":
        options["attacks"] = {name: replace(attack, seed=11) for name, attack in ATTACKS.items()}
    elif change == "version":
        monkeypatch.setattr("medrobust.evaluation.plan.KEYS", 1)
    with pytest.raises(ValueError) as refused:
        evaluate(tmp_path, options.pop("attacks"), *listeners, victim=victim, **options)
    said = str(refused.value)
    assert words in said and "--evaluation NAME" in said and "--journal.resume false" in said
    after = written(tmp_path)
    assert {name: after[name] for name in before} == before and after.keys() - before.keys() <= {"writer.lock"}


class Detecting(EvaluationListener):
    """Says that its columns depend on detectors."""

    def on_evaluation_identity(self, *_: Any) -> dict[str, Any]:
        return {"detection": {"detectors": ["maha"]}}


def _with_probabilities(init: Any) -> Any:
    def changed(self: Any, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        self.probabilities = True

    return changed


def test_a_refused_evaluation_leaves_the_earlier_one_to_go_on(tmp_path: Path) -> None:
    evaluate(tmp_path)
    other = linear_victim()
    other.mean.fill_(0.4)
    with pytest.raises(ValueError, match="holds an evaluation with mean"):
        evaluate(tmp_path, victim=other)
    assert evaluate(tmp_path) == {}
    assert sum(evaluate(tmp_path, victim=other, resume=False).values()) == 3 * COUNT  # and replaces it on demand
    merge(tmp_path)
    assert len(read_records(tmp_path)) == 3 * COUNT and evaluate(tmp_path, victim=other) == {}


def test_attacks_without_a_record_leave_no_trace(tmp_path: Path) -> None:
    """Someone mistyped a parameter, and stopped the command before it had attacked anything."""
    with pytest.raises(Stopped):
        evaluate(tmp_path, stop_after=0)
    assert evaluate(tmp_path, {"pgd": PGD(epsilon=0.05, steps=2)}) == {"noise": COUNT, "pgd": COUNT}
    assert attacks_of(tmp_path) == [("noise", 0.05), ("pgd", 0.05)]


def test_the_commands_of_all_parts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, attacks in (("one", ATTACKS), ("two", OTHERS), ("one", ATTACKS)):
        monkeypatch.setattr("sys.argv", ["evaluate.py", words])
        evaluate(tmp_path, attacks)
    assert read_manifest(tmp_path)["command"] == "python evaluate.py two\npython evaluate.py one"


def test_an_evaluation_of_before_this_version_goes_on_and_is_compared(tmp_path: Path) -> None:
    evaluate(tmp_path)
    manifest = read_manifest(tmp_path)
    del manifest["shared"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="holds an evaluation on another split"):
        evaluate(tmp_path, split="val")
    with pytest.raises(ValueError, match="holds an evaluation without input_defence"):
        evaluate(tmp_path, victim=defended(linear_victim(), BitDepth()))
    assert evaluate(tmp_path) == {}
    del manifest["victim"]["weights"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="holds an evaluation by an earlier version"):
        evaluate(tmp_path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("manifest", "cannot be added to .*is not valid JSON"),
        ("schema", "cannot be added to .*reads manifests of schema 1, got 0"),
        ("journal", "without the journal that it was made of"),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused_and_replaced_on_demand(
    tmp_path: Path, damage: str, words: str
) -> None:
    evaluate(tmp_path)
    merge(tmp_path)
    manifest = tmp_path / "manifest.json"
    if damage == "journal":
        for file in (tmp_path / "journal").iterdir():
            file.unlink()
    else:
        manifest.write_text("{" if damage == "manifest" else json.dumps({"schema": 0}))
    with pytest.raises(ValueError, match=words) as refused:
        evaluate(tmp_path)
    assert "--evaluation NAME" in str(refused.value)
    assert sum(evaluate(tmp_path, resume=False).values()) == 3 * COUNT
