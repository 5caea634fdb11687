"""Progress where output does not go to a terminal: a line every half minute."""

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar

from medrobust.evaluation import EvaluationContext, EvaluationListener, EvaluationPlan, PlannedAttack
from medrobust.evaluation.attack_words import attack_words
from medrobust.evaluation.data import Batch
from medrobust.evaluation.pace import EVERY, Pace
from medrobust.results.formats import printable

logger = logging.getLogger(__name__)


class ProgressLines(ProgressBar, EvaluationListener):
    """Logs how far a training or an evaluation is and how long the rest will take, at most every half minute.

    Of an evaluation, the first line follows its first batch.

    Args:
        every: Seconds between two lines.
    """

    def __init__(self, every: float = EVERY) -> None:
        """Nothing has begun."""
        super().__init__()
        self._enabled, self._every, self._pace = True, every, Pace(every)
        self._first_step = 0  # from which the time of a training is measured
        self._first: int | None = None  # batch from which the time of an evaluation is measured
        self._batch, self._share, self._at_work = 0, 0.0, ""
        self._batches: int | float = 0

    @property
    def is_enabled(self) -> bool:
        """Whether lines are logged; only the first process logs any."""
        return self._enabled

    def disable(self) -> None:
        """Log no further line."""
        self._enabled = False

    def enable(self) -> None:
        """Log lines again."""
        self._enabled = True

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Metrics of the training: all but the logger's version, which says nothing."""
        shown = dict(super().get_metrics(trainer, pl_module))
        shown.pop("v_num", None)
        return shown

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to measure the time."""
        self._pace, self._first_step = Pace(self._every), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Say how far the training is, if it is time."""
        if not self._enabled or not self._pace.due():
            return
        steps, epochs, first = trainer.estimated_stepping_batches, trainer.max_epochs, self._first_step
        share = (trainer.global_step - first) / (steps - first) if steps > first else 0.0
        values = [
            f"{name} {value:.3g}"
            for name, value in self.get_metrics(trainer, pl_module).items()
            if isinstance(value, int | float)
        ]
        of = f" of {epochs}" if epochs and epochs > 0 else ""
        batch = f"batch {trainer.fit_loop.batch_idx + 1} of {self.total_train_batches}"
        left = self._pace.left(share) if share < 1 else ""
        _say(f"epoch {trainer.current_epoch + 1}{of}, {batch}", ", ".join(values), left)

    def on_evaluation_start(self, *_: Any) -> None:
        """Wait for the first batch that has to be attacked."""
        self._first, self._batch = None, 0

    def on_test_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Note which batch is at work."""
        self._batch, self._batches = batch_idx, sum(trainer.num_test_batches)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Note which batch is at work."""
        self._batch, self._batches = batch_idx, sum(trainer.num_val_batches)

    def on_attack_start(self, context: EvaluationContext, planned: PlannedAttack, plan: EvaluationPlan) -> None:
        """Note which attack is at work; the time is measured from the first one, which is told."""
        begins = self._first is None
        if begins:
            self._first, self._pace = self._batch, Pace(self._every)
        number = next(place for place, other in enumerate(plan.attacks, 1) if other.key == planned.key)
        self._share, self._at_work = number / len(plan.attacks), printable(attack_words(planned, plan))
        if begins and self._enabled:  # it may take minutes
            _say(f"batch {self._batch + 1} of {self._batches}: {self._at_work} is at work")

    def on_adversarial_batch_end(self, *_: Any) -> None:
        """Say which attack has just run, if it is time."""
        if self._enabled and self._share < 1 and self._pace.due():
            self._tell(f"batch {self._batch + 1} of {self._batches}: {self._at_work}", self._batch + self._share)

    def on_test_batch_end(self, *_: Any) -> None:
        """Say how far the evaluation is: after the first batch that was attacked, and then if it is time."""
        self._after_batch()

    def on_validation_batch_end(self, *_: Any) -> None:
        """The same of an evaluation on Val; epochs of a training attack nothing."""
        self._after_batch()

    def _after_batch(self) -> None:
        first = self._first is not None and self._batch == self._first
        if self._enabled and self._first is not None and (self._pace.due() or first):
            self._tell(f"batch {self._batch + 1} of {self._batches} is done", self._batch + 1)

    def _tell(self, words: str, done: float) -> None:
        """Log how far the evaluation is, and what is left of its time."""
        assert self._first is not None
        share = (done - self._first) / (self._batches - self._first)
        _say(words, self._pace.left(share) if share < 1 else "")


def _say(*parts: str) -> None:
    logger.info("%s", "; ".join(part for part in parts if part))
