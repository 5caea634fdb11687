"""Other models that judge the images: any that can be a victim, or checkpoints of them."""

from collections.abc import Mapping

import torch

from medrobust.listeners import Transfer
from medrobust.networks.victim_of import victim_of
from medrobust.networks.victims import EvaluatedVictim


class ModelJudges(Transfer):
    """Shows every adversarial image to other models of the same task, as ``Transfer`` does to checkpoints.

    Args:
        judges: Models by name, as ``victim_of`` takes them, or paths of checkpoints.

    Raises:
        ValueError: A name is not made of letters, digits, ``-`` and ``_``, or a model cannot be a victim.
    """

    def __init__(self, judges: Mapping[str, object]) -> None:
        """Keep the models."""
        super().__init__({name: str(judge) if isinstance(judge, str) else "" for name, judge in judges.items()})
        self.models = {name: victim_of(judge) for name, judge in judges.items() if not isinstance(judge, str)}

    def judge(self, name: str, victim: EvaluatedVictim, device: torch.device) -> EvaluatedVictim:
        """A judge, on the victim's device."""
        return self.models[name] if name in self.models else super().judge(name, victim, device)
