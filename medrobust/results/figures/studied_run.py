"""A run whose studies are drawn, alone or beside others."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from medrobust.results.formats import format_epsilon
from medrobust.results.studied import Kept, Studied


class StudiedRun(NamedTuple):
    """One study of one run.

    Args:
        label: What the run is called in the figure.
        summary: Its summary.
        studied: What the study has kept.
    """

    label: str
    summary: Mapping[str, Any]
    studied: Studied


class StudiedAttack(NamedTuple):
    """What a study has kept of one attack.

    Args:
        label: Name of the attack, with its radius if the study has seen it at several.
        control: Whether it is the control.
        row: Its row of the summary; empty if it has none.
        kept: What is kept of its images.
    """

    label: str
    control: bool
    row: Mapping[str, Any]
    kept: list[Kept]


def attacks_of(run: StudiedRun) -> list[StudiedAttack]:
    """The attacks of which a study has kept something, controls last."""
    rows = {row["key"]: row for row in run.summary.get("rows", [])}
    seen = [(rows.get(key, {}), kept) for key, kept in run.studied.attacked.items() if kept]
    names = [kept[0].about["attack"] for _, kept in seen]
    found = []
    for (row, kept), name in zip(seen, names, strict=True):
        epsilon = kept[0].about["epsilon"]
        many = names.count(name) > 1 and epsilon is not None
        label = f"{name} {format_epsilon(epsilon)}" if many else str(name)
        found.append(StudiedAttack(label, row.get("kind") == "control", row, kept))
    return sorted(found, key=lambda one: one.control)


def fooled(kept: Kept) -> bool:
    """Whether the attack turned the victim's answer from right to wrong."""
    return bool(kept.about["right_before"]) and not kept.about["right_after"]
