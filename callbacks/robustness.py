"""The callback that attacks a victim inside Lightning's loops and hands the results to whoever listens."""

import logging
from dataclasses import replace
from typing import Any, cast

import pytorch_lightning as pl
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from medrobust.attacks import Attack
from medrobust.attacks.budgets import Fraction, check_radius
from medrobust.evaluation.crafting import Crafter, finite
from medrobust.evaluation.deployment import Precision, check_precision, judging
from medrobust.evaluation.goals import Goals, choose_goals
from medrobust.evaluation.plan import (
    EvaluationPlan,
    PlannedAttack,
    expand,
    identities,
    record_key,
    tell,
    weights_hash,
)

logger = logging.getLogger(__name__)


class Robustness(Callback):
    """Attacks the victim: a few batches while it is fine-tuned, everything in ``validate`` and ``test``.

    Each adversarial image is crafted once and handed to every callback that has ``on_adversarial_batch``. Victim and
    gradients are taken care of here, so that no flag of the trainer (inference mode, DDP) can break an attack.

    Args:
        attacks: Attacks by name.
        epsilons: Radii at which every attack runs in ``validate`` and ``test``, in units of the [0, 1] image range,
            such as ``1/255``; None leaves each attack at its own.
        controls: Add uniform noise of the same radii, the control that every table shows.
        fit_batches: Validation batches of each epoch that are attacked while fine-tuning, each attack at its own
            radius; 0 for none.
        deployment: Attack a copy of the victim that is frozen, with BatchNorm folded and in channels_last, proved equal
            on the first batch; in ``validate`` and ``test`` only, since training changes the weights.
        precision: ``32``, or ``bf16`` for the gradients of the attacks, in ``validate`` and ``test`` on a GPU. What an
            attack has made is judged in float32 on the victim itself, always.
        goals: What targeted attacks aim at: the ``next`` class, a ``random`` other one (drawn for each image), or
            the one that is ``least_likely`` by the clean outputs.
        surrogate: Run or checkpoint of another victim of the same task, on which everything is crafted; the victim
            judges it (HFC21's semi-white box). None crafts on the victim itself.
        reference_per_class: Clean training images of each class that objectives such as ``FeatureConstraint`` are
            fitted to; None for all.
        fitted: Folder in which fitted mixtures are kept for the next evaluation; the command line sets
            ``runs/NAME/fitted``.
        seed: Seed of all attacks' random streams; None leaves each attack its own.

    Raises:
        ValueError: A radius or count is out of its range.
    """

    def __init__(
        self,
        attacks: dict[str, Attack] | None = None,
        epsilons: list[Fraction | float] | None = None,
        controls: bool = True,
        fit_batches: int = 0,
        deployment: bool = True,
        precision: Precision = 32,
        goals: Goals = "next",
        surrogate: str | None = None,
        reference_per_class: int | None = 2000,
        fitted: str = "",
        seed: int | None = None,
    ) -> None:
        """Keep the settings."""
        self.attacks = dict(attacks or {})
        self.epsilons, self.controls, self.goals, self.seed = epsilons, controls, goals, seed
        self.fit_batches = fit_batches
        for radius in epsilons or []:
            check_radius("epsilons", radius)
        if fit_batches < 0:
            raise ValueError(f"fit_batches counts batches and is not negative, got {fit_batches}")
        if controls and "noise" in self.attacks:
            raise ValueError("an attack named 'noise' would be taken for the control of that name; rename one of them")
        self.crafter = Crafter(deployment, precision, goals, surrogate, reference_per_class, fitted)
        self.plan: EvaluationPlan | None = None
        self._correct: Tensor | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be had, before any image is read."""
        if stage != "fit":
            check_precision(self.crafter.deployment.precision, trainer.strategy.root_device)
            self.crafter.load(trainer, pl_module)

    def planned(self) -> list[tuple[str, Attack]]:
        """Names and attacks of an evaluation, in the order in which they run; names repeat over radii."""
        laid_out = expand(self.attacks, self.epsilons, self.controls)
        if self.seed is None:
            return laid_out
        return [(name, replace(attack, seed=self.seed)) for name, attack in laid_out]

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lay out the evaluation of the test split."""
        self._start(trainer, pl_module, str(getattr(trainer.datamodule, "test_split", "test")))  # type: ignore[attr-defined]

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lay out the evaluation of Val, or start counting for an epoch of ``fit``."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._start(trainer, pl_module, "val")
        elif self.attacks and self.fit_batches:
            device = cast(torch.device, pl_module.device)
            self._correct = torch.zeros(len(self.attacks), 2, dtype=torch.long, device=device)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Attack a batch."""
        self._attack_batch(trainer, pl_module, batch)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Attack a batch; while fine-tuning only the first few, and only their success is kept."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._attack_batch(trainer, pl_module, batch)
        elif self._correct is not None and batch_idx < self.fit_batches and not trainer.sanity_checking:
            self._attack_in_fit(pl_module, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the accuracy under attack of an epoch of ``fit``, over all ranks."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or self._correct is None:
            return
        counts = trainer.strategy.reduce(self._correct, reduce_op="sum")
        assert isinstance(counts, Tensor)
        for name, (right, seen) in zip(self.attacks, counts.tolist(), strict=True):
            if seen:
                pl_module.log(f"robustness/{name}", right / seen, prog_bar=True, sync_dist=True)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the listeners that no batch follows."""
        self._end(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the listeners that no batch follows."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._end(trainer, pl_module)

    def _start(self, trainer: pl.Trainer, victim: pl.LightningModule, split: str) -> None:
        if not self.attacks:
            raise ValueError("no attack is configured: add a config such as configs/attacks/linf.yaml with -c")
        data = trainer.datamodule  # type: ignore[attr-defined]
        if data is None or not hasattr(data, "fingerprint"):
            raise ValueError("an evaluation needs a data module with fingerprint(split), which its records refer to")
        describe = cast(Any, getattr(victim, "description", dict))
        description = {**describe(), "weights": weights_hash(victim)}
        prints = data.fingerprint(split)
        own = [(name, attack, self._identity(attack, data)) for name, attack in self.planned()]
        others = {**identities(trainer, victim, [(name, told) for name, _, told in own]), **self.crafter.identity()}
        attacks = [
            PlannedAttack(
                name,
                attack,
                None if getattr(attack, "epsilon", None) is None else float(attack.epsilon),  # type: ignore[attr-defined]
                record_key(name, description, prints, told, others),
                control=self.controls and name == "noise",
            )
            for name, attack, told in own
        ]
        images = [(sample.id, sample.target) for sample in data.splits[split]]
        patients = {sample.id: sample.patient for sample in data.splits[split] if hasattr(sample, "patient")}
        described = {**data.describe(), "split": split, "fingerprint": prints}
        self.plan = EvaluationPlan(
            attacks, split, images, description, described, others, patients=patients, craft=self.crafter
        )
        tell(trainer, "on_evaluation_plan", trainer, victim, self.plan)
        self.crafter.prepare(trainer, victim, self.plan)
        tell(trainer, "on_evaluation_start", trainer, victim, self.plan)
        kept = sum(len(self.plan.done.get(planned.key, ())) for planned in attacks)
        if kept and trainer.is_global_zero:
            logger.info("%d of %d records are there already and are kept", kept, len(attacks) * len(images))

    def _identity(self, attack: Attack, data: Any) -> dict[str, Any]:
        """All that decides what an attack makes of an image, beside the victim and what all attacks share."""
        goals = {"goals": self.goals} if attack.targeted else {}
        return {"parameters": attack.parameters(), **goals, **self.crafter.reference_identity(attack, data)}

    def _end(self, trainer: pl.Trainer, victim: pl.LightningModule) -> None:
        if self.plan is not None:
            tell(trainer, "on_evaluation_end", trainer, victim, self.plan)
            self.crafter.forget()

    def _attack_batch(self, trainer: pl.Trainer, victim: Any, batch: Any) -> None:
        plan = self.plan
        assert plan is not None
        pending = {
            planned.key: [row for row, id in enumerate(batch["id"]) if id not in plan.done.get(planned.key, ())]
            for planned in plan.attacks
        }
        if not any(pending.values()):
            return
        with torch.inference_mode(False), torch.enable_grad():
            batch = apply_to_collection(batch, Tensor, torch.clone)  # inference tensors cannot carry gradients
            images, targets, ids = batch["image"], batch["target"], list(batch["id"])
            with judging(victim):
                outputs = finite(victim(images), ids, "clean")
                correct = ~victim.fooled(outputs, targets)
            for planned in plan.attacks:
                rows = pending[planned.key]
                if not rows:
                    continue
                tell(trainer, "on_attack_start", trainer, planned, plan)
                attacked = self.crafter(
                    victim,
                    planned,
                    plan,
                    [ids[row] for row in rows],
                    _take(targets, rows),
                    _take(images, rows),
                    _take(outputs, rows),
                    _take(correct, rows),
                )
                tell(trainer, "on_adversarial_batch", trainer, victim, attacked)
                tell(trainer, "on_adversarial_batch_end", trainer, victim, attacked)

    def _attack_in_fit(self, victim: Any, batch: Any) -> None:
        assert self._correct is not None
        with torch.inference_mode(False), torch.enable_grad():
            batch = apply_to_collection(batch, Tensor, torch.clone)
            images, targets, ids = batch["image"], batch["target"], list(batch["id"])
            for place, attack in enumerate(self.attacks.values()):
                goals = targets
                if attack.targeted:
                    with judging(victim):
                        goals = choose_goals(self.goals, attack, targets, victim(images), ids)
                crafted = attack.craft(victim, images, goals, ids)
                with judging(victim):
                    right = ~victim.fooled(victim(crafted.images), targets)
                self._correct[place, 0] += right.sum()
                self._correct[place, 1] += len(right)


def _take(values: Any, rows: list[int]) -> Any:
    """Rows of a tensor, or of a list; all of them come back as they are."""
    if len(rows) == len(values):
        return values
    return values[rows] if isinstance(values, Tensor) else [values[row] for row in rows]
