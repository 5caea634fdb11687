"""A run whose studies are drawn, alone or beside others."""

from collections.abc import Mapping, Sequence
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


def attack_labels(run: StudiedRun) -> dict[str, str]:
    """What each attack that a study has looked at is called, by its key, in the summary's order.

    It is its name, with the radius where the name has several.
    """
    rows = {row["key"]: row for row in run.summary["rows"] if row["key"] is not None}
    kept = [key for key in rows if run.studied.attacked.get(key)]
    named = [(str(rows[key]["attack"]), rows[key]["epsilon"]) for key in kept]
    return dict(zip(kept, _told_apart(named), strict=True))


def drawn_attacks(run: StudiedRun) -> list[Mapping[str, Any]]:
    """Rows of the summary of the attacks that a study names, or of all, behind those of the controls."""
    wanted = run.studied.parameters.get("attacks")
    rows = [row for row in run.summary["rows"] if row["kind"] != "clean"]
    return [row for row in rows if row["kind"] == "control" or not wanted or row["attack"] in wanted]


def of_other_norms(run: StudiedRun) -> dict[str, str]:
    """The attacks whose radius cannot stand beside the others', by key: names with their norms.

    As in the worst case, that is all that are not bound by L-infinity, or where none is, not by the first one's norm.
    """
    entries = [entry for entry in run.summary["manifest"].get("attacks") or () if entry.get("epsilon") is not None]
    norms = [str(entry.get("norm", "linf")) for entry in entries if not entry.get("control")]
    norm = norms[0] if norms and "linf" not in norms else "linf"
    own = [(entry, str(entry.get("norm", "linf"))) for entry in entries]
    return {entry["key"]: f"{entry['attack']} ({other})" for entry, other in own if other != norm}


def said_of_other_norms(runs: Sequence[StudiedRun]) -> str:
    """A sentence about attacks that a figure leaves out for their norm; empty where it leaves out none."""
    names = dict.fromkeys(name for run in runs for name in of_other_norms(run).values())
    return f" Left out, because their radii are of another norm: {', '.join(names)}." if names else ""


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
    labels = _told_apart([(str(kept[0].about["attack"]), kept[0].about["epsilon"]) for _, kept in seen])
    found = [
        StudiedAttack(label, row.get("kind") == "control", row, kept)
        for label, (row, kept) in zip(labels, seen, strict=True)
    ]
    return sorted(found, key=lambda one: one.control)


def _told_apart(named: Sequence[tuple[str, float | None]]) -> list[str]:
    """Names of attacks, each with its radius where the name has several."""
    names = [name for name, _ in named]
    return [
        f"{name} {format_epsilon(epsilon)}" if names.count(name) > 1 and epsilon is not None else name
        for name, epsilon in named
    ]


def fooled(kept: Kept) -> bool:
    """Whether the attack turned the victim's answer from right to wrong."""
    return bool(kept.about["right_before"]) and not kept.about["right_after"]
