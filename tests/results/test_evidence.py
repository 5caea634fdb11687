"""Evidence: every field of the documented schema, filled from the run or "not assessed"; hashes by hand."""

import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from medrobust.results.evidence import EVIDENCE
from medrobust.results.evidence.fields import NOT_ASSESSED
from medrobust.results.manifest import write_manifest
from medrobust.results.records import RECORDS, Journal
from medrobust.results.report.page import finish
from tests.sample_record import record

PARTS = {
    "threat_model": {
        *("attack_stage", "attacker_goals", "privacy", "availability", "capabilities", "knowledge", "transfer"),
        *("budget", "effort", "objective", "adaptive_to_defences", "adaptive_to_detectors"),
    },
    "fda": {
        *("model_description", "data_management", "data_provenance", "performance_validation", "subgroups"),
        "performance_by_class",
        *("uncertainty", "other_sites", "repeatability", "human_team", "model_evasion", "data_poisoning"),
        *("model_stealing", "performance_drift", "monitoring"),
    },
    "iso_24029": {
        *("domain", "stability", "stability_to_noise", "sensitivity", "smallest_perturbation", "relevance"),
        *("reachability", "statistical_methods", "formal_methods"),
    },
    "ai_act": {
        *(
            "accuracy",
            "accuracy_by_class",
            "accuracy_of_groups",
            "patients",
            "robustness_to_errors",
            "redundancy",
            "feedback_loops",
        ),
        *("adversarial_examples", "smallest_perturbation", "data_poisoning", "confidentiality", "prevention"),
        "detection",
    },
}
NEVER = {  # what no evaluation of this project assesses
    *("threat_model.privacy", "threat_model.availability", "fda.data_provenance", "fda.repeatability"),
    *("fda.human_team", "fda.data_poisoning", "fda.model_stealing", "fda.performance_drift", "fda.monitoring"),
    *("iso_24029.relevance", "iso_24029.reachability", "iso_24029.formal_methods", "ai_act.redundancy"),
    *("fda.subgroups", "ai_act.accuracy_of_groups"),
    *("ai_act.feedback_loops", "ai_act.data_poisoning", "ai_act.confidentiality"),
}
ENTRIES = (
    ("noise", "UniformNoise", 1 / 255, "n1", {"seed": 0}),
    ("pgd", "PGD", 1 / 255, "k1", {"seed": 3, "objective": {"class": "Margin"}}),
    ("square", "Square", 1 / 255, "k2", {"seed": 0}),
    ("<b>cw</b>", "CWL2", None, "k3", {"seed": 0, "targeted": True}),
)
FOOLED = {"n1": "", "k1": "ab", "k2": "b", "k3": "abc"}  # images that each attack turns; all were right before
PASSES = {"n1": (0, 0), "k1": (21, 20), "k2": (100, 0), "k3": (50, 50)}
NORMS = {"k3": "l2"}


def manifest(entries: tuple[Any, ...] = ENTRIES, **more: Any) -> dict[str, Any]:
    """A manifest of the attacks above; further entries replace its own."""
    attacks = [
        {
            "attack": name,
            "method": method,
            "epsilon": epsilon,
            "key": key,
            "parameters": parameters,
            "norm": NORMS.get(key, "linf"),
            "minimal": epsilon is None,
            "control": name == "noise",
        }
        for name, method, epsilon, key, parameters in entries
    ]
    data = {"name": "phantom", "split": "adv_test", "images": 4, "class_names": ["healthy", "ill"], "fingerprint": "f0"}
    victim = {"name": "resnet10t", "weights": "w0", "parameters": 1234, "input": [1, 8, 8], "checkpoint": "best.ckpt"}
    made = {"schema": 1, "run": "small", "seed": 42, "command": "python evaluate.py test", "attacks": attacks}
    return {**made, "data": data, "victim": victim, **more}


def evaluated(folder: Path, config: str | None = "", **more: Any) -> dict[str, Any]:
    """The evidence of four images of three patients, "a" and "b" being one's; ``config`` is its evaluate.yaml."""
    told = manifest(**more)
    folder.mkdir(parents=True)
    write_manifest(folder, told)
    if config is not None:
        (folder / "evaluate.yaml").write_text(config)
    with Journal(folder) as journal:
        for entry in told["attacks"]:
            forwards, backwards = PASSES[entry["key"]]
            for place, image in enumerate("abcd"):
                fooled = image in FOOLED[entry["key"]]
                journal.append(
                    [
                        record(
                            image,
                            entry["key"],
                            attack=entry["attack"],
                            method=entry["method"],
                            epsilon=entry["epsilon"],
                            patient=("p1", "p1", "p2", "p3")[place],
                            target=place % 2,
                            clean_prediction=place % 2,
                            adversarial_prediction=(place + fooled) % 2,
                            correct_after=not fooled,
                            reached=fooled,
                            success=fooled,
                            forwards=forwards,
                            backwards=backwards,
                            linf=entry["epsilon"] or 0.02,
                            l2=0.25,
                        )
                    ]
                )
    finish(folder)
    found: dict[str, Any] = json.loads((folder / EVIDENCE).read_text())
    return found


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run's folder with a checkpoint and an evaluation, and its evidence."""
    run = tmp_path_factory.mktemp("runs") / "small"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "best.ckpt").write_bytes(b"weights")
    (run / "train.yaml").write_text("name: small\n")
    binding = {"unknown": "", "images": 4, "seen": {}, "examples": [], "differences": [], "others": {}}
    code = {"version": "0.1.0", "commit": "c0ffee", "changed": True}
    environment = {"system": "Linux", "machine": "x86_64", "threads": 2}
    more = {"binding": binding, "code": code, "environment": environment, "device": "cpu"}
    return run, evaluated(run / "evaluate", "ckpt_path: runs/small/checkpoints/best.ckpt\n", **more)


