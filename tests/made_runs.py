"""Runs with results made by hand: who is right about which image, clean and under each attack."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrobust.results.manifest import write_manifest
from medrobust.results.records import Journal, merge
from medrobust.results.summary import write_summary
from tests.sample_record import record


def key_of(name: str, number: int) -> str:
    """Key of an attack of a run by their name and number."""
    return f"{zlib.crc32(name.encode()):08x}{number:08x}"


METHODS = {"noise": "UniformNoise", "cw2": "CarliniWagner"}


def write_run(
    root: Path,
    name: str,
    attacks: Mapping[tuple[str, float | None], str],
    clean: str = "",
    *,
    ids: Sequence[str] = (),
    patients: Sequence[str | None] = (),
    targets: Sequence[int] = (),
    predictions: Mapping[tuple[str, float | None], Sequence[int]] | None = None,
    distances: Sequence[float] = (),
    parameters: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    victim: Mapping[str, Any] | None = None,
    place: str = "evaluate",
    **changes: Any,
) -> Path:
    """Write a run and return its folder.

    Args:
        root: Folder of the runs.
        name: Name of the run.
        attacks: By name and radius a letter for each image: 1 right, 0 wrong, - not tried. Attacks without a radius
            look for the smallest perturbation.
        clean: The same for the clean images; all right by default.
        ids: Names of the images; numbers by default.
        patients: The patient of each; a new one for each image by default.
        targets: True class of each; 0 by default.
        predictions: Classes predicted after an attack, where they are not 0 for right and 1 for wrong.
        distances: L-infinity distance that an attack without a radius needs.
        parameters: Further parameters of all attacks.
        data: Changes of the manifest's data.
        victim: Changes of the manifest's victim.
        place: The folder of the evaluation within the run.
        changes: Of all records.
    """
    folder = root / name / place
    images = len(next(iter(attacks.values())))
    clean, ids = clean or "1" * images, list(ids) or [f"{image}.png" for image in range(images)]
    entries, records = [], []
    for number, ((attack, epsilon), right) in enumerate(attacks.items()):
        key = key_of(name, number)
        method = METHODS.get(attack, "PGD")
        entry = {"attack": attack, "method": method, "epsilon": epsilon, "key": key, "norm": "linf"}
        entry |= {"control": attack == "noise", "minimal": epsilon is None}
        entries.append(entry | {"parameters": {"class": method, "epsilon": epsilon, "steps": 20, **(parameters or {})}})
        for image, letter in enumerate(right):
            if letter == "-":
                continue
            target = targets[image] if targets else 0
            before, after = clean[image] == "1", letter == "1"
            given = (predictions or {}).get((attack, epsilon))
            after_class = given[image] if given else target if after else 1 - target
            one = record(ids[image], key, run=name, attack=attack, method=method, epsilon=epsilon, target=target)
            one |= {"patient": patients[image] if patients else f"patient {image}"}
            one |= {"clean_prediction": target if before else 1 - target, "adversarial_prediction": after_class}
            one |= {"correct_before": before, "correct_after": after, "reached": not after}
            one |= {"success": before and not after, "linf": distances[image] if epsilon is None else epsilon}
            records.append(one | changes)
    header = {"name": "phantom", "split": "adv_test", "images": images, "fingerprint": "f00d", "task": "classification"}
    header |= {"class_names": ["NORMAL", "PNEUMONIA"], **(data or {})}
    manifest = {"schema": 1, "run": name, "created": "2026-01-02T03:04:05Z", "data": header, "attacks": entries}
    manifest |= {"victim": {"name": "resnet10t", "weights": name, **(victim or {})}, "listeners": {}}
    write_manifest(folder, manifest)
    with Journal(folder) as journal:
        journal.append(records)
    merge(folder)
    write_summary(folder)
    return root / name
