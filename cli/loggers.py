"""The loggers of a trainer: when their runs begin, what each is told, and that none of them can lose a result."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.trainer.states import TrainerFn

from cli.logged_settings import logged_settings, tags
from cli.runs import run_of
from cli.wandb_log import log_checkpoints, log_results
from cli.wandb_run import RunLogger, WandbOptions, is_sent, run_id, victim_group
from cli.work_kept import steps_of
from medrobust.evaluation.data import EvaluationData
from medrobust.networks.victims import is_evaluated_victim
from medrobust.results.manifest import read_manifest
from medrobust.results.records import finished
from medrobust.results.scalars import curve_step, curves, scalars

logger = logging.getLogger(__name__)

GUARDED = ("log_hyperparams", "log_metrics", "log_graph", "save", "after_save_checkpoint", "finalize")


class LoggedRun(Callback):
    """Begins the runs of the loggers once nothing can be refused any more, and tells them the run's settings.

    That is when a training takes its first step, or an evaluation has laid out its plan and fitted its detectors.

    Args:
        folder: The run's folder.
        records: Folder of the evaluation; None for a training.
        config: The configuration of the command.
        job: ``fit``, ``validate`` or ``test``.
        options: What W&B is given.
        goes_on: Whether a training goes on from one of its own checkpoints, or an evaluation with its records.
    """

    def __init__(
        self, folder: Path, records: Path | None, config: Namespace, job: str, options: WandbOptions, goes_on: bool
    ) -> None:
        """Keep the settings."""
        self.folder, self.records, self.config, self.job = folder, records, config, job
        self.options, self.goes_on = options, goes_on

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Guard the loggers."""
        for log in trainer.loggers:
            guard(log)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the runs of a training."""
        self._begin(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the runs of an evaluation; the callback that attacks has started it before."""
        self._begin(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the runs of an evaluation of Val; the validation of a training begins none."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._begin(trainer, pl_module)

    def _begin(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or not trainer.loggers or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        try:
            settings = self._settings(trainer, module)
            for log in trainer.loggers:
                if isinstance(log, RunLogger):
                    log.begin(f"{self.config.name}-{self._what()}", settings, **self._identity(settings))
                    best = trainer.checkpoint_callback
                    if self.job == "fit" and isinstance(best, ModelCheckpoint) and best.monitor:
                        steps = {"step_metric": "trainer/global_step", "step_sync": True}
                        log.experiment.define_metric(best.monitor, summary=best.mode, **steps)
                else:
                    log.log_hyperparams(settings)
        except Exception as error:  # of many kinds, and none of them may lose an evaluation
            _warn("the loggers", error, "they are told no settings")

    def _settings(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        victim = module.description() if is_evaluated_victim(module) else {}
        data: dict[str, Any] = {}
        if isinstance(source := trainer.datamodule, EvaluationData):  # type: ignore[attr-defined]
            data = {"name": source.name, "task": source.task, **source.describe()}
        manifest = None if self.records is None else read_manifest(self.records)
        return logged_settings(self.config, self.job, victim, data, manifest)

    def _identity(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Id, group, kind and tags of a run of W&B."""
        weights, checkpoint = settings["victim"].get("weights"), self.config.ckpt_path
        name, job = str(self.config.name), self.job
        if self.records is None:
            identity = run_id(self.folder, name, job, self.goes_on)
            group = victim_group(self.folder, name, None)
        else:
            plan = read_manifest(self.records)
            keys = [entry["key"] for entry in plan["attacks"]]
            images, done = int(plan["data"]["images"]), finished(self.records, keys)
            is_pending = any(len(done.get(key, ())) < images for key in keys)
            keep = self.goes_on and not (is_pending and is_sent(self.records))  # preliminary numbers were sent before
            text = json.dumps([images, sorted(keys)])
            same = {"weights": str(weights), "plan": sha256(text.encode()).hexdigest()[:16]}
            identity = run_id(self.records, name, job, keep, **same)
            group = victim_group(run_of(checkpoint) if checkpoint else None, name, weights)
        return {"id": identity, "group": group, "job_type": job, "tags": tags(settings)}

    def _what(self) -> str:
        """How the run is told from others of the same victim: by the folder of the evaluation, if it has a name."""
        if self.records is None or self.records.name in ("evaluate", "validate"):
            return self.job
        return f"{self.job}-{self.records.name}"


def logged_run(config: Namespace, job: str, folder: Path, records: Path, options: WandbOptions) -> LoggedRun:
    """What begins the runs of a command's loggers.

    Args:
        config: The configuration of the command.
        job: ``fit``, ``validate`` or ``test``.
        folder: The run's folder.
        records: Folder of the evaluation; a training has none.
        options: What W&B is given.
    """
    if job != "fit":
        return LoggedRun(folder, records, config, job, options, config.journal.resume)
    goes_on = config.ckpt_path is not None and run_of(config.ckpt_path) == folder.absolute()
    return LoggedRun(folder, None, config, job, options, goes_on)


def late(trainer: pl.Trainer, folder: Path, options: WandbOptions) -> pl.Trainer:
    """Let W&B loggers that a user has configured begin their runs as late as ours."""
    for log in trainer.loggers:
        if isinstance(log, WandbLogger):
            RunLogger.of(log, folder, options)
    return trainer


def log_evaluation(loggers: Iterable[Any], folder: Path, summary: Mapping[str, Any], checkpoint: str | None) -> None:
    """Tell every logger the numbers of an evaluation, and W&B its tables, pictures, report and files besides.

    The single numbers stand at the training step of the evaluated weights. Loggers that count in whole steps keep the
    curves at the step that `results.scalars.curve_step` gives a radius. A failure costs one warning for each logger,
    and nothing else, since the results are on disk already.

    Args:
        loggers: The trainer's loggers.
        folder: The evaluation's folder.
        summary: As ``finish`` returns it.
        checkpoint: File of the evaluated weights; None if there is none.
    """
    step = (steps_of(Path(checkpoint)) if checkpoint else None) or 0
    for log in loggers:
        try:
            if isinstance(log, RunLogger):
                log_results(log, folder, summary, step)
                log.end()
            else:
                log.log_metrics(scalars(summary), step=step)
                for row in curves(summary):
                    log.log_metrics(row, step=curve_step(row["epsilon"]))
                log.save()
        except Exception as error:  # of many kinds, and none of them may lose an evaluation
            if not getattr(log, "has_failed", False):
                _warn(type(log).__name__, error, f"the results are in {folder}")


def end_training(loggers: Iterable[Any], checkpoints: Any) -> None:
    """End the runs of a training; its checkpoints are uploaded where that is asked for."""
    for log in loggers:
        if isinstance(log, RunLogger):
            try:
                if log.options.checkpoints and isinstance(checkpoints, ModelCheckpoint):
                    log_checkpoints(log, checkpoints)
                log.end()
            except Exception as error:  # of many kinds, and the training has come to its end
                _warn(type(log).__name__, error, "the checkpoints are in the run's folder")


def guard(log: Any) -> None:
    """Let a logger fail without ending what is logged: it costs one warning, and the logger is told no more."""
    if getattr(log, "has_failed", None) is None:
        log.has_failed = False
        for name in GUARDED:
            setattr(log, name, _guarded(log, getattr(log, name)))


def _guarded(log: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    def attempt(*arguments: Any, **named: Any) -> Any:
        if log.has_failed:
            return None
        try:
            return call(*arguments, **named)
        except Exception as error:
            log.has_failed = True
            _warn(type(log).__name__, error, "it is not used any more; results are written to disk all the same")
            return None

    return attempt


def _warn(who: str, error: Exception, then: str) -> None:
    said = " ".join(str(error).split())
    logger.warning("%s failed (%s: %s); %s", who, type(error).__name__, said[:300], then)
