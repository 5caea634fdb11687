"""The page of a comparison: one self-contained file, which works without script and is better with it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from medrobust.results.dashboard.comparison import Comparison, PairedRuns, compare_runs, pair_table
from medrobust.results.dashboard.embedded import Embedded, configurations
from medrobust.results.dashboard.figure import FIRST, curve_figure
from medrobust.results.dashboard.leaderboard import report_link, worst_key
from medrobust.results.dashboard.pairs import changed_sides
from medrobust.results.dashboard.pictures import Pictures
from medrobust.results.dashboard.tables import Column, Table, cell, interval, sort_value
from medrobust.results.formats import format_epsilon
from medrobust.results.manifest import replace_file
from medrobust.results.report.templating import breakable, environment, glue
from medrobust.results.wording import is_dense

PAGE = "dashboard.html"
ALL_PAIRS = 45  # pairs of a set of images that stand on the page without script; of more, those with the best run
SIDES = 20  # images that changed sides, on either side
SHORT = 16  # letters of a cell that is not broken


def write_dashboard(given: Sequence[str | Path], page: str | Path) -> Comparison:
    """Compare runs on one page, which needs no other file or network, and is written whole or not at all.

    Args:
        given: Folders of runs, of evaluations, or folders that hold runs.
        page: The file to write.

    Returns:
        What was compared; its `left_out` names what could not be read.

    Raises:
        ValueError: If no run can be read.
        OSError: The page cannot be written.
    """
    comparison = compare_runs(given)
    replace_file(Path(page), render(comparison, Path(page)).encode())
    return comparison


def render(comparison: Comparison, page: Path) -> str:
    """The page of a comparison.

    Args:
        comparison: What is compared.
        page: Where the page will lie, from which the runs' reports are linked.
    """
    template = environment(Path(__file__).parent / "templates", rows=table_rows, glue=glue, epsilon=format_epsilon)
    pictures = Pictures()
    embedded = Embedded(pictures)
    links = {run.name: link for run in comparison.runs if (link := report_link(run, page))}
    pairs = [(paired, embedded.of_pairs(paired)) for paired in comparison.pairs]
    return template.get_template(f"{PAGE}.j2").render(
        comparison=comparison,
        numeric=is_numeric,
        overview=overview(comparison) if len(comparison.groups) > 1 else None,
        links=links,
        figures={curve.name: Markup(curve_figure(curve)) for one in comparison.groups for curve in one.curves[:1]},
        first=FIRST,
        paired=[(paired, _static(paired), _sides(paired), script_json(data)) for paired, data in pairs],
        all_pairs=ALL_PAIRS,
        pictures=script_json(pictures.uris),
        pictures_cut=pictures.full,
        conditions_left_out=embedded.left_out,
        configurations=script_json(configurations(comparison.runs)),
    )


def overview(comparison: Comparison) -> Table:
    """A line for each run of all groups, which ranks nothing."""
    rows = []
    for one in comparison.groups:
        radius = one.group.headline
        dense = is_dense(one.group.runs[0].manifest)
        for row in one.leaderboard.rows:
            shown = {name: row.get(name) for name in ("run", "victim", "data", "tried", "flags", "date")}
            shown |= {"group": one.group.number, "task": one.group.runs[0].task, "epsilon": radius}
            shown |= {"clean": row.get("quality" if dense else "clean")}
            if radius is not None:
                shown["worst"] = row.get(worst_key(radius, "quality" if dense else "worst"))
            rows.append(shown)
    columns = (
        Column("run", "run"),
        Column("group", "group", "count"),
        Column("task", "task"),
        Column("data", "data"),
        Column("victim", "victim"),
        Column("tried", "tried / n"),
        Column("clean", "clean", "share", "accuracy; mean quality of masks and boxes"),
        Column("epsilon", "ε", "radius", "by which the group is ranked"),
        Column("worst", "worst case", "share", "the same, under the worst case at this radius"),
        Column("flags", "flags"),
        Column("date", "date"),
    )
    note = "Every run once. Only runs of one group can be ranked; each group below says why it is one."
    shown_columns = [column for column in columns if any(row.get(column.key) is not None for row in rows)]
    return Table("overview", "All runs", note, shown_columns, rows)


def table_rows(table: Table, links: Mapping[str, str] | None = None) -> Markup:
    """The rows of a table in HTML, with what a column is sorted by, shading, and links from runs to their reports."""
    writers = [_writer(column, links or {}) for column in table.columns]
    return Markup("\n".join(f"<tr>{''.join(write(row) for write in writers)}</tr>" for row in table.rows))


def is_numeric(column: Column) -> bool:
    """Whether a column stands to the right."""
    return column.kind != "words"


def script_json(value: Any) -> Markup:
    """A value as JSON that ends no script element, whatever its texts hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _writer(column: Column, links: Mapping[str, str]) -> Callable[[Mapping[str, Any]], str]:
    """What writes the cells of a column."""

    def words(row: Mapping[str, Any]) -> str:
        shown = breakable(cell(column, row))
        if column.key == "run":
            link = links.get(str(row.get("run")))
            shown = Markup('<a href="{}">{}</a>').format(link, shown) if link else shown
            return f'<th scope="row" class="name">{shown}</th>'
        small = (
            Markup("<small>{}</small>").format(row["defence"]) if column.key == "victim" and row.get("defence") else ""
        )
        return f"<td{' class=short' if len(shown) <= SHORT else ''}>{shown}{small}</td>"

    def number(row: Mapping[str, Any]) -> str:
        value, limits = row.get(column.key), interval(column, row)
        small = f"<small>{escape(limits)}</small>" if limits else ""
        heat = ""
        if column.worse and value is not None:
            heat = f' style="--h:{min(1.0, max(0.0, value if column.worse == "high" else 1 - value)):.2f}"'
        kind = "num heat" if heat else "num"
        data = f' data-value="{sort_value(column, row)}"'
        return f'<td class="{kind}"{heat}{data}>{escape(glue(cell(column, row)))}{small}</td>'

    return number if is_numeric(column) else words


def _static(paired: PairedRuns) -> list[tuple[Table, int]]:
    """The table of each condition as it is shown without script, and how many pairs it has in full."""
    tables = []
    for place in range(len(paired.conditions)):
        table = pair_table(paired, place)
        rows = table.rows
        if len(rows) > ALL_PAIRS:
            best = rows[0]["first"]
            rows = [row for row in rows if row["first"] == best]
        tables.append((table._replace(rows=rows), len(table.rows)))
    return tables


def _sides(paired: PairedRuns) -> dict[str, Any] | None:
    """The images that changed sides between the first two runs under the first condition."""
    condition, _ = paired.conditions[0]
    first, second = condition.verdicts[:2]
    only = changed_sides(first, second)
    return {
        "condition": condition.label,
        "names": (first.run.name, second.run.name),
        "sides": [(images[:SIDES], len(images)) for images in only],
    }
