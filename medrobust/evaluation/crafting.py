"""How a batch is attacked: on a deployment copy or a surrogate, with objectives fitted to clean training images."""

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medrobust.attacks import Attack
from medrobust.attacks.base import Crafted
from medrobust.evaluation.batch import AdversarialBatch, CleanBatch
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.data import EvaluationData
from medrobust.evaluation.dense_goals import GoalMask, goal_shares, nothing_to_do, read_goal_mask
from medrobust.evaluation.deployment import Deployment, Precision, check_precision, judging
from medrobust.evaluation.extraction import LOGITS, Extractor, clean_features
from medrobust.evaluation.goals import Goals, check_goals, choose_goals
from medrobust.evaluation.other_victims import victim_beside
from medrobust.evaluation.plan import EvaluationPlan, PlannedAttack, record_key, weights_hash
from medrobust.networks.finite import finite_outputs
from medrobust.networks.victims import (
    EvaluatedVictim,
    Targets,
    check_known,
    checked_outcome,
    probability_like,
)
from medrobust.objectives.clean_features import CleanFeatures, fit_objectives, patterns_wanted
from medrobust.objectives.opposition import warn_of_opposition


class Crafter:
    """Crafts adversarial images and lets the victim judge them.

    Args:
        deployment: Attack a folded copy of the network.
        precision: Precision of the attacks' gradients.
        goals: What targeted attacks aim at, as ``choose_goals`` reads it.
        surrogate: Run or checkpoint of another victim, on which everything is crafted; None for the victim itself.
        reference_per_class: Clean training images of each class that objectives are fitted to; None for all.
        fitted: Folder in which fitted mixtures are kept; empty for none.
        label: Name of the one label that targeted attacks turn, of victims of several labels; None for those that
            ``goals`` chooses.
        goal_mask: File of the mask that targeted attacks aim at in place of ``goals``; None for none.

    Raises:
        ValueError: A setting is out of its range.
    """

    def __init__(
        self,
        deployment: bool = True,
        precision: Precision = 32,
        goals: Goals = "next",
        surrogate: str | None = None,
        reference_per_class: int | None = 2000,
        fitted: str = "",
        label: str | None = None,
        goal_mask: str | None = None,
    ) -> None:
        """Keep the settings; a goal mask is read when it is asked for."""
        if reference_per_class is not None and reference_per_class < 1:
            raise ValueError(f"reference_per_class counts images and is at least 1, got {reference_per_class}")
        self.deployment = Deployment(deployment, precision)
        self.goals, self.surrogate, self.reference_per_class = goals, surrogate, reference_per_class
        self.fitted, self.label, self.goal_file = fitted, label, goal_mask
        self._surrogate: EvaluatedVictim | None = None
        self._ready: dict[tuple[str, bool], Attack] = {}  # by key, and whether it is for the victim itself

    @cached_property
    def goal_mask(self) -> GoalMask | None:
        """The mask that targeted attacks aim at, read from its file; None for none.

        Raises:
            ValueError: The file is no image of labels.
        """
        return None if self.goal_file is None else read_goal_mask(self.goal_file)

    def load(self, context: EvaluationContext, victim: EvaluatedVictim) -> None:
        """Check the precision and load the surrogate, before any image is read.

        Raises:
            ValueError: The device cannot compute in that precision, or the surrogate does not exist or does not fit
                the victim.
        """
        check_precision(self.deployment.precision, context.device)
        if self.surrogate is not None:
            self._surrogate = victim_beside(victim, self.surrogate, "the surrogate", context.device)

    def identity(self) -> dict[str, Any]:
        """What all records depend on besides the victim, the data and the attack."""
        identity = self.deployment.identity()
        if self._surrogate is not None:
            identity["surrogate"] = weights_hash(self._surrogate.state_dict())
        return identity

    def other_victims(self) -> dict[str, EvaluatedVictim]:
        """The surrogate, if there is one."""
        return {} if self._surrogate is None else {"the surrogate": self._surrogate}

    def attack_identity(self, attack: Attack, data: EvaluationData) -> dict[str, Any]:
        """All that decides what an attack makes of an image, besides the victim and what all attacks share.

        Raises:
            ValueError: The attack is targeted, and the goals are those of another task.
        """
        identity: dict[str, Any] = {"parameters": attack.parameters()}
        if attack.targeted:
            identity["goals"] = self.goals if self.label is None else f"label {self.label}"
            if self.label is None:
                check_goals(self.goals, self.goal_mask, data.task)
            if self.goal_mask is not None:
                identity["goals"] = f"mask {self.goal_mask.content}"
        if patterns_wanted(attack):
            identity |= {"reference": data.fingerprint("train"), "reference_per_class": self.reference_per_class}
        return identity

    def prepare(
        self, context: EvaluationContext, victim: EvaluatedVictim, data: EvaluationData, plan: EvaluationPlan
    ) -> None:
        """Fit the objectives of all attacks that are still to run; every process calls this.

        The first process warns of attacks that add a hiding objective to untargeted cross-entropy.
        """
        self.deployment.forget()
        self._ready = {}
        if context.is_first:
            for planned in plan.attacks:
                warn_of_opposition(planned.attack, f"the attack {planned.name!r}")
        waiting = [planned for planned in plan.attacks if patterns_wanted(planned.attack)]
        if not waiting or not plan.is_pending():
            return
        self._fit(context, victim, data, waiting, on_victim=True)
        if self._surrogate is not None:
            self._fit(context, self._surrogate, data, waiting, on_victim=False)

    def _fit(
        self,
        context: EvaluationContext,
        attacked: EvaluatedVictim,
        data: EvaluationData,
        waiting: Sequence[PlannedAttack],
        on_victim: bool,
    ) -> None:
        """Fit objectives to the features that a victim, or the surrogate, makes of clean training images."""
        wanted = list(dict.fromkeys(patterns for planned in waiting for patterns in patterns_wanted(planned.attack)))
        named = {patterns: attacked.layers_named(patterns) if patterns else () for patterns in wanted}
        union = list(dict.fromkeys(name for names in named.values() for name in names))
        loader = data.reference_dataloader(self.reference_per_class)
        with torch.inference_mode(False):
            extractor = Extractor(attacked, union, logits=True)
            ids, features, labels = clean_features(context, extractor, loader, "clean features for the attacks")
            layers = {name: features.layers[name].to(context.device) for name in extractor.names}
            # equal weights compute other features behind an input defence, or with another activation
            of_victim = (weights_hash(attacked.state_dict()), attacked.description())
            key = record_key(*of_victim, data.fingerprint("train"), self.reference_per_class)
            folder = Path(self.fitted) if self.fitted else None
            logits = features.layers[LOGITS].to(context.device)
            reference = CleanFeatures(layers, labels.to(context.device), ids, named, key, folder, logits)
            for planned in waiting:
                self._ready[planned.key, on_victim] = fit_objectives(planned.attack, reference)

    def __call__(
        self,
        victim: EvaluatedVictim,
        planned: PlannedAttack,
        plan: EvaluationPlan,
        clean: CleanBatch,
        white_box: bool = False,
    ) -> AdversarialBatch:
        """Craft a batch, and let the victim judge it in float32.

        Args:
            victim: The victim.
            planned: The attack.
            plan: The evaluation.
            clean: The clean images, and what the victim makes of them.
            white_box: Craft on the victim itself even where there is a surrogate, as a defender would.

        Raises:
            ValueError: The victim's outputs for an adversarial image are not finite.
        """
        on_victim = white_box or self._surrogate is None
        attack = self._ready.get((planned.key, on_victim), planned.attack)
        ids, targets = clean.ids, clean.targets
        names = plan.data.get("class_names") or ()
        side = (clean.images.shape[-2], clean.images.shape[-1])
        aim = (self.goals, attack, targets, clean.outputs, ids, self.label, names, self.goal_mask, side)
        goals = choose_goals(*aim) if attack.targeted else None
        aims = targets if goals is None else goals
        attacked = victim if on_victim or self._surrogate is None else self._surrogate
        with self.deployment.used(attacked, attack, clean.images):
            crafted, seconds = _timed(attack, attacked, clean, aims)
        with judging(victim, ids):
            outputs = finite_outputs(victim(crafted.images), ids, f"under {planned.name}")
            after = checked_outcome(victim.outcome(outputs, targets), len(ids))
            reached = attack.reached(victim, outputs, aims)
            if goals is not None and (not isinstance(goals, Tensor) or goals.ndim == 3):
                shares = {"goal_share": goal_shares(goals, targets, outputs, victim.outcome)}
                reached = reached & ~nothing_to_do(goals, targets)
            else:
                shares = {}
        return AdversarialBatch(
            planned=planned,
            plan=plan,
            ids=ids,
            targets=targets,
            goals=goals,
            clean=clean.images,
            adversarial=crafted.images,
            clean_outputs=clean.outputs,
            adversarial_outputs=outputs,
            before=clean.outcome,
            after=after,
            reached=reached,
            forwards=crafted.forwards,
            backwards=crafted.backwards,
            zero_gradients=crafted.zero_gradients,
            measures={**crafted.measures, **shares, **_doubted(clean)},
            pictures=crafted.pictures,
            seconds=seconds,
        )

    def forget(self) -> None:
        """Drop fitted objectives."""
        self._ready = {}


