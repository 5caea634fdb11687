"""Compare runs: ``python compare.py transfer runs/A runs/B`` prints a matrix, ``table`` and ``detection`` Markdown."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from medrobust.results.manifest import replace_file
from medrobust.results.report.detection import detection_markdown, read_pair
from medrobust.results.report.tables import markdown_measures, markdown_table
from medrobust.results.summary import read_summary
from medrobust.results.transfer import read_summaries, transfer_markdown, transfer_rows, transfer_table


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and print the comparison; a mistake ends it with one sentence and exit status 2."""
    parser = argparse.ArgumentParser(prog="compare.py", description="Compare evaluations.")
    commands = parser.add_subparsers(dest="command", required=True)
    transfer = commands.add_parser("transfer", help="matrix of attacks crafted on one victim and judged by others")
    transfer.add_argument("runs", nargs="+", help="folders of runs, evaluated with transfer.judges")
    transfer.add_argument("--markdown", type=Path, help="file to write the table to as well")
    table = commands.add_parser("table", help="results and measurements of one run, in Markdown")
    table.add_argument("run", help="folder of an evaluated run")
    detection = commands.add_parser("detection", help="how well detectors do on one run, in Markdown")
    detection.add_argument("run", help="folder of a run, evaluated with detectors")
    detection.add_argument(
        "--pair",
        action="append",
        default=[],
        metavar="A:B",
        help="two attacks to put side by side as A / B; repeatable",
    )
    given = parser.parse_args(arguments)
    try:
        if given.command == "table":
            summary = read_summary(given.run)
            sys.stdout.write(f"{markdown_table(summary)}\n{markdown_measures(summary)}")
            return
        if given.command == "detection":
            pairs = [read_pair(words) for words in given.pair]
            sys.stdout.write(detection_markdown(read_summary(given.run), pairs))
            return
        rows = transfer_rows(read_summaries(given.runs))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    Console(width=None if sys.stdout.isatty() else 120).print(transfer_table(rows))
    if given.markdown:
        replace_file(given.markdown, transfer_markdown(rows).encode())


if __name__ == "__main__":
    main()
