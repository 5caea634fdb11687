"""What can listen to an evaluation: a class with eight hooks, in the order in which they are called."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from medrobust.attacks.in_turn import Turn
from medrobust.evaluation.batch import AdversarialBatch
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.crafting import Crafter
from medrobust.evaluation.data import EvaluationData
from medrobust.evaluation.plan import EvaluationPlan, PlannedAttack
from medrobust.networks.victims import EvaluatedVictim


class AttackIdentity(NamedTuple):
    """What decides an attack's adversarial images, besides the victim and what all attacks share."""

    name: str
    parameters: dict[str, Any]


class EvaluationListener:
    """Listens to an evaluation; each hook does nothing until it is overridden.

    The first three hooks and the last one are called on every process, so they may use ``context.gather`` and
    ``context.broadcast``. The others are called for each batch. Processes have different numbers of batches, so they
    must not wait for each other there.
    """

    def on_evaluation_identity(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        attacks: Sequence[AttackIdentity],
    ) -> dict[str, Any]:
        """First hook: prepare, refuse what cannot work before any image is read, and name what the columns depend on.

        Args:
            context: The process.
            victim: The victim under evaluation.
            data: The data.
            attacks: Every attack's name and all that decides what it makes of an image.

        Returns:
            Plain values by name, of which the records' keys are made: records with other columns, or with columns of
            another origin, are not interchangeable. By default the class's name for a listener that receives
            adversarial batches and so may add columns; otherwise nothing.
        """
        hears = type(self).on_adversarial_batch is not EvaluationListener.on_adversarial_batch
        return {type(self).__name__: {}} if hears else {}

    def other_victims(self) -> dict[str, EvaluatedVictim]:
        """Victims beside the one under evaluation whose answers the columns show, by what they are; no hook.

        It is called after `on_evaluation_identity`. The results say which images they have seen in their training.
        """
        return {}

    def on_evaluation_plan(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """The plan is complete; a listener may add images that need no attack to ``plan.done``, or refuse the plan."""

    def on_evaluation_start(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        plan: EvaluationPlan,
        crafter: Crafter,
    ) -> None:
        """Last hook before the first batch, for what takes time; ``crafter`` attacks as the evaluation will."""

    def on_attack_start(self, context: EvaluationContext, planned: PlannedAttack, plan: EvaluationPlan) -> None:
        """An attack is about to run on a batch."""

    def on_attack_turn(
        self, context: EvaluationContext, planned: PlannedAttack, plan: EvaluationPlan, turn: Turn
    ) -> None:
        """An attack that runs several others in turn has got to the next one, or has made a pass; to show it."""

    def on_adversarial_batch(
        self, context: EvaluationContext, victim: EvaluatedVictim, batch: AdversarialBatch
    ) -> None:
        """An attack has run on a batch; measurements may be added to ``batch.columns``."""

    def on_adversarial_batch_end(
        self, context: EvaluationContext, victim: EvaluatedVictim, batch: AdversarialBatch
    ) -> None:
        """All listeners have added their columns, so the batch can be written."""

    def on_evaluation_end(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """This process has no further batch; drop what was kept for this evaluation."""
