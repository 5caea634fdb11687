"""Finds the checkpoint that a command means, and checks that it fits the victim."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules import ClassificationDataModule, MedicalDataModule
from lightning_modules import VictimModule
from medrobust.networks import SeenImages


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


def check_checkpoint(path: Path, victim: VictimModule, data: MedicalDataModule) -> None:
    """Refuse a checkpoint whose network, normalisation or classes are not the configured ones.

    Args:
        path: A checkpoint file.
        victim: The victim as configured.
        data: The data as configured; they need not be set up.

    Raises:
        ValueError: The file is no checkpoint, or differs from what is configured; the message says in what.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state, _ = checkpoint["state_dict"], checkpoint["pytorch-lightning_version"]
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint written by Lightning ({type(error).__name__})") from error
    expected = victim.state_dict()
    for name in ("mean", "std"):
        held, configured = (one[name].flatten() if name in one else None for one in (state, expected))
        if held is not None and configured is not None and not torch.equal(held, configured):
            raise ValueError(
                f"{path} was trained with {name} {_shown(held)}, and {name} {_shown(configured)} is configured: "
                f"give model.init_args.{name} as in the run's train.yaml"
            )
    _check_facts(path, checkpoint.get("trained_on"), data)
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


def _check_facts(path: Path, stored: object, data: MedicalDataModule) -> None:
    """Refuse data whose classes or channels are not those that a checkpoint was trained on."""
    seen = SeenImages.stored(stored)
    facts = {} if seen is None else seen.facts
    compared: list[tuple[str, object]] = [("channels", data.channels)]
    if not (data.test_split == "all" and isinstance(data, ClassificationDataModule)):  # which takes the victim's
        compared.insert(0, ("class_names", list(data.class_names)))
    for name, configured in compared:
        if name in facts and facts[name] != configured:
            raise ValueError(f"{path} was trained on data with {name} {facts[name]}, and these data have {configured}")


def _shown(values: Tensor) -> str:
    """One number, or one for each channel."""
    numbers = [f"{value:.6g}" for value in values.tolist()]
    return numbers[0] if len(numbers) == 1 else f"[{', '.join(numbers)}]"
