"""What a description has found in a dataset, kept where the next evaluation of the same images finds it."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from datamodules.content import Content, cache_folder
from datamodules.samples import Sample

VERSION = 1  # of what findings mean


def findings_key(
    splits: Mapping[str, list[Sample[Any]]], written: Mapping[str, Any], contents: Mapping[str, Content], meaning: Any
) -> str:
    """16 hex digits over what decides findings: the images of each split, their content, targets and patients.

    Args:
        splits: The samples of each split.
        written: Their targets by id, as split files state them.
        contents: What they hold, by id.
        meaning: What the targets stand for, ready for JSON.
    """
    digest = hashlib.sha256(json.dumps([VERSION, meaning]).encode())
    for split in sorted(splits):
        rows = [[one.id, written[one.id], one.patient, contents[one.id].data] for one in splits[split]]
        digest.update(json.dumps([split, sorted(rows)]).encode())
    return digest.hexdigest()[:16]


def kept_findings(key: str) -> dict[str, Any] | None:
    """The findings that are kept for a key; None where nobody has described these data."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        found = json.loads((folder / "findings" / f"{key}.json").read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def keep_findings(key: str, findings: Mapping[str, Any]) -> bool:
    """Keep findings, by replacing their file as a whole; whether that was possible."""
    folder = cache_folder()
    if folder is None:
        return False
    path = folder / "findings" / f"{key}.json"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(findings, file, allow_nan=False)
            os.replace(temporary, path)
            return True
        finally:
            Path(temporary).unlink(missing_ok=True)
    return False
