"""Compare runs: ``python compare.py transfer runs/A runs/B``; ``table`` and ``detection`` print one run's tables."""

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
    """Read the command line and print what it asks for; an error is one sentence on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="compare.py", description="Print tables of one evaluation or several.")
    commands = parser.add_subparsers(dest="command", required=True)
    transfer = commands.add_parser("transfer", help="matrix of attacks crafted on one victim and judged by others")
    transfer.add_argument("runs", nargs="+", help="folders of runs, evaluated with transfer.judges")
    transfer.add_argument("--markdown", type=Path, help="file to which the table is also written, in Markdown")
    table = commands.add_parser("table", help="results and measurements of one run, in Markdown")
    table.add_argument("run", help="folder of an evaluated run")
    detection = commands.add_parser("detection", help="how well detectors do on one run, in Markdown")
    detection.add_argument("run", help="folder of a run, evaluated with detectors")
    detection.add_argument(
        "--pair",
        action="append",
        default=[],
        metavar="A:B",
        help="two attacks to show side by side as A / B; may be given several times",
    )
    options = parser.parse_args(arguments)
    try:
        if options.command == "table":
            summary = read_summary(options.run)
            sys.stdout.write(f"{markdown_table(summary)}\n{markdown_measures(summary)}")
            return
        if options.command == "detection":
            pairs = [read_pair(words) for words in options.pair]
            sys.stdout.write(detection_markdown(read_summary(options.run), pairs))
            return
        rows = transfer_rows(read_summaries(options.runs))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    Console(width=None if sys.stdout.isatty() else 120).print(transfer_table(rows))
    if options.markdown:
        replace_file(options.markdown, transfer_markdown(rows).encode())


if __name__ == "__main__":
    main()
