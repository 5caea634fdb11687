"""The progress bar: Lightning's, which also says which attack is at work."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from medrobust.attacks.in_turn import Turn
from medrobust.evaluation import EvaluationContext, EvaluationListener, EvaluationPlan, PlannedAttack
from medrobust.evaluation.attack_words import attack_words, turn_words
from medrobust.results.formats import printable

EVERY = 1.0  # seconds between two updates while an attack is at work


class AttackProgress(TQDMProgressBar, EvaluationListener):
    """Lightning's progress bar, with the attack that is running and its place in the list behind the batches.

    Of an attack that runs several others in turn, it also shows which of them is at work, the number of images that
    none has broken yet, and the passes that this one has made.

    Args:
        refresh_rate: Batches between two updates; 0 switches the bar off.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        """Keep the refresh rate."""
        super().__init__(refresh_rate=refresh_rate, leave=False)
        self._at_work, self._shown = "", 0.0

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Metrics beside the bar: all but the logger's version, which says nothing."""
        shown = dict(super().get_metrics(trainer, pl_module))
        shown.pop("v_num", None)
        return shown

    def on_attack_start(self, context: EvaluationContext, planned: PlannedAttack, plan: EvaluationPlan) -> None:
        """Show the attack's name, its radius and its number."""
        self._at_work = printable(attack_words(planned, plan))
        self._show(self._at_work)

    def on_attack_turn(
        self, context: EvaluationContext, planned: PlannedAttack, plan: EvaluationPlan, turn: Turn
    ) -> None:
        """Show which of several attacks is at work; its passes at most once in `EVERY` seconds."""
        if turn.passes and time.monotonic() - self._shown < EVERY:
            return
        self._show(f"{self._at_work}: {turn_words(turn)}")

    def _show(self, words: str) -> None:
        bar = self._test_progress_bar if self.trainer.testing else self._val_progress_bar
        if bar is not None and self.is_enabled:
            bar.set_postfix_str(words)
            self._shown = time.monotonic()
