"""The most fragile patients: whose images lose most, over all runs on the same images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medrobust.results.dashboard.groups import images_of
from medrobust.results.dashboard.runs import DashboardRun
from medrobust.results.dashboard.tables import NORMS, Column, Norm, Table

MOST = 15  # patients of one set of images

NOTE = (
    "The patients whose images are left right least often, on average over their images, the radii of a run, and the "
    "runs. Where nobody knows the patients, images stand for them."
)


def patient_tables(runs: Sequence[DashboardRun]) -> list[Table]:
    """The most fragile patients of each set of images that was attacked within a radius.

    Args:
        runs: The runs.
    """
    found: dict[tuple[str, ...], list[DashboardRun]] = {}
    for run in runs:
        if run.radii:
            found.setdefault(images_of(run), []).append(run)
    return [_table(number, members) for number, members in enumerate(found.values(), 1)]


def _table(number: int, runs: Sequence[DashboardRun]) -> Table:
    names = sorted({str(name) for run in runs for name in run.outcomes.patients})
    places = {name: place for place, name in enumerate(names)}
    images, with_runs, clean, left, judged = (np.zeros(len(names)) for _ in range(5))
    counted = np.zeros(len(names))
    reached: list[list[float]] = [[] for _ in names]
    norm: Norm = "linf" if any(run.outcomes.norm == "linf" for run in runs) else "l2"
    for run in runs:
        outcomes = run.outcomes
        rows = np.array([places[str(name)] for name in outcomes.patients])
        own = np.bincount(rows, minlength=len(names))
        images = np.maximum(images, own)
        with_runs += own > 0
        counted += own
        clean += np.bincount(rows, outcomes.clean, len(names))
        shares, tries = np.zeros(len(names)), np.zeros(len(names))
        for epsilon in run.radii:
            tried, right = outcomes.worst(run.keys_at(epsilon))
            shares += np.bincount(rows, right, len(names))
            tries += np.bincount(rows, tried, len(names))
        left += np.divide(shares, tries, out=np.zeros(len(names)), where=tries > 0)
        judged += tries > 0
        measured = outcomes.smallest if outcomes.norm == norm else None  # lengths in two norms have no median
        smallest = np.full(len(rows), np.nan) if measured is None else measured
        known = ~np.isnan(smallest)
        for row, distance in zip(rows[known].tolist(), smallest[known].tolist(), strict=True):
            reached[row].append(distance)
    share = np.divide(left, judged, out=np.ones(len(names)), where=judged > 0)
    initially = clean / np.maximum(counted, 1)
    order = [place for place in np.lexsort((initially, share)) if judged[place]]
    judged_patients, order = len(order), order[:MOST]
    above = max((run.outcomes.largest or 0.0) for run in runs if run.outcomes.norm == norm) or None
    table: list[dict[str, Any]] = [
        {
            "patient": names[place],
            "images": int(images[place]),
            "runs": int(with_runs[place]),
            "clean": float(initially[place]),
            "left": float(share[place]),
            "smallest": sorted(reached[place])[(len(reached[place]) - 1) // 2] if reached[place] else None,
            "smallest_above": above,
        }
        for place in order
    ]
    known = any(run.outcomes.known for run in runs)
    data = " · ".join(str(runs[0].data[name]) for name in ("name", "split") if runs[0].data.get(name))
    fewer = judged_patients > len(table)
    of_all = f"the {len(table)} most fragile of {judged_patients:,}" if fewer else f"all {judged_patients}"
    title = f"{data}: {of_all} {'patients' if known else 'images'}"
    return Table(f"patients-{number}", title, "", _columns(known, norm), table)


def _columns(known: bool, norm: Norm) -> tuple[Column, ...]:
    return (
        Column("patient", "patient" if known else "image"),
        Column("images", "images", "count"),
        Column("runs", "runs", "count"),
        Column("clean", "clean images right", "share", "over the runs"),
        Column("left", "left right under attack", "share", "over runs and radii", "low"),
        Column("smallest", f"median smallest {NORMS[norm]} perturbation", norm, "over its images and the runs"),
    )
