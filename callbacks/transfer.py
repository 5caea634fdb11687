"""Transfer: what was crafted on one victim is judged by others in the same pass (SBF20 Table 1)."""

import re
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from medrobust.evaluation.deployment import judging
from medrobust.evaluation.plan import AdversarialBatch, weights_hash


class Transfer(Callback):
    """Shows every adversarial image to other victims of the same task, the judges.

    Each judge adds three columns to the records: ``judge_NAME_before`` and ``judge_NAME_after``, whether it is right
    about the clean and about the adversarial image, and ``judge_NAME_success``, whether the attack reached its aim
    with it. A judge that has the victim's own weights shows the white-box rate, the diagonal of the matrix.

    Args:
        judges: By name, a run's folder (its best checkpoint is taken) or a checkpoint, written by ``train.py``.

    Raises:
        ValueError: A name is not made of letters, digits, ``-`` and ``_``; or (at set-up) a checkpoint does not exist
            or is of another kind of victim.
    """

    def __init__(self, judges: dict[str, str] | None = None) -> None:
        """Keep the names; nothing is read yet."""
        self.judges = dict(judges or {})
        for name in self.judges:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"a judge's name is made of letters, digits, - and _, got {name!r}")
        self._victims: dict[str, Any] = {}
        self._before: tuple[list[str], dict[str, Tensor]] = ([], {})

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Load the judges, before any image is read.

        Raises:
            ValueError: A judge cannot be had, or does not fit the victim.
        """
        if stage == "fit":
            return
        for name, path in self.judges.items():
            self._victims[name] = victim_beside(pl_module, path, f"judge {name}", trainer.strategy.root_device)

    def on_evaluation_identity(self, trainer: pl.Trainer, victim: pl.LightningModule, attacks: Any) -> dict[str, Any]:
        """Name the judges and their weights: other judges give other columns."""
        if not self._victims:
            return {}
        return {"judges": {name: weights_hash(judge) for name, judge in self._victims.items()}}

    def on_adversarial_batch(self, trainer: pl.Trainer, victim: pl.LightningModule, batch: AdversarialBatch) -> None:
        """Add each judge's columns."""
        attack, aims = batch.planned.attack, batch.targets if batch.goals is None else batch.goals
        if self._before[0] != batch.ids:
            self._before = (batch.ids, {})
        for name, judge in self._victims.items():
            with judging(judge):
                if name not in self._before[1]:
                    self._before[1][name] = ~judge.fooled(judge(batch.clean), batch.targets)
                outputs = judge(batch.adversarial)
                batch.columns[f"judge_{name}_before"] = self._before[1][name]
                batch.columns[f"judge_{name}_after"] = ~judge.fooled(outputs, batch.targets)
                batch.columns[f"judge_{name}_success"] = attack.reached(judge, outputs, aims)

    def on_evaluation_end(self, trainer: pl.Trainer, victim: pl.LightningModule, plan: Any) -> None:
        """Let the last batch go."""
        self._before = ([], {})

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let the judges go."""
        self._victims = {}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def victim_beside(victim: Any, path: str, what: str, device: torch.device) -> Any:
    """Another victim of the same task, frozen, on a device.

    Args:
        victim: The victim under evaluation.
        path: The other one's run or checkpoint.
        what: What the other one is, as an error names it.
        device: Where it shall be.

    Raises:
        ValueError: It cannot be had, or does not fit the victim.
    """
    other = type(victim).from_checkpoint(checkpoint_of(path))
    own, theirs = victim.description(), other.description()
    for fact in ("num_classes", "channels"):
        if own.get(fact) != theirs.get(fact):
            raise ValueError(f"{what} has {fact} {theirs.get(fact)}, the victim {own.get(fact)}")
    return other.to(device).eval().requires_grad_(False)


def checkpoint_of(path: str | Path) -> Path:
    """A checkpoint, or a run's best one.

    Raises:
        ValueError: There is none.
    """
    found = Path(path) / "checkpoints" / "best.ckpt" if Path(path).is_dir() else Path(path)
    if not found.is_file():
        raise ValueError(f"there is no checkpoint {found}: a run's folder or a checkpoint of train.py is needed")
    return found
