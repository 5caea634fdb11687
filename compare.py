"""Compare runs: ``transfer`` and ``records`` put two or more side by side, ``table`` and ``detection`` show one."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from medrobust.results.formats import printable
from medrobust.results.manifest import replace_file
from medrobust.results.records import read_records
from medrobust.results.report.dense_tables import markdown_tables
from medrobust.results.report.detection import detection_markdown, read_pair
from medrobust.results.report.tables import dense_tables, markdown_measures, markdown_table
from medrobust.results.same_records import differences
from medrobust.results.summary import read_summary
from medrobust.results.transfer import read_summaries, transfer_markdown, transfer_rows, transfer_table
from medrobust.results.workspace_upload import show_workspace


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and print what it asks for; an error is one sentence on stderr and exit status 2."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "table":
            summary = read_summary(options.run)
            parts = [markdown_table(summary), markdown_tables(dense_tables(summary)), markdown_measures(summary)]
            sys.stdout.write("\n".join(part for part in parts if part))
            return
        if options.command == "records":
            first, second = read_records(options.first), read_records(options.second)
            found = list(differences(first, second, options.tolerance))
            sys.stdout.write("\n".join(found or [f"all {len(first)} records are the same"]) + "\n")
            sys.exit(1 if found else 0)
        if options.command == "detection":
            pairs = [read_pair(words) for words in options.pair]
            sys.stdout.write(detection_markdown(read_summary(options.run), pairs))
            return
        if options.command == "workspace":
            sys.exit(show_workspace(options.project, options.runs, options.json))
        rows = transfer_rows(read_summaries(options.runs))
        if options.markdown:
            replace_file(options.markdown, transfer_markdown(rows).encode())
    except ValueError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        sys.exit(2)
    except OSError as error:
        sys.stderr.write(f"error: {printable(str(error.filename))}: {error.strerror}\n")
        sys.exit(1)
    Console(width=None if sys.stdout.isatty() else 120).print(transfer_table(rows))


def _parser() -> argparse.ArgumentParser:
    """The command line and its help."""
    parser = argparse.ArgumentParser(
        prog="compare.py",
        description="Print tables of one evaluation or several. For example: python compare.py table runs/demo",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")

    transfer = command("transfer", "print how often attacks made on one victim fool the others")
    transfer.add_argument(
        "runs", nargs="+", metavar="RUN", help="folder of a run that was evaluated with --transfer.judges"
    )
    transfer.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the table to this file, in Markdown"
    )
    table = command("table", "print the results and measurements of one run, in Markdown")
    table.add_argument("run", metavar="RUN", help="folder of an evaluated run, such as runs/demo")
    detection = command("detection", "print how well detectors do on one run, in Markdown")
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
    workspace = command("workspace", "build a workspace and a report of Weights & Biases with the dashboard's sections")
    workspace.add_argument("project", metavar="ENTITY/PROJECT", help="the project that the runs are logged to")
    workspace.add_argument(
        "runs", nargs="*", metavar="RUN", help="runs whose attacks, classes and detectors get panels; default runs/*"
    )
    workspace.add_argument(
        "--json", type=Path, metavar="FILE", help="write what would be sent to this file, and send nothing"
    )
    records = command("records", "tell whether two evaluations have the same records; if not, the exit status is 1")
    records.add_argument("first", metavar="FIRST", help="folder of an evaluated run, or a records.parquet")
    records.add_argument("second", metavar="SECOND", help="the one to compare it with")
    records.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="DIFFERENCE",
        help="numbers that differ by no more than this count as equal; default 0",
    )
    return parser


if __name__ == "__main__":
    main()
