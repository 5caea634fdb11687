"""Compare runs: one page of many, a line for each, two side by side, tables for papers, and tables of one run."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from medrobust.results.formats import printable

# whatever reads or draws is imported by the command that needs it, so that --help and a misspelt option answer at once


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and do what it asks for; an error is one sentence on stderr and exit status 2."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run_command
    try:
        status = run(options)
    except ValueError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        sys.exit(2)
    except OSError as error:
        sys.stderr.write(f"error: {printable(str(error.filename))}: {error.strerror}\n")
        sys.exit(1)
    if status:
        sys.exit(status)


def _dashboard(options: argparse.Namespace) -> int:
    from medrobust.results.dashboard.page import write_dashboard

    comparison = write_dashboard(options.runs, options.out)
    _say_left_out(comparison.left_out)
    count, groups = len(comparison.runs), len(comparison.groups)
    in_groups = f" in {groups} groups" if groups > 1 else ""
    sys.stdout.write(f"{printable(str(options.out))}: {count} {'run' if count == 1 else 'runs'}{in_groups}\n")
    return 0


def _list(options: argparse.Namespace) -> int:
    from rich.console import Console

    from medrobust.results.dashboard.console import list_runs

    grid, left_out = list_runs(options.runs)
    Console(width=None if sys.stdout.isatty() else 160).print(grid)
    _say_left_out(left_out)
    return 0


def _diff(options: argparse.Namespace) -> int:
    from rich.console import Console

    from medrobust.results.dashboard.console import diff_runs

    console = Console(width=None if sys.stdout.isatty() else 160)
    for part in list(diff_runs(options.first, options.second)):
        console.print(part, highlight=False)
    return 0


def _export(options: argparse.Namespace) -> int:
    from medrobust.results.dashboard.comparison import compare_runs
    from medrobust.results.dashboard.export import export_tables

    comparison = compare_runs(options.runs, all_radii=True)
    written = export_tables(comparison, options.out, options.format)
    _say_left_out(comparison.left_out)
    sys.stdout.write("".join(f"{printable(str(path))}\n" for path in written))
    return 0


def _figures(options: argparse.Namespace) -> int:
    from medrobust.results.dashboard.places import places_of, told_apart
    from medrobust.results.figures import compare_figures

    places, left_out = places_of(options.runs)
    _say_left_out(left_out)
    drawn = compare_figures(list(zip(told_apart(places), (place.folder for place in places), strict=True)), options.out)
    for one in drawn:
        sys.stdout.write(f"{options.out / one.name}.svg: {one.title}\n" if one.svg else f"{one.name}: {one.note}\n")
    lacking = any(not places_of([one])[0] for one in options.runs)  # a folder that was named has no evaluation
    return 1 if lacking or not all(one.svg for one in drawn) else 0


def _transfer(options: argparse.Namespace) -> int:
    from rich.console import Console

    from medrobust.results.manifest import replace_file
    from medrobust.results.transfer import read_summaries, transfer_markdown, transfer_rows, transfer_table

    rows = transfer_rows(read_summaries(options.runs))
    if options.markdown:
        replace_file(options.markdown, transfer_markdown(rows).encode())
    Console(width=None if sys.stdout.isatty() else 120).print(transfer_table(rows))
    return 0


def _table(options: argparse.Namespace) -> int:
    from medrobust.results.report.dense_tables import markdown_tables
    from medrobust.results.report.tables import dense_tables, markdown_measures, markdown_table
    from medrobust.results.summary import read_summary

    summary = read_summary(options.run)
    parts = [markdown_table(summary), markdown_tables(dense_tables(summary)), markdown_measures(summary)]
    sys.stdout.write("\n".join(part for part in parts if part))
    return 0


def _detection(options: argparse.Namespace) -> int:
    from medrobust.results.report.detection import detection_markdown, read_pair
    from medrobust.results.summary import read_summary

    pairs = [read_pair(words) for words in options.pair]
    sys.stdout.write(detection_markdown(read_summary(options.run), pairs))
    return 0


def _records(options: argparse.Namespace) -> int:
    from medrobust.results.records import read_records
    from medrobust.results.same_records import differences

    first, second = read_records(options.first), read_records(options.second)
    found = list(differences(first, second, options.tolerance))
    sys.stdout.write("\n".join(found or [f"all {len(first)} records are the same"]) + "\n")
    sys.exit(1 if found else 0)


def _workspace(options: argparse.Namespace) -> int:
    from medrobust.results.workspace_upload import show_workspace

    return show_workspace(options.project, options.runs, options.json)


def _say_left_out(sentences: list[str]) -> None:
    """Runs that are left out, on stderr, where they do not get between what is read by a program."""
    sys.stderr.write("".join(f"left out: {printable(sentence)}\n" for sentence in sentences))


def _parser() -> argparse.ArgumentParser:
    """The command line and its help."""
    parser = argparse.ArgumentParser(
        prog="compare.py",
        description="Compare evaluated runs. For example: python compare.py dashboard runs/* --out dashboard.html",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, what: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        added.set_defaults(run_command=run)
        return added

    many = "folders of runs, of single evaluations, or folders that hold runs"
    dashboard = command("dashboard", "write one page that puts runs side by side", _dashboard)
    dashboard.add_argument("runs", nargs="+", metavar="RUN", help=many)
    dashboard.add_argument(
        "--out", type=Path, default=Path("dashboard.html"), metavar="FILE", help="the page; default dashboard.html"
    )
    listed = command("list", "print a line for each run", _list)
    listed.add_argument("runs", nargs="+", metavar="RUN", help=f"{many}, such as runs/")
    diff = command("diff", "print where two runs differ: in their results, images and configurations", _diff)
    diff.add_argument("first", metavar="A", help="folder of a run, whose first evaluation counts, or of an evaluation")
    diff.add_argument("second", metavar="B", help="the one to compare it with")
    export = command("export", "write the tables of the dashboard to files, one for each table", _export)
    export.add_argument("runs", nargs="+", metavar="RUN", help=many)
    export.add_argument("--format", choices=("csv", "parquet", "latex"), default="csv", help="default csv")
    export.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the files go")
    figures = command("figures", "draw the studies of evaluations, those of one name side by side", _figures)
    figures.add_argument("runs", nargs="+", metavar="RUN", help=many)
    figures.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the files go")
    _add_older(command)
    return parser


def _add_older(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that print tables of one run, and those that compare few runs in one respect."""
    transfer = command("transfer", "print how often attacks made on one victim fool the others", _transfer)
    transfer.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a run that was evaluated with --transfer.judges"
    )
    transfer.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the table to this file, in Markdown"
    )
    table = command("table", "print the results and measurements of one run, in Markdown", _table)
    table.add_argument("run", metavar="RUN", help="folder of an evaluated run, such as runs/demo")
    detection = command("detection", "print how well detectors do on one run, in Markdown", _detection)
    detection.add_argument(
        "run", metavar="RUN", help="folder of a run that was evaluated with -c configs/detectors/all.yaml or the like"
    )
    detection.add_argument(
        "--pair",
        action="append",
        default=[],
        metavar="A:B",
        help="add a table that shows the attacks A and B side by side, as A / B; may be given several times",
    )
    workspace = command(
        "workspace", "build a workspace and a report of Weights & Biases with the dashboard's sections", _workspace
    )
    workspace.add_argument("project", metavar="ENTITY/PROJECT", help="the project that the runs are logged to")
    workspace.add_argument(
        "runs", nargs="*", metavar="RUN", help="runs whose attacks, classes and detectors get panels; default runs/*"
    )
    workspace.add_argument(
        "--json", type=Path, metavar="FILE", help="write what would be sent to this file, and send nothing"
    )
    what = "tell whether two evaluations have the same records; if not, the exit status is 1"
    records = command("records", what, _records)
    records.add_argument("first", metavar="FIRST", help="folder of an evaluated run, or a records.parquet")
    records.add_argument("second", metavar="SECOND", help="the one to compare it with")
    records.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="DIFFERENCE",
        help="numbers that differ by no more than this count as equal; default 0",
    )


if __name__ == "__main__":
    main()
