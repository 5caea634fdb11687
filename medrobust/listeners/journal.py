"""The journal: one record for each image and attack, written as soon as there is one, resumed after a kill."""

import logging
import platform
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medrobust.evaluation.batch import AdversarialBatch
from medrobust.evaluation.context import EvaluationContext
from medrobust.evaluation.data import EvaluationData
from medrobust.evaluation.listener import AttackIdentity, EvaluationListener
from medrobust.evaluation.plan import EvaluationPlan
from medrobust.listeners.boxes import box_columns
from medrobust.listeners.held_evaluation import HeldEvaluation, shared_key
from medrobust.listeners.masks import mask_columns
from medrobust.listeners.probabilities import class_columns, label_columns
from medrobust.listeners.provenance import code_version, environment
from medrobust.networks.defended_victim import DefendedVictim
from medrobust.networks.victims import EvaluatedVictim, Targets, is_classes
from medrobust.results.columns import COLUMNS
from medrobust.results.formats import format_epsilon
from medrobust.results.manifest import SCHEMA, read_manifest, write_manifest
from medrobust.results.records import RECORDS, Journal, clean_outcomes, finished
from medrobust.results.timings import TIMINGS, Timings
from medrobust.results.writer import Writer

INTERACTIVE = ("", "-c", "ipykernel_launcher.py", "colab_kernel_launcher.py", "ipython", "ipython3")  # no program

logger = logging.getLogger(__name__)


