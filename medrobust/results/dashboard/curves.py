"""What is left at each radius, run by run: under the worst case, under each attack, and to each detector."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medrobust.results.dashboard.groups import Group
from medrobust.results.dashboard.intervals import shared_intervals
from medrobust.results.dashboard.leaderboard import worst_key
from medrobust.results.dashboard.outcomes import UNTRIED, Flags
from medrobust.results.dashboard.runs import DashboardRun
from medrobust.results.dashboard.tables import Column, Table
from medrobust.results.formats import format_epsilon
from medrobust.results.wording import is_dense, quality_name

Values = dict[str, dict[str, Any]]


def curve_tables(group: Group, leaders: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One table for each curve that can be drawn of a group: runs below each other, radii beside each other.

    Args:
        group: The group.
        leaders: The rows of its leaderboard, whose order and worst cases the first table repeats.

    Returns:
        The worst case first, then what a mask or a box is worth in it, every attack, every control, and the mean AUROC
        of every detector over the attacks of a radius. Empty if no attack has a radius.
    """
    if not group.radii:
        return []
    runs = {run.name: run for run in group.runs}
    order = [str(row["run"]) for row in leaders]
    worst = {str(row["run"]): _shown(row, {one: worst_key(one) for one in group.radii}) for row in leaders}
    found = [_table(group, "the worst case", "right under the worst case of all attacks", order, worst, "rate")]
    if is_dense(group.runs[0].manifest):
        quality = quality_name(group.runs[0].manifest)
        keys = {one: worst_key(one, "quality") for one in group.radii}
        left = {str(row["run"]): _shown(row, keys) for row in leaders}
        note = "the lowest that each image has before or after the attacks"
        found.insert(0, _table(group, f"{quality}, the worst case", note, order, left, "rate"))
    for name, what, values in _of_attacks(group):
        found.append(_table(group, name, what, order, values, "rate"))
    for name, values in _of_detectors(runs):
        what = "mean AUROC over the attacks of a radius, in percent; 50 is guessing"
        found.append(_table(group, name, what, order, values, "score"))
    return [table._replace(name=f"curve-{group.number}-{place}") for place, table in enumerate(found, 1)]


def radius_key(epsilon: float) -> str:
    """Entry of a row for what is left at a radius."""
    return f"at_{epsilon:.8g}"


def _shown(row: Mapping[str, Any], keys: Mapping[float, str]) -> dict[str, Any]:
    values = {radius_key(epsilon): row.get(key) for epsilon, key in keys.items()}
    return values | {f"{radius_key(epsilon)}_interval": row.get(f"{key}_interval") for epsilon, key in keys.items()}


def _table(group: Group, title: str, note: str, order: Sequence[str], values: Values, kind: Any) -> Table:
    radii = [one for one in group.radii if any(own.get(radius_key(one)) is not None for own in values.values())]
    columns = [Column("run", "run"), *(Column(radius_key(one), f"ε = {format_epsilon(one)}", kind) for one in radii)]
    rows = [{"run": name, **values[name]} for name in order if name in values]
    return Table("curve", title, note, columns, rows)


def _of_attacks(group: Group) -> Iterator[tuple[str, str, Values]]:
    """Accuracy under each attack and each control, with intervals over patients."""
    verdicts: list[tuple[Any, Flags]] = []
    counted: list[Flags] = []
    places: list[tuple[str, bool, str, float]] = []
    for run in group.runs:
        for entry in run.manifest["attacks"]:
            if entry.get("epsilon") not in group.radii:
                continue
            found = run.outcomes.right[str(entry["key"])]
            verdicts.append((run.outcomes, found == 1))
            counted.append(found != UNTRIED)
            places.append((str(entry["attack"]), bool(entry.get("control")), run.name, entry["epsilon"]))
    curves: dict[tuple[bool, str], Values] = {}
    limits = shared_intervals(verdicts, counted)
    for (name, control, run_name, epsilon), (_, right), tried, own in zip(
        places, verdicts, counted, limits, strict=True
    ):
        values = curves.setdefault((control, name), {}).setdefault(run_name, {})
        if tried.any():
            values[radius_key(epsilon)] = float(right.sum() / tried.sum())
            values[f"{radius_key(epsilon)}_interval"] = own
    for control, name in sorted(curves, key=lambda one: one[0]):
        what = "right under noise of the same size" if control else "right under this attack"
        yield f"{name} (control)" if control else name, what, curves[control, name]


def _of_detectors(runs: Mapping[str, DashboardRun]) -> Iterator[tuple[str, Values]]:
    """Mean AUROC of each detector over the attacks of a radius; an interval where there is one attack."""
    found: dict[tuple[str, str], dict[str, dict[float, list[Mapping[str, Any]]]]] = {}
    for name, run in runs.items():
        for row in (run.summary.get("detection") or {}).get("rows", []):
            if row["auroc"] is not None and row["epsilon"] is not None:
                own = found.setdefault((row["detector"], row["fit"]), {}).setdefault(name, {})
                own.setdefault(row["epsilon"], []).append(row)
    for (detector, fit), judged in found.items():
        values: Values = {name: {} for name in judged}
        for name, by_radius in judged.items():
            for epsilon, rows in by_radius.items():
                values[name][radius_key(epsilon)] = sum(row["auroc"] for row in rows) / len(rows)
                if len(rows) == 1:
                    values[name][f"{radius_key(epsilon)}_interval"] = rows[0]["auroc_interval"]
        yield f"detector {detector}, fitted on {'the same attack' if fit == 'same' else fit}", values
