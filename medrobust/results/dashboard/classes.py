"""What is left of each class in several runs: sensitivity and specificity, clean and under the worst case."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from medrobust.results.dashboard.groups import Group
from medrobust.results.dashboard.intervals import shared_intervals
from medrobust.results.dashboard.outcomes import Flags, Outcomes
from medrobust.results.dashboard.runs import DashboardRun
from medrobust.results.dashboard.tables import Column, Kind, Table
from medrobust.results.formats import format_epsilon

MOST = 400  # rows of a group's table; of more, the classes that lose most are kept
# What the summaries of other tasks say of each class: where it stands, the entries, and their headings.
SUMMARISED: dict[str, tuple[str, dict[str, str]]] = {
    "labels": ("labels", {"sensitivity": "sensitivity", "specificity": "specificity"}),
    "masks": ("classes", {"jaccard": "mean Jaccard"}),
    "boxes": ("classes", {"ap50": "AP at IoU 0.5"}),
}


def class_table(group: Group, order: Sequence[str], radii: Sequence[float]) -> Table | None:
    """The classes of a group's runs; None where the victims name none.

    Args:
        group: The group.
        order: Names of its runs in the order of its leaderboard.
        radii: The radii that are shown.
    """
    runs = sorted(group.runs, key=lambda run: order.index(run.name))
    if any((run.outcomes.target >= 0).any() for run in runs):
        rows, columns, note = _of_records(runs, radii), _columns(radii, _RATES, "worst case"), _NOTE
    else:
        part = next((name for name in SUMMARISED if any(run.summary.get(name) for run in runs)), None)
        if part is None:
            return None
        headings = SUMMARISED[part][1]
        rows = [row for run in runs for row in _of_summary(run, part, radii)]
        columns = _columns(radii, headings, "lowest at")
        note = "Lowest: under the attack of the radius that leaves least. Small: 95 % intervals over patients."
    if len(rows) > MOST:
        last = columns[-len(_RATES)].key
        rows.sort(key=lambda row: float("inf") if row.get(last) is None else row[last])
        note += f" Of {len(rows):,} rows the {MOST} that are left with least."
        rows = rows[:MOST]
    shown = [column for column in columns if any(row.get(column.key) is not None for row in rows)]
    return Table(f"classes-{group.number}", group.title, note, shown, rows)


_RATES = {"sensitivity": "sensitivity", "specificity": "specificity"}
_NOTE = (
    "Worst case: of the images of a class, the share that is right and that no attack of the radius makes wrong "
    "(sensitivity), and of all other images the share that neither looks like this class nor is made to by any "
    "(specificity). Small: 95 % intervals over patients."
)


def _columns(radii: Sequence[float], headings: Mapping[str, str], when: str) -> list[Column]:
    kind: Kind = "rate"
    shown = [Column(f"{name}_clean", f"{heading}, clean", kind, "", "low") for name, heading in headings.items()]
    for epsilon in radii:
        shown += [
            Column(f"{name}_{epsilon:.8g}", f"{heading}, {when} {format_epsilon(epsilon)}", kind, "", "low")
            for name, heading in headings.items()
        ]
    return [Column("run", "run"), Column("class", "class"), Column("n", "n", "count", "images of the class"), *shown]


def _of_records(runs: Sequence[DashboardRun], radii: Sequence[float]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    verdicts: list[tuple[Outcomes, Flags]] = []
    counted: list[Flags] = []
    entries: list[tuple[dict[str, Any], str]] = []
    for run in runs:
        outcomes = run.outcomes
        names = run.data.get("class_names") or []
        for number in np.unique(outcomes.target[outcomes.target >= 0]).tolist():
            name = str(names[number]) if number < len(names) else f"class {number}"
            row = {"run": run.name, "class": name, "n": int((outcomes.target == number).sum())}
            rows.append(row)
            for key, right, kept in _verdicts(run, number, radii):
                verdicts.append((outcomes, right))
                counted.append(kept)
                entries.append((row, key))
    limits = shared_intervals(verdicts, counted)
    for (row, key), (_, right), kept, own in zip(entries, verdicts, counted, limits, strict=True):
        if kept.any():
            row[key] = float(right[kept].mean())
            row[f"{key}_interval"] = own
    return rows


def _verdicts(run: DashboardRun, number: int, radii: Sequence[float]) -> Iterator[tuple[str, Flags, Flags]]:
    """Entry of a row, which images are right for it, and which count."""
    outcomes = run.outcomes
    of_it, labelled = outcomes.target == number, outcomes.target >= 0
    yield "sensitivity_clean", outcomes.clean, of_it
    others: Flags = outcomes.clean_prediction != number
    yield "specificity_clean", others, labelled & ~of_it
    for epsilon in radii:
        keys = run.keys_at(epsilon)
        tried, right = outcomes.worst(keys)
        never: Flags = others & np.logical_and.reduce([outcomes.prediction[key] != number for key in keys])
        yield f"sensitivity_{epsilon:.8g}", right, of_it & tried
        yield f"specificity_{epsilon:.8g}", never, labelled & ~of_it & tried


def _of_summary(run: DashboardRun, part: str, radii: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Classes of victims that name several or none per image, from the summary: the lowest value under any attack."""
    entry, headings = SUMMARISED[part]
    found = run.summary.get(part) or {"rows": []}  # which an earlier version did not write
    clean = next((row for row in found["rows"] if row["kind"] == "clean"), None)
    for place, one in enumerate(clean[entry] if clean else ()):
        name = one.get("name") or found["names"][place]
        row = {"run": run.name, "class": str(name), "n": one.get("n_positive", one.get("n_boxes", one.get("n")))}
        for key in headings:
            row[f"{key}_clean"], row[f"{key}_clean_interval"] = one.get(key), one.get(f"{key}_interval")
            for epsilon in radii:
                others = [
                    other[entry][place]
                    for other in found["rows"]
                    if other["kind"] == "attack"
                    and other["epsilon"] == epsilon
                    and other[entry][place][key] is not None
                ]
                lowest: Mapping[str, Any] = min(others, key=lambda other: other[key], default={})
                row[f"{key}_{epsilon:.8g}"] = lowest.get(key)
                row[f"{key}_{epsilon:.8g}_interval"] = lowest.get(f"{key}_interval")
        yield row
