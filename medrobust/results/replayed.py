"""Whether a record that was made again equals the one that is there, and where a record is found."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import polars as pl

from medrobust.results.columns import BOX_TEXTS
from medrobust.results.formats import format_epsilon
from medrobust.results.manifest import read_manifest
from medrobust.results.records import RECORDS, read_journal, read_records
from medrobust.results.same_records import NAMES

SHARE = 0.02  # by which a share, such as a quality or a confidence, may differ by rounding alone, as resumed ones may
NEAR = 5  # ids or keys that a sentence about an unknown one names
PASSES = ("forwards", "backwards", "zero_gradients", "broken_gradients")
NORMS = ("linf", "l2", "l0")

Verdict = Literal["the same", "rounding", "differs", "not made"]


@dataclass(frozen=True)
class Compared:
    """One column of a record and of what was made again.

    Args:
        name: The column.
        recorded: What the record holds.
        replayed: What was found now.
        verdict: ``the same`` bit for bit, ``rounding`` within the tolerance, ``differs``, or ``not made``: a column
            whose listener does not take part in the replay.
    """

    name: str
    recorded: Any
    replayed: Any
    verdict: Verdict


def find_record(folder: str | Path, wanted: str) -> dict[str, Any]:
    """The record that ``KEY:ID`` names.

    Args:
        folder: The folder of an evaluation.
        wanted: The key of an attack or its beginning, a colon, and the id of an image.

    Raises:
        ValueError: There is no such record, and the message names what is nearest; or the folder holds no evaluation,
            or its records are damaged.
    """
    manifest, folder = read_manifest(folder), Path(folder)
    given, colon, image = wanted.partition(":")
    if not colon or not given or not image:
        raise ValueError(
            f"--record is expected to be KEY:ID, the key of an attack and the id of an image, got {wanted!r}"
        )
    entries = {str(entry["key"]): entry for entry in manifest["attacks"]}
    keys = [key for key in entries if key.startswith(given)]
    if len(keys) != 1:
        listed = [_attack_of(key, entries[key]) for key in keys or _nearest(given, entries)]
        what = "several attacks have keys that begin so" if keys else "there is no attack of that key"
        more = f" and {len(listed) - NEAR} more" if len(listed) > NEAR else ""
        raise ValueError(f"{what} in {folder}, got {given!r}; there are {', '.join(listed[:NEAR])}{more}")
    merged = (folder / RECORDS).is_file()
    records = read_records(folder / RECORDS) if merged else read_journal(folder, keys)
    rows = records.filter(pl.col("key") == keys[0])
    found = rows.filter(pl.col("id") == image)
    if not len(found):
        ids = [str(id) for id in rows["id"]]
        near = _nearest(image, ids)
        hint = f"; the nearest ids are {', '.join(map(repr, near))}" if near else "; it has no record yet"
        where = _attack_of(keys[0], entries[keys[0]])
        raise ValueError(f"{where} has no record of an image {image!r} among {len(ids)}{hint}")
    return dict(found.row(0, named=True))


def _attack_of(key: str, entry: Mapping[str, Any]) -> str:
    """An attack of the manifest with its key, as a sentence names it."""
    radius = entry.get("epsilon")
    return f"{key} ({entry['attack']}{'' if radius is None else f' at {format_epsilon(radius)}'})"


def _nearest(name: str, names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """The names that are most like one, or the first ones if none is."""
    listed = list(names)
    return get_close_matches(name, listed, n=NEAR, cutoff=0.4) or listed[:NEAR]


def compare_record(
    recorded: Mapping[str, Any], replayed: Mapping[str, Any], tolerance: float | None = None
) -> list[Compared]:
    """Compare a record with the one that was made again, column by column.

    What was decided has to be the same: success, what it is made of, classes, judges' answers, words. A number is
    ``the same`` if no bit of it differs. Else it is rounding within a tolerance: ``SHARE`` of 1 for shares such as a
    quality or a confidence (of an area, a norm or a score, that share of its value), and for passes that share of them,
    but one step at least, since rounding may decide at which step an attack stops.

    Args:
        recorded: The record.
        replayed: The record of the replay.
        tolerance: Largest difference of numbers with a fraction that counts as rounding, as in ``compare.py records``,
            in place of these rules; counts are then to be equal.

    Returns:
        All columns that the record has, but those that only name it.
    """
    compared = []
    for name, before in recorded.items():
        if name in NAMES or (before is None and replayed.get(name) is None):
            continue
        now = replayed.get(name)
        compared.append(Compared(name, before, now, _verdict(name, before, now, tolerance)))
    return compared


def _verdict(name: str, before: Any, now: Any, tolerance: float | None) -> Verdict:
    if name in BOX_TEXTS and isinstance(before, str) and isinstance(now, str):
        return _of_boxes(json.loads(before), json.loads(now), tolerance)
    if before == now:
        return "the same"
    if name.startswith(("detector_", "fitted_", "brisque")) and (before is None or now is None):
        return "not made"
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (before, now))
    if not numbers or name.endswith("_prediction") or name in ("target", "goal", "epsilon", "seed"):
        return "differs"
    whole = isinstance(before, int) and isinstance(now, int)
    if tolerance is not None:
        return "rounding" if not whole and abs(before - now) <= tolerance else "differs"
    largest = max(abs(before), abs(now))
    if name in PASSES:
        return "rounding" if abs(before - now) <= max(2.0, SHARE * largest) else "differs"
    allowed = SHARE * largest if name in NORMS or largest > 1 else SHARE
    return "rounding" if abs(before - now) <= allowed else "differs"


def _of_boxes(before: Any, now: Any, tolerance: float | None) -> Verdict:
    """The verdict on lists of boxes, whose numbers may be rounded otherwise."""
    if before == now:
        return "the same"
    one, other = list(_numbers(before)), list(_numbers(now))
    allowed = SHARE if tolerance is None else tolerance
    near = len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=allowed, abs_tol=allowed) for a, b in zip(one, other, strict=True)
    )
    return "rounding" if near else "differs"


def _numbers(value: Any) -> list[float]:
    """All numbers of nested lists and objects, in their order."""
    if isinstance(value, Mapping):
        return [number for inner in value.values() for number in _numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in _numbers(inner)]
    return [float(value)] if isinstance(value, int | float) else []


def changed_since(manifest: Mapping[str, Any], key: str, now: Mapping[str, Any]) -> str:
    """Why an attack has another key now than its records have, in one clause.

    Args:
        manifest: The manifest of the evaluation.
        key: The attack's key there.
        now: What the evaluation would write now: ``victim``, ``data``, ``listeners`` and ``attacks``, as the manifest
            has them.
    """
    entry = next(one for one in manifest["attacks"] if one["key"] == key)
    victim, was = now["victim"], manifest.get("victim") or {}
    if was.get("weights") != victim.get("weights"):
        return f"the victim's weights are {victim.get('weights')} and were {was.get('weights')}"
    names = [name for name in victim if name in was and was[name] != victim[name]]
    if names:
        return f"the victim's {names[0]} is {victim[names[0]]!r} and was {was[names[0]]!r}"
    prints = [one["data"].get("fingerprint") for one in (now, manifest)]
    if prints[0] != prints[1]:
        return f"the images or their preparation are others: their fingerprint is {prints[0]} and was {prints[1]}"
    alike = [one for one in now["attacks"] if one["attack"] == entry["attack"]]
    if not alike:
        return f"its configuration has no attack {entry['attack']!r}"
    same = [one for one in alike if one.get("epsilon") == entry.get("epsilon")]
    if not same:
        return f"its configuration has {entry['attack']} at another radius than {format_epsilon(entry.get('epsilon'))}"
    parameters = (entry.get("parameters") or {}, same[0].get("parameters") or {})
    if changed := _first_change(*parameters):
        return f"{entry['attack']} has other parameters: {changed}"
    settings = (now.get("listeners") or {}, manifest.get("listeners") or {})
    for name in dict.fromkeys((*settings[0], *settings[1])):
        if settings[0].get(name) != settings[1].get(name):
            return f"the settings of {name} are others"
    return "goals, the images that an objective is fitted to, or this version's way to name records are others"


def _first_change(before: Any, now: Any, place: str = "") -> str:
    """The first place at which nested values differ, in words; empty if they do not."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys((*before, *now)):
            inner = f"{place}.{name}" if place else str(name)
            if name not in before or name not in now:
                return f"{inner} {'is gone' if name in before else 'was unknown to the version that made the record'}"
            if changed := _first_change(before[name], now[name], inner):
                return changed
        return ""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        found = (_first_change(one, two, f"{place}[{i}]") for i, (one, two) in enumerate(zip(before, now, strict=True)))
        return next((changed for changed in found if changed), "")
    return "" if before == now else f"{place} is {_said(now)} and was {_said(before)}"


