"""How a batch is attacked: on a deployment copy or a surrogate, with objectives fitted to clean training images."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.transfer import victim_beside
from medrobust.attacks import Attack
from medrobust.evaluation.deployment import Deployment, Precision, judging
from medrobust.evaluation.extraction import Extractor, clean_features
from medrobust.evaluation.goals import Goals, choose_goals
from medrobust.evaluation.plan import AdversarialBatch, EvaluationPlan, PlannedAttack, weights_hash
from medrobust.objectives.clean_features import Reference, fit_objectives, patterns_wanted


class Crafter:
    """Crafts adversarial images and has the victim judge them.

    Args:
        deployment: Attack a folded copy of the network.
        precision: Precision of the attacks' gradients.
        goals: What targeted attacks aim at.
        surrogate: Run or checkpoint of another victim, on which everything is crafted; None for the victim itself.
        reference_per_class: Clean training images of each class that objectives are fitted to; None for all.
        fitted: Folder in which fitted mixtures are kept; empty for none.
    """

    def __init__(
        self,
        deployment: bool = True,
        precision: Precision = 32,
        goals: Goals = "next",
        surrogate: str | None = None,
        reference_per_class: int | None = 2000,
        fitted: str = "",
    ) -> None:
        """Keep the settings."""
        if reference_per_class is not None and reference_per_class < 1:
            raise ValueError(f"reference_per_class counts images and is at least 1, got {reference_per_class}")
        self.deployment = Deployment(deployment, precision)
        self.goals, self.surrogate, self.reference_per_class = goals, surrogate, reference_per_class
        self.fitted = fitted
        self._surrogate: Any = None
        self._ready: dict[tuple[str, bool], Attack] = {}  # by key, and whether for the victim itself

    def load(self, trainer: pl.Trainer, victim: pl.LightningModule) -> None:
        """Load the surrogate, before any image is read.

        Raises:
            ValueError: It cannot be had, or does not fit the victim.
        """
        if self.surrogate is not None:
            self._surrogate = victim_beside(victim, self.surrogate, "the surrogate", trainer.strategy.root_device)

    def identity(self) -> dict[str, Any]:
        """What all records depend on, beside victim, data and attack."""
        shown = self.deployment.identity()
        return shown if self._surrogate is None else {**shown, "surrogate": weights_hash(self._surrogate)}

    def reference_identity(self, attack: Attack, data: Any) -> dict[str, Any]:
        """What an attack's records depend on through the clean images that its objectives are fitted to."""
        if not patterns_wanted(attack):
            return {}
        return {"reference": data.fingerprint("train"), "reference_per_class": self.reference_per_class}

    def prepare(self, trainer: pl.Trainer, victim: pl.LightningModule, plan: EvaluationPlan) -> None:
        """Fit the objectives of all attacks that are still to run; all processes come by here."""
        self.deployment.forget()
        self._ready = {}
        waiting = [planned for planned in plan.attacks if patterns_wanted(planned.attack)]
        if not waiting or not plan.pending():
            return
        self._fit(trainer, victim, waiting, own=True)
        if self._surrogate is not None:
            self._fit(trainer, self._surrogate, waiting, own=False)

    def _fit(self, trainer: pl.Trainer, attacked: Any, waiting: list[PlannedAttack], own: bool) -> None:
        """Fit objectives to the features that a victim, or the surrogate, makes of clean training images."""
        wanted = list(dict.fromkeys(patterns for planned in waiting for patterns in patterns_wanted(planned.attack)))
        named = {patterns: attacked.layers_named(patterns) for patterns in wanted}
        union = list(dict.fromkeys(name for names in named.values() for name in names))
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loader = data.reference_dataloader(self.reference_per_class)
        device = trainer.strategy.root_device
        with torch.inference_mode(False):
            extractor = Extractor(attacked, union)
            ids, features, labels = clean_features(trainer, extractor, loader, "clean features for the attacks")
            layers = {name: features.layers[name].to(device) for name in extractor.names}
            key = f"{weights_hash(attacked)} {data.fingerprint('train')} {self.reference_per_class}"
            folder = Path(self.fitted) if self.fitted else None
            reference = Reference(layers, labels.to(device), ids, named, key, folder)
            for planned in waiting:
                self._ready[planned.key, own] = fit_objectives(planned.attack, reference)

    def __call__(
        self,
        victim: Any,
        planned: PlannedAttack,
        plan: EvaluationPlan,
        ids: list[str],
        targets: Any,
        clean: Tensor,
        outputs: Any,
        correct: Tensor,
        white_box: bool = False,
    ) -> AdversarialBatch:
        """Craft a batch, and judge it by the victim in float32.

        Args:
            victim: The victim.
            planned: The attack.
            plan: The evaluation.
            ids: The images' ids.
            targets: True targets.
            clean: Clean images ``(N, C, H, W)``, no inference tensor.
            outputs: The victim's outputs for them.
            correct: Whether it is right about them, ``(N,)``.
            white_box: Craft on the victim itself, also where there is a surrogate: what a defender would do.
        """
        own = white_box or self._surrogate is None
        attack = self._ready.get((planned.key, own), planned.attack)
        goals = choose_goals(self.goals, attack, targets, outputs, ids) if attack.targeted else None
        attacked = victim if own else self._surrogate
        with self.deployment.used(attacked, attack, clean):
            crafted = attack.craft(attacked, clean, targets if goals is None else goals, ids)
        with judging(victim):
            after = finite(victim(crafted.images), ids, f"under {planned.name}")
            right = ~victim.fooled(after, targets)
            success = attack.reached(victim, after, targets if goals is None else goals)
        return AdversarialBatch(
            planned,
            plan,
            ids,
            targets,
            goals,
            clean,
            crafted.images,
            outputs,
            after,
            correct,
            right,
            success,
            crafted.forwards,
            crafted.backwards,
            crafted.zero_gradients,
            crafted.measures,
            crafted.pictures,
        )

    def forget(self) -> None:
        """Let fitted objectives go."""
        self._ready = {}


def finite(outputs: Any, ids: list[str], when: str) -> Any:
    """Refuse outputs that are not numbers: every rate made of them would be wrong."""
    if isinstance(outputs, Tensor):
        good = outputs.isfinite().flatten(1).all(1)
        if not bool(good.all()):
            bad = [id for id, fine in zip(ids, good.tolist(), strict=True) if not fine]
            raise ValueError(
                f"the victim's outputs ({when}) are not finite for {len(bad)} of {len(ids)} images, first {bad[0]!r}"
            )
    return outputs
