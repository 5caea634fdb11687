"""How a victim is fine-tuned: its optimiser, and the schedule of the learning rate."""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import pytorch_lightning as pl
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from lightning_modules.base import NEVER

Schedule: TypeAlias = Literal["constant", "cosine"] | LRSchedulerCallable


def optimisation(module: pl.LightningModule, optimizer: OptimizerCallable, schedule: Schedule) -> Any:
    """What ``configure_optimizers`` returns.

    Args:
        module: The victim; its parameters that require gradients are trained.
        optimizer: Optimiser class with its settings.
        schedule: ``constant``, ``cosine`` (5 % linear warm-up, then a half cosine to 0, by step), or a scheduler class
            with its settings, stepped once per epoch (ReduceLROnPlateau watches ``val/loss``).
    """
    chosen = optimizer([parameter for parameter in module.parameters() if parameter.requires_grad])
    if schedule == "constant":
        return chosen
    if schedule == "cosine":
        factor = _warm_cosine(int(module.trainer.estimated_stepping_batches))
        return [chosen], [{"scheduler": LambdaLR(chosen, factor), "interval": "step"}]
    assert callable(schedule)
    scheduler = schedule(chosen)
    monitor = {"monitor": "val/loss", "frequency": NEVER} if isinstance(scheduler, ReduceLROnPlateau) else {}
    return [chosen], [{"scheduler": scheduler, "interval": "epoch"} | monitor]


def _warm_cosine(steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at each step: linear to 1 over the first 5 %, then half a cosine to 0."""
    warm = max(1, round(0.05 * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

    return factor
