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
from medrobust.results.studied import FIGURES

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


def clean_line(summary: Mapping[str, Any]) -> str:
    """What the records say of a classifier on clean images; empty for other victims, of whom the tables tell.

    Args:
        summary: As ``finish`` returns it.
    """
    classes, labels = (((summary.get(part) or {}).get("rows") or [{}])[0] for part in ("classes", "labels"))
    found = classes or labels
    if found.get("kind") != "clean":
        return ""
    clean = summary["rows"][0]
    numbers = {"accuracy": clean["clean_accuracy"], "AUROC": found.get("auroc"), "kappa": found.get("kappa")}
    numbers["calibration error"] = found.get("calibration_error")
    listed = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items() if value is not None)
    more = "; those of each label are in the report" if labels else ""
    return f"victim on the {clean['n']} clean images of the records: {listed}{more}"


def show_results(summary: Mapping[str, Any], quality: Sequence[tuple[str, float]], bare: bool, dry: bool) -> None:
    """Print the tables, the flags, and where the results are.

    Args:
        summary: As ``finish`` returns it.
        quality: The victim's own metrics by name, of the images that the records are of.
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
    if line := clean_line(seen):
        screen.print(line)
    if quality and bare:
        known = {name for name, _ in quality}
        joint = [(name, value) for name, value in quality if name.partition("_")[0] not in known - {name}]
        listed = ", ".join(f"{name} {value:.4f}" for name, value in joint)
        screen.print(f"without its input defence, on the same images: {listed}")
    if dry:
        screen.print(DRY, soft_wrap=True)
        return
    screen.print(console_flags(seen))
    for kind in ("report", "summary", "evidence", "records"):
        screen.print(f"{kind:8} {shown(summary['paths'][kind])}", soft_wrap=True)
    figures = Path(summary["paths"]["report"]).parent / FIGURES
    if any(figures.glob("*.svg")):
        screen.print(f"figures  {shown(figures)}", soft_wrap=True)
