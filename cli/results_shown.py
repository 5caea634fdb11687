"""What a command prints of an evaluation when it has come to its end."""

from collections.abc import Mapping, Sequence
from typing import Any

from cli.console import console, shown
from medrobust.results.formats import all_printable
from medrobust.results.report.dense_tables import console_tables
from medrobust.results.report.detection import console_detection
from medrobust.results.report.tables import console_flags, console_table, dense_tables

DRY = "a dry run (trainer.fast_dev_run): nothing of it is kept"


def show_results(summary: Mapping[str, Any], quality: Sequence[tuple[str, float]], bare: bool, dry: bool) -> None:
    """Print the tables, the flags, and where the results are.

    Args:
        summary: As ``finish`` returns it.
        quality: The victim's own metrics by name.
        bare: Whether they were measured without the input defence behind which the victim is evaluated.
        dry: Whether only a batch was attacked, of which nothing is kept.
    """
    screen = console()
    screen.print()
    seen = all_printable(summary)
    screen.print(console_table(seen, screen.width))
    for table in console_tables(dense_tables(seen), screen.width):
        screen.print(table)
    if (detection := console_detection(seen, screen.width)) is not None:
        screen.print(detection)
    if quality:
        whose = "victim on clean images" + (" without its input defence" if bare else "")
        known = {name for name, _ in quality}
        joint = [(name, value) for name, value in quality if name.partition("_")[0] not in known - {name}]
        others = "" if len(joint) == len(quality) else "; those of each class are in the report"
        screen.print(f"{whose}: " + ", ".join(f"{name} {value:.4f}" for name, value in joint) + others)
    if dry:
        screen.print(DRY, soft_wrap=True)
        return
    screen.print(console_flags(seen))
    for kind in ("report", "summary", "records"):
        screen.print(f"{kind:8} {shown(summary['paths'][kind])}", soft_wrap=True)