class RecordJournal(EvaluationListener):
    """Writes a record of every attacked image into the evaluation's folder, one file per process.

    Images that the journal already holds, from a killed run or from a run on another number of processes, are not
    attacked again. Records carry a hash of victim, data and attack. Other attacks on the same victim and images join
    those that the folder holds; an evaluation of another victim, other images or other settings is refused, so that
    nothing is mixed and no table is lost.

    Args:
        folder: Folder of the evaluation; the command line sets ``runs/NAME/evaluate``, or by ``--evaluation``
            another one.
        run: Name of the run; the command line sets that of ``--name``.
        resume: Go on with what the folder holds, and add to it. With False this evaluation replaces the whole one that
            is there, attacks that it does not name among it: everything is attacked again, and the old records are
            deleted at the end.
        seed: Seed of the run, for the report; the command line sets ``--seed_everything``.
        probabilities: Keep the probability of every class besides that of the predicted and of the true one. The AUROC
            of more than two classes under attack needs them. Those of labels are always kept.
    """

    def __init__(
        self,
        folder: str = "",
        run: str = "",
        resume: bool = True,
        seed: int | None = None,
        probabilities: bool = False,
    ) -> None:
        """Keep the settings; nothing is written yet."""
        self.folder, self.run, self.resume, self.seed = folder, run, resume, seed
        self.probabilities = probabilities
        self._journal: Journal | None = None
        self._timings: Timings | None = None
        self._writer: Writer | None = None
        self._old: list[Path] = []
        self._held: HeldEvaluation | None = None
        self._found: dict[str, set[str]] = {}  # ids in the journal, by an attack's key

    def on_evaluation_identity(
        self,
        context: EvaluationContext,
        victim: EvaluatedVictim,
        data: EvaluationData,
        attacks: Sequence[AttackIdentity],
    ) -> dict[str, Any]:
        """Lock the folder, and note what it holds before any process writes.

        Raises:
            ValueError: No folder is given, another process is writing into it, or what it holds is damaged.
        """
        if not self.folder:
            raise ValueError("the journal needs the folder of the evaluation, journal.folder, and got none")
        if refused := context.broadcast(self._lock() if context.is_first else ""):
            raise ValueError(refused)
        self._old = [] if self.resume else sorted(Path(self.folder).glob("journal/*.jsonl"))
        self._old += [] if self.resume else sorted(Path(self.folder, TIMINGS).glob("*.jsonl"))
        self._found = finished(self.folder) if self.resume else {}
        self._held = HeldEvaluation.of(Path(self.folder), self._found) if self.resume else None
        return {"probabilities": True} if self.probabilities else {}

    def on_evaluation_plan(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Refuse what cannot join the records that are there, write the manifest, and mark the images that are done.

        Raises:
            ValueError: The folder holds an evaluation of another victim, other images or settings, or one of the
                attacks with other parameters.
        """
        folder = Path(self.folder)
        if self._held is not None:
            self._held.check(plan)
        manifest = self._manifest(context, victim, plan)
        if context.is_first:
            if not self.resume:
                announce_replaced(folder, plan)
            write_manifest(folder, manifest)
        for planned in plan.attacks:
            plan.done.setdefault(planned.key, set()).update(self._found.get(planned.key, ()))
        if self.resume:
            keys = [entry["key"] for entry in manifest["attacks"]]
            self._say_unused(context, sum(len(ids) for key, ids in self._found.items() if key not in keys))
            plan.recorded.update(clean_outcomes(folder, keys))
        self._found = {}
        self._journal, self._timings = Journal(folder, context.rank), Timings(folder, context.rank)

    def on_adversarial_batch_end(
        self, context: EvaluationContext, victim: EvaluatedVictim, batch: AdversarialBatch
    ) -> None:
        """Write a batch's records in one go, after every listener has added its columns, and how long it took."""
        assert self._journal is not None
        assert self._timings is not None
        self._journal.append(self._records(batch))
        if batch.seconds is not None:
            self._timings.append(batch.planned.key, len(batch), batch.seconds)

    def on_evaluation_end(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> None:
        """Close this process's file, and only now delete old records, so that a killed run loses nothing."""
        assert self._journal is not None
        self._journal.close()
        if context.is_first:
            for file in self._old:
                file.unlink(missing_ok=True)
        if self._writer is not None:
            self._writer.release()

    def close(self) -> None:
        """Close this process's file, also where the evaluation has not come to its end; a later one opens another."""
        if self._journal is not None:
            self._journal.close()

    def _say_unused(self, context: EvaluationContext, unused: int) -> None:
        """Warn of records that no result shows."""
        if unused and context.is_first and not (Path(self.folder) / RECORDS).is_file():
            logger.warning(
                "%d records in %s are of other weights, data, attacks or settings, or of an earlier version, and "
                "are not used",
                *(unused, self.folder),
            )

    def _lock(self) -> str:
        """Lock the folder; why that cannot be, for all processes to hear."""
        self._writer = Writer(self.folder, "an evaluation")
        try:
            self._writer.take()
        except ValueError as error:
            return str(error)
        return ""

    def _records(self, batch: AdversarialBatch) -> list[dict[str, Any]]:
        """A record of each image of a batch."""
        difference = (batch.adversarial - batch.clean).flatten(1)
        before, after = batch.before, batch.after
        planned = batch.planned
        nothing = [None] * len(batch)
        further = {**planned.attack.recorded(batch.measures), **batch.columns, **label_columns(batch)}
        further |= mask_columns(batch) | box_columns(batch)
        if self.probabilities:
            further |= class_columns(batch)
        per_image: dict[str, list[Any]] = {
            "id": batch.ids,
            "patient": [batch.plan.patients.get(id) for id in batch.ids],
            "target": _classes(batch.targets) or nothing,
            "goal": _classes(batch.goals) or nothing,
            "clean_prediction": nothing if before.prediction is None else before.prediction.tolist(),
            "adversarial_prediction": nothing if after.prediction is None else after.prediction.tolist(),
            "clean_confidence": nothing if before.confidence is None else _defined(before.confidence),
            "adversarial_confidence": nothing if after.confidence is None else _defined(after.confidence),
            "correct_before": before.right.tolist(),
            "correct_after": after.right.tolist(),
            "reached": batch.reached.tolist(),
            "success": batch.success.tolist(),
            "quality_before": _share(before.quality, batch.ids),
            "quality_after": _share(after.quality, batch.ids),
            "linf": difference.abs().amax(1).tolist(),
            "l2": torch.linalg.vector_norm(difference.double(), dim=1).tolist(),
            "l0": (difference != 0).sum(1).tolist(),
            "forwards": batch.forwards.tolist(),
            "backwards": batch.backwards.tolist(),
            "zero_gradients": batch.zero_gradients.tolist(),
            "var": _defined((difference / planned.epsilon).var(1, correction=0)) if planned.epsilon else nothing,
            **{name: _column(name, values, len(batch)) for name, values in further.items()},
        }
        for name in further:
            if name in COLUMNS:
                raise ValueError(
                    f"the column {name!r} is the journal's own: a listener's or an attack's needs another name"
                )
        shared = {
            "key": planned.key,
            "run": self.run,
            "victim": victim_name(batch.plan),
            "dataset": str(batch.plan.data["name"]),
            "split": batch.plan.split,
            "attack": planned.name,
            "method": type(planned.attack).__name__,
            "epsilon": planned.epsilon,
            "seed": planned.attack.seed,
        }
        rows = [dict(zip(per_image, values, strict=True)) for values in zip(*per_image.values(), strict=True)]
        return [{**shared, **row} for row in rows]

    def _manifest(self, context: EvaluationContext, victim: EvaluatedVictim, plan: EvaluationPlan) -> dict[str, Any]:
        data = {**plan.data, "images": len(plan.images)}
        size, channels = data.get("image_size"), data.get("channels")
        seen = {"input_defence_under_attack": victim.seen_by_attacks()} if isinstance(victim, DefendedVictim) else {}
        return {
            "schema": SCHEMA,
            "run": self.run,
            "created": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "seed": self.seed,
            "victim": {
                "name": victim_name(plan),
                **{name: value for name, value in plan.victim.items() if name != "backbone"},
                **seen,
                "parameters": sum(parameter.numel() for parameter in victim.parameters()),
                "input": [channels, size, size],
                "checkpoint": plan.checkpoint,
            },
            "data": data,
            "versions": versions(),
            "code": code_version(),
            "device": device_name(context.device),
            "environment": environment(context.device),
            "world_size": context.ranks,
            "command": command_line() if self._held is None else self._held.commands(command_line()),
            "binding": plan.binding,
            "listeners": plan.listeners,
            "shared": shared_key(plan),
            "attacks": [one.entry() for one in plan.attacks] if self._held is None else self._held.joined(plan.attacks),
        }


def announce_replaced(folder: Path, plan: EvaluationPlan) -> None:
    """Say which results of an earlier evaluation the folder will no longer show, before they are replaced."""
    try:
        before = read_manifest(folder)["attacks"]
    except ValueError:
        return
    keys = {planned.key for planned in plan.attacks}
    gone = [entry for entry in before if entry["key"] not in keys]
    if not gone or not (folder / RECORDS).is_file():
        return
    names = {planned.name for planned in plan.attacks}
    epsilons: dict[str, list[str]] = {entry["attack"]: [] for entry in gone}
    for entry in gone:
        if entry.get("epsilon") is not None:
            epsilons[entry["attack"]].append(format_epsilon(entry["epsilon"]))
    listed = ", ".join(f"{name} at {' and '.join(radii)}" if radii else name for name, radii in epsilons.items())
    why = "of other weights, data or settings" if names & epsilons.keys() else "of attacks that are not configured now"
    logger.warning(
        "%s holds results %s (%s), and its report and %s will no longer show them; to keep them, stop and give this "
        "evaluation a folder of its own by --evaluation NAME",
        *(folder, why, listed if len(listed) <= 200 else f"{listed[:200]}...", RECORDS),
    )


def victim_name(plan: EvaluationPlan) -> str:
    """How tables name the victim: by its backbone, architecture and encoder, or network, else by its class."""
    if {"architecture", "encoder"} <= plan.victim.keys():
        return f"{plan.victim['architecture']} {plan.victim['encoder']}"
    names = (plan.victim.get(kind) for kind in ("backbone", "network", "class"))
    return str(next((name for name in names if name), "victim"))


def versions() -> dict[str, str]:
    """Versions of Python and of what is installed of the packages that decide numbers."""
    found = {"python": platform.python_version(), "torch": torch.__version__}  # which names the build, such as +cpu
    for package in ("medrobust", "pytorch-lightning", "timm"):
        with suppress(PackageNotFoundError):
            found[package.replace("-", "_")] = version(package)
    return found


def device_name(device: torch.device) -> str:
    """Kind of a device, with the GPU's name if it is one."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def command_line() -> str:
    """The command that was typed; absolute paths, which belong to one machine, are cut to their last part."""
    if Path(sys.argv[0]).name in INTERACTIVE:
        return "in an interactive Python session"
    return shlex.join(["python", Path(sys.argv[0]).name, *map(_without_folders, sys.argv[1:])])


def _without_folders(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    return f"{option}{equals}{Path(value).name}" if Path(value).is_absolute() else argument


def _defined(values: Tensor) -> list[Any]:
    """The values of a column, with None in place of NaN."""
    return [None if value != value else value for value in values.tolist()]


def _column(name: str, values: Tensor | list[str | None], count: int) -> list[Any]:
    """Numbers of a listener's or an attack's column, or an attack's words.

    Raises:
        ValueError: They are not one number or word per image.
    """
    words = isinstance(values, list) and all(value is None or isinstance(value, str) for value in values)
    if isinstance(values, list) and words and len(values) == count:
        return values
    if not isinstance(values, Tensor) or values.shape != (count,):
        received = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"the column {name!r} is expected to be a tensor ({count},), one number per image, got {received}"
        )
    return _defined(values)


def _share(values: Tensor, ids: list[str]) -> list[Any]:
    """The qualities, with None in place of NaN.

    Raises:
        ValueError: A quality lies outside [0, 1]; the message names the image.
    """
    found = _defined(values)
    for id, value in zip(ids, found, strict=True):
        if value is not None and not -1e-6 <= value <= 1 + 1e-6:
            raise ValueError(f"a victim's quality lies in [0, 1], got {value:g} for the image {id!r}")
    return found


def _classes(targets: Targets) -> list[int] | None:
    """Classes as numbers; None for targets that are not one class per image."""
    return targets.tolist() if is_classes(targets) else None
