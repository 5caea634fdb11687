"""Tables of a summary: for the console and in Markdown."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from medrobust.results.columns import MEASURES
from medrobust.results.defences import defences_of
from medrobust.results.formats import (
    DASH,
    LEVELS,
    flag_place,
    format_epsilon,
    format_interval,
    format_linf,
    format_measure,
    format_passes,
    format_percent,
    markdown_lines,
)
from medrobust.results.report.boxes import box_tables
from medrobust.results.report.dense_tables import DenseTable
from medrobust.results.report.masks import mask_tables
from medrobust.results.summary import columns_shown
from medrobust.results.wording import quality_name, quality_phrase, right_meaning

ALIKE = 3  # flags of one check on the console
HEADINGS = {  # in the console, and in Markdown
    "accuracy_under_attack": ("right", "right after the attack"),
    "success_rate": ("fooled", "fooled of those right before"),
    "quality_before": ("{}\nbefore", "{} before the attack"),
    "quality_after": ("{}\nafter", "{} after the attack"),
}


def console_table(summary: Mapping[str, Any], width: int = 80) -> Table:
    """Table of the attacks of an evaluation for the console.

    Args:
        summary: As `summarise` returns it.
        width: Columns of the console. Intervals need 100 of them and norms 120; with qualities 134 and 154.
    """
    data = summary["manifest"]["data"]
    shown = columns_shown(summary["manifest"])
    quality = quality_name(summary["manifest"])
    more = 0 if len(shown) == 2 else 34  # columns that qualities take
    wide, wider = width >= 100 + more, width >= 120 + more
    title = f"{summary['manifest']['run']}: {data.get('name', '')} {data.get('split', '')}".rstrip()
    lines = [title, *(f"victim {defence.line()}" for defence in defences_of(summary["manifest"]))]
    table = Table(
        title=Text("\n".join(lines), style="table.title"),
        caption="right: share of all images that the victim gets right after the attack. fooled: share of successful "
        "attacks among the images that it got right before; an attack with a goal succeeds where it reaches it."
        + (f" {quality}: mean over the images, before and after the attack." if "quality_after" in shown else "")
        + (f" {meaning}" if (meaning := right_meaning(summary["manifest"])) else "")
        + (" Beside each rate stands its 95 % interval over patients." if wide else "")
        + (" n: images attacked so far." if not all(row["complete"] for row in summary["rows"]) else "")
        + (" !: flags, explained below." if summary["flags"] else ""),
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("attack", overflow="fold", min_width=10)
    table.add_column("ε", justify="right", no_wrap=True)
    table.add_column("n", justify="right")  # "1000 of 2000" wraps where there is no room for it
    for name in shown:
        table.add_column(HEADINGS[name][0].format(quality.replace(" ", "\n")), justify="right", no_wrap=True)
        if wide:
            table.add_column("", justify="right", no_wrap=True, style="dim")
    if wider:
        table.add_column("median L∞", justify="right", no_wrap=True)
        table.add_column("median L2", justify="right", no_wrap=True)
    table.add_column("passes", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)  # one mark for each flag
    rows = summary["rows"]
    swept = len({row["attack"] for row in rows}) < len(rows)
    radii = [row["epsilon"] for row in rows]
    for index, row in enumerate(rows):
        last = index + 1 < len(rows) and _section(rows[index + 1], swept) != _section(row, swept)
        table.add_row(
            *_cells(row, shown, summary["flags"], wide, radii if wider else None), end_section=last, style=_style(row)
        )
    return table


def console_flags(summary: Mapping[str, Any]) -> RenderableType:
    """The flags of an evaluation for the console, one line for each, or one line that says that there are none.

    Of one check's flags only the first `ALIKE` are shown, and the number of the others.
    """
    if not summary["flags"]:
        made = sum(check["comparisons"] > 0 for check in summary["checks"])
        return Text(f"All {made} self-checks passed.", style="green")
    lines: list[Text] = []
    left = Counter(flag["check"] for flag in summary["flags"])
    shown: Counter[str] = Counter()
    for flag in summary["flags"]:
        left[flag["check"]] -= 1
        shown[flag["check"]] += 1
        if shown[flag["check"]] > ALIKE:
            continue
        colour = "bold red" if flag["severity"] == "error" else "yellow"
        level = LEVELS[flag["severity"]].capitalize()
        lines.append(Text.assemble((f"{level}: ", colour), flag["message"], (flag_place(flag), "dim")))
        if shown[flag["check"]] == ALIKE and left[flag["check"]]:
            lines.append(Text(f"  and {left[flag['check']]} more of this kind, which the report shows", style="dim"))
    return Group(*lines)


def markdown_table(summary: Mapping[str, Any]) -> str:
    """Table of the attacks of an evaluation in Markdown, with intervals, below what the victim is defended by.

    The flags stand below the table.
    """
    shown = columns_shown(summary["manifest"])
    quality = quality_name(summary["manifest"])
    words = [HEADINGS[name][1].format(quality) for name in shown]
    head = ["attack", "ε", "n", *(heading for word in words for heading in (word, "95 %")), "passes"]
    body = []
    for row in summary["rows"]:
        cells = [_name(row), format_epsilon(row["epsilon"]), str(row["n"])]
        for name in shown:
            cells += [format_percent(row[name]), format_interval(row[f"{name}_interval"])]
        body.append([*cells, format_passes(row)])
    flags = []
    for flag in summary["flags"]:
        flags.append(f"- **{LEVELS[flag['severity']].capitalize()}**: {flag['message']}{flag_place(flag)}\n")
    defended = [f"The victim is {defence.line()}.\n\n" for defence in defences_of(summary["manifest"])]
    worst = markdown_worst(summary)
    means = right_meaning(summary["manifest"])
    return (
        "".join(defended)
        + (f"{means}\n\n" if means else "")
        + markdown_lines(head, body)
        + (f"\n{worst}" if worst else "")
        + "".join(["\n", *flags] if flags else [])
    )


def markdown_worst(summary: Mapping[str, Any]) -> str:
    """A line for each radius with several attacks: the worst of them on each image; empty for classifiers."""
    lines = []
    for worst in summary.get("worst_case") or []:
        if worst.get("quality") is None or len(worst["attacks"]) < 2:
            continue
        limits = format_interval(worst["quality_interval"])
        lines.append(
            f"The worst of {len(worst['attacks'])} attacks at ε = {format_epsilon(worst['epsilon'])}, image by image: "
            f"{format_percent(worst['accuracy'])} right, with "
            f"{quality_phrase(summary['manifest'], worst['quality'])}{f' ({limits})' if limits else ''}.\n"
        )
    return "".join(lines)


def dense_tables(summary: Mapping[str, Any]) -> list[DenseTable]:
    """The tables of masks and of boxes; none for other tasks."""
    return mask_tables(summary) + box_tables(summary)


def markdown_measures(summary: Mapping[str, Any]) -> str:
    """Table of what was measured in Markdown: medians of the norms and means of the rest, over the changed images."""
    names = [name for name in MEASURES if any(name in row["means"] for row in summary["rows"])]
    names += sorted({name for row in summary["rows"] for name in row["means"]} - set(names))
    head = [
        "attack",
        "ε",
        "changed",
        "median L∞",
        "median L2",
        *(MEASURES.get(name, (name, ""))[0] for name in names),
    ]
    body, radii = [], [row["epsilon"] for row in summary["rows"]]
    for row in summary["rows"]:
        if row["kind"] == "clean":
            continue
        norms = _norms(row, radii)
        cells = [_name(row), format_epsilon(row["epsilon"]), str(row["n_changed"]), *norms]
        body.append(cells + [format_measure(row["means"].get(name)) for name in names])
    meanings = [f"{MEASURES[name][0]}: {MEASURES[name][1]}" for name in names if name in MEASURES]
    explained = (
        f"\nMedians and means over the images that the attack changed. {'; '.join(meanings)}.\n" if names else ""
    )
    return markdown_lines(head, body) + explained


def _norms(row: Mapping[str, Any], radii: Iterable[float | None]) -> list[str]:
    """The medians of both lengths, L-infinity in the unit of the radii."""
    return [format_linf(row["median_linf"], radii), DASH if row["median_l2"] is None else f"{row['median_l2']:.3g}"]


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['attack']} (control)" if row["control"] else str(row["attack"])


def _section(row: Mapping[str, Any], swept: bool) -> tuple[str, str]:
    """Rows of one section stand together: those of an attack's radii, or of one kind if no attack has several."""
    return row["kind"], row["attack"] if swept else ""


def _style(row: Mapping[str, Any]) -> str:
    return {"clean": "bold", "control": "dim"}.get(row["kind"], "")


def _cells(
    row: Mapping[str, Any],
    shown: Iterable[str],
    flags: list[dict[str, Any]],
    wide: bool,
    radii: Iterable[float | None] | None,
) -> list[RenderableType]:
    cells: list[RenderableType] = [Text(_name(row)), format_epsilon(row["epsilon"]), _count(row)]
    for name in shown:
        cells.append(format_percent(row[name]))
        if wide:
            cells.append(format_interval(row[f"{name}_interval"]))
    if radii is not None:
        cells += _norms(row, radii)
    raised = [flag for flag in flags if (flag["attack"], flag["epsilon"]) == (row["attack"], row["epsilon"])]
    error = any(flag["severity"] == "error" for flag in raised)
    mark = Text("!" * min(len(raised), 3), style="bold red" if error else "yellow")
    return [*cells, format_passes(row), mark]


def _count(row: Mapping[str, Any]) -> str:
    return str(row["n"]) if row["complete"] else f"{row['n']} of {row['images']}"
