"""The progress bar: Lightning's, which also says which attack is at work."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from medrobust.attacks.budgets import Fraction
from medrobust.evaluation import EvaluationContext, EvaluationListener, EvaluationPlan, PlannedAttack
from medrobust.evaluation.plan import radius_of
from medrobust.results.formats import printable


class AttackProgress(TQDMProgressBar, EvaluationListener):
    """Lightning's progress bar, with the attack that is running and its place in the list behind the batches.

    Args:
        refresh_rate: Batches between two updates; 0 switches the bar off.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        """Keep the refresh rate."""
        super().__init__(refresh_rate=refresh_rate, leave=False)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Metrics beside the bar: all but the logger's version, which says nothing."""
        shown = dict(super().get_metrics(trainer, pl_module))
        shown.pop("v_num", None)
        return shown

    def on_attack_start(self, context: EvaluationContext, planned: PlannedAttack, plan: EvaluationPlan) -> None:
        """Show the attack's name, its radius and its number."""
        bar = self._test_progress_bar if self.trainer.testing else self._val_progress_bar
        if bar is None or not self.is_enabled:
            return
        radius = radius_of(planned.attack)
        number = next(place for place, other in enumerate(plan.attacks, 1) if other.key == planned.key)
        written = str(radius) if isinstance(radius, Fraction) else f"{radius:.3g}" if radius is not None else ""
        name = f"{planned.name} {written}".rstrip()
        bar.set_postfix_str(f"{printable(name)} ({number}/{len(plan.attacks)})")
