"""How far an evaluation is: a bar on a terminal or in a notebook, lines elsewhere."""

import sys
import time
from typing import Any

from tqdm import tqdm

from medrobust.attacks.in_turn import Turn
from medrobust.evaluation import (
    AdversarialBatch,
    Crafter,
    EvaluationContext,
    EvaluationListener,
    EvaluationPlan,
    PlannedAttack,
)
from medrobust.evaluation.attack_words import attack_words, turn_words
from medrobust.evaluation.data import EvaluationData
from medrobust.evaluation.pace import Pace, has_bar
from medrobust.networks.victims import EvaluatedVictim
from medrobust.results.formats import printable

EVERY = 1.0  # seconds between two updates while an attack is at work


class ConsoleProgress(EvaluationListener):
    """Shows how many images of how many attacks are done, which attack is at work, and the time left.

    Without a terminal that is a line about the plan, one after the first batch, and one every half minute.

    Args:
        name: Name of the run.
        limit: How many images are attacked for now; None for all.
    """

    def __init__(self, name: str, limit: int | None = None) -> None:
        """Nothing is shown yet."""
        self.name, self.limit, self._words, self._speaks = name, limit, "", False
        self._total = self._done = 0
        self._shown, self._pace = 0.0, Pace()
        self._last = ""  # key of the last attack of the first batch
        self._bar: tqdm[Any] | None = None

    def on_evaluation_identity(self, *_: Any) -> dict[str, Any]:
        """Nothing: it adds no columns."""
        return {}

    def on_evaluation_start(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        plan: EvaluationPlan,
        crafter: Crafter,
    ) -> None:
        """Begin to count; the first process speaks for all."""
        ids = [id for id, _ in plan.images][: self.limit]
        self._total = sum(len(plan.pending(planned.key, ids)) for planned in plan.attacks) // context.ranks
        self._pace = Pace()
        if context.is_first and self._total and has_bar():
            self._bar = tqdm(total=self._total, desc=self.name, unit="image", dynamic_ncols=True)
        self._speaks, self._last = context.is_first and self._total > 0, plan.attacks[-1].key
        if self._speaks and self._bar is None:
            attacks = f"{len(plan.attacks)} attack{'' if len(plan.attacks) == 1 else 's'}"
            sys.stderr.write(f"{self.name}: {attacks} x {len(ids)} image{'' if len(ids) == 1 else 's'}\n")

    def on_attack_start(self, context: EvaluationContext, planned: PlannedAttack, plan: EvaluationPlan) -> None:
        """Show the attack's name, its radius and its number."""
        self._words = printable(attack_words(planned, plan))
        self._show(self._words)

    def on_attack_turn(
        self, context: EvaluationContext, planned: PlannedAttack, plan: EvaluationPlan, turn: Turn
    ) -> None:
        """Show which of several attacks is at work."""
        if not turn.passes or time.monotonic() - self._shown >= EVERY:
            self._show(f"{self._words}: {turn_words(turn)}")

    def on_adversarial_batch_end(
        self, context: EvaluationContext, victim: EvaluatedVictim, batch: AdversarialBatch
    ) -> None:
        """Count a batch."""
        self._done += len(batch)
        if self._bar is not None:
            self._bar.update(len(batch))
        self._show(self._words, now=batch.planned.key == self._last)
        if batch.planned.key == self._last:
            self._last = ""

    def on_evaluation_end(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Leave the console as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._speaks = False

    def _show(self, words: str, now: bool = False) -> None:
        """Show what is at work: on a bar, or in a line if it is time for one, or at once."""
        if self._bar is not None:
            self._bar.set_postfix_str(words)
            self._shown = time.monotonic()
        elif self._speaks and (self._pace.due() or now):
            left = self._pace.left(self._done / self._total)
            told = f"{self.name}: {self._done} of {self._total} attacked images{left and f', {left}'}; {words}"
            sys.stderr.write(f"{told}\n")
            sys.stderr.flush()
