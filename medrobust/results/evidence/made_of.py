"""The evidence of an evaluation: its threat model, what reviewers ask for, hashes, and how counterexamples are made."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from medrobust.results.evaluations import FURTHER
from medrobust.results.evidence.fields import Field
from medrobust.results.evidence.fingerprints import fingerprints
from medrobust.results.evidence.reviewers import AI_ACT, FDA, ISO, ai_act, fda, iso
from medrobust.results.evidence.threat_model import SOURCE, threat_model
from medrobust.results.formats import format_epsilon
from medrobust.results.manifest import write_json
from medrobust.results.records import RECORDS, read_records

EVIDENCE = "evidence.json"
SCHEMA = 1
COUNTEREXAMPLES = 60  # commands that are listed; the rule makes all the others
NOTE = (
    "This maps what one evaluation has and has not assessed to what reviewers ask for. It certifies nothing, and "
    "conformity with any of the sources is not claimed."
)


def evidence(summary: Mapping[str, Any], manifest: Mapping[str, Any], folder: str | Path) -> dict[str, Any]:
    """What an evaluation has assessed and what it has not, each field filled from the run or "not assessed".

    Args:
        summary: As `results.summary.summarise` returns it.
        manifest: The manifest of the same evaluation.
        folder: The folder of the evaluation, with ``records.parquet``.

    Returns:
        An object that is written to JSON as it is:

        - ``schema``: the version of this object, 1.
        - ``note``: what this is, and that it certifies nothing.
        - ``run``, ``created``, ``command``, ``seed``: of the manifest; None where it does not say.
        - ``threat_model``, ``fda``, ``iso_24029``, ``ai_act``: each with ``source`` (``title``, ``issuer``, ``date``)
          and ``fields``, by name. A field has ``asks`` (what is asked, in our words), ``assessed``, ``answer`` (words,
          or "not assessed"), ``why`` (why it is not assessed; None if it is) and ``values`` (the numbers and names of
          the answer; None if there are none). Rates are in [0, 1]; an ``interval`` is one of 95 %.
        - ``fingerprints``: as `results.evidence.fingerprints.fingerprints` gives them, hashes, versions and machine.
        - ``counterexamples``: ``n``, how many images some attack turned from right to wrong, counted once for each
          attack and radius; ``rule``, the command that makes any record again; ``commands``, for at most 60 of them,
          chosen in turn over attacks, radii and classes, each with ``attack``, ``epsilon``, ``target``, ``key``, ``id``
          and ``command``; ``why``, where there is no command.
    """
    folder = Path(folder)
    records = read_records(folder / RECORDS)
    told = {**summary, "manifest": manifest, "patients_under_attack": patients_under_attack(records, manifest)}
    return {
        "schema": SCHEMA,
        "note": NOTE,
        **{name: manifest.get(name) for name in ("run", "created", "command", "seed")},
        "threat_model": {"source": SOURCE, "fields": threat_model(told)},
        "fda": {"source": FDA, "fields": fda(told)},
        "iso_24029": {"source": ISO, "fields": iso(told)},
        "ai_act": {"source": AI_ACT, "fields": ai_act(told)},
        "fingerprints": fingerprints(manifest, folder),
        "counterexamples": counterexamples(records, manifest, folder),
    }


def write_evidence(folder: str | Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``evidence.json`` into an evaluation's folder, atomically, and return what it holds."""
    found = evidence(summary, summary["manifest"], folder)
    write_json(Path(folder) / EVIDENCE, found)
    return found


def patients_under_attack(records: pl.DataFrame, manifest: Mapping[str, Any]) -> dict[str, int]:
    """How many patients were judged, and how many have an image that some attack fooled; empty without patients."""
    controls = [entry["key"] for entry in manifest["attacks"] if entry.get("control")]
    rows = records.filter(pl.col("patient").is_not_null() & ~pl.col("key").is_in(controls))
    if not len(rows):
        return {}
    return {"patients": rows["patient"].n_unique(), "fooled": rows.filter("success")["patient"].n_unique()}


def counterexamples(records: pl.DataFrame, manifest: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The commands that make counterexamples again: some of all attacks, radii and classes, and the rule for all."""
    controls = [entry["key"] for entry in manifest["attacks"] if entry.get("control")]
    found = records.filter(pl.col("success") & ~pl.col("key").is_in(controls))
    if not (folder / "evaluate.yaml").is_file():
        why = "only what evaluate.py has evaluated can be replayed: there is no evaluate.yaml"
        return {"n": len(found), "rule": None, "commands": [], "why": why}
    start = f"python evaluate.py replay {shlex.quote(place_of(folder))} --record "
    turns = found.with_columns(turn=pl.col("id").rank("ordinal").over("key", "target"))
    chosen = turns.sort("turn", "attack", "epsilon", "target", "id", nulls_last=True).head(COUNTEREXAMPLES)
    commands = [
        {
            **{name: row[name] for name in ("attack", "epsilon", "target", "key", "id")},
            "command": start + shlex.quote(f"{row['key']}:{row['id']}"),
        }
        for row in chosen.iter_rows(named=True)
    ]
    return {
        "n": len(found),
        "rule": f"{start}KEY:ID",
        "commands": commands,
        "why": None if len(found) else "no attack had a success",
    }


def place_of(folder: Path) -> str:
    """An evaluation's folder as a command names it: from the working directory, or from the folder of all runs."""
    here = Path.cwd()
    if folder.absolute().is_relative_to(here):
        return folder.absolute().relative_to(here).as_posix()
    deep = 4 if folder.parent.name in FURTHER else 3
    return Path(*folder.absolute().parts[-deep:]).as_posix()


def evidence_shown(folder: str | Path) -> dict[str, Any] | None:
    """What the page's section shows of ``evidence.json``; None if there is none, or one of another version.

    Args:
        folder: The folder of the evaluation.
    """
    try:
        found = json.loads((Path(folder) / EVIDENCE).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        return None
    parts = [
        ("Threat model", "threat_model"),
        ("FDA", "fda"),
        ("ISO/IEC 24029", "iso_24029"),
        ("AI Act, art. 15", "ai_act"),
    ]
    tables = []
    for heading, name in parts:
        fields: list[Field] = list(found[name]["fields"].values())
        answered = sum(one["assessed"] for one in fields)
        tables.append({"heading": heading, "source": found[name]["source"], "fields": fields, "assessed": answered})
    commands = [{**one, "radius": format_epsilon(one["epsilon"])} for one in found["counterexamples"]["commands"][:8]]
    return {
        "note": found["note"],
        "tables": tables,
        "fingerprints": found["fingerprints"],
        "counterexamples": {**found["counterexamples"], "commands": commands},
    }
