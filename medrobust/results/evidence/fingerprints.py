"""What made the numbers of an evaluation, as hashes and versions: weights, data, files, code and machine."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medrobust.results.evaluations import run_folder_of
from medrobust.results.evidence.fields import Field, answered, either, open_field
from medrobust.results.records import RECORDS

EARLIER = "the manifest is of a version that did not record it"


def fingerprints(manifest: Mapping[str, Any], folder: Path) -> dict[str, Field]:
    """Hashes and versions, as fields.

    Args:
        manifest: The manifest of an evaluation.
        folder: Its folder; the run's is the one above, and files are taken as they are now.

    Returns:
        ``weights`` (16 hex digits over names and values of all tensors), ``checkpoint``, ``data`` (16 hex digits over
        all that decides the images), ``records``, ``evaluate.yaml`` (and ``evaluate-N.yaml`` of earlier commands),
        ``train.yaml`` and ``splits.csv`` (SHA-256 of the files), ``code`` (version, commit, whether files have changed
        since), ``environment``, ``seeds`` and ``command``.
    """
    victim, run = manifest.get("victim") or {}, run_folder_of(folder)
    weights = victim.get("weights")
    data = manifest["data"].get("fingerprint")
    return {
        "weights": either("The victim's weights", weights, EARLIER, {"digest": weights}),
        "checkpoint": _checkpoint(manifest, folder, run),
        "data": either("The images, their targets and their preparation", data, EARLIER, {"fingerprint": data}),
        "records": _of_file("The records", folder / RECORDS),
        "evaluate.yaml": _of_file("The configuration of the evaluation", folder / "evaluate.yaml"),
        **{
            path.name: _of_file("The configuration of an earlier command", path)
            for path in sorted(folder.glob("evaluate-*.yaml"))
        },
        "train.yaml": _of_file("The configuration of the training", run / "train.yaml"),
        "splits.csv": _of_file("The splits", folder / "splits.csv"),
        "code": _code(manifest.get("code")),
        "environment": _environment(manifest),
        "seeds": _seeds(manifest),
        "command": either("The command", manifest.get("command"), EARLIER),
    }


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_file(asks: str, path: Path) -> Field:
    if not path.is_file():
        return open_field(f"{asks}: SHA-256 of {path.name}", f"there is no {path.name}")
    found = sha256(path)
    return answered(f"{asks}: SHA-256 of {path.name}", found, {"sha256": found, "bytes": path.stat().st_size})


def _checkpoint(manifest: Mapping[str, Any], folder: Path, run: Path) -> Field:
    """The hash of the file that the configuration names, where it still lies, or where the run has been moved to."""
    asks = "The checkpoint: SHA-256 of the file"
    name = (manifest.get("victim") or {}).get("checkpoint")
    if not name:
        return open_field(asks, "the victim comes from no checkpoint that is known")
    given = _configured(folder / "evaluate.yaml")
    if given is None:
        return open_field(asks, "no configuration says where it lies")
    of_run = given.parent.name == "checkpoints" and given.parent.parent.as_posix().endswith(str(manifest["run"]))
    places = [run / "checkpoints" / given.name, given] if of_run else [given]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return open_field(asks, f"{name} does not lie where it did")
    found = sha256(path)
    return answered(asks, f"{found} ({name})", {"sha256": found, "bytes": path.stat().st_size, "name": name})


def _configured(path: Path) -> Path | None:
    """The checkpoint that a configuration names at its top level."""
    if not path.is_file():
        return None
    line = re.search(
        r"^ckpt_path: *(['\"]?)(.+?)\1 *$", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
    )
    return None if line is None or line[2] == "null" else Path(line[2])


def _code(code: Mapping[str, Any] | None) -> Field:
    asks = "The code: version, commit, and whether files have changed since"
    if not code:
        return open_field(asks, EARLIER)
    commit, changed = code.get("commit"), code.get("changed")
    words = f"MedRobust {code.get('version') or 'of no known version'}"
    state = "" if changed is None else ", with changes since" if changed else ", without changes"
    words += f", commit {commit}{state}" if commit else ", not in a checkout of its own"
    return answered(asks, words, dict(code))


def _environment(manifest: Mapping[str, Any]) -> Field:
    asks = "Python, packages, device and system"
    values = {
        **(manifest.get("versions") or {}),
        **{name: manifest[name] for name in ("device", "world_size") if name in manifest},
        **(manifest.get("environment") or {}),
    }
    words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
    if words and not manifest.get("environment"):
        words += "; system and threads were not recorded by that version"
    return either(asks, words or None, EARLIER, values)


def _seeds(manifest: Mapping[str, Any]) -> Field:
    asks = "Seeds of the run and of the attacks"
    seeds = {str(entry["attack"]): (entry.get("parameters") or {}).get("seed") for entry in manifest["attacks"]}
    every = sorted({seed for seed in seeds.values() if seed is not None})
    run = manifest.get("seed")
    words = f"run {'none' if run is None else run}; attacks {', '.join(map(str, every)) or 'none'}"
    return answered(asks, words, {"run": run, "attacks": seeds})
