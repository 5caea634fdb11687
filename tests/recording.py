"""An evaluation in a plain loop, and a listener that records everything it hears."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from medrobust.attacks import Attack
from medrobust.evaluation import (
    AdversarialBatch,
    Crafter,
    Evaluation,
    EvaluationContext,
    EvaluationListener,
    EvaluationPlan,
    lay_out,
)

JUDGED = ("before.right", "after.right", "reached", "success", "forwards", "backwards", "zero_gradients")


class Stopped(RuntimeError):
    """What a recorder raises that was asked to stop the evaluation."""


class Recorder(EvaluationListener):
    """Keeps the hooks' names in their order, the plans and the adversarial batches.

    Args:
        stop_after: Stop the evaluation by an exception after so many batches, before the next one can be written.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.stop_after = stop_after
        self.hooks: list[str] = []
        self.plans: list[EvaluationPlan] = []
        self.batches: list[AdversarialBatch] = []

    def on_evaluation_identity(self, *_: Any) -> dict[str, Any]:
        self.hooks.append("on_evaluation_identity")
        return {}

    def on_evaluation_plan(self, context: Any, victim: Any, plan: EvaluationPlan) -> None:
        self.hooks.append("on_evaluation_plan")
        self.plans.append(plan)

    def on_evaluation_start(self, *_: Any) -> None:
        self.hooks.append("on_evaluation_start")

    def on_attack_start(self, *_: Any) -> None:
        self.hooks.append("on_attack_start")

    def on_adversarial_batch(self, context: Any, victim: Any, batch: AdversarialBatch) -> None:
        if len(self.batches) == self.stop_after:
            raise Stopped
        self.hooks.append("on_adversarial_batch")
        self.batches.append(batch)

    def on_adversarial_batch_end(self, *_: Any) -> None:
        self.hooks.append("on_adversarial_batch_end")

    def on_evaluation_end(self, *_: Any) -> None:
        self.hooks.append("on_evaluation_end")

    def keys(self) -> dict[str, str]:
        """Keys of the attacks, by name."""
        return {planned.name: planned.key for planned in self.plans[0].attacks}

    def of(self, attack: str, field: str) -> Tensor:
        """A field of an attack's batches, such as ``clean`` or ``before.right``, of all images."""
        return torch.cat([attrgetter(field)(batch) for batch in self.batches if batch.planned.name == attack])

    def column(self, attack: str, name: str) -> Tensor:
        """A column that a listener has added to an attack's batches, of all images."""
        return torch.cat([batch.columns[name] for batch in self.batches if batch.planned.name == attack])

    def counts(self) -> dict[str, int]:
        """Number of images that each attack was run on."""
        counts: dict[str, int] = {}
        for batch in self.batches:
            counts[batch.planned.name] = counts.get(batch.planned.name, 0) + len(batch)
        return counts

    def rows(self, attack: str | None = None) -> dict[tuple[str, float | None, str], dict[str, Any]]:
        """What became of each image under each attack and radius."""
        found = {}
        for batch in self.batches:
            for row, id in enumerate(batch.ids):
                if attack in (None, batch.planned.name):
                    values = {field: attrgetter(field)(batch)[row].item() for field in JUDGED}
                    difference = (batch.adversarial[row] - batch.clean[row]).double()
                    norms = {"linf": difference.abs().max().item(), "l2": difference.norm().item()}
                    values |= norms | {"key": batch.planned.key, "adversarial": batch.adversarial[row]}
                    found[batch.planned.name, batch.planned.epsilon, id] = values
        return found


def evaluation_of(
    victim: Any,
    data: Any,
    attacks: Mapping[str, Attack],
    listeners: Sequence[EvaluationListener] = (),
    *,
    split: str = "",
    epsilons: Sequence[float] | None = None,
    controls: bool = False,
    context: EvaluationContext | None = None,
    **crafting: Any,
) -> Evaluation:
    """An evaluation on the CPU that has not started; what is left over are settings of the ``Crafter``."""
    return Evaluation(
        EvaluationContext() if context is None else context,
        victim,
        data,
        split or data.test_split,
        lay_out(attacks, epsilons, controls),
        Crafter(**crafting),
        listeners,
        control="noise" if controls else "",
    )


def evaluate(
    victim: Any,
    data: Any,
    attacks: Mapping[str, Attack],
    *listeners: EvaluationListener,
    stop_after: int | None = None,
    **options: Any,
) -> Recorder:
    """Evaluate in a plain loop, as ``evaluation_of`` takes its options, with a recorder as the last listener."""
    recorder = Recorder(stop_after)
    evaluation = evaluation_of(victim, data, attacks, [*listeners, recorder], **options)
    evaluation.start()
    for batch in data.dataloader_of(evaluation.split):
        evaluation.attack(batch)
    evaluation.end()
    return recorder
