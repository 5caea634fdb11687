"""The leaderboard of a group: what each victim is worth, clean and under attack, best first."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from medrobust.results.dashboard.detectors import best_detector
from medrobust.results.dashboard.groups import Group
from medrobust.results.dashboard.intervals import shared_intervals
from medrobust.results.dashboard.runs import DashboardRun
from medrobust.results.dashboard.tables import NORMS, Column, Norm, Table
from medrobust.results.defences import defences_of
from medrobust.results.formats import capitalised, flags_told, format_epsilon, tried_told
from medrobust.results.wording import is_dense, quality_name

REPORT = "report.html"


def leader_row(run: DashboardRun) -> dict[str, Any]:
    """What a leaderboard shows of a run, without what its rank decides.

    Returns:
        A row with `run`, `victim`, `data`, `tried`, the clean rates, `auroc`, `sensitivity` and `specificity` of the
        clean images, `quality` and `map50` of masks and boxes, `worst_<epsilon>` for each radius, `smallest` with
        `smallest_above`, `detector` and what `passes` it, `passes_image`, `seconds_image`, and `flags`.
    """
    summary, outcomes = run.summary, run.outcomes
    clean = summary["rows"][0]
    victim = run.manifest.get("victim") or {}
    defended = "; ".join(defence._replace(cost="").line() for defence in defences_of(run.manifest))
    attacks = [row for row in summary["rows"] if row["kind"] == "attack" and row["n"]]
    row = {
        "run": run.name,
        "victim": str(victim.get("name", "")) or None,
        "defence": defended,
        "data": " ".join(str(run.data.get(name, "")) for name in ("name", "split")).strip() or None,
        "tried": tried_told(summary),
        "clean": clean["clean_accuracy"],
        "clean_interval": clean["clean_accuracy_interval"],
        **_of_classes(summary),
        **_of_dense(summary),
        "smallest": outcomes.median_smallest(),
        "smallest_above": outcomes.largest,
        **best_detector(summary),
        "passes_image": _mean([row["mean_forwards"] + row["mean_backwards"] for row in attacks]),
        "seconds_image": _mean([row["mean_seconds"] for row in attacks if row.get("mean_seconds") is not None]),
        "flags": flags_told(summary["flags"]),
        "date": str(run.manifest.get("created") or "")[:10] or None,
    }
    for worst in summary["worst_case"]:
        row[worst_key(worst["epsilon"])] = worst["accuracy"]
        if worst.get("quality") is not None:
            row[worst_key(worst["epsilon"], "quality")] = worst["quality"]
            row[f"{worst_key(worst['epsilon'], 'quality')}_interval"] = worst.get("quality_interval")
    return row


def leaderboard(group: Group, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """The runs of a group in the order of their worst case, with intervals over patients.

    Args:
        group: The group.
        rows: The row of each of its runs by name, as `leader_row` gives it.
    """
    shown = [dict(rows[run.name]) for run in group.runs]
    verdicts = [(run, run.outcomes.clean, "clean") for run in group.runs]
    for epsilon in group.radii:
        verdicts += [(run, run.outcomes.worst(run.keys_at(epsilon))[1], worst_key(epsilon)) for run in group.runs]
    counted = _tried(group)
    for run in group.runs if len(group.runs[0].data.get("class_names") or []) == 2 else ():
        for key, number in (("sensitivity", 1), ("specificity", 0)):
            if (run.outcomes.target >= 0).any():
                verdicts.append((run, run.outcomes.clean, key))
                counted.append(run.outcomes.target == number)
    limits = shared_intervals([(run.outcomes, right) for run, right, _ in verdicts], counted)
    by_name = {row["run"]: row for row in shown}
    for (run, _, key), interval in zip(verdicts, limits, strict=True):
        if by_name[run.name].get(key) is not None:
            by_name[run.name][f"{key}_interval"] = interval
    dense = is_dense(group.runs[0].manifest)
    ranked = sorted(shown, key=lambda row: _order(row, group, dense))
    for place, row in enumerate(ranked):
        equal = place and _order(row, group, dense)[:1] == _order(ranked[place - 1], group, dense)[:1]
        row["rank"] = ranked[place - 1]["rank"] if equal else place + 1
    columns = [column for column in _columns(group, dense) if any(row.get(column.key) is not None for row in ranked)]
    return Table(f"leaderboard-{group.number}", group.title, _note(group, dense), columns, ranked)


def worst_key(epsilon: float, what: str = "worst") -> str:
    """Entry of a row for the worst case at a radius: its accuracy, or the `quality` that it leaves."""
    return f"{what}_{epsilon:.8g}"


def report_link(run: DashboardRun, page: Path) -> str | None:
    """Address of a run's report from a page, relative to it; None if there is no report."""
    report = run.folder / REPORT
    if not report.is_file():
        return None
    return quote(Path(os.path.relpath(report.resolve(), page.resolve().parent)).as_posix())


def _tried(group: Group) -> list[Any]:
    """Which images count for each verdict of a leaderboard, in the same order."""
    tried = [np.ones(len(run.outcomes.ids), bool) for run in group.runs]
    for epsilon in group.radii:
        tried += [run.outcomes.worst(run.keys_at(epsilon))[0] for run in group.runs]
    return tried


