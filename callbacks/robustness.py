"""The callback that attacks a victim inside Lightning's loops: it hands them to the engine of an evaluation."""

import logging
from collections.abc import Iterable, Sequence
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.foreign import LoaderBatches, data_for, own_batch
from medrobust.attacks import Attack
from medrobust.attacks.budgets import Fraction
from medrobust.evaluation import Crafter, Evaluation, EvaluationContext, EvaluationListener, EvaluationPlan
from medrobust.evaluation.binding import Seen
from medrobust.evaluation.data import Batch, evaluation_data
from medrobust.evaluation.deployment import Precision, judging
from medrobust.evaluation.engine import cloned
from medrobust.evaluation.goals import Goals, choose_goals
from medrobust.evaluation.loaded_data import LoadedData
from medrobust.evaluation.settings import CONTROL, check_settings, planned_attacks
from medrobust.networks import InputDefence, defended
from medrobust.networks.finite import finite_outputs
from medrobust.networks.victim_of import victim_of
from medrobust.networks.victims import EvaluatedVictim

logger = logging.getLogger(__name__)


class Robustness(Callback):
    """Attacks the victim: a few batches while it is fine-tuned, everything in ``validate`` and ``test``.

    Each adversarial image is crafted once and handed to every callback that is an ``EvaluationListener``. Victim and
    gradients are taken care of, so that no flag of the trainer (inference mode, DDP) can break an attack.

    It also works in the trainer of somebody else's module, with somebody else's loaders, of which it asks little:

    - of the module that ``forward(images)`` maps float32 images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``, or
      that an attribute or property ``victim`` holds what ``medrobust.as_victim`` makes of its network: with the
      normalisation ``mean`` and ``std``, and for outputs of another kind;
    - of the loaders that their batches are pairs (images, targets), triples with ids, or dictionaries with ``image``
      and ``target`` and, where they are known, ``id`` and ``patient``, the same images each time. They are gone
      through once more, to name and hash the images;
    - of the trainer, in several processes, ``use_distributed_sampler=False``, unless the images have ids.

    What detectors and hiding objectives learn from comes from a data module that is ``evaluation.EvaluationData``.
    ``medrobust.results.report.finish`` makes tables and the report of what ``RecordJournal`` has written.

    Args:
        attacks: Attacks by name.
        epsilons: Radii at which every attack runs in ``validate`` and ``test``, in units of the [0, 1] image range,
            such as ``1/255``; None leaves each attack at its own.
        log_epsilons: Radii at which attacks in the log domain run instead, in units of the natural logarithm of an
            image; needed beside ``epsilons`` if there is such an attack.
        controls: Add uniform noise of the same radii, the control that every table shows.
        fit_batches: Validation batches of each epoch that are attacked while fine-tuning, each attack at its own
            radius; 0 for none.
        deployment: Attack a copy of the victim that is frozen, with BatchNorm folded and in channels_last, proved equal
            on the first batch; in ``validate`` and ``test`` only, since training changes the weights.
        precision: ``32``, or ``bf16`` for the gradients of the attacks, in ``validate`` and ``test`` on a GPU. What an
            attack has made is always judged in float32 by the victim itself.
        goals: What targeted attacks aim at: the ``next`` class, a ``random`` other one (drawn for each image), or
            of the others the one that is ``likeliest`` or ``least_likely`` by the clean outputs. Of labels that do not
            exclude each other, ``next`` turns all of them and the others turn one. Of masks ``erase`` (everything is
            background) or ``shift`` (the true mask, a quarter of the width further right), of boxes ``vanish`` (none),
            ``invent`` (up to three where nothing is, of drawn classes) or ``relabel`` (the true ones as drawn other
            classes). A goal is reached where the victim would be right if it were the truth; so a mask is erased where
            not one pixel of the foreground is left, and ``goal_share`` in the records says how much is. An image whose
            goal is its truth is never reached.
        surrogate: Run or checkpoint of another victim of the same task, on which everything is crafted; the victim
            judges it (HFC21's semi-white box). None crafts on the victim itself.
        reference_per_class: Clean training images of each class that objectives such as ``FeatureConstraint`` are
            fitted to; None for all.
        fitted: Folder in which fitted mixtures are kept for the next evaluation; the command line sets
            ``runs/NAME/fitted``.
        seed: Seed of all attacks' random streams; None leaves each attack its own.
        seen: What to do with images that the victim has seen in its training: ``refuse`` to evaluate them, or
            ``report`` their number at the top of the results, for an evaluation on Train on purpose.
        label: Name of the one label that targeted attacks turn, of a victim of several labels; None for those that
            ``goals`` chooses.
        input_defence: What is done to each image before the victim sees it, in ``validate`` and ``test``, such as
            ``JPEGCompression``; attacks see through it, and the real defence judges. None for nothing.
        goal_mask: File of a mask that targeted attacks on masks aim at in place of ``goals``, an image whose values are
            labels, as large as the images that the victim is shown; None for none.

    Raises:
        ValueError: A radius or count is out of its range, the name of an attack is not text, a label is named that no
            attack is to turn, a goal mask at which none aims, or a sweep's radii fit no attack or not all of them.
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
        seen: Seen = "refuse",
        log_epsilons: list[Fraction | float] | None = None,
        label: str | None = None,
        input_defence: InputDefence | None = None,
        goal_mask: str | None = None,
    ) -> None:
        """Keep the settings."""
        self.attacks = dict(attacks or {})
        self.epsilons, self.log_epsilons = epsilons, log_epsilons
        self.controls, self.goals, self.seed = controls, goals, seed
        self.fit_batches, self.seen, self.input_defence = fit_batches, seen, input_defence
        check_settings(self.attacks, epsilons, log_epsilons, controls, label, goal_mask)
        if fit_batches < 0:
            raise ValueError(f"fit_batches counts batches and is not negative, got {fit_batches}")
        self.crafter = Crafter(
            deployment=deployment,
            precision=precision,
            goals=goals,
            surrogate=surrogate,
            reference_per_class=reference_per_class,
            fitted=fitted,
            label=label,
            goal_mask=goal_mask,
        )
        self.planned()  # refuses radii that no attack takes
        self.evaluation: Evaluation | None = None
        self._correct: Tensor | None = None
        self._batches: LoaderBatches | None = None

    def planned(self) -> list[tuple[str, Attack]]:
        """Names and attacks of an evaluation, in the order in which they run; names repeat over radii."""
        return planned_attacks(self.attacks, self.epsilons, self.log_epsilons, self.controls, self.seed)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the evaluation of the split that the test stage sees."""
        self._start(trainer, pl_module, "test")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the evaluation of Val, or start counting for an epoch of ``fit``."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._start(trainer, pl_module, "val")
        elif self.attacks and self.fit_batches:
            device = trainer.strategy.root_device
            self._correct = torch.zeros(len(self.attacks), 2, dtype=torch.long, device=device)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Attack a batch."""
        self._attack(batch)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Attack a batch; while fine-tuning only the first few, and only their success is kept."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._attack(batch)
        elif self._correct is not None and batch_idx < self.fit_batches and not trainer.sanity_checking:
            names: Sequence[str] = ()
            if self.crafter.label is not None or self.goals in ("invent", "relabel"):
                names = evaluation_data(trainer.datamodule).describe()["class_names"]  # type: ignore[attr-defined]
            self._attack_in_fit(victim_of(pl_module), own_batch(batch), self._correct, names)

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
        """End the evaluation."""
        self._end()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the evaluation; an epoch of ``fit`` has none."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._end()

    def _start(self, trainer: pl.Trainer, module: pl.LightningModule, stage: Literal["test", "val"]) -> None:
        if not self.attacks:
            raise ValueError("no attack is configured: add a config such as configs/attacks/linf.yaml with -c")
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if (count := sum(isinstance(one, Robustness) for one in callbacks)) > 1:
            raise ValueError(f"a trainer evaluates by one Robustness, which takes several attacks, and has {count}")
        context, victim = context_of(trainer), victim_of(module)
        if self.input_defence is not None:
            victim = defended(victim, self.input_defence)
        data = data_for(trainer, stage, context, victim)
        self._batches = LoaderBatches(data) if isinstance(data, LoadedData) else None
        self.evaluation = Evaluation(
            context=context,
            victim=victim,
            data=data,
            split=data.test_split if stage == "test" else "val",
            attacks=self.planned(),
            crafter=self.crafter,
            listeners=[_PlanTold(trainer, stage), *_listeners(trainer)],
            control=CONTROL if self.controls else "",
            checkpoint=Path(str(trainer.ckpt_path)).name if trainer.ckpt_path else None,
            seen=self.seen,
        )
        self.evaluation.start()

    def _attack(self, value: Any) -> None:
        """Attack a batch of the data, or this process's images of somebody's batch."""
        assert self.evaluation is not None
        mine = value if self._batches is None else self._batches.next(value)
        if mine is not None:
            self.evaluation.attack(mine)

    def _end(self) -> None:
        if self.evaluation is not None:
            self.evaluation.end()

    def _attack_in_fit(self, victim: EvaluatedVictim, batch: Batch, correct: Tensor, names: Sequence[str]) -> None:
        """Count the images of a batch that are right under each attack, and all images."""
        with torch.inference_mode(False), torch.enable_grad():
            images, targets, ids = cloned(batch["image"]), cloned(batch["target"]), list(batch["id"])
            for place, attack in enumerate(self.attacks.values()):
                goals = targets
                if attack.targeted:
                    with judging(victim):
                        outputs = victim(images)
                        chosen = (self.goals, attack, targets, outputs, ids, self.crafter.label, names)
                        side = (images.shape[-2], images.shape[-1])
                        goals = choose_goals(*chosen, goal_mask=self.crafter.goal_mask, side=side)
                crafted = attack.craft(victim, images, goals, ids)
                with judging(victim):
                    outputs = finite_outputs(victim(crafted.images), ids, f"under {type(attack).__name__}")
                    right = victim.outcome(outputs, targets).right
                correct[place, 0] += right.sum()
                correct[place, 1] += len(right)


@runtime_checkable
class DealsImages(Protocol):
    """A batch sampler that says which images each process gets, without asking for any."""

    def of_rank(self, rank: int, world: int) -> Iterable[list[int]]:
        """The batches of one of several processes."""


class _PlanTold(EvaluationListener):
    """Logs how many attacks run on how many images, before anything is fitted; a limit of batches leaves some out."""

    def __init__(self, trainer: pl.Trainer, stage: str) -> None:
        self.trainer, self.stage = trainer, stage

    def on_evaluation_plan(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Log it on the first process."""
        trainer, testing = self.trainer, self.stage == "test"
        batches = sum(trainer.num_test_batches if testing else trainer.num_val_batches)  # infinite if nobody knows
        loader, images = trainer.test_dataloaders if testing else trainer.val_dataloaders, len(plan.images)
        if isinstance(loader, DataLoader) and isfinite(batches):
            if loader.batch_size is not None:
                images = min(images, int(batches) * loader.batch_size * context.ranks)
            elif isinstance(sampler := loader.batch_sampler, DealsImages):
                dealt = [islice(sampler.of_rank(rank, context.ranks), int(batches)) for rank in range(context.ranks)]
                images = min(images, sum(len(batch) for one in dealt for batch in one))
            elif loader.batch_sampler is not None:
                sizes = map(len, islice(loader.batch_sampler, int(batches)))
                images = min(images, sum(sizes) * context.ranks)
        if context.is_first:
            attacks = f"{len(plan.attacks)} attack{'' if len(plan.attacks) == 1 else 's'}"
            logger.info("%s x %d image%s", attacks, images, "" if images == 1 else "s")


def _listeners(trainer: pl.Trainer) -> list[EvaluationListener]:
    """The callbacks that listen, in their order."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [callback for callback in callbacks if isinstance(callback, EvaluationListener)]


def context_of(trainer: pl.Trainer) -> EvaluationContext:
    """What an evaluation has to know of a trainer's machine."""
    shown = trainer.progress_bar_callback is not None
    context = EvaluationContext(trainer.strategy.root_device, show_progress=shown)
    context.rank, context.ranks = trainer.global_rank, trainer.world_size
    return context