def elsewhere(manifest: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between the machine that made the records and this one, in words; empty if nothing is known to.

    Args:
        manifest: The manifest of the evaluation.
        now: ``versions``, ``device`` and ``environment``, as a manifest written now would have them.
    """
    found = []
    if manifest.get("device") != now.get("device"):
        found.append(f"device {now.get('device')} (recorded on {manifest.get('device')})")
    for part in ("versions", "environment"):
        before, here = manifest.get(part) or {}, now.get(part) or {}
        for name in before:
            if name in here and before[name] != here[name]:
                found.append(f"{name} {here[name]} (recorded with {before[name]})")
    return ", ".join(found)


def verdict_of(compared: Sequence[Compared], elsewhere: str) -> tuple[bool, str]:
    """Whether a record was made again, and the sentence that says so or names what differs.

    Args:
        compared: The columns, as `compare_record` gives them.
        elsewhere: What is known to differ of the machine, as `elsewhere` gives it.
    """
    where = f"; this machine has {elsewhere}" if elsewhere else ""
    differing = [one for one in compared if one.verdict == "differs"]
    if differing:
        shown = "; ".join(f"{one.name} was {_said(one.recorded)} and is {_said(one.replayed)}" for one in differing[:3])
        more = f"; and {len(differing) - 3} more differ" if len(differing) > 3 else ""
        return False, f"it is another record: {shown}{more}{where}"
    made = [one for one in compared if one.verdict != "not made"]
    rounded = [one.name for one in made if one.verdict == "rounding"]
    left = [one.name for one in compared if one.verdict == "not made"]
    without = f"; not compared, since no fitted detector or model is there: {_listed(left)}" if left else ""
    if not rounded:
        return True, f"equal: all {len(made)} values of the record are the same, bit for bit{without}"
    same = len(made) - len(rounded)
    return True, f"equal up to rounding: {same} values are the same, {_listed(rounded)} nearly so{where}{without}"


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _said(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