def judged(victim: EvaluatedVictim, images: Tensor, targets: Targets, ids: Sequence[str]) -> CleanBatch:
    """Clean images with the victim's outputs and outcome, computed in float32.

    Raises:
        ValueError: An output is not finite, and the message names the image; or the victim changes its images.
    """
    with judging(victim, ids):
        version = images._version
        outputs = finite_outputs(victim(images), ids, "clean")
        if images._version != version:
            raise ValueError(
                "the victim changes the images that it is given, by an operation such as sub_ or div_, and with them "
                "all that is measured afterwards: let its forward begin with a copy"
            )
        check_known(targets, outputs)
        outcome = checked_outcome(victim.outcome(outputs, targets), len(ids))
    return CleanBatch(ids=list(ids), images=images, targets=targets, outputs=outputs, outcome=outcome)


def _timed(attack: Attack, attacked: EvaluatedVictim, clean: CleanBatch, aims: Targets) -> tuple[Crafted, float]:
    """What an attack makes of a batch, and the wall-clock seconds that it took."""
    start = time.perf_counter()
    crafted = attack.craft(attacked, clean.images, aims, clean.ids)
    if crafted.images.is_cuda:
        torch.cuda.synchronize(crafted.images.device)
    return crafted, time.perf_counter() - start


def _doubted(clean: CleanBatch) -> dict[str, Tensor]:
    """The column ``probability_outputs``: 1 where logits look like probabilities, else NaN; absent if none does."""
    alike = probability_like(clean.outputs, clean.targets)
    if alike is None or not bool(alike.any()):
        return {}
    return {"probability_outputs": torch.where(alike, 1.0, torch.nan)}
