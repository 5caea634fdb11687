"""Finds the checkpoint that a command means, and checks that it fits the victim."""

from pathlib import Path
from typing import Any

import torch

from lightning_modules import VictimModule


def find_checkpoint(wanted: str | Path | None, folder: Path, required: bool) -> str | None:
    """Path of the checkpoint: ``best`` and ``last`` are those of the run, anything else is a file.

    Args:
        wanted: As given by ``--ckpt_path``; None if it was not given.
        folder: The run's folder.
        required: Whether the command needs a checkpoint.

    Raises:
        ValueError: The file does not exist, or none is named although the command needs one.
    """
    if wanted is None and not required:
        return None
    if wanted is None:
        raise ValueError("no checkpoint is given: add --ckpt_path best, --ckpt_path last or --ckpt_path FILE")
    named = str(wanted) in ("best", "last")
    path = folder / "checkpoints" / f"{wanted}.ckpt" if named else Path(wanted)
    if not path.is_file():
        hint = "; fine-tune the victim first (train.py fit), or give another run's file" if named else ""
        raise ValueError(f"there is no checkpoint {path}{hint}")
    return str(path)


def check_checkpoint(path: Path, victim: VictimModule) -> None:
    """Refuse a checkpoint whose network is not the configured one.

    Args:
        path: A checkpoint file.
        victim: The victim as configured.

    Raises:
        ValueError: The file is no checkpoint, or its network differs; the message says in what.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state, _ = checkpoint["state_dict"], checkpoint["pytorch-lightning_version"]
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint written by Lightning ({type(error).__name__})") from error
    expected = victim.state_dict()
    reshaped = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    unmatched = expected.keys() ^ state.keys()
    if not reshaped and not unmatched:
        return
    stored: dict[str, Any] = checkpoint.get("victim", {})
    differences = [
        f"{name} {stored[name]!r} (configured: {value!r})"
        for name, value in victim.description().items()
        if stored.get(name, value) != value
    ]
    what = ", ".join(differences) or f"{len(unmatched)} tensors without a counterpart, {len(reshaped)} of another shape"
    raise ValueError(f"{path} holds another network than the one configured: {what}")
