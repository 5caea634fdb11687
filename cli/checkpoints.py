"""Which checkpoint a command means, and whether it fits the victim."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch


def find_checkpoint(wanted: str | Path | None, folder: Path, required: bool) -> str | None:
    """Resolve ``best`` and ``last`` to the run's own checkpoints, anything else to a file.

    Raises:
        ValueError: There is no such file, or none is named where one is needed.
    """
    if wanted is None and not required:
        return None
    if wanted is None:
        raise ValueError("which weights? give --ckpt_path best, last or a checkpoint's path")
    named = str(wanted) in ("best", "last")
    path = folder / "checkpoints" / f"{wanted}.ckpt" if named else Path(wanted)
    if not path.is_file():
        hint = "; fine-tune the victim first (train.py fit)" if named else ""
        raise ValueError(f"there is no checkpoint {path}{hint}")
    return str(path)


def check_checkpoint(path: Path, victim: pl.LightningModule) -> None:
    """Refuse a checkpoint that was made of another network.

    Raises:
        ValueError: Says what the checkpoint holds and what the configuration asks for.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state, _ = checkpoint["state_dict"], checkpoint["pytorch-lightning_version"]
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint that Lightning wrote ({type(error).__name__})") from error
    own = victim.state_dict()
    differing = [name for name in own if name in state and state[name].shape != own[name].shape]
    names = sorted(own.keys() ^ state.keys())
    if not differing and not names:
        return
    held: dict[str, Any] = checkpoint.get("victim", {})
    asked: dict[str, Any] = getattr(victim, "description", dict)()
    described = [
        f"{name} {held[name]!r} (configured: {asked[name]!r})"
        for name in asked
        if held.get(name, asked[name]) != asked[name]
    ]
    what = ", ".join(described) or f"{len(names)} other tensors and {len(differing)} of another shape"
    raise ValueError(f"{path} holds another network than the configuration: {what}")
