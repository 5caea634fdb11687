"""Runs in the console: a line for each, and two of them compared pair by pair and key by key."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table as Grid
from rich.text import Text

from medrobust.results.dashboard.places import Place, places_of
from medrobust.results.dashboard.tables import Column, Table, cell, interval
from medrobust.results.formats import flags_told, format_epsilon, format_percent, printable, tried_told
from medrobust.results.manifest import task_of
from medrobust.results.summary import read_summary
from medrobust.results.wording import is_dense, quality_name

LISTED = 10  # images that changed sides, on either side
HEADINGS = ("run", "task", "data", "tried / n", "clean", "worst case", "flags", "date")


def list_runs(given: Sequence[str | Path]) -> tuple[Grid, list[str]]:
    """A line for each evaluation of some runs, from their summaries alone.

    Args:
        given: Folders of runs, of evaluations, or folders that hold runs.

    Returns:
        The lines as a table, and a sentence for each run without one.

    Raises:
        ValueError: If no evaluation can be read.
    """
    places, left_out = places_of(given)
    lines: list[tuple[list[str], Path]] = []
    measured: dict[str, str] = {}
    for place in places:
        try:
            summary = read_summary(place.folder)
            lines.append((_line(place, summary), place.folder))
            task, dense = task_of(summary["manifest"]), is_dense(summary["manifest"])
            measured[task] = quality_name(summary["manifest"]) if dense else "accuracy"
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            reason = error if isinstance(error, ValueError) else "its summary.json is damaged, evaluate it again"
            left_out.append(f"{place.name}: {printable(str(reason)).rstrip('.')}.")
    if not lines:
        raise ValueError(f"there is no run that can be listed. {' '.join(left_out[:3])}".strip())
    grid = _grid(caption=_explained(measured))
    for number, heading in enumerate(HEADINGS):
        grid.add_column(heading, justify="right" if number in (3, 4, 5) else "left", overflow="fold")
    counts = Counter(line[0] for line, _ in lines)
    for (name, *line), folder in lines:
        grid.add_row(*map(Text, [f"{name} ({printable(str(folder))})" if counts[name] > 1 else name, *line]))
    return grid, left_out


def _explained(measured: Mapping[str, str]) -> str:
    """What the columns of the list mean, for the measures of its tasks.

    >>> _explained({"segmentation": "mean Jaccard"}).partition("; ")[2].partition(". worst")[0]
    'clean: mean Jaccard without an attack'
    """
    names = list(dict.fromkeys(measured.values()))
    what = names[0] if len(names) == 1 else ", ".join(f"{name} ({task})" for task, name in measured.items())
    return (
        f"tried / n: images that were attacked, of those in the split; clean: {what} without an attack. worst case: "
        "the same if each image meets the worst attack of a radius, at the first radius that halves it, or else at the "
        "largest; only runs of the same data, images and attacks can be compared. flags: told in the run's report."
    )


def _line(place: Place, summary: Mapping[str, Any]) -> list[str]:
    """What the list says of one evaluation: of its worst cases the first that halves what was right, or the last."""
    manifest, clean = summary["manifest"], summary["rows"][0]
    data, dense = manifest["data"], is_dense(manifest)
    before, left = clean["quality_before" if dense else "clean_accuracy"], "quality" if dense else "accuracy"
    cases = [worst for worst in summary["worst_case"] if worst["n"] and worst.get(left) is not None]
    halved = [worst for worst in cases if before is not None and 2 * worst[left] <= before]
    case = (halved or cases[-1:] or [None])[0]
    told = "–" if case is None else f"{format_percent(case[left])} at {format_epsilon(case['epsilon'])}"
    return [
        place.name,
        task_of(manifest),
        " ".join(str(data[name]) for name in ("name", "split") if data.get(name)),
        tried_told(summary),
        format_percent(before),
        told,
        flags_told(summary["flags"]),
        str(manifest.get("created") or "")[:10],
    ]


def diff_runs(first: str | Path, second: str | Path) -> Iterator[RenderableType]:
    """What two runs have in common and where they differ: whether they can be ranked, pairs, images, configurations.

    Args:
        first: Folder of a run, of which the first evaluation counts, or of an evaluation.
        second: The other one.

    Yields:
        What is printed, part by part.

    Raises:
        ValueError: If one of them cannot be read.
    """
    from medrobust.results.dashboard.comparison import compared, same_images
    from medrobust.results.dashboard.configuration import differing
    from medrobust.results.dashboard.groups import differences
    from medrobust.results.dashboard.pairs import COLUMNS, changed_sides, conditions_of

    runs, remarks = _two(first, second)
    a, b = runs
    for letter, run in zip("AB", runs, strict=True):
        yield Text(f"{letter}  {run.name}  ({printable(str(run.folder))})", style="bold")
    for remark in remarks:
        yield Text(printable(remark), style="yellow")
    reasons = list(differences(a, b))
    yield Text(
        f"Not to be ranked together; of A, beside B: {'; '.join(reasons)}."
        if reasons
        else "They can be ranked together."
    )
    if same_images(runs):
        rows: list[Mapping[str, Any]] = []
        conditions = conditions_of(runs)
        for condition in conditions:
            rows += [{"condition": condition.label, **row} for row in compared(condition)]
        columns = [
            Column("condition", "under"),
            *(one for one in COLUMNS if one.key not in ("first", "second", "holm")),
        ]
        note = "A − B in percentage points, with its 95 % interval over patients. p: two-sided exact McNemar test."
        yield console_table(Table("pairs", "On the same images", note, columns, rows))
        for condition in conditions[:1]:
            sides = changed_sides(*condition.verdicts)
            for name, images in zip("AB", sides, strict=True):
                more = [f"and {len(images) - LISTED} more"] if len(images) > LISTED else []
                told = [*(printable(image) for image in images[:LISTED]), *more]
                yield Text(f"{condition.label}, only {name} right ({len(images)}): {', '.join(told) or 'none'}")
    rows = []
    for key, values in differing([a.configuration, b.configuration]).items():
        file, entry = key.split(": ", 1)
        rows.append({"file": file, "key": entry, "a": values[0], "b": values[1]})
    names = (Column("file", "file"), Column("key", "key"), Column("a", "A"), Column("b", "B"))
    if rows:
        yield console_table(Table("configuration", "Difference of the configurations", "", names, rows))
    else:
        yield Text("The configurations do not differ.")


def console_table(table: Table) -> Grid:
    """A table of a comparison for the console; intervals stand in brackets."""
    grid = _grid(table.title, table.note)
    for column in table.columns:
        grid.add_column(column.heading, justify="left" if column.kind == "words" else "right", overflow="fold")
    for row in table.rows:
        cells = []
        for column in table.columns:
            limits = interval(column, row)
            cells.append(Text(cell(column, row) + (f" ({limits})" if limits else "")))
        grid.add_row(*cells)
    return grid


def _two(first: str | Path, second: str | Path) -> tuple[Any, list[str]]:
    """The two runs, and a remark where one has several evaluations or a part could not be read."""
    from medrobust.results.dashboard.runs import read_runs

    folders, remarks = [], []
    for given in (first, second):
        places, left_out = places_of([given])
        if not places:
            raise ValueError(left_out[0].rstrip("."))
        folders.append(places[0].folder)
        if len(places) > 1:
            others = ", ".join(str(place.folder) for place in places[1:])
            remarks.append(
                f"{given} has {len(places)} evaluations, of which {places[0].folder} counts; others: {others}"
            )
    if folders[0].resolve() == folders[1].resolve():
        raise ValueError(f"two runs are compared, got {folders[0]} twice")
    runs, left_out = read_runs(folders)
    if len(runs) < 2:
        raise ValueError(left_out[0].rstrip("."))
    return runs, remarks + left_out


def _grid(title: str | None = None, caption: str = "") -> Grid:
    return Grid(
        title=title and Text(title, style="bold"),
        caption=caption or None,
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
