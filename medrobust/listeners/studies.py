"""Studies: looks at some images while the victim is there, of which the figures of an evaluation are made."""

import hashlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from medrobust.evaluation.batch import AdversarialBatch, take
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.crafting import Crafter
from medrobust.evaluation.data import EvaluationData
from medrobust.evaluation.deployment import judging
from medrobust.evaluation.listener import AttackIdentity, EvaluationListener
from medrobust.evaluation.other_victims import victim_beside
from medrobust.evaluation.plan import EvaluationPlan, PlannedAttack, record_key, weights_hash
from medrobust.listeners.held_evaluation import shared_key
from medrobust.networks.victims import EvaluatedVictim
from medrobust.results.studied import keep, kept_keys, place_of_image, read_image, write_settings
from medrobust.studies import Study

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
DEFINITION = 1  # of what studies keep: files of another one are made again

logger = logging.getLogger(__name__)


class Studies(EvaluationListener):
    """Lets studies look at the images that they choose, and keeps what they find in ``studies/NAME`` of the folder.

    The images are the same under every attack and on any number of processes. What a killed evaluation has kept is not
    computed again; an image whose file is missing or damaged is attacked again.

    Args:
        folder: Folder of the evaluation; the command line sets ``runs/NAME/evaluate``.
        studies: Studies by name, of letters, digits, ``_`` and ``-``.

    Raises:
        ValueError: A name has other characters; or (later, before images are read) an attack or a surrogate does not
            exist, or a study cannot look at the victim or the data.
    """

    def __init__(self, folder: str = "", studies: dict[str, Study] | None = None) -> None:
        """Keep the settings."""
        self.folder, self.studies = folder, dict(studies or {})
        for name in self.studies:
            if not NAME.fullmatch(name):
                raise ValueError(f"a study's name is made of letters, digits, _ and -, got {name!r}")
        self._asked = dict(self.studies)  # the same, with the further victims that they ask
        self._others: dict[str, list[str]] = {}  # hashes of the weights of these
        self._chosen: dict[str, list[str]] = {}
        self._clean_keys: dict[str, str] = {}
        self._keys: dict[str, dict[str, str]] = {}  # by study and attack

    def on_evaluation_identity(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        attacks: Sequence[AttackIdentity],
    ) -> dict[str, Any]:
        """Let the studies look at the victim, and name those that add columns.

        Raises:
            ValueError: A study names an attack or a surrogate that does not exist, cannot look at the victim or the
                data, or adds the columns of another one.
        """
        names = list(dict.fromkeys(attack.name for attack in attacks))
        for name, study in self.studies.items():
            for wanted in study.attacks:
                if wanted not in names:
                    raise ValueError(f"the study {name!r} looks at the attack {wanted!r}, expected {', '.join(names)}")
            if study.of_classes and data.task != "classification":
                kind = type(study).__name__
                raise ValueError(f"the study {name!r} looks at one class per image ({kind}), got the task {data.task}")
            study.check(victim)
            others = [victim_beside(victim, path, f"a surrogate of {name}", context.device) for path in study.beside]
            self._asked[name] = study.asking(others) if others else study
            self._others[name] = [weights_hash(other.state_dict()) for other in others]
        adding = [type(study).__name__ for study in self.studies.values() if study.has_columns]
        if len(set(adding)) < len(adding):
            raise ValueError(
                f"studies of one kind add the same columns, got {', '.join(sorted(adding))}: keep one of each"
            )
        return {
            f"study_{name}": {"class": type(study).__name__, **study.parameters()}
            for name, study in self.studies.items()
            if study.has_columns
        }

    def other_victims(self) -> dict[str, EvaluatedVictim]:
        """The surrogates of the studies."""
        return {
            f"a surrogate of the study {name} ({path})": other
            for name, study in self._asked.items()
            for path, other in zip(study.beside, study.others, strict=False)
        }

    def on_evaluation_plan(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Choose the images; those of which something is missing are attacked again."""
        for name, study in self.studies.items():
            of_study = [DEFINITION, type(study).__name__, _deciding(study), *self._others.get(name, ())]
            attacks = [planned for planned in plan.attacks if _looks_at(study, planned)]
            self._chosen[name] = chosen_images(plan.images, study.images) if attacks else []
            self._clean_keys[name] = record_key("clean", plan.victim, plan.data["fingerprint"], *of_study)
            self._keys[name] = {planned.key: record_key(planned.key, *of_study) for planned in attacks}
            for planned in attacks if study.keeps_attacked else ():
                self._attack_again(name, self._keys[name][planned.key], planned, plan)
            if study.keeps_clean and attacks:
                self._attack_again(name, self._clean_keys[name], attacks[0], plan)

    def on_evaluation_start(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        plan: EvaluationPlan,
        crafter: Crafter,
    ) -> None:
        """Write down what each study was asked for."""
        for name, study in self.studies.items() if context.is_first else ():
            asked = (type(study).__name__, study.parameters(), self._chosen[name])
            shared = shared_key(plan)
            # what was kept of attacks that this evaluation joins stays beside its own; the manifest says which count
            before = kept_keys(self.folder, name, type(study).__name__, self._clean_keys[name], shared)
            keys = (self._clean_keys[name], {**before, **self._keys[name]})
            write_settings(self.folder, name, *asked, *keys, drawing=study.drawing, shared=shared)

    def on_adversarial_batch(
        self, context: EvaluationContext, victim: EvaluatedVictim, batch: AdversarialBatch
    ) -> None:
        """Let each study look at the images of a batch that it has chosen, and at all of them for its columns."""
        for name, study in self._asked.items():
            if study.has_columns:
                with _looking(victim, batch.ids):
                    batch.columns.update(study.columns(victim, batch))
            own = self._keys[name].get(batch.planned.key)
            if own is None:
                continue
            if study.keeps_clean:
                self._keep_clean(name, study, victim, batch)
            if study.keeps_attacked and (rows := self._rows(name, own, batch)):
                part = rows_of(batch, rows)
                with _looking(victim, part.ids):
                    found = study.of_attack(victim, part)
                about = {"attack": batch.planned.name, "epsilon": batch.planned.epsilon}
                self._keep(name, own, part, found, about)

    def on_evaluation_end(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Drop the surrogates."""
        self._asked = dict(self.studies)

    def _keep_clean(self, name: str, study: Study, victim: EvaluatedVictim, batch: AdversarialBatch) -> None:
        key = self._clean_keys[name]
        if rows := self._rows(name, key, batch):
            part = rows_of(batch, rows)
            with _looking(victim, part.ids):
                found = study.of_clean(victim, part.clean, part.targets, part.ids)
            self._keep(name, key, part, found, {})

    def _rows(self, name: str, key: str, batch: AdversarialBatch) -> list[int]:
        """Rows of the images that a study has chosen and has not kept yet."""
        chosen = set(self._chosen[name])
        return [
            row
            for row, id in enumerate(batch.ids)
            if id in chosen and not place_of_image(self.folder, name, key, id).is_file()
        ]

    def _keep(
        self,
        name: str,
        key: str,
        part: AdversarialBatch,
        found: Mapping[str, Tensor],
        about: Mapping[str, Any],
    ) -> None:
        arrays = {label: values.detach().cpu().numpy() for label, values in found.items()}
        after = part.after if about else part.before
        for row, id in enumerate(part.ids):
            seen: dict[str, Any] = {"right_before": bool(part.before.right[row]), "right_after": bool(after.right[row])}
            if isinstance(part.targets, Tensor) and part.targets.ndim == 1:
                seen["target"] = int(part.targets[row])
                seen["prediction"] = None if after.prediction is None else int(after.prediction[row])
            own = {label: values[row] for label, values in arrays.items()}
            keep(self.folder, name, key, id, {**seen, **about}, own)

    def _attack_again(self, name: str, key: str, planned: PlannedAttack, plan: EvaluationPlan) -> None:
        """Take the chosen images whose file is missing or damaged from what is done."""
        done = plan.done.get(planned.key, set())
        for id in self._chosen[name]:
            path = place_of_image(self.folder, name, key, id)
            if read_image(path) is None:
                path.unlink(missing_ok=True)
                done.discard(id)


def chosen_images(images: Sequence[tuple[str, str]], count: int | None) -> list[str]:
    """Ids of some images, one stratum after the other in turn, in the order of a hash of their ids.

    Args:
        images: Id and stratum of every image.
        count: How many are chosen; None for all.
    """
    strata: dict[str, list[str]] = {}
    for id, stratum in sorted(images, key=lambda image: hashlib.sha256(image[0].encode()).digest()):
        strata.setdefault(stratum, []).append(id)
    turns = sorted((place, stratum, id) for stratum, ids in strata.items() for place, id in enumerate(ids))
    return [id for _, _, id in turns[:count]]


def rows_of(batch: AdversarialBatch, rows: Sequence[int]) -> AdversarialBatch:
    """Some images of an adversarial batch, without the columns."""
    if list(rows) == list(range(len(batch))):
        return batch
    places = list(rows)
    return replace(
        batch,
        ids=[batch.ids[row] for row in places],
        targets=take(batch.targets, places),
        goals=None if batch.goals is None else take(batch.goals, places),
        clean=batch.clean[places],
        adversarial=batch.adversarial[places],
        clean_outputs=take(batch.clean_outputs, places),
        adversarial_outputs=take(batch.adversarial_outputs, places),
        before=batch.before[places],
        after=batch.after[places],
        reached=batch.reached[places],
        forwards=batch.forwards[places],
        backwards=batch.backwards[places],
        zero_gradients=batch.zero_gradients[places],
        measures={name: numbers[places] for name, numbers in batch.measures.items()},
        pictures={name: picture[places] for name, picture in batch.pictures.items()},
        columns={},
    )


def _looks_at(study: Study, planned: PlannedAttack) -> bool:
    if study.attacks:
        return planned.name in study.attacks
    return study.sees_controls or not planned.control


def _deciding(study: Study) -> dict[str, Any]:
    """The parameters that decide what is kept of an image: not which images or attacks are looked at."""
    return {name: value for name, value in study.parameters().items() if name not in ("images", "attacks")}


@contextmanager
def _looking(victim: EvaluatedVictim, ids: Sequence[str]) -> Iterator[None]:
    """The victim as it judges, frozen, with gradients of images."""
    with torch.inference_mode(False), judging(victim, ids), torch.enable_grad():
        yield
