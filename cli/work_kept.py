"""What is there when a command ends: records, checkpoints, or nothing that could be used."""

import errno
import math
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from cli.endings import UnfinishedError
from medrobust.results.manifest import read_manifest
from medrobust.results.records import finished

AGAIN = "run the same command again"


def kept_records(folder: Path, resume: bool) -> str:
    """Says how many records an evaluation has kept, and how it goes on.

    Args:
        folder: The evaluation's folder.
        resume: Whether the same command goes on with them.
    """
    try:
        manifest = read_manifest(folder)
        done = finished(folder, [entry["key"] for entry in manifest["attacks"]])
    except (ValueError, OSError):
        return f"no records are kept yet; {AGAIN}"
    count = sum(map(len, done.values()))
    total = manifest["data"]["images"] * len(manifest["attacks"])
    if not count:
        return f"no records are kept yet; {AGAIN}"
    how = AGAIN if resume else "the same command without --journal.resume false goes on from there"
    return f"{count} of {total} records are kept; {how}"


def kept_training(folder: Path, begun: float, resumed: str | None) -> str:
    """Says from which checkpoint a training can go on.

    Args:
        folder: The folder of its checkpoints.
        begun: When it was begun, in seconds since the epoch.
        resumed: The checkpoint that it was itself resumed from.
    """
    last = folder / "last.ckpt"
    try:
        written = last.stat().st_mtime
    except OSError:
        written = -math.inf
    if written >= begun - 1:  # clocks of file systems are coarse
        return f"training can be resumed from {last}; {AGAIN} with --ckpt_path last"
    if resumed:
        return f"no further checkpoint is kept than {resumed}; {AGAIN}"
    return f"no checkpoint is kept yet; {AGAIN}"


def steps_of(checkpoint: Path) -> int | None:
    """The number of optimiser steps that a checkpoint is of; None for one that does not say, or cannot be read."""
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except Exception:  # whatever is wrong with it, whoever needs it will say so
        return None


def nothing_left(trainer: pl.Trainer) -> str:
    """Says that a training was resumed that had come to its end before, and how it would go on."""
    done = trainer.fit_loop.epoch_progress.current.completed
    epochs = "1 epoch is done" if done == 1 else f"{done} epochs are done"
    return f"nothing is left to train: {epochs}; give more with --trainer.max_epochs (now {trainer.max_epochs})"


def check_trained(trainer: pl.Trainer) -> None:
    """Refuse a training that has diverged or has made no checkpoint.

    Raises:
        UnfinishedError: Says which, and what there is.
    """
    watched = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.monitor]
    if getattr(trainer, "fast_dev_run", False) or not watched or not trainer.is_global_zero:
        return
    best = watched[0]
    path = Path(best.best_model_path) if best.best_model_path else None
    last: Any = trainer.callback_metrics.get(str(best.monitor))
    score = None if best.best_model_score is None else float(best.best_model_score)
    if path is None and best.last_model_path and Path(best.last_model_path).is_file():
        return  # without validation there is no best epoch
    if path is None or not path.is_file():
        measured = "" if last is not None else f", and {best.monitor} was never measured"
        raise UnfinishedError(f"training has made no checkpoint{measured}: it ended after {trainer.global_step} steps")
    loss: Any = trainer.callback_metrics.get("val/loss")
    if score is not None and not math.isfinite(score) and loss is not None and math.isfinite(float(loss)):
        raise UnfinishedError(
            f"{best.monitor} is not defined for the images of val, as mAP without any true box among them, though "
            f"val/loss is {float(loss):.4f}: {path} is the first epoch's. Give val other images, or choose by "
            "--checkpoint.monitor val/loss --checkpoint.mode min"
        )
    if score is not None and not math.isfinite(score):
        raise UnfinishedError(
            f"training has diverged: {best.monitor} was {score} from the first epoch on, so that {path} is of no use; "
            "try a smaller learning rate"
        )
    if last is not None and not math.isfinite(float(last)):
        raise UnfinishedError(
            f"training has diverged: {best.monitor} is {float(last)} after the last epoch; {path} is the best "
            f"checkpoint of the epochs before ({score:.4f}); try a smaller learning rate"
        )


def describe(error: OSError) -> str:
    """What the system refused, in one sentence that names the file."""
    reasons = {
        errno.ENOSPC: "no space left on device",
        errno.EDQUOT: "no space left: the quota is used up",
        errno.EROFS: "it cannot be written, because the file system is read-only",
        errno.EACCES: "it cannot be read or written: permission denied",
        errno.EPERM: "it cannot be read or written: operation not permitted",
        errno.ENAMETOOLONG: "the name is too long",
        errno.EEXIST: "a file is there already, where a folder is needed",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
        errno.EISDIR: "it is a folder, where a file is needed",
        errno.EMFILE: "too many files are open",
    }
    number = error.errno or 0
    reason = reasons.get(number) or (error.strerror or os.strerror(number)).lower()
    name = os.fsdecode(error.filename2 or error.filename or "") if not isinstance(error.filename, int) else ""
    if not name:
        return f"a file could not be read or written: {reason}"
    return f"{name if len(name) <= 120 else name[:60] + '...' + name[-57:]}: {reason}"