def test_every_field_of_the_schema_is_there_and_says_what_it_is(full: Any) -> None:
    found = full[1]
    assert set(found) == {
        *("schema", "note", "run", "created", "command", "seed", *PARTS, "fingerprints", "counterexamples")
    }
    assert (found["schema"], found["run"], found["seed"], found["created"]) == (1, "small", 42, None)
    assert "certifies nothing" in found["note"]
    for part, names in PARTS.items():
        assert set(found[part]) == {"source", "fields"} and set(found[part]["fields"]) == names
        assert set(found[part]["source"]) == {"title", "issuer", "date"}
    fields = {f"{part}.{name}": one for part in PARTS for name, one in found[part]["fields"].items()}
    fields |= {f"fingerprints.{name}": one for name, one in found["fingerprints"].items()}
    for name, one in fields.items():
        assert set(one) == {"asks", "assessed", "answer", "why", "values"} and one["asks"], name
        assert (one["answer"] == NOT_ASSESSED) == (one["why"] is not None) == (not one["assessed"]), name
    assert all(not fields[name]["assessed"] for name in NEVER)


def test_the_threat_model_is_that_of_the_attacks_that_ran(full: Any) -> None:
    card = full[1]["threat_model"]["fields"]
    assert card["attacker_goals"]["values"] == {"untargeted": ["pgd", "square"], "targeted": ["<b>cw</b>"]}
    # Square spends no backward pass: it knows the outputs alone
    assert card["knowledge"]["values"] == {"white_box": ["pgd", "<b>cw</b>"], "black_box": ["square"]}
    assert card["knowledge"]["answer"].endswith("; not run: transfer")
    assert card["budget"]["values"] == {"radii": {"linf": [1 / 255]}, "unbounded": {"<b>cw</b>": 0.25}}
    assert card["effort"]["answer"].startswith("up to 100 passes")
    assert card["objective"]["values"] == {"pgd": "Margin", "square": "own", "<b>cw</b>": "own"}
    for name in ("transfer", "adaptive_to_defences", "adaptive_to_detectors"):
        assert card[name]["answer"] == NOT_ASSESSED


def test_a_surrogate_makes_all_attacks_transfer(tmp_path: Path) -> None:
    card = evaluated(tmp_path / "evaluate", listeners={"surrogate": "0123"})["threat_model"]["fields"]
    assert card["knowledge"]["values"] == {"transfer": ["pgd", "square", "<b>cw</b>"]}


def test_numbers_are_those_of_the_records(full: Any) -> None:
    found = full[1]
    # a and b are wrong under pgd or square, c and d stand
    worst = found["ai_act"]["fields"]["adversarial_examples"]["values"]["1/255"]
    assert (worst["value"], worst["n"], worst["attacks"]) == (0.5, 4, ["pgd", "square"])
    assert found["iso_24029"]["fields"]["stability"]["answer"].startswith("searched, not proven")
    assert found["ai_act"]["fields"]["accuracy"]["values"]["right"]["value"] == 1.0
    noise = found["iso_24029"]["fields"]["stability_to_noise"]["values"]["1/255"]
    assert noise["value"] == 1.0 and noise["interval"][1] == 1.0
    # a, b (p1) and c (p2) are fooled by some attack, d (p3) by none
    assert found["ai_act"]["fields"]["patients"]["values"] == {"patients": 3, "fooled": 2}
    classes = found["fda"]["fields"]["performance_by_class"]["values"]
    assert classes["healthy"]["n"] == classes["ill"]["n"] == 2 and classes["ill"]["sensitivity"]["value"] == 1.0
    assert found["iso_24029"]["fields"]["smallest_perturbation"]["values"]["<b>cw</b>"]["median_l2"] == 0.25
    lowest = found["iso_24029"]["fields"]["sensitivity"]["values"]["1/255"]
    assert (lowest["before"]["value"], lowest["after"]["value"]) == (0.75, 0.25)
    assert found["fda"]["fields"]["data_management"]["values"]["seen"] == 0


