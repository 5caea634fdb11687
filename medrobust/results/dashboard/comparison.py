"""A comparison of runs: its groups, pairs and tables, which the page, the console and files show."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.results.dashboard.classes import class_table
from medrobust.results.dashboard.configuration import configuration_table
from medrobust.results.dashboard.cost import cost_rows, cost_table
from medrobust.results.dashboard.curves import curve_tables
from medrobust.results.dashboard.detectors import detector_rows, detector_table
from medrobust.results.dashboard.groups import Group, groups_of, images_told
from medrobust.results.dashboard.leaderboard import leader_row, leaderboard
from medrobust.results.dashboard.pairs import COLUMNS, Condition, compared, conditions_of, same_images
from medrobust.results.dashboard.patients import patient_tables
from medrobust.results.dashboard.runs import BROKEN, DashboardRun, damaged, read_runs
from medrobust.results.dashboard.tables import Table, check_values
from medrobust.results.dashboard.transfer import transfer_table


class RankedGroup(NamedTuple):
    """What is shown of a group.

    Args:
        group: The group.
        leaderboard: Its runs, best first.
        curves: A table for each curve that can be drawn, the worst case first; may be empty.
        classes: Its classes; None where the victims name none.
    """

    group: Group
    leaderboard: Table
    curves: list[Table]
    classes: Table | None


class PairedRuns(NamedTuple):
    """Runs on the same images.

    Args:
        number: Its number on the page, from 1.
        title: The images.
        runs: The runs, in the order of their groups and ranks.
        conditions: What they are compared under, each with a row for each pair.
    """

    number: int
    title: str
    runs: list[DashboardRun]
    conditions: list[tuple[Condition, list[dict[str, Any]]]]


class Comparison(NamedTuple):
    """All that is shown of several runs.

    Args:
        runs: The runs.
        left_out: A sentence for each run, or part of one, that could not be read.
        groups: Runs that may be ranked together.
        pairs: Runs on the same images.
        patients: The most fragile patients of each set of images.
        detectors: The detectors of all runs; None without any.
        transfer: What other victims make of the images; None without any.
        cost: What the attacks cost.
        configuration: Where the configurations differ.
    """

    runs: list[DashboardRun]
    left_out: list[str]
    groups: list[RankedGroup]
    pairs: list[PairedRuns]
    patients: list[Table]
    detectors: Table | None
    transfer: Table | None
    cost: Table
    configuration: Table


def compare_runs(given: Sequence[str | Path], all_radii: bool = False) -> Comparison:
    """Read and compare runs.

    Args:
        given: Folders of runs, of evaluations, or folders that hold runs.
        all_radii: Show classes at every radius, and not only at that by which a group is ranked.

    Raises:
        ValueError: If no run can be read.
    """
    runs, left_out = read_runs(given)
    try:
        comparison = _comparison(runs, left_out, all_radii) if runs else None
    except BROKEN:  # by a summary that is damaged, or of another version, in a way that only its use shows
        whole = []
        for run in runs:
            try:
                _comparison([run], [], all_radii)
                whole.append(run)
            except BROKEN as error:
                left_out.append(f"{run.name}: {damaged(error)}.")
        comparison = _comparison(whole, left_out, all_radii) if whole else None
    if comparison is None:
        reasons = " ".join(left_out[:3]) + (f" And {len(left_out) - 3} more." if len(left_out) > 3 else "")
        raise ValueError(f"there is no run that can be compared. {reasons}".strip())
    return comparison


def _comparison(runs: list[DashboardRun], left_out: list[str], all_radii: bool) -> Comparison:
    """The comparison of runs that have been read."""
    leaders = {run.name: leader_row(run) for run in runs}
    detectors = [{"run": run.name, **row} for run in runs for row in detector_rows(run.summary)]
    costs = [{"run": run.name, **row} for run in runs for row in cost_rows(run.summary)]
    groups = [_ranked(group, leaders, all_radii) for group in groups_of(runs)]
    found = Comparison(
        runs=runs,
        left_out=left_out,
        groups=groups,
        pairs=_paired(groups),
        patients=patient_tables(runs),
        detectors=detector_table(detectors) if detectors else None,
        transfer=transfer_table(runs),
        cost=cost_table(costs),
        configuration=configuration_table([run.name for run in runs], [run.configuration for run in runs]),
    )
    of_summaries = [found.detectors, found.transfer, found.cost]
    for one in groups:
        of_summaries += [one.leaderboard, one.classes, *one.curves]
    for table in of_summaries:
        check_values(table.columns, table.rows) if table else None
    return found


def pair_table(paired: PairedRuns, place: int) -> Table:
    """All pairs of runs on the same images under one of their conditions."""
    condition, rows = paired.conditions[place]
    return Table(f"pairs-{paired.number}-{place + 1}", condition.label, paired.title, COLUMNS, rows)


def _ranked(group: Group, leaders: dict[str, dict[str, Any]], all_radii: bool) -> RankedGroup:
    board = leaderboard(group, leaders)
    radii = group.radii if all_radii or group.headline is None else [group.headline]
    order = [str(row["run"]) for row in board.rows]
    return RankedGroup(group, board, curve_tables(group, board.rows), class_table(group, order, radii))


def _in_order(one: RankedGroup) -> list[DashboardRun]:
    by_name = {run.name: run for run in one.group.runs}
    return [by_name[str(row["run"])] for row in one.leaderboard.rows]


def _paired(groups: Sequence[RankedGroup]) -> list[PairedRuns]:
    """Runs on the same images with their conditions.

    The worst cases come first, that of the radius by which a group is ranked before the others, then single attacks and
    at last the clean images.
    """
    headlines = {run.name: one.group.headline for one in groups for run in one.group.runs}

    def place(shown: tuple[Condition, list[dict[str, Any]]]) -> tuple[bool, bool, bool, int]:
        condition, rows = shown
        ranked = any(condition.worst_at == headlines[one.run.name] for one in condition.verdicts)
        return not any(condition.keys.values()), condition.worst_at is None, not ranked, -len(rows)

    found = []
    for number, members in enumerate(same_images([run for one in groups for run in _in_order(one)]), 1):
        conditions = [(condition, compared(condition)) for condition in conditions_of(members)]
        if conditions:
            found.append(PairedRuns(number, images_told(members[0]), members, sorted(conditions, key=place)))
    return found
