"""The tables of a comparison as files: CSV, Parquet, or LaTeX for a paper."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from medrobust.results.dashboard.comparison import Comparison, RankedGroup, pair_table
from medrobust.results.dashboard.tables import Column, Table, cell, has_interval, interval
from medrobust.results.manifest import replace_file

Format = Literal["csv", "parquet", "latex"]
SUFFIXES: dict[str, str] = {"csv": "csv", "parquet": "parquet", "latex": "tex"}
TYPES = {"words": pl.String(), "count": pl.Int64()}  # of a column's values; all others are numbers with a fraction
LETTERS = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"$<$", ">": r"$>$", "−": r"$-$", "–": "--", "ε": r"$\varepsilon$", "∞": r"$\infty$", "·": r"$\cdot$"},
    **{"\N{NO-BREAK SPACE}": "~", "\n": " ", '"': "''", "|": r"\textbar{}"},
    **{letter: f"{{{letter}}}" for letter in "[*"},  # which a command before them would take for its own
    "\0": "{}",
}


def export_tables(comparison: Comparison, folder: str | Path, kind: Format) -> list[Path]:
    """Write every table of a comparison into a file of its own; other files of the folder are left alone.

    Args:
        comparison: The comparison.
        folder: Where the files go; it is created.
        kind: CSV and Parquet have the limits of intervals in columns of their own; LaTeX has them in brackets, takes
            the package booktabs, and has all texts escaped.

    Returns:
        The files.
    """
    written = []
    for table in tables_of(comparison):
        path = Path(folder) / f"{table.name}.{SUFFIXES[kind]}"
        written.append(replace_file(path, latex(table).encode() if kind == "latex" else _columnar(table, kind)))
    return written


def tables_of(comparison: Comparison) -> Iterator[Table]:
    """All tables of a comparison with a row, each under a name of its own."""
    groups = [
        {
            "group": one.group.number,
            "images": one.group.title,
            "attacks": one.group.attacks,
            "runs": ", ".join(run.name for run in one.group.runs),
            "why": one.group.why or None,
        }
        for one in comparison.groups
    ]
    columns = (
        Column("group", "group", "count"),
        *(Column(name, name) for name in ("images", "attacks", "runs")),
        Column("why", "why apart"),
    )
    yield Table("groups", "Groups", "", columns, groups)
    for one in comparison.groups:
        yield one.leaderboard
        if one.curves:
            yield _long_curves(one)
        if one.classes:
            yield one.classes
    for paired in comparison.pairs:
        tables = [pair_table(paired, place) for place in range(len(paired.conditions))]
        rows = [{"condition": table.title, **row} for table in tables for row in table.rows]
        under = Column("condition", "under")
        yield Table(f"pairs-{paired.number}", paired.title, "", (under, *tables[0].columns), rows)
    others = (comparison.detectors, comparison.transfer, comparison.cost, comparison.configuration)
    yield from (table for table in (*comparison.patients, *others) if table and table.rows)


def latex(table: Table) -> str:
    r"""A table in LaTeX with the rules of booktabs.

    >>> columns = (Column("run", "run"), Column("right", "right", "rate"))
    >>> print(latex(Table("t", "", "", columns, [{"run": "a_b", "right": 0.5}])))
    % \usepackage{booktabs}
    \begin{tabular}{lr}
    \toprule
    run & right \\
    \midrule
    a\_b & 50.0~\% \\
    \bottomrule
    \end{tabular}
    <BLANKLINE>
    """

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    def value(column: Column, row: Mapping[str, Any]) -> str:
        limits = interval(column, row)
        shown = cell(column, row).replace(" %", "\N{NO-BREAK SPACE}%")
        return escaped(f"{shown} ({limits})" if limits else shown)

    shape = "".join("l" if column.kind == "words" else "r" for column in table.columns)
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{{shape}}}",
            r"\toprule",
            line([escaped(column.heading) for column in table.columns]),
            r"\midrule",
            *(line([value(column, row) for column in table.columns]) for row in table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escaped(words: str) -> str:
    r"""Words as LaTeX prints them, in any of its font encodings.

    >>> escaped("50 % of a_b ± {c}"), escaped("[run]--2")
    ('50 \\% of a\\_b ± \\{c\\}', '{[}run]-{}-2')
    """
    apart = re.sub("([-`'])(?=\\1)", "\\1\0", words)  # of which two would become one letter
    return "".join(LETTERS.get(letter, letter) for letter in apart)


def _columnar(table: Table, kind: Format) -> bytes:
    """Values in full and by the names of their entries, with the limits of their intervals beside them."""
    columns: list[pl.Series] = []
    for column in table.columns:
        values = [row.get(column.key) for row in table.rows]
        dtype = TYPES.get(column.kind, pl.Float64())
        columns.append(pl.Series(column.key, values, dtype))
        if has_interval(column) and any(row.get(f"{column.key}_interval") for row in table.rows):
            limits = [row.get(f"{column.key}_interval") or (None, None) for row in table.rows]
            columns += [
                pl.Series(f"{column.key}_{name}", [own[place] for own in limits], pl.Float64)
                for place, name in enumerate(("lower", "upper"))
            ]
    buffer = io.BytesIO()
    frame = pl.DataFrame(columns)
    frame.write_csv(buffer) if kind == "csv" else frame.write_parquet(buffer)
    return buffer.getvalue()


def _long_curves(one: RankedGroup) -> Table:
    """All curves of a group below each other."""
    rows = []
    for curve in one.curves:
        for row in curve.rows:
            for column in curve.columns[1:]:
                if row.get(column.key) is not None:
                    values = {"value": row[column.key], "value_interval": row.get(f"{column.key}_interval")}
                    epsilon = float(column.key.removeprefix("at_"))
                    rows.append({"curve": curve.title, "run": row["run"], "epsilon": epsilon, **values})
    columns = (
        Column("curve", "curve"),
        Column("run", "run"),
        Column("epsilon", "ε", "radius"),
        Column("value", "value", "rate"),
    )
    return Table(f"curves-{one.group.number}", one.group.title, "", columns, rows)
