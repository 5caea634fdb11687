"""What Weights & Biases is sent of an evaluation: curves, numbers, tables, pictures, the report and its files."""

from collections.abc import Mapping
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from cli.wandb_pictures import chosen_panels, picture_of
from cli.wandb_run import RunLogger, is_sent, note_sent
from medrobust.results.formats import format_epsilon
from medrobust.results.manifest import MANIFEST
from medrobust.results.records import RECORDS, read_records
from medrobust.results.report.page import REPORT
from medrobust.results.scalars import curves, scalars
from medrobust.results.studied import FIGURES
from medrobust.results.summary import SUMMARY

# of a summary's row, in the order of the table's columns; intervals become two columns each
ROW = (
    *("attack", "method", "kind", "epsilon", "n", "images", "complete"),
    *("clean_accuracy", "accuracy_under_attack", "accuracy_under_attack_interval", "n_correct_after"),
    *("success_rate", "success_rate_interval", "n_success", "quality_before", "quality_after"),
    *("quality_after_interval", "n_changed", "median_linf", "median_l2", "mean_forwards", "mean_backwards"),
    "zero_gradient_share",
)
ENDS = ("lower", "upper")
WORST = ("epsilon", "n", "n_correct_after", "accuracy", "accuracy_interval", "quality", "quality_interval", "n_quality")


def log_results(log: RunLogger, folder: Path, summary: Mapping[str, Any], step: int) -> None:
    """Send an evaluation to the run of W&B that was begun for it; nothing if it was not.

    - The history has one row for each radius, with ``epsilon`` as the x axis of all ``curves/...``, and one with the
      headline numbers; these make the panels of a new workspace. A run that has its curves does not get them twice.
    - The summary has all scalars, by which a table of runs is sorted and filtered, and the flags.
    - ``results``, ``worst_case`` and ``records`` are tables, ``panels`` pictures, ``report`` the page.
    - An artifact of the type ``evaluation`` holds the report, the records, the summary and the manifest.

    Args:
        log: The logger.
        folder: The evaluation's folder.
        summary: As ``finish`` returns it.
        step: Training step of the evaluated weights.
    """
    run = log.experiment
    if not log.begun or run.disabled:
        return
    import wandb

    run.define_metric("epsilon", hidden=True, summary="none")
    rows = curves(summary)
    for name in dict.fromkeys(name for row in rows for name in row if name != "epsilon"):
        run.define_metric(name, step_metric="epsilon", summary="none")
    if not is_sent(folder):  # the run has them already, and would draw them twice
        for row in rows:
            run.log(row)
    found = scalars(summary)
    records, total = _records(folder, log.options.records)
    media: dict[str, Any] = {
        "results": _table([_cells(row, ROW) for row in summary["rows"]]),
        "worst_case": _table([_cells(row, WORST) for row in summary.get("worst_case") or []]),
        "records": _table(list(records.iter_rows(named=True))),
    }
    panels = chosen_panels(folder, summary["manifest"], log.options.pictures)
    pictures = [wandb.Image(picture, caption=caption) for picture, caption in map(picture_of, panels)]
    media |= {"panels": pictures} if pictures else {}
    media |= {f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted((folder / FIGURES).glob("*.png"))}
    if (folder / REPORT).is_file():
        media["report"] = wandb.Html(str(folder / REPORT), inject=False)
    headlines = {name: value for name, value in found.items() if "/" not in name}
    run.log({**headlines, **{name: one for name, one in media.items() if one is not None}, "trainer/global_step": step})
    run.summary.update(found)
    run.summary["flags"] = [flag["message"] for flag in summary.get("flags") or []]
    run.summary["records_shown"], run.summary["records_in_all"] = len(records), total
    _log_files(run, folder, summary)
    note_sent(folder)


def log_checkpoints(log: RunLogger, checkpoints: ModelCheckpoint) -> None:
    """Send the best and the last checkpoint of a training as an artifact of the type ``model``.

    Args:
        log: The logger.
        checkpoints: What has kept the checkpoints.
    """
    run = log.experiment
    if not log.begun or run.disabled:
        return
    import wandb

    files = {path: None for path in (checkpoints.best_model_path, checkpoints.last_model_path) if path}
    score = checkpoints.best_model_score
    about = {"monitor": checkpoints.monitor, "best_score": None if score is None else float(score)}
    artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=about)
    for path in files:
        if Path(path).is_file():
            artifact.add_file(path, name=Path(path).name)  # a copy: the file may be replaced before it is uploaded
    run.log_artifact(artifact)


def _log_files(run: Any, folder: Path, summary: Mapping[str, Any]) -> None:
    """Send the files of an evaluation as an artifact."""
    import wandb

    manifest = summary["manifest"]
    about = {"run": manifest.get("run"), "victim": (manifest.get("victim") or {}).get("weights")}
    artifact = wandb.Artifact(f"evaluation-{run.id}", type="evaluation", metadata=about)
    if (folder / FIGURES).is_dir():
        artifact.add_dir(str(folder / FIGURES), name=FIGURES)
    for name in (REPORT, RECORDS, SUMMARY, MANIFEST):
        if (folder / name).is_file():
            artifact.add_file(str(folder / name), name=name)
    run.log_artifact(artifact)


def _cells(row: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """A row of a table; the radius also as papers write it, and the ends of an interval in columns of their own."""
    cells: dict[str, Any] = {}
    for name in names:
        if name.endswith("_interval"):
            ends = row.get(name) or (None, None)
            cells |= {f"{name.removesuffix('interval')}{end}": value for end, value in zip(ENDS, ends, strict=True)}
        else:
            cells[name] = row.get(name)
        if name == "epsilon":
            cells["radius"] = format_epsilon(row.get(name))
    return cells


def _records(folder: Path, most: int) -> tuple[pl.DataFrame, int]:
    """The records of as many images as fit, with all their attacks, in the order of the file; and how many there are.

    Which images these are depends on their ids alone: they are those of the smallest hashes.
    """
    records = read_records(folder)
    total = len(records)
    if total > most:
        counts = dict(records.group_by("id").len().iter_rows())
        order = sorted(counts, key=lambda id: sha256(str(id).encode()).digest())
        fitting = accumulate(counts[id] for id in order)
        kept = [id for id, rows in zip(order, fitting, strict=True) if rows <= most]
        records = records.filter(pl.col("id").is_in(kept))
    return records.select([name for name in records.columns if records[name].dtype != pl.Null]), total


def _table(rows: list[dict[str, Any]]) -> Any:
    """A table of W&B, without the columns that have no value; None without rows."""
    import wandb

    columns: list[str | int] = [
        name for name in (rows[0] if rows else ()) if any(row[name] is not None for row in rows)
    ]
    if not columns:
        return None
    data = [[row[str(name)] for name in columns] for row in rows]
    return wandb.Table(columns=columns, data=data, allow_mixed_types=True)
