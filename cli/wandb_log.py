"""Weights & Biases: a logger that needs neither an account nor a network, and the upload of an evaluation."""

import logging
import netrc
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import polars as pl

from medrobust.results.formats import format_epsilon
from medrobust.results.records import read_records
from medrobust.results.report.panels import OVERLAYS
from medrobust.results.summary import columns_shown

logger = logging.getLogger(__name__)

_set_here: dict[str, str] = {}  # environment variables and the values that we gave them
ROWS = 50_000  # of the table of records; records.parquet has all of them


def run_logger(folder: Path, name: str, job: str) -> Any:
    """Lightning's W&B logger for a run: online if the user is logged in and the server answers, offline otherwise.

    All of W&B's files are written below the run's folder, so that a later ``wandb sync`` finds them.

    Args:
        folder: The run's folder.
        name: The run's name; fine-tuning and evaluations of the same name form a group.
        job: ``fit``, ``validate`` or ``test``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = (folder / "wandb").resolve()
    for variable, place in (
        ("WANDB_DATA_DIR", home / "data"),
        ("WANDB_ARTIFACT_DIR", home / "artifacts"),
        ("WANDB_CACHE_DIR", home / "cache"),
        ("WANDB_CONFIG_DIR", home / "config"),
    ):
        if os.environ.get(variable) in (None, _set_here.get(variable)):  # what the user has set is kept
            _set_here[variable] = os.environ[variable] = str(place)
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB__SERVICE_WAIT", "60")
    from pytorch_lightning.loggers import WandbLogger  # slow to import

    offline = os.environ.get("WANDB_MODE") == "offline" or not (logged_in() and reachable())
    options: dict[str, Any] = {"group": name, "job_type": job, "mode": "offline" if offline else "online"}
    if os.environ.get("WANDB_MODE") == "disabled":
        options["mode"] = "disabled"
    log = WandbLogger(name=f"{name}-{job}", project="medrobust", save_dir=str(folder), **options)
    log._wandb_init.pop("anonymous", None)  # it is None, and W&B warns about it at each start
    return log


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def logged_in() -> bool:
    """Whether there is a key for W&B in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(urlparse(_server()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def reachable(seconds: float = 3.0) -> bool:
    """Whether W&B's server accepts a connection within this many seconds."""
    address = urlparse(_server())
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=seconds):
            return True
    except OSError:
        logger.info("W&B cannot be reached: this run is logged offline; upload it later with wandb sync")
        return False


def log_evaluation(loggers: Iterable[Any], folder: Path, summary: Mapping[str, Any]) -> None:
    """Send an evaluation to every W&B logger: the rates of each attack and radius, the records and the panels.

    A failure of W&B is logged and has no other effect, since the results are on disk already.

    Args:
        loggers: The trainer's loggers; those that are not W&B's are ignored.
        folder: The evaluation's folder.
        summary: As ``finish`` returns it.
    """
    for log in loggers:
        if type(log).__name__ != "WandbLogger":
            continue
        try:
            _log(log.experiment, folder, summary)
        except Exception as error:  # W&B raises many kinds of errors, and none of them may lose an evaluation
            logger.warning("W&B did not take the results (%s: %s); they are in %s", type(error).__name__, error, folder)


def _log(run: Any, folder: Path, summary: Mapping[str, Any]) -> None:
    import wandb

    scalars: dict[str, Any] = {}
    for row in summary["rows"]:
        for name in columns_shown(summary["manifest"]):
            if row.get(name) is not None:
                scalars[f"{_place(row)}/{name}"] = row[name]
    for kind in ("masks", "boxes"):
        for row in (summary.get(kind) or {}).get("rows", []):
            scalars |= {f"{_place(row)}/{kind}/{what}": value for what, value in _of_masks_or_boxes(row).items()}
    for worst in summary.get("worst_case") or []:
        if worst.get("quality") is not None:  # of masks and boxes
            place = _place({"attack": "worst case", "epsilon": worst["epsilon"]})
            scalars |= {f"{place}/{what}": worst[what] for what in ("accuracy", "quality")}
    for row in summary.get("detection", {}).get("rows", []):
        for what, value in _of_detector(row).items():
            if value is not None:
                scalars[f"{_place(row)}/detection/{row['detector']} fitted on {row['fit']}/{what}"] = value
    records = read_records(folder).head(ROWS)
    records = records.select([name for name in records.columns if records[name].dtype != pl.Null])
    columns: list[str | int] = list(records.columns)
    rows = [list(row) for row in records.iter_rows()]
    table = wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
    pictures = _pictures(folder, summary)
    run.log({**scalars, "records": table, **({"panels": pictures} if pictures else {})})
    run.summary.update(scalars)
    run.summary["flags"] = [flag["message"] for flag in summary["flags"]]


def _of_masks_or_boxes(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row, those of each class under the class's name."""
    parts = {"": row} | {f"{one['name']}/": one for one in row["classes"]}
    return {
        f"{part}{name}": value
        for part, numbers in parts.items()
        for name, value in numbers.items()
        if name not in ("epsilon", "n", "n_boxes", "n_hausdorff95") and isinstance(value, int | float)
    }


def _of_detector(row: Mapping[str, Any]) -> dict[str, float | None]:
    """AUROC and TPR of a row, of the controls too, and what is flagged at the fitted threshold."""
    controls = {f"auroc of {kind}": area for kind, area in (row.get("controls") or {}).items()}
    flagged = {f"flagged {kind}": share["rate"] for kind, share in (row.get("flagged") or {}).items()}
    return {"auroc": row["auroc"], **controls, **flagged, "tpr": row["tpr"]}


def _place(row: Mapping[str, Any]) -> str:
    """Prefix of a row's scalars in W&B, where slashes make sections, so that radii are written without them."""
    if row["epsilon"] is None:
        return str(row["attack"])
    return f"{row['attack']}/{format_epsilon(row['epsilon']).replace('/', '|')}"


def _pictures(folder: Path, summary: Mapping[str, Any], most: int = 60) -> list[Any]:
    """The panels, each as one picture: clean image, perturbation and adversarial image side by side.

    Of masks and boxes, the truth and what was found before and after follow, with outlines burnt in.
    """
    import json

    import wandb
    from PIL import Image

    keys = {entry["key"] for entry in summary["manifest"]["attacks"]}
    pictures: list[Any] = []
    for file in sorted((folder / "panels").glob("*.json")):
        panel = json.loads(file.read_text())
        if panel["key"] not in keys or len(pictures) == most:
            continue
        kinds = ["clean", "perturbation", "adversarial", *(kind for kind in OVERLAYS if kind in panel["images"])]
        parts = [Image.open(file.parent / panel["images"][kind]).convert("RGB") for kind in kinds]
        height = max(part.height for part in parts)  # overlays of small images are enlarged
        parts = [
            part.resize((round(part.width * height / part.height), height), Image.Resampling.NEAREST) for part in parts
        ]
        wide = Image.new("RGB", (sum(part.width for part in parts), height))
        for place, part in enumerate(parts):
            wide.paste(part, (sum(before.width for before in parts[:place]), 0))
        pictures.append(wandb.Image(wide, caption=_caption(panel)))
    return pictures


def _caption(panel: Mapping[str, Any]) -> str:
    """What a panel shows, and what the victim made of it before and after the attack."""
    words = f"{panel['attack']} {format_epsilon(panel['epsilon'])}: {panel['id']}, "
    if "clean_prediction" in panel:
        return words + f"{panel['clean_prediction']} -> {panel['adversarial_prediction']}"
    sides = []
    for when in ("before", "after"):
        quality = panel[f"quality_{when}"]
        verdict = "right" if panel[f"right_{when}"] else "wrong"
        sides.append(verdict if quality is None else f"{verdict} ({quality:.2f})")
    return words + " -> ".join(sides)
