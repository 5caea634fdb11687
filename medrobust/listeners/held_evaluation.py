"""What an evaluation's folder holds already: further attacks join it, and whatever else would mix or replace it not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from medrobust.evaluation.plan import EvaluationPlan, PlannedAttack, record_key
from medrobust.results.formats import format_epsilon
from medrobust.results.manifest import MANIFEST, read_manifest
from medrobust.results.records import RECORDS

REMEDY = (
    "give this evaluation a folder of its own by --evaluation NAME, which keeps both, or replace the one that is there "
    "by --journal.resume false"
)
SHOWN = 3  # differences that a sentence names
OF_DATA = ("name", "root", "image_size", "channels", "resize", "limit")
SETTINGS = {  # what the records' columns depend on, as a sentence calls it
    "detection": "detectors",
    "judges": "judges",
    "surrogate": "surrogate",
    "precision": "attack.precision",
    "probabilities": "journal.probabilities",
    "representation": "representation",
}
# what manifests say of a victim besides its description
BESIDE = (
    *("name", "parameters", "input", "checkpoint", "quality", "quality_images", "quality_without_defence"),
    *("defence", "input_defence_under_attack"),
)


@dataclass(frozen=True)
class HeldEvaluation:
    """The records that a folder holds, with the manifest that says what they are of.

    Args:
        folder: The folder.
        manifest: Its manifest.
        done: Ids of the images that were attacked, by an attack's key.
    """

    folder: Path
    manifest: Mapping[str, Any]
    done: Mapping[str, set[str]]

    @classmethod
    def of(cls, folder: Path, done: Mapping[str, set[str]]) -> Self | None:
        """The evaluation in a folder; None if it holds none with a record, so that nothing can be lost.

        Args:
            folder: The folder.
            done: Ids in its journal, by an attack's key.

        Raises:
            ValueError: There are records, and the manifest is damaged or of another schema, or the journal is missing.
        """
        merged = (folder / RECORDS).is_file()
        if not (folder / MANIFEST).is_file() or not (done or merged):
            return None
        try:
            held = cls(folder, read_manifest(folder), done)
        except ValueError as error:
            raise ValueError(f"the evaluation in {folder} cannot be added to ({error}): {REMEDY}") from error
        if merged and held.manifest["attacks"] and not done:
            raise ValueError(
                f"{folder} holds a {RECORDS} without the journal that it was made of, so that nothing can be added to "
                f"it: {REMEDY}"
            )
        return held if held.entries else None

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The manifest's entries of the attacks that have a record."""
        return [dict(entry) for entry in self.manifest["attacks"] if self.done.get(entry["key"])]

    def check(self, plan: EvaluationPlan) -> None:
        """Refuse a plan whose records are of another victim, other images or settings, or under a name that is taken.

        Raises:
            ValueError: Says what differs, and what to do.
        """
        if found := self._differences(plan):
            shown = ", ".join(found[:SHOWN]) + (" and more" if len(found) > SHOWN else "")
            raise ValueError(f"{self.folder} holds an evaluation {shown}, whose tables would be lost: {REMEDY}")
        held = {(entry["attack"], entry.get("epsilon")): entry for entry in self.entries}
        for planned in plan.attacks:
            entry = held.get((planned.name, planned.epsilon))
            if entry is not None and entry["key"] != planned.key:
                where = "" if planned.epsilon is None else f" at {format_epsilon(planned.epsilon)}"
                raise ValueError(
                    f"{self.folder} holds results of {planned.name}{where} with other settings "
                    f"({_parameters(entry, planned)}): give this attack another name, or {REMEDY}"
                )

    def joined(self, planned: Sequence[PlannedAttack]) -> list[dict[str, Any]]:
        """Entries of the attacks that are there and of those that join them, as if all had been planned at once.

        Controls come first, by their radii; then the others in the order in which they were added.
        """
        every = {entry["key"]: entry for entry in self.entries} | {one.key: one.entry() for one in planned}
        controls = [entry for entry in every.values() if entry.get("control")]
        others = [entry for entry in every.values() if not entry.get("control")]
        return sorted(controls, key=lambda entry: entry.get("epsilon") or 0.0) + others

    def commands(self, now: str) -> str:
        """The commands that have made the records, a line for each."""
        before = [line for line in str(self.manifest.get("command", "")).splitlines() if line and line != now]
        return "\n".join([*before, now])

    def _differences(self, plan: EvaluationPlan) -> list[str]:
        """In what all records of a plan differ from those that are there; to be read behind "an evaluation"."""
        stored = self.manifest.get("shared")
        if stored is not None and stored == shared_key(plan):
            return []
        found = [*self._of_victim(plan), *self._of_data(plan), *self._of_settings(plan)]
        return found if found or stored is None else ["by another version"]

    def _of_victim(self, plan: EvaluationPlan) -> list[str]:
        before, now = dict(self.manifest.get("victim") or {}), _plain(plan.victim)
        if "weights" not in before:
            return ["by an earlier version"]
        found = [] if before["weights"] == now["weights"] else ["of other weights"]
        if "backbone" in now:
            before["backbone"] = before.get("name")
        names = [*now, *(name for name in before if name not in now and name not in BESIDE)]
        differing = [name for name in names if name != "weights" and before.get(name) != now.get(name)]
        return found + [f"{'with' if name in before else 'without'} {_said(name, before, now)}" for name in differing]

    def _of_data(self, plan: EvaluationPlan) -> list[str]:
        before, now = self.manifest["data"], _plain(plan.data)
        found = [] if before.get("split") == now.get("split") else [f"on another split ({before.get('split')})"]
        if before.get("fingerprint") == now.get("fingerprint"):
            return found
        told = [f"with {_said(name, before, now)}" for name in OF_DATA if before.get(name) != now.get(name)]
        if not told and not found:
            told = [f"on other images or contents of their files ({before['images']} images)"]
        return found + told

    def _of_settings(self, plan: EvaluationPlan) -> list[str]:
        before, now = self.manifest.get("listeners") or {}, _plain(plan.listeners)
        found = []
        for name in dict.fromkeys((*now, *before)):
            if before.get(name) != now.get(name):
                how = "without" if name not in before else "with" if name not in now else "with other settings of"
                found.append(f"{how} {SETTINGS.get(name, name)}")
        return found


def shared_key(plan: EvaluationPlan) -> str:
    """16 hex digits over all that decides every record of a plan: victim, images and what all attacks share."""
    return record_key("shared", plan.victim, plan.data["fingerprint"], plan.listeners)


def _said(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """A value and what it is now, if they are short enough; the name alone if not."""
    values = [str(one.get(name)) for one in (before, now)]
    short = all(len(value) <= 30 for value in values) and name in before and name in now
    return f"{name} {values[0]} (now {values[1]})" if short else name


def _parameters(entry: Mapping[str, Any], planned: PlannedAttack) -> str:
    """The parameters in which an attack differs from the entry of its name."""
    before, now = entry.get("parameters") or {}, _plain(planned.attack.parameters())
    names = [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]
    shown = "; ".join(_said(name, before, now) for name in names[:SHOWN])
    return shown or "its goals, or the images that its objective is fitted to"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON gives them back."""
    return dict(json.loads(json.dumps(values)))
