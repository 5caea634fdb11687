"""The journal: one record for each image and attack, written as soon as there is one, resumed after a kill."""

import logging
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import timm
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from medrobust.evaluation.plan import AdversarialBatch, EvaluationPlan
from medrobust.results.manifest import SCHEMA, write_manifest
from medrobust.results.records import Journal, finished

logger = logging.getLogger(__name__)


class RecordJournal(Callback):
    """Writes every attacked image's record to the evaluation's folder, one file for each rank.

    The images that the journal holds already, from a run that was killed or from another number of ranks, are not
    attacked again. Records are told apart by a hash of victim, data and attack, so that a changed victim or attack
    starts anew and nothing is mixed.

    Args:
        folder: Folder of the evaluation; the command line sets ``runs/NAME/evaluate``.
        run: Name of the run.
        resume: Keep what the journal holds; with False everything is attacked anew, and the old records are deleted
            at the end.
        seed: Seed of the run, for the report.
    """

    def __init__(self, folder: str = "", run: str = "", resume: bool = True, seed: int | None = None) -> None:
        """Keep the settings; nothing is written yet."""
        self.folder, self.run, self.resume, self.seed = folder, run, resume, seed
        self._journal: Journal | None = None
        self._old: list[Path] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note which files there are before any rank writes: Lightning lets the ranks wait for each other behind this.

        Raises:
            ValueError: No folder is given.
        """
        if stage == "fit":
            return
        if not self.folder:
            raise ValueError("the journal needs the folder of the evaluation, journal.folder, and got none")
        self._old = [] if self.resume else sorted(Path(self.folder).glob("journal/*.jsonl"))

    def on_evaluation_plan(self, trainer: pl.Trainer, victim: pl.LightningModule, plan: EvaluationPlan) -> None:
        """Write the manifest, and say which images are done."""
        folder = Path(self.folder)
        if trainer.is_global_zero:
            write_manifest(folder, self._manifest(trainer, victim, plan))
        if self.resume:
            for key, ids in finished(folder, [planned.key for planned in plan.attacks]).items():
                plan.done.setdefault(key, set()).update(ids)
        self._journal = Journal(folder, trainer.global_rank)

    def on_adversarial_batch_end(
        self, trainer: pl.Trainer, victim: pl.LightningModule, batch: AdversarialBatch
    ) -> None:
        """Write a batch's records in one go, after every listener has added its columns."""
        assert self._journal is not None
        self._journal.append(self._records(victim, batch))

    def on_evaluation_end(self, trainer: pl.Trainer, victim: pl.LightningModule, plan: EvaluationPlan) -> None:
        """Close this rank's file, and delete what is not to be kept: had the run died before, nothing would be lost."""
        assert self._journal is not None
        self._journal.close()
        if trainer.is_global_zero:
            for file in self._old:
                file.unlink(missing_ok=True)

    def _records(self, victim: Any, batch: AdversarialBatch) -> list[dict[str, Any]]:
        difference = (batch.adversarial - batch.clean).flatten(1)
        before = victim.decisions(batch.clean_outputs) if hasattr(victim, "decisions") else None
        after = victim.decisions(batch.adversarial_outputs) if hasattr(victim, "decisions") else None
        planned, count = batch.planned, len(batch.ids)
        nothing = [None] * count
        per_image: dict[str, list[Any]] = {
            "id": batch.ids,
            "patient": [batch.plan.patients.get(id) for id in batch.ids],
            "target": _classes(batch.targets) or nothing,
            "goal": _classes(batch.goals) or nothing,
            "clean_prediction": before[0].tolist() if before else nothing,
            "adversarial_prediction": after[0].tolist() if after else nothing,
            "clean_confidence": before[1].tolist() if before else nothing,
            "adversarial_confidence": after[1].tolist() if after else nothing,
            "correct_before": batch.correct_before.tolist(),
            "correct_after": batch.correct_after.tolist(),
            "reached": batch.success.tolist(),
            "success": (batch.correct_before & batch.success).tolist(),
            "quality_before": nothing,
            "quality_after": nothing,
            "linf": difference.abs().amax(1).tolist(),
            "l2": torch.linalg.vector_norm(difference.double(), dim=1).tolist(),
            "l0": (difference != 0).sum(1).tolist(),
            "forwards": batch.forwards.tolist(),
            "backwards": batch.backwards.tolist(),
            "zero_gradients": batch.zero_gradients.tolist(),
            "var": _defined((difference / planned.epsilon).var(1, correction=0)) if planned.epsilon else nothing,
            **{name: _defined(values) for name, values in {**batch.measures, **batch.columns}.items()},
        }
        shared = {
            "key": planned.key,
            "run": self.run,
            "victim": str(batch.plan.victim.get("backbone", type(victim).__name__)),
            "dataset": str(batch.plan.data["name"]),
            "split": batch.plan.split,
            "attack": planned.name,
            "method": type(planned.attack).__name__,
            "epsilon": planned.epsilon,
            "seed": planned.attack.seed,
        }
        rows = [dict(zip(per_image, values, strict=True)) for values in zip(*per_image.values(), strict=True)]
        return [{**shared, **row} for row in rows]

    def _manifest(self, trainer: pl.Trainer, victim: pl.LightningModule, plan: EvaluationPlan) -> dict[str, Any]:
        data = {**plan.data, "images": len(plan.images)}
        size, channels = data.get("image_size"), data.get("channels")
        checkpoint = Path(str(trainer.ckpt_path)).name if trainer.ckpt_path else None
        return {
            "schema": SCHEMA,
            "run": self.run,
            "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "seed": self.seed,
            "victim": {
                "name": plan.victim.get("backbone", type(victim).__name__),
                **{name: value for name, value in plan.victim.items() if name != "backbone"},
                "parameters": sum(parameter.numel() for parameter in victim.parameters()),
                "input": [channels, size, size],
                "checkpoint": checkpoint,
            },
            "data": data,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "pytorch_lightning": pl.__version__,
                "timm": timm.__version__,
            },
            "device": device_name(victim.device),
            "world_size": trainer.world_size,
            "command": command_line(),
            "listeners": plan.listeners,
            "attacks": [planned.entry() for planned in plan.attacks],
        }


def device_name(device: torch.device) -> str:
    """Kind of a device, with the GPU's name if it is one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def command_line() -> str:
    """The command as a reader can type it: of absolute paths, which are one machine's, only the last part."""
    return shlex.join(["python", Path(sys.argv[0]).name, *map(_without_folders, sys.argv[1:])])


def _without_folders(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else argument


def _defined(values: Tensor) -> list[Any]:
    """Numbers of a column, None for NaN."""
    return [None if value != value else value for value in values.tolist()]


def _classes(targets: Any) -> list[int] | None:
    """Class labels as numbers; None for targets that are not one class an image."""
    return targets.tolist() if isinstance(targets, Tensor) and targets.ndim == 1 else None
