"""Which runs can be ranked together: those of one task, one set of images and one list of attacks."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medrobust.results.dashboard.runs import DashboardRun
from medrobust.results.formats import format_epsilon, format_parameters

SHOWN = 6  # differences of two lists of attacks that are told one by one


class Group(NamedTuple):
    """Runs that may be ranked together.

    Args:
        number: Its number on the page, from 1.
        title: Which images, and how many of them.
        attacks: The attacks with their radii, in words.
        why: Why these runs are not ranked with those of an earlier group; "" in the first one.
        runs: The runs.
        radii: The radii of the attacks.
        headline: The radius by which runs are ranked; None if no attack has a radius.
    """

    number: int
    title: str
    attacks: str
    why: str
    runs: list[DashboardRun]
    radii: list[float]
    headline: float | None


def groups_of(runs: Sequence[DashboardRun]) -> list[Group]:
    """Runs by what makes them comparable; groups of many runs first.

    Two runs are ranked together if their victims have the same task, if they were evaluated on the same images of the
    same split (by the fingerprint of the data) and have tried the same of them, and if their attacks have the same
    names, methods, radii and parameters. Controls do not count.
    """
    found: dict[tuple[Any, ...], list[DashboardRun]] = {}
    for run in runs:
        found.setdefault(_terms(run), []).append(run)
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    groups: list[Group] = []
    for number, (_, members) in enumerate(ordered, 1):
        first = members[0]
        groups.append(
            Group(
                number=number,
                title=images_told(first),
                attacks=attacks_told(first),
                why=_why(first, groups),
                runs=members,
                radii=first.radii,
                headline=headline_radius(members),
            )
        )
    return groups


def images_of(run: DashboardRun) -> tuple[str, ...]:
    """What tells the images of a run from others: task, name of the data, split and fingerprint."""
    data = run.data
    known = data.get("fingerprint") or _hash(run.outcomes.ids)
    return run.task, str(data.get("name", "")), str(data.get("split", "")), str(known)


def attack_terms(entry: Mapping[str, Any]) -> str:
    """All that makes an attack what it is, in one word."""
    names = ("attack", "method", "epsilon", "norm", "minimal", "parameters")
    return json.dumps({name: entry.get(name) for name in names}, sort_keys=True, default=str)


def headline_radius(runs: Sequence[DashboardRun]) -> float | None:
    """The smallest radius at which the worst case halves the accuracy of at least half of the runs, else the largest.

    Below it, runs hardly differ, and far above it nothing is left of any.
    """
    radii = runs[0].radii
    for epsilon in radii:
        halved = 0
        for run in runs:
            tried, right = run.outcomes.worst(run.keys_at(epsilon))
            halved += 2 * right.sum() <= (run.outcomes.clean & tried).sum()
        if 2 * halved >= len(runs):
            return epsilon
    return radii[-1] if radii else None


def images_told(run: DashboardRun) -> str:
    """The images of a run in words."""
    count, images = len(run.outcomes.ids), int(run.data["images"])
    number = f"{count:,} images" if count == images else f"{count:,} of {images:,} images"
    return " · ".join(part for part in (str(run.data.get("name", "")), str(run.data.get("split", "")), number) if part)


def attacks_told(run: DashboardRun) -> str:
    """The attacks of a run with their radii, in words."""
    radii: dict[str, list[str]] = {}
    for entry in run.attacks:
        own = radii.setdefault(str(entry["attack"]), [])
        if entry.get("epsilon") is not None:
            own.append(format_epsilon(entry["epsilon"]))
    same = {tuple(own) for own in radii.values()}
    if len(same) == 1 and (only := same.pop()):
        return f"{', '.join(radii)} at ε = {', '.join(only)}"
    return "; ".join(f"{name} at ε = {', '.join(own)}" if own else name for name, own in radii.items()) or "no attack"


def _hash(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def _tried(run: DashboardRun) -> str:
    """Which images of the split the attacks of a run have tried."""
    outcomes = run.outcomes
    masks = [outcomes.right[str(entry["key"])] != -1 for entry in sorted(run.attacks, key=attack_terms)]
    tried = b"".join(np.packbits(mask).tobytes() for mask in masks if not mask.all())
    return _hash([*outcomes.ids, tried.hex()])


def _terms(run: DashboardRun) -> tuple[Any, ...]:
    return images_of(run), _tried(run), tuple(sorted(map(attack_terms, run.attacks)))


def _why(run: DashboardRun, groups: Sequence[Group]) -> str:
    """What keeps a run out of the earlier group that is most like it, in a sentence."""
    if not groups:
        return ""

    def alike(group: Group) -> tuple[int, int, int]:
        other, mine = images_of(group.runs[0]), images_of(run)
        attacks = [set(map(attack_terms, one.attacks)) for one in (run, group.runs[0])]
        return sum(a == b for a, b in zip(mine, other, strict=True)), -len(attacks[0] ^ attacks[1]), -group.number

    nearest = max(groups, key=alike)
    return f"Not ranked with group {nearest.number}: {'; '.join(differences(run, nearest.runs[0]))}."


def differences(run: DashboardRun, other: DashboardRun) -> Iterator[str]:
    """Why two runs are not comparable, one reason after the other; nothing if they are.

    Of runs on other data it says no more.
    """
    mine, theirs = images_of(run), images_of(other)
    if mine[0] != theirs[0]:
        yield f"another task ({mine[0]} instead of {theirs[0]})"
    if mine[1:3] != theirs[1:3]:
        yield f"other data ({' '.join(mine[1:3]).strip()} instead of {' '.join(theirs[1:3]).strip()})"
        return
    if mine[0] != theirs[0]:
        return
    if mine[3] != theirs[3]:
        counts = f"{int(run.data['images']):,} instead of {int(other.data['images']):,}"
        yield f"other images of the same data ({counts}, or with other contents)"
    elif _tried(run) != _tried(other):
        tried, others = len(run.outcomes.ids), len(other.outcomes.ids)
        told = f"{tried:,} instead of {others:,}"
        if tried == others:
            same = run.outcomes.ids == other.outcomes.ids
            told = "not all of them by every attack" if same else f"both {tried:,}, but others"
        yield f"other images of the split were tried ({told})"
    yield from _other_attacks(run, other)


def _other_attacks(run: DashboardRun, other: DashboardRun) -> Iterator[str]:
    """How two lists of attacks differ, in words."""
    mine, theirs = ({_called(entry): entry for entry in one.attacks} for one in (run, other))
    found = [f"without {name}" for name in theirs if name not in mine]
    found += [f"with {name}" for name in mine if name not in theirs]
    for name in (name for name in mine if name in theirs):
        ours, their = (
            {"method": one.get("method")} | (one.get("parameters") or {}) for one in (mine[name], theirs[name])
        )
        for key in dict.fromkeys([*ours, *their]):
            if ours.get(key) != their.get(key):
                values = [format_parameters({"": one.get(key)}).strip() for one in (ours, their)]
                short = [value if len(value) <= 60 else "other settings" for value in values]
                found.append(f"{name} with {key.replace('_', ' ')} {short[0]} instead of {short[1]}")
    if found:
        more = f" and {len(found) - SHOWN} more differences" if len(found) > SHOWN else ""
        yield f"other attacks ({', '.join(found[:SHOWN])}{more})"


def _called(entry: Mapping[str, Any]) -> str:
    epsilon = entry.get("epsilon")
    return str(entry["attack"]) if epsilon is None else f"{entry['attack']} at {format_epsilon(epsilon)}"
