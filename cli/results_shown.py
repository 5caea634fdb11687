"""What a command prints of a training or an evaluation when it has come to its end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint

from cli.console import console, shown
from medrobust.results.defences import of_training
from medrobust.results.formats import all_printable
from medrobust.results.report.dense_tables import console_tables
from medrobust.results.report.detection import console_detection
from medrobust.results.report.tables import console_flags, console_table, dense_tables

DRY = "a dry run (trainer.fast_dev_run): nothing of it is kept"


def show_training(best: ModelCheckpoint, defended: Mapping[str, Any] | None, configuration: Path) -> None:
    """Print where the checkpoint and the configuration are, and what the victim was trained against.

    Args:
        best: What has kept the checkpoints.
        defended: The defence that the weights have gone through; None for plain fine-tuning.
        configuration: The file of the configuration.
    """
    screen = console()
    if best.best_model_path:
        score = "" if best.best_model_score is None else f" ({best.monitor} {float(best.best_model_score):.4f})"
        screen.print(f"best checkpoint{score}: {shown(Path(best.best_model_path))}", soft_wrap=True)
    elif best.last_model_path:
        screen.print(f"last checkpoint: {shown(Path(best.last_model_path))}", soft_wrap=True)
    if defended is not None:
        screen.print(of_training(defended).line(), soft_wrap=True)
    screen.print(f"configuration: {shown(configuration)}", soft_wrap=True)


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
    for kind in ("report", "summary", "evidence", "records"):
        screen.print(f"{kind:8} {shown(summary['paths'][kind])}", soft_wrap=True)