def test_hashes_are_of_the_files(full: Any) -> None:
    run, found = full
    prints = found["fingerprints"]
    assert prints["checkpoint"]["values"]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert prints["train.yaml"]["values"]["sha256"] == hashlib.sha256(b"name: small\n").hexdigest()
    records = (run / "evaluate" / RECORDS).read_bytes()
    assert prints["records"]["values"] == {"sha256": hashlib.sha256(records).hexdigest(), "bytes": len(records)}
    assert (prints["weights"]["answer"], prints["data"]["answer"]) == ("w0", "f0")
    assert prints["splits.csv"]["why"] == "there is no splits.csv"
    assert prints["code"]["answer"] == "MedRobust 0.1.0, commit c0ffee, with changes since"
    assert prints["environment"]["values"] == {"system": "Linux", "machine": "x86_64", "threads": 2, "device": "cpu"}
    assert prints["seeds"]["values"] == {"run": 42, "attacks": {"noise": 0, "pgd": 3, "square": 0, "<b>cw</b>": 0}}


def test_the_checkpoint_of_another_run_is_not_that_of_the_same_name_here(tmp_path: Path) -> None:
    (tmp_path / "small/checkpoints").mkdir(parents=True)
    (tmp_path / "small/checkpoints/best.ckpt").write_bytes(b"not used")
    other = tmp_path / "other" / "checkpoints" / "best.ckpt"
    config = f"name: small\nckpt_path: {other}\n"
    prints = evaluated(tmp_path / "small/evaluate", config)["fingerprints"]
    assert prints["checkpoint"]["why"] == "best.ckpt does not lie where it did"


def test_commands_are_chosen_over_attacks_and_classes(full: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = full[1]["counterexamples"]
    assert found["n"] == 2 + 1 + 3 and found["why"] is None
    chosen = [(one["attack"], one["target"], one["id"]) for one in found["commands"]]
    # first the first image of each attack and class, then the second
    first = [("<b>cw</b>", 0, "a"), ("<b>cw</b>", 1, "b"), ("pgd", 0, "a"), ("pgd", 1, "b"), ("square", 1, "b")]
    assert chosen == [*first, ("<b>cw</b>", 0, "c")]
    words = shlex.split(found["commands"][2]["command"])
    assert words[:3] == ["python", "evaluate.py", "replay"] and words[4:] == ["--record", "k1:a"]
    assert words[3].endswith("small/evaluate") and not words[3].startswith("/")


def test_what_a_run_lacks_is_not_assessed(tmp_path: Path) -> None:
    only = (("pgd", "PGD", 1 / 255, "k1", {}),)
    found = evaluated(tmp_path / "evaluate", None, entries=only, victim={}, binding=None)
    assert found["counterexamples"] == {
        "n": 2,
        "rule": None,
        "commands": [],
        "why": "only what evaluate.py has evaluated can be replayed: there is no evaluate.yaml",
    }
    reasons = {
        ("iso_24029", "stability_to_noise"): "no noise was run as control (attack.controls)",
        ("iso_24029", "smallest_perturbation"): "only given radii were tried: no attack looks for the smallest change",
        ("fda", "model_description"): "the manifest does not describe the victim",
        ("fda", "other_sites"): "it is not known on which data the victim was trained",
        ("ai_act", "detection"): "no detector watches",
        ("ai_act", "prevention"): "the victim is trained plainly, and nothing is done to its images",
    }
    for (part, name), why in reasons.items():
        assert found[part]["fields"][name]["why"] == why
    earlier = "the manifest is of a version that did not record it"
    for name in ("weights", "code", "environment"):
        assert found["fingerprints"][name]["why"] == earlier
    assert found["fingerprints"]["checkpoint"]["why"] == "the victim comes from no checkpoint that is known"
    assert "is not known" in found["fda"]["fields"]["data_management"]["answer"]


def test_an_evaluation_without_a_record_has_evidence(tmp_path: Path) -> None:
    (tmp_path / "evaluate").mkdir()
    write_manifest(tmp_path / "evaluate", manifest())
    finish(tmp_path / "evaluate")
    found = json.loads((tmp_path / "evaluate" / EVIDENCE).read_text())
    assert found["threat_model"]["fields"]["knowledge"]["why"] == "no attack has a record yet"
    assert found["ai_act"]["fields"]["accuracy"]["why"] == "no image has a record yet"
    assert found["ai_act"]["fields"]["patients"]["why"] == "the records name no patients"
    assert found["counterexamples"]["n"] == 0


def test_the_page_shows_it_and_names_stay_text(full: Any) -> None:
    page = (full[0] / "evaluate" / "report.html").read_text()
    section = page[page.index('id="evidence"') :]
    section = section[: section.index("</section>")]
    assert "What was and was not assessed" in section and "<b>cw</b>" not in section
    assert "&lt;b&gt;cw&lt;/b&gt;" in section and "k1:a" in section
    for part in PARTS:
        for one in full[1][part]["fields"].values():
            assert one["asks"].replace("'", "&#39;") in section
    assert "http" not in section and section.count("<table") == section.count("</table>") == 6
