"""What the script of the page works with: pairs, images and configurations, as small as they can be written."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medrobust.results.dashboard.comparison import PairedRuns
from medrobust.results.dashboard.configuration import differing
from medrobust.results.dashboard.outcomes import Flags
from medrobust.results.dashboard.pairs import Condition
from medrobust.results.dashboard.pictures import Pictures
from medrobust.results.dashboard.runs import DashboardRun

PAIRS = 1_600_000  # bytes of all pairs of a page
SIDES = 800_000  # bytes of who is right about which image


class Embedded:
    """Data of the pairs for the page's script, until their budgets are spent.

    Args:
        pictures: Where pictures are stored.
    """

    def __init__(self, pictures: Pictures) -> None:
        self.pictures = pictures
        self.left_out = 0
        self._pairs, self._sides = PAIRS, SIDES

    def of_pairs(self, paired: PairedRuns) -> dict[str, Any]:
        """Runs, images and, for each condition that fits, all pairs and who is right about which image.

        Numbers are whole and rounded as in the tables: counts, tenths of percentage points, and chances as `_chance`
        has them.
        """
        names = [run.name for run in paired.runs]
        ids = sorted({image for run in paired.runs for image in run.outcomes.ids})
        places = {image: place for place, image in enumerate(ids)}
        self._sides -= len(json.dumps(ids))
        conditions = []
        for condition, rows in paired.conditions:
            pairs = _flat(condition, rows, names)
            size = len(json.dumps(pairs, separators=(",", ":")))
            if size > self._pairs:
                self.left_out += 1
                continue
            self._pairs -= size
            conditions.append({"label": condition.label, **pairs, "sides": self._sides_of(condition, names, places)})
        shown = [one for one, _ in paired.conditions if one.label in {kept["label"] for kept in conditions}]
        sided = any(one["sides"] for one in conditions)
        pictures = self.pictures.of_pairs(names, shown)
        return {"runs": names, "ids": ids if sided else [], "conditions": conditions, "pictures": pictures}

    def _sides_of(
        self, condition: Condition, names: Sequence[str], places: Mapping[str, int]
    ) -> dict[int, list[str | None]] | None:
        """Bits of the images that each run is right about, and of those that were tried where not all were."""
        found: dict[int, list[str | None]] = {}
        size = 0
        for one in condition.verdicts:
            at = [places[image] for image in one.run.outcomes.ids]
            bits = []
            for flags in (one.right, one.tried):
                spread = np.zeros(len(places), bool)
                spread[at] = flags
                bits.append(None if flags is one.tried and spread.all() else _packed(spread))
            found[names.index(one.run.name)] = bits
            size += sum(len(part) for part in bits if part)
        if size > self._sides:
            return None
        self._sides -= size
        return found


def configurations(runs: Sequence[DashboardRun]) -> dict[str, Any]:
    """The keys in which runs differ: for each its different values, and which of them each run has."""
    keys = {}
    for key, values in differing([run.configuration for run in runs]).items():
        different = list(dict.fromkeys(values))
        keys[key] = [different, [different.index(value) for value in values]]
    return {"runs": [run.name for run in runs], "keys": keys}


def _flat(condition: Condition, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """All pairs in one list; runs, images and single rates are told once where all pairs share them."""
    members = [names.index(one.run.name) for one in condition.verdicts]
    numbers = [
        [
            *(row["only_first"], row["only_second"]),
            *(round(10 * round(100 * limit, 1)) for limit in row["difference_interval"]),
            *(_chance(row[name]) for name in ("p", "holm")),
        ]
        for row in rows
    ]
    counts = {row["n"] for row in rows}
    if len(counts) == 1 and len(rows) == len(members) * (len(members) - 1) // 2 and members == sorted(members):
        right = [int(one.right.sum()) for one in condition.verdicts]
        if all(one.tried.sum() in counts for one in condition.verdicts):
            n = counts.pop()
            return {"members": members, "n": n, "right": right, "pairs": [one for row in numbers for one in row]}
    told = [
        [
            *(names.index(row["first"]), names.index(row["second"]), row["n"]),
            *(round(row["n"] * row[name]) for name in ("first_rate", "second_rate")),
        ]
        for row in rows
    ]
    pairs = [one for head, row in zip(told, numbers, strict=True) for one in (*head, *row)]
    return {"members": members, "n": None, "right": [], "pairs": pairs}


def _chance(p: float) -> int:
    """A chance as the tables write it: below 0.1 in units of 1/10,000, 0 standing for less, else 1,000 and hundredths.

    >>> [_chance(p) for p in (0.00003, 0.0625, 0.125, 1.0)]  # 0.12, as ties go to the even digit
    [0, 625, 1012, 1100]
    """
    if p < 0.1:
        return 0 if p < 0.0001 else round(10_000 * round(p, 4))
    return 1000 + round(100 * round(p, 2))


def _packed(flags: Flags) -> str:
    return base64.b64encode(np.packbits(flags).tobytes()).decode()
