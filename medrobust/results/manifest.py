"""The manifest of an evaluation, which says what was attacked, how and where; and the atomic replacement of files."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
SCHEMA = 1


def replace_file(path: Path, content: bytes) -> Path:
    """Write a file atomically: readers see the old content or the new, never a part, even if the process is killed.

    Args:
        path: The file to create or replace; its folder is created if it does not exist.
        content: The whole content.

    Returns:
        `path`.

    Raises:
        ValueError: The path names no file.
        OSError: It cannot be written; names `path`.
    """
    if not path.name:
        raise ValueError(f"the name of a file to write was expected, got {str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            temporary.write_bytes(content)
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of the system name the file that was to be written: those of a full disk name none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, value: Mapping[str, Any]) -> Path:
    """Write a JSON object atomically, with its keys in the order given.

    Raises:
        ValueError: If a number is NaN or infinite: undefined values are None, so either is a bug.
    """
    return replace_file(path, (json.dumps(value, allow_nan=False, indent=1) + "\n").encode())


def write_manifest(folder: str | Path, manifest: Mapping[str, Any]) -> Path:
    """Check the manifest of an evaluation as `read_manifest` does, and write it into the evaluation's folder."""
    path = Path(folder) / MANIFEST
    check_manifest(manifest, path)
    return write_json(path, manifest)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read the manifest of an evaluation.

    It is an object with `schema`, `run`, `data` (with at least `images`, the number of images) and `attacks`: a list of
    objects with `attack` (name in the configuration), `method` (class), `epsilon` (radius in units of the [0, 1] image
    range, or None), `key` (hash of victim, data and parameters), `parameters` and `control`. `data` may name the `task`
    of the victim. An attack may name the `norm` of its radius, "linf" by default; the self-checks compare only those
    radii with the L-infinity norm of the perturbation.

    Args:
        folder: The folder of the evaluation.

    Raises:
        ValueError: If there is no manifest, or it is not JSON, has another schema or lacks a required entry.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{folder} is not the folder of an evaluation: it has no {MANIFEST}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    check_manifest(manifest, path)
    return dict(manifest)


def task_of(manifest: Mapping[str, Any]) -> str:
    """Task of the victim: "classification" unless the data name another one."""
    return str(manifest["data"].get("task", "classification"))


def check_manifest(manifest: object, path: Path) -> None:
    """Refuse a manifest of another schema, or without what `read_manifest` says that it has.

    Args:
        manifest: The manifest.
        path: The file that holds it.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(manifest, Mapping) or manifest.get("schema") != SCHEMA:
        schema = manifest.get("schema") if isinstance(manifest, Mapping) else None
        raise ValueError(f"{path}: this version reads manifests of schema {SCHEMA}, got {schema}")
    missing = [name for name in ("run", "data", "attacks") if name not in manifest]
    data, attacks = manifest.get("data"), manifest.get("attacks")
    if missing or not isinstance(data, Mapping) or not isinstance(data.get("images"), int):
        raise ValueError(f"{path}: the manifest lacks {', '.join(missing) or 'data.images, the number of images'}")
    if not isinstance(attacks, Sequence) or isinstance(attacks, str):
        raise ValueError(f"{path}: the attacks of a manifest are a list, got {attacks!r}")
    for entry in attacks:
        if not isinstance(entry, Mapping) or "attack" not in entry or "key" not in entry:
            got = sorted(entry) if isinstance(entry, Mapping) else entry
            raise ValueError(f"{path}: every attack of a manifest needs 'attack' and 'key', got {got}")
