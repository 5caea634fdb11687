"""Fitted mixtures on disk, so that a victim's are fitted once for all its evaluations."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import safe_open
from safetensors.torch import save_file

from medrobust.objectives.gaussian_mixture import Mixture

Fitted = dict[str, list[Mixture]]  # by layer, one for each class


def kept(folder: Path | None, identity: Sequence[Any], fit: Callable[[], Fitted]) -> Fitted:
    """Mixtures from a file, or fitted and written to it.

    Args:
        folder: Folder of the files; None keeps none.
        identity: All that decides the mixtures, ready for JSON: victim, clean images, settings.
        fit: Fits them.
    """
    if folder is None:
        return fit()
    text = json.dumps(identity)
    path = folder / f"mixtures-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"
    found = _read(path, text)
    if found is None:
        found = fit()
        _write(path, text, found)
    return found


def _read(path: Path, identity: str) -> Fitted | None:
    """The mixtures of a file; None if there is none, or one that is damaged or of something else."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("identity") != identity:
                return None
            numbers: dict[str, int] = json.loads(about["layers"])
            names = [field.name for field in fields(Mixture)]
            return {
                layer: [
                    Mixture(**{name: file.get_tensor(f"{place}/{label}/{name}").clone() for name in names})
                    for label in range(classes)
                ]
                for place, (layer, classes) in enumerate(numbers.items())
            }
    except Exception:  # whatever is wrong with the file, the mixtures can be fitted again
        return None


def _write(path: Path, identity: str, mixtures: Fitted) -> None:
    """Write the file as a whole or not at all; several processes write the same."""
    tensors = {
        f"{place}/{label}/{field.name}": getattr(mixture, field.name).detach().cpu().contiguous().clone()
        for place, parts in enumerate(mixtures.values())
        for label, mixture in enumerate(parts)
        for field in fields(Mixture)
    }
    about = {"identity": identity, "layers": json.dumps({layer: len(parts) for layer, parts in mixtures.items()})}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        save_file(tensors, draft, about)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
