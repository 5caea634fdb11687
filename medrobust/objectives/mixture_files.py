"""Fitted mixtures on disk, so that those of a victim are fitted once for all its evaluations."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import safe_open
from safetensors.torch import save

from medrobust.objectives.gaussian_mixture import Mixture

LayerMixtures = dict[str, list[Mixture]]  # by layer, one mixture per class


def load_or_fit(folder: Path | None, identity: Sequence[Any], fit: Callable[[], LayerMixtures]) -> LayerMixtures:
    """Mixtures from a file, or fitted now and written to it.

    Args:
        folder: Folder of the files; None reads and writes none.
        identity: Everything that decides the mixtures (victim, clean images, settings), as plain values for JSON.
        fit: Fits the mixtures.
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


def _read(path: Path, identity: str) -> LayerMixtures | None:
    """The mixtures of a file; None if it does not exist, is damaged or has another identity."""
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


def _write(path: Path, identity: str, mixtures: LayerMixtures) -> None:
    """Write the file as a whole or not at all, because several processes may write it at once."""
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
        draft.write_bytes(save(tensors, about))
        os.replace(draft, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        draft.unlink(missing_ok=True)