def _of_classes(summary: Mapping[str, Any]) -> dict[str, Any]:
    """AUROC, sensitivity and specificity of the clean images: of the second of two classes, else means over them."""
    found = (summary.get("classes") or {}).get("rows") or (summary.get("labels") or {}).get("rows") or []
    clean = next((row for row in found if row["kind"] == "clean"), None)
    if clean is None:
        return {}
    classes = clean.get("classes") or clean.get("labels") or []
    counted = classes[1:] if "classes" in clean and len(classes) == 2 else classes
    row = {"auroc": clean.get("auroc")}
    for name in ("sensitivity", "specificity"):
        values = [one[name] for one in counted if one[name] is not None]
        row[name] = _mean(values)
    return row


def _of_dense(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Mean quality of clean masks and boxes, and mAP."""
    if not is_dense(summary["manifest"]):
        return {}
    clean = summary["rows"][0]
    row = {"quality": clean.get("quality_before"), "quality_interval": clean.get("quality_before_interval")}
    boxes = next((one for one in (summary.get("boxes") or {}).get("rows", []) if one["kind"] == "clean"), None)
    if boxes:
        row |= {"map50": boxes["map50"], "map50_interval": boxes.get("map50_interval")}
    return row


def _order(row: Mapping[str, Any], group: Group, dense: bool) -> tuple[float, ...]:
    """By what a row is ranked: the worst case at the group's radius, then at the others, then the clean images."""
    radii = [] if group.headline is None else [group.headline, *(one for one in group.radii if one != group.headline)]
    values = [row.get(worst_key(epsilon, "quality" if dense else "worst")) for epsilon in radii]
    values += [row.get("smallest")] * (not radii)
    values.append(row.get("quality" if dense else "clean"))
    return tuple(float("inf") if value is None else -value for value in values)


def _columns(group: Group, dense: bool) -> list[Column]:
    manifest = group.runs[0].manifest
    quality = capitalised(quality_name(manifest))
    named = {tuple(run.data.get("class_names") or ()) for run in group.runs}  # which do not make runs incomparable
    classes = max(named, key=len)
    second = classes[1] if len(named) == 1 and len(classes) == 2 else "the second class"
    of_what = f" of {second}" if len(classes) == 2 and not dense else ""
    mean = "" if of_what else "mean over the classes, on the clean images"
    worst = [
        Column(worst_key(one), f"{'right, ' if dense else ''}worst case {format_epsilon(one)}", "rate", _WORST, "low")
        for one in group.radii
    ]
    norm: Norm = "l2" if group.runs[0].outcomes.norm == "l2" else "linf"
    qualities = [
        Column(worst_key(one, "quality"), f"{quality}, worst case {format_epsilon(one)}", "rate", "", "low")
        for one in group.radii
    ]
    return [
        Column("rank", "rank", "count", "equal where the worst case is; the pairs tell what chance may have done"),
        Column("run", "run"),
        Column("victim", "victim"),
        Column("data", "data"),
        Column("tried", "tried / n", "words", _TRIED),
        Column("clean", "clean images right" if dense else "clean accuracy", "rate", "", "low"),
        Column("auroc", "AUROC", "score", "of the clean images, in percent" if of_what else mean),
        Column("sensitivity", f"sensitivity{of_what}", "rate", mean),
        Column("specificity", f"specificity{of_what}", "rate", mean),
        Column("quality", f"{quality}, clean", "rate"),
        Column("map50", "mAP at IoU 0.5, clean", "rate"),
        *qualities,
        *worst,
        Column("smallest", f"median smallest {NORMS[norm]} perturbation", norm, _SMALLEST),
        Column("detector", "best detector", "words", _BEST),
        Column("detector_auroc", "its AUROC", "score", "under that attack, in percent"),
        Column("passes_detector", "passes it", "rate", _PASSES, "high"),
        Column("passes_image", "passes per image", "measure", "forwards and backwards, mean over the attacks"),
        Column("seconds_image", "seconds per image", "measure", "mean over the attacks"),
        Column("flags", "flags", "words", "of the self-checks, which the run's report tells"),
        Column("date", "date"),
    ]


_TRIED = "images that were attacked, of those in the split; two numbers where not every attack has tried all of them"
_WORST = "share of the images that are right and that no attack of this radius makes wrong"
_SMALLEST = (
    "the smallest radius, or distance found by an attack that looks for the smallest, at which at least half of the "
    "images are wrong; images that are wrong from the start count as 0"
)
_BEST = (
    "of all detectors the one that lets least pass under the attack of which most passes it, at the radius of the "
    "report's verdict; where no threshold was set, the one with the highest mean AUROC"
)
_PASSES = "share of the images with which that attack fools the model that this detector does not flag"


def _note(group: Group, dense: bool) -> str:
    if group.headline is None:
        by = "the median smallest perturbation"
    else:
        what = quality_name(group.runs[0].manifest) if dense else "accuracy"
        by = f"the {what} under the worst case at ε = {format_epsilon(group.headline)}"
    if len(group.runs) < 2:
        return "One run, which is ranked with no other. Small: 95 % intervals over patients."
    why = "" if len(group.radii) < 2 else ", the smallest radius at which at least half of the runs lose half of theirs"
    return f"Ranked by {by}{why}. Small: 95 % intervals over patients."


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
