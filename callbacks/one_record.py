"""The callback that lets an evaluation make one record again, and no other."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pytorch_lightning.callbacks import Callback
from torch import Tensor

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.data import EvaluationData
from medrobust.evaluation.listener import AttackIdentity, EvaluationListener
from medrobust.evaluation.plan import EvaluationPlan
from medrobust.networks.victims import EvaluatedVictim


class OneRecord(EvaluationListener, Callback):
    """Marks everything as done but one attack on some images, and keeps the pictures of one of them.

    Args:
        key: Key of the attack.
        id: Id of the image.

    Attributes:
        together: Ids of the images that are attacked in one batch, the image among them.
        detection: Whether detectors take part, which need the whole plan to be found again.
        planned: What the evaluation would write into its manifest: ``victim``, ``data``, ``listeners`` and
            ``attacks``; empty until it has a plan.
        pictures: The image before and after, ``(C, H, W)`` in [0, 1], as ``clean`` and ``adversarial``.
    """

    def __init__(self, key: str, id: str) -> None:
        """Keep what is wanted."""
        self.key, self.id = key, id
        self.together: Collection[str] = (id,)
        self.detection = False
        self.planned: Mapping[str, Any] = {}
        self.pictures: dict[str, Tensor] = {}

    def on_evaluation_identity(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        attacks: Sequence[AttackIdentity],
    ) -> dict[str, Any]:
        """Nothing: it adds no columns."""
        return {}

    def on_evaluation_plan(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Mark what is not wanted as done; everything, if no attack has the key."""
        self.planned = {
            "victim": plan.victim,
            "data": plan.data,
            "listeners": plan.listeners,
            "attacks": [planned.entry() for planned in plan.attacks],
        }
        every = {id for id, _ in plan.images}
        for planned in plan.attacks:
            plan.done[planned.key] = every - set(self.together) if planned.key == self.key else set(every)
        if not self.detection:  # so that nothing is fitted for attacks that do not run
            plan.attacks = [planned for planned in plan.attacks if planned.key == self.key]

    def on_adversarial_batch(
        self, context: EvaluationContext, victim: EvaluatedVictim, batch: AdversarialBatch
    ) -> None:
        """Keep the pictures."""
        if batch.planned.key == self.key and self.id in batch.ids:
            row = batch.ids.index(self.id)
            self.pictures = {"clean": batch.clean[row].cpu(), "adversarial": batch.adversarial[row].cpu()}
