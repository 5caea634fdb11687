"""The engine of an evaluation: it crafts every image under every attack once, hands it to all listeners, resumes."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from medrobust.attacks import Attack, WorstCase
from medrobust.attacks.batch_checks import check_batch
from medrobust.attacks.in_turn import Turn, told_of_turns
from medrobust.evaluation.batch import CleanBatch
from medrobust.evaluation.binding import Seen, binding_of, refuse_seen
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.crafting import Crafter, judged
from medrobust.evaluation.data import Batch, EvaluationData, evaluation_data
from medrobust.evaluation.listener import AttackIdentity, EvaluationListener
from medrobust.evaluation.plan import EvaluationPlan, PlannedAttack, radius_of, record_key, weights_hash
from medrobust.networks.defended_victim import refuse_moving
from medrobust.networks.victims import EvaluatedVictim, evaluated_victim

ROUNDING = 0.02  # by which a quality may differ between devices, batch sizes and versions
JUMPS = 0.02  # share of images besides a first one, of which a quality without a prediction may jump by rounding alone
logger = logging.getLogger(__name__)


class Evaluation:
    """One evaluation of a victim on a split of some data.

    Call ``start``, then ``attack`` with each batch of the split, then ``end``, inside Lightning's loops or in a loop of
    your own. Several processes may share the split, as long as each image goes to exactly one of them.

    Args:
        context: The process that evaluates.
        victim: The victim; it is attacked in eval mode and left exactly as it was.
        data: The data that the images come from.
        split: The split under evaluation.
        attacks: Names and attacks in the order in which they run, as ``plan.lay_out`` gives them.
        crafter: Runs the attacks; None for one with default settings.
        listeners: The listeners, in the order in which they are called.
        control: Name of the attacks that were added as control rows, beside those that are natural; empty for none.
        checkpoint: Name of the file that the victim's weights come from, shown in the results; None if unknown.
        seen: What to do with images that the victim says it has seen in its training (``networks.SeenImages``):
            ``refuse`` them, or ``report`` their number as the first flag of the results.

    Raises:
        ValueError: There is no attack, victim or data lack something that an evaluation asks for, or an input defence
            moves what images with masks or boxes show.
    """

    def __init__(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        split: str,
        attacks: Sequence[tuple[str, Attack]],
        crafter: Crafter | None = None,
        listeners: Sequence[EvaluationListener] = (),
        control: str = "",
        checkpoint: str | None = None,
        seen: Seen = "refuse",
    ) -> None:
        """Keep what is given; nothing is computed yet."""
        if not attacks:
            raise ValueError("no attack is configured: an evaluation needs at least one")
        check_attacks(attacks)
        if unknown := [type(one).__name__ for one in listeners if not isinstance(one, EvaluationListener)]:
            raise ValueError(f"listeners derive from EvaluationListener, got a {unknown[0]}")
        self.context, self.split = context, split
        self.victim, self.data = evaluated_victim(victim), evaluation_data(data)
        refuse_moving(self.victim, self.data.task)
        refuse_of_classes(attacks, self.data.task)
        if split not in data.splits:
            raise ValueError(
                f"expected a split among {', '.join(data.splits) or 'none (call setup first)'}, got {split!r}"
            )
        self.attacks, self.control, self.checkpoint, self.seen = list(attacks), control, checkpoint, seen
        self.crafter = Crafter() if crafter is None else crafter
        self.listeners = list(listeners)
        self._plan: EvaluationPlan | None = None
        self._ids: set[str] = set()
        self._compared, self._changed = 0, list[str]()

    @property
    def plan(self) -> EvaluationPlan:
        """What is attacked with what.

        Raises:
            ValueError: The evaluation has not started.
        """
        if self._plan is None:
            raise ValueError("the evaluation has no plan yet: call start first")
        return self._plan

    def start(self) -> None:
        """Lay out the plan, let the listeners prepare, and fit what attacks and listeners need; before any batch.

        Raises:
            ValueError: The victim has seen images of the split, or something that an attack or a listener needs is
                missing or does not fit.
        """
        refuse_seen(binding_of(self.victim, self.data, self.split, {}), self.split, self.seen)
        self.crafter.load(self.context, self.victim)
        self._plan = plan = self._planned()
        for listener in self.listeners:
            listener.on_evaluation_plan(self.context, self.victim, plan)
        self.crafter.prepare(self.context, self.victim, self.data, plan)
        for listener in self.listeners:
            listener.on_evaluation_start(self.context, self.victim, self.data, plan, self.crafter)
        ids = [id for id, _ in plan.images]
        missing = sum(len(plan.pending(planned.key, ids)) for planned in plan.attacks)
        total = len(plan.attacks) * len(ids)
        if missing < total and self.context.is_first:
            logger.info("%d of %d records are there already and are kept", total - missing, total)

    def attack(self, batch: Batch) -> None:
        """Run every attack on those images of a batch that it has not been run on yet.

        Args:
            batch: Images, targets and ids, on the victim's device.

        Raises:
            ValueError: An image is not of the split or outside [0, 1], or the victim's outputs are not finite, of
                another form than expected or not those of its records; the message names the image or what was
                received.
        """
        plan, ids = self.plan, list(batch["id"])
        pending = {planned.key: plan.pending(planned.key, ids) for planned in plan.attacks}
        if unknown := [id for id in ids if id not in self._ids]:
            raise ValueError(f"the split {self.split} has no image {unknown[0]!r}, which the batch holds")
        recorded = [place for place, id in enumerate(ids) if id in plan.recorded]
        if not any(pending.values()) and not recorded:
            return
        with torch.inference_mode(False), torch.enable_grad():
            images, targets = cloned(batch["image"]), cloned(batch["target"])
            check_batch(images, targets, ids)
            clean = judged(self.victim, images, targets, ids)
            if recorded:
                self._compare(plan, clean.take(recorded))
            for planned in plan.attacks:
                if pending[planned.key]:
                    self._run(planned, plan, clean.take(pending[planned.key]))
                    plan.done.setdefault(planned.key, set()).update(ids)

    def _compare(self, plan: EvaluationPlan, clean: CleanBatch) -> None:
        """Compare what the victim makes of clean images with the records that the evaluation goes on with.

        A share of boxes or pixels may jump by rounding alone, so that a single image of such a task proves nothing; all
        batches so far count together, as a batch may hold a single image.

        Raises:
            ValueError: It differs by more than rounding; the message names the image.
        """
        self._compared += len(clean.ids)
        self._changed += changed_since(plan, clean)
        tolerated = 1 + JUMPS * self._compared if clean.outcome.prediction is None else 0
        if len(self._changed) > tolerated:
            raise ValueError(self._changed[0])

    def _run(self, planned: PlannedAttack, plan: EvaluationPlan, clean: CleanBatch) -> None:
        for listener in self.listeners:
            listener.on_attack_start(self.context, planned, plan)

        def tell(turn: Turn) -> None:
            for listener in self.listeners:
                listener.on_attack_turn(self.context, planned, plan, turn)

        with told_of_turns(tell):
            attacked = self.crafter(self.victim, planned, plan, clean)
        for listener in self.listeners:
            listener.on_adversarial_batch(self.context, self.victim, attacked)
        for listener in self.listeners:
            listener.on_adversarial_batch_end(self.context, self.victim, attacked)

    def end(self) -> None:
        """Tell the listeners that this process has no further batch.

        Raises:
            ValueError: The victim's weights have changed since the start, so that its records belong to no victim.
        """
        for listener in self.listeners:
            listener.on_evaluation_end(self.context, self.victim, self.plan)
        self.crafter.forget()
        if weights_hash(self.victim.state_dict()) != self.plan.victim["weights"]:
            raise ValueError(
                "the victim's weights or buffers have changed during the evaluation, so its records are not those of "
                "one victim: let its forward leave them alone, and evaluate it again with journal.resume false"
            )

    def _planned(self) -> EvaluationPlan:
        """The plan, in which every attack has a key made of all that decides its records."""
        description = {
            **checked_json(self.victim.description(), "the victim's description"),
            "weights": weights_hash(self.victim.state_dict()),
        }
        fingerprint = self.data.fingerprint(self.split)
        identities = [
            AttackIdentity(name, self.crafter.attack_identity(attack, self.data)) for name, attack in self.attacks
        ]
        shared = {**self._identities(identities), **self.crafter.identity()}
        self._ids = {sample.id for sample in self.data.splits[self.split]}
        about = {
            "name": self.data.name,
            "task": self.data.task,
            **checked_json(self.data.describe(), "the data's describe"),
        }
        samples = self.data.splits[self.split]
        return EvaluationPlan(
            attacks=[
                PlannedAttack(
                    name=name,
                    attack=attack,
                    key=record_key(name, description, fingerprint, identity, shared),
                    control=attack.natural or (bool(self.control) and name == self.control),
                )
                for (name, attack), (_, identity) in zip(self.attacks, identities, strict=True)
            ],
            split=self.split,
            images=[(sample.id, str(sample.stratum)) for sample in samples],
            victim=description,
            data={**about, "split": self.split, "fingerprint": fingerprint},
            listeners=shared,
            patients={sample.id: sample.patient for sample in samples},
            checkpoint=self.checkpoint,
            binding=binding_of(self.victim, self.data, self.split, self._other_victims()),
        )

    def _other_victims(self) -> dict[str, EvaluatedVictim]:
        """Surrogate and judges, by what they are."""
        others = self.crafter.other_victims()
        for listener in self.listeners:
            others |= listener.other_victims()
        return others

    def _identities(self, attacks: Sequence[AttackIdentity]) -> dict[str, Any]:
        """What the listeners' columns depend on; then wait, so that no process writes before all have looked."""
        found: dict[str, Any] = {}
        for listener in self.listeners:
            identity = listener.on_evaluation_identity(self.context, self.victim, self.data, attacks)
            found |= checked_json(identity, f"{type(listener).__name__}.on_evaluation_identity")
        self.context.barrier()
        return found


