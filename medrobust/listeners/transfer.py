"""Transfer: adversarial images crafted on one victim are judged by others in the same pass (SBF20 Table 1)."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.data import EvaluationData
from medrobust.evaluation.dense_goals import nothing_to_do
from medrobust.evaluation.deployment import judging
from medrobust.evaluation.listener import AttackIdentity, EvaluationListener
from medrobust.evaluation.other_victims import victim_beside
from medrobust.evaluation.plan import EvaluationPlan, weights_hash
from medrobust.networks.finite import finite_outputs
from medrobust.networks.victims import EvaluatedVictim
from medrobust.results.columns import judge_column


class Transfer(EvaluationListener):
    """Shows every adversarial image to other victims of the same task, the judges.

    Each judge adds three columns to the records: ``judge_NAME_before`` and ``judge_NAME_after``, whether it is right
    about the clean and about the adversarial image, and ``judge_NAME_success``, whether the attack also reached its
    aim against this judge. A judge with the victim's own weights shows the white-box rate, the matrix's diagonal.

    Args:
        judges: Each judge's run folder, whose best checkpoint is taken, or a checkpoint of ``train.py``, by name.

    Raises:
        ValueError: A name is not made of letters, digits, ``-`` and ``_``; or (later, before images are read) a
            checkpoint does not exist or holds another kind of victim.
    """

    def __init__(self, judges: dict[str, str] | None = None) -> None:
        """Keep the names; nothing is read yet."""
        self.judges = dict(judges or {})
        for name in self.judges:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"a judge's name is made of letters, digits, - and _, got {name!r}")
        self._victims: dict[str, EvaluatedVictim] = {}
        self._before: tuple[list[str], dict[str, Tensor]] = ([], {})

    def on_evaluation_identity(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        attacks: Sequence[AttackIdentity],
    ) -> dict[str, Any]:
        """Load the judges, and name their weights: other judges give other columns.

        Raises:
            ValueError: A judge's checkpoint does not exist, or does not fit the victim.
        """
        self._victims = {name: self.judge(name, victim, context.device) for name in self.judges}
        if not self._victims:
            return {}
        return {"judges": {name: weights_hash(judge.state_dict()) for name, judge in self._victims.items()}}

    def judge(self, name: str, victim: EvaluatedVictim, device: torch.device) -> EvaluatedVictim:
        """A judge, on the victim's device.

        Raises:
            ValueError: Its checkpoint does not exist, or does not fit the victim.
        """
        return victim_beside(victim, self.judges[name], f"judge {name}", device)

    def other_victims(self) -> dict[str, EvaluatedVictim]:
        """The judges."""
        return {f"the judge {name}": judge for name, judge in self._victims.items()}

    def on_adversarial_batch(
        self, context: EvaluationContext, victim: EvaluatedVictim, batch: AdversarialBatch
    ) -> None:
        """Add each judge's columns."""
        attack, aims = batch.planned.attack, batch.targets if batch.goals is None else batch.goals
        if self._before[0] != batch.ids:
            self._before = (batch.ids, {})
        for name, judge in self._victims.items():
            with judging(judge):
                if name not in self._before[1]:
                    clean_outputs = finite_outputs(judge(batch.clean), batch.ids, f"judge {name}, clean")
                    self._before[1][name] = judge.outcome(clean_outputs, batch.targets).right
                when = f"judge {name}, under {batch.planned.name}"
                outputs = finite_outputs(judge(batch.adversarial), batch.ids, when)
                batch.columns[judge_column(name, "before")] = self._before[1][name]
                batch.columns[judge_column(name, "after")] = judge.outcome(outputs, batch.targets).right
                reached = attack.reached(judge, outputs, aims)
                if batch.goals is not None:
                    reached = reached & ~nothing_to_do(batch.goals, batch.targets)
                batch.columns[judge_column(name, "success")] = reached

    def on_evaluation_end(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Drop the judges and the last batch."""
        self._before, self._victims = ([], {}), {}
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