def changed_since(plan: EvaluationPlan, clean: CleanBatch) -> list[str]:
    """A sentence for each clean image of which the victim makes something else than its records say."""
    outcome, changed = clean.outcome, []
    for id, right, quality in zip(clean.ids, outcome.right.tolist(), outcome.quality.tolist(), strict=True):
        before = plan.recorded.pop(id)
        if before.quality is None or quality != quality:
            differs = before.right != right
        else:
            differs = abs(before.quality - quality) > ROUNDING
        if differs:
            was, now = (
                f"{'right' if right else 'wrong'} ({'undefined' if quality is None else f'{quality:.3f}'})"
                for right, quality in ((before.right, before.quality), (right, quality))
            )
            changed.append(
                f"the records that are there say that the victim was {was} about the clean image {id!r}, and now it is "
                f"{now}: images, their preparation or the victim's code have changed since, so the evaluation cannot "
                "go on; attack everything again with journal.resume false"
            )
    return changed


def check_attacks(attacks: Sequence[tuple[str, Attack]]) -> None:
    """Refuse what is not a list of names and attacks.

    Raises:
        ValueError: Something else was given, or one name twice at one radius; the message shows it.
    """
    for entry in [attacks] if isinstance(attacks, Mapping) else attacks:
        if not isinstance(entry, tuple) or len(entry) != 2 or not isinstance(entry[1], Attack):
            raise ValueError(f"attacks are pairs of a name and an Attack, as lay_out gives them, got {entry!r}")
    places = Counter((name, radius_of(attack)) for name, attack in attacks)
    for (name, radius), times in places.items():
        if times > 1:
            where = "" if radius is None else f" at the radius {float(radius):g}"
            raise ValueError(f"a name stands for one attack at each radius, got {name!r} {times} times{where}")


def refuse_of_classes(attacks: Sequence[tuple[str, Attack]], task: str) -> None:
    """Refuse attacks that move between classes where there are masks or boxes, before any image is read.

    Raises:
        ValueError: The message names the attack.
    """
    what = {"segmentation": "masks", "boxes": "boxes"}.get(task)
    for name, attack in attacks if what else ():
        for one in attack.members if isinstance(attack, WorstCase) else (attack,):
            if one.of_classes:
                raise ValueError(
                    f"the attack {name!r} is expected to run on {what}, and {type(one).__name__} moves between classes "
                    "and does not: leave it out, or take a configuration such as configs/attacks/"
                    f"{what}.yaml"
                )


def checked_json(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values themselves, if they are a dict that JSON can hold: they become part of keys and of the manifest.

    Raises:
        ValueError: They are not; names where they come from.
    """
    try:
        if not isinstance(values, dict):
            raise TypeError(f"it is a {type(values).__name__}")
        json.dumps(values, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} has to return a dict of plain values that JSON can hold, but {error}") from error
    return values


def cloned(value: Any) -> Any:
    """Copies of all tensors in dicts and lists, made outside inference mode: inference tensors carry no gradients."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value)
