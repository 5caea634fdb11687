"""The command lines: they import every package, so that YAML can name its classes, and tie a run together."""

import fractions
import logging
import os
import shutil
import sys
import time
import traceback
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else every process asks a server for a newer version

import pytorch_lightning as pl
from jsonargparse import Namespace
from jsonargparse.typing import register_type
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from callbacks import (
    AttackProgress,
    AveragedWeights,
    Checkpoints,
    Detection,
    Hardening,
    Panels,
    ProgressLines,
    Quality,
    RecordJournal,
    Representation,
    Robustness,
    Studies,
    Transfer,
)
from callbacks.hardening import ROBUST_ACCURACY
from cli.checkpoints import check_checkpoint, find_checkpoint
from cli.command_checks import check_command
from cli.config_files import line_of
from cli.console import console, quiet
from cli.counts import count_first
from cli.endings import Ending, UnfinishedError
from cli.errors import OneSentenceParser, given_files, place_of, place_of_class, sentence
from cli.help_texts import CONFIG as CONFIG_HELP
from cli.help_texts import PROGRAMS, SUBCOMMANDS, explain_choices, explain_subcommand
from cli.loggers import end_training, late, log_evaluation, logged_run
from cli.manifest_notes import note_defence, note_quality
from cli.other_data import OverlayOrData, folder_name, judges_all, name_other_data, prepare_other_data, with_data_files
from cli.processes import tie_processes
from cli.results_shown import DRY, show_results, show_training
from cli.run_config import RunConfig
from cli.runs import CONFIG, HeldRun, evaluation_folder, run_folder, run_of, splits_of_run
from cli.wandb_run import RunLogger, WandbOptions
from cli.watched_numbers import OF_CLEAN, check_modes
from cli.work_kept import check_trained, describe, kept_records, kept_training, nothing_left, steps_of
from datamodules import MedicalDataModule
from lightning_modules import VictimModule
from medrobust.attacks.budgets import Fraction
from medrobust.defences import Defence
from medrobust.evaluation.pace import has_bar
from medrobust.results.report.page import finish
from medrobust.results.writer import Writer

logger = logging.getLogger(__name__)
register_type(Fraction, serializer=str, deserializer=Fraction)
register_type(fractions.Fraction, serializer=str, deserializer=fractions.Fraction)  # that a user's attack may take

Program = Literal["train", "evaluate"]
MACHINE = ("accelerator", "devices", "num_nodes", "strategy", "precision")  # what a trainer may refuse on this machine


class MedRobustCLI(LightningCLI):
    """Lightning's command line, with a run's folder, the attack, the journal, the panels and the checkpoint."""

    folder: Path

    def __init__(self, *args: Any, ending: Ending, **options: Any) -> None:
        """Run the command.

        Args:
            *args: As Lightning's.
            ending: Ends the command in all processes.
            **options: As Lightning's.
        """
        self.ending, self.begun = ending, time.time()
        given = options.get("args")
        self.words = sys.argv[1:] if given is None else given
        self.named = [name for name in self.subcommands() if name in self.words]
        super().__init__(*args, **options)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """What each subcommand is given in code instead of by options."""
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "validate": {"model", "dataloaders", "datamodule"},
            "test": {"model", "dataloaders", "datamodule"},
        }

    def init_parser(self, **options: Any) -> LightningArgumentParser:
        """Build a parser that takes configuration files by -c; their attacks replace those of earlier files."""
        parser = self.parser_class(allow_abbrev=False, **options)
        parser.add_argument("-c", "--config", action=OverlayOrData, help=CONFIG_HELP)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words of the command, of which ``--data FILE`` is one of ours."""
        self.config = parser.parse_args(with_data_files(sys.argv[1:] if args is None else args))
        if self.config.subcommand == "replay":
            raise ValueError("replay is the first word: python evaluate.py replay FOLDER --record KEY:ID")

    def _parse_ckpt_path(self) -> None:
        """Leave the checkpoint's hyper-parameters alone: the configuration alone says what is built."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that every run has."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="Name of the run and of its folder, runs/NAME."
        )
        parser.add_argument("--runs", type=str, default="runs", help="Folder that holds the runs.")
        parser.add_argument(
            "--evaluation",
            type=str | None,
            default=None,
            help="Name of an evaluation, for a folder of its own, runs/NAME/evaluations/EVALUATION, beside those that "
            "the run has; null for runs/NAME/evaluate, to which further attacks on the same victim are added.",
        )
        parser.add_argument(
            "--splits",
            type=Literal["run", "new"],
            default="run",
            help="Splits of an evaluation: those of the checkpoint's run, or new ones made as data says.",
        )
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="Let a training replace an earlier run of its name."
        )
        parser.add_argument(
            "--defence",
            type=Defence | None,
            default=None,
            help="What the victim is trained against, such as AdversarialTraining, Trades or Mart; null for nothing.",
        )
        parser.add_argument(
            "--ema",
            type=float | None,
            default=None,
            help="Decay of the moving average of the weights, which is measured, kept and evaluated; such as 0.999.",
        )
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.add_lightning_class_args(Robustness, "attack")
        parser.add_lightning_class_args(Detection, "detection")  # before the journal: it may refuse the evaluation
        parser.add_lightning_class_args(RecordJournal, "journal")
        parser.add_lightning_class_args(Panels, "panels")
        parser.add_lightning_class_args(Quality, "quality")
        parser.add_lightning_class_args(Transfer, "transfer")
        parser.add_lightning_class_args(Representation, "representation")
        parser.add_lightning_class_args(Studies, "study")
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/loss",
                "checkpoint.mode": "min",
                "checkpoint.filename": "best",
                "checkpoint.save_last": True,
                "checkpoint.enable_version_counter": False,
            }
        )

    def _add_subcommands(self, parser: LightningArgumentParser, **options: Any) -> None:
        """Add the subcommands, explained in our words."""
        super()._add_subcommands(parser, **options)
        listed = parser._subcommands_action
        if parser.prog == "evaluate.py" and listed is not None:  # only to be listed: _run takes it away
            listed.add_subcommand("replay", self.init_parser(), help=SUBCOMMANDS["replay"])
        explain_choices(parser)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        """Switch off Lightning's own table of metrics, for ours shows them, and leave out options that cannot be given.

        Building the options of all subcommands takes as long as all the rest of reading a command line.
        """
        if len(self.named) == 1 and subcommand not in self.named:
            self._subcommand_method_arguments[subcommand] = []
            return self.init_parser(**options)
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        explain_subcommand(parser, subcommand)
        count_first(parser)
        if subcommand != "fit":
            parser.set_defaults({"verbose": False})
        return parser

    def _set_seed(self) -> None:
        """Set the seed, which no one else would name."""
        try:
            super()._set_seed()
        except ValueError as error:
            seed = self._get(self.config, "seed_everything")
            place = line_of(list(given_files(self.parser)), ("seed_everything",), None, str(seed))
            raise ValueError(f"{place}seed_everything is a whole number from 0 to 4294967295, got {seed}") from error

    def before_instantiate_classes(self) -> None:
        """Resolve the run's folders and its checkpoint, before anything is built."""
        config = self.config[self.subcommand]
        check_command(str(self.subcommand), config, list(given_files(self.parser)), self.words)
        self.folder = run_folder(config.runs, config.name, given_files(self.parser))
        config.trainer.default_root_dir = str(self.folder)
        config.checkpoint.dirpath = str(self.folder / "checkpoints")
        config.ckpt_path = find_checkpoint(config.ckpt_path, self.folder, required=self.subcommand != "fit")
        records = self._records(config)
        if config.trainer.fast_dev_run and self.subcommand != "fit":
            records = self.folder / "dry_run"  # a batch is no evaluation, and must not replace one
            config.journal.resume = False  # a dry run that was killed has left nothing to go on with
        config.journal.folder = config.panels.folder = config.detection.folder = config.study.folder = str(records)
        config.attack.fitted = str(self.folder / "fitted")
        config.journal.run, config.journal.seed = config.name, config.seed_everything
        if self.subcommand != "fit" and "weights" in config.model.get("init_args", {}):
            config.model.init_args.weights = None  # the checkpoint holds all of them
        if self.subcommand != "fit" and "mixed" in str(config.trainer.precision):
            config.trainer.precision = None  # a training's; what an evaluation computes in, attack.precision says
        self.records = records
        if self.subcommand == "fit":
            if config.defence is not None and config.checkpoint.monitor in OF_CLEAN:
                config.checkpoint.monitor, config.checkpoint.mode = ROBUST_ACCURACY, "max"
            held = None if config.trainer.fast_dev_run else self._held(config)  # a dry run writes nothing
            self.save_config_kwargs = {"path": self.folder / CONFIG, "held": held}
        else:
            self.save_config_kwargs = {"path": records / "evaluate.yaml", "anew": not config.journal.resume}

    def _records(self, config: Namespace) -> Path:
        """The folder of the records: one by the evaluation's name, else by the name of other data, else the run's own.

        Raises:
            ValueError: Every image of the data is judged, and the command needs splits; or the name cannot be used.
        """
        named = evaluation_folder(self.folder, config.evaluation, given_files(self.parser))
        if not judges_all(config):
            return named or self.folder / ("validate" if self.subcommand == "validate" else "evaluate")
        if self.subcommand != "test":
            raise ValueError(
                f"data.test_split is all, which leaves no Train and no Val: {self.subcommand} needs data with splits, "
                "and test judges them all"
            )
        data = folder_name(name_other_data(config))
        return named or self.folder / "evaluate_on" / data

    def _held(self, config: Namespace) -> HeldRun | None:
        """The run that the folder of a training holds already.

        Raises:
            ValueError: It has other settings, and its training is not to be replaced.
        """
        held = HeldRun.of(self.folder)
        goes_on = config.ckpt_path is not None and run_of(config.ckpt_path) == self.folder.absolute()
        if goes_on:
            config.overwrite = False
        if held is not None and not config.overwrite:
            held.check_settings(self._parser(self.subcommand).dump(config, skip_none=False), goes_on)
        return held

    def instantiate_classes(self) -> None:
        """Build everything; what a class says about its values names the file and the line that they come from."""
        try:
            super().instantiate_classes()
        except (ValueError, MisconfigurationException) as error:
            said, files = sentence(str(error), []), list(given_files(self.parser))
            raise ValueError(f"{place_of(said, files) or place_of_class(str(error), files)}{said}") from error

    def instantiate_trainer(self, **options: Any) -> pl.Trainer:
        """Build the trainer, with a W&B logger that needs neither account nor network unless another is given."""
        chosen, of_wandb = self._get(self.config_init, "trainer")["logger"], self._get(self.config_init, "wandb")
        if chosen is None or chosen is True:
            options["logger"] = RunLogger(self.folder, of_wandb)
        return late(super().instantiate_trainer(**options), self.folder, of_wandb)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> pl.Trainer:
        """Add the progress bar, and drop what the trainer's switches turn off."""
        given = config.get("callbacks") or []
        if self.subcommand == "fit" and (defence := self._get(self.config_init, "defence")) is not None:
            callbacks = [Hardening(defence), *callbacks]
        if self.subcommand == "fit" and (decay := self._get(self.config, "ema")) is not None:
            callbacks = [AveragedWeights(decay), *callbacks]
        if self.subcommand == "fit":
            check_modes([*callbacks, *(given if isinstance(given, list) else [given])])
        if config["enable_progress_bar"] is not False and not any(isinstance(one, ProgressBar) for one in given):
            callbacks = [*callbacks, AttackProgress() if has_bar() else ProgressLines()]
        job, of_wandb = str(self.subcommand), self._get(self.config_init, "wandb")
        callbacks = [*callbacks, logged_run(self.config[job], job, self.folder, self.records, of_wandb)]
        if config["strategy"] == "ddp":  # ranks may finish hours apart
            config["strategy"] = DDPStrategy(timeout=timedelta(days=3))
        if config["enable_checkpointing"] is False:
            callbacks = [one for one in callbacks if not isinstance(one, ModelCheckpoint)]
        try:
            return super()._instantiate_trainer(config, callbacks)
        except (TypeError, ValueError, MisconfigurationException) as error:
            said = " ".join(str(error).partition(" Find a complete list")[0].replace("`", "'").split())
            given = ", ".join(
                f"{name} {config[name]!r}" for name in MACHINE if config.get(name) not in (None, "auto", 1)
            )
            raise ValueError(f"the trainer refuses its options{' (' + given + ')' if given else ''}: {said}") from error

    def after_instantiate_classes(self) -> None:
        """Compare the checkpoint with the victim, before any data is read, and watch over the processes."""
        config = self.config[self.subcommand]
        if config.ckpt_path and judges_all(config):
            prepare_other_data(self.datamodule, config.ckpt_path)
        if config.ckpt_path:
            check_checkpoint(Path(config.ckpt_path), self.model, self.datamodule)
            run_splits = config.splits == "run" and not judges_all(config)
            if run_splits and (splits := splits_of_run(config.ckpt_path, config.data.as_dict())):
                self.datamodule.take_splits_of_run(splits)
        self._lock(config)
        if self.subcommand == "fit":
            self.steps_before = steps_of(Path(config.ckpt_path)) if config.ckpt_path else None
            self.ending.kept = partial(kept_training, self.folder / "checkpoints", self.begun, config.ckpt_path)
        else:
            self.ending.kept = partial(kept_records, self.records, config.journal.resume)
        tie_processes(self.trainer, self.ending)

    def _lock(self, config: Namespace) -> None:
        """Refuse to write into a folder that another process is writing into."""
        fitting = self.subcommand == "fit"
        writer = Writer(self.folder if fitting else self.records, "a training" if fitting else "an evaluation")
        if self.trainer.is_global_zero and not config.trainer.fast_dev_run:
            self.ending.release = writer.release
            writer.take()

    def after_fit(self) -> None:
        """Refuse a training without a result, and print where the checkpoint and the configuration are.

        Raises:
            UnfinishedError: It has diverged, or made no checkpoint.
        """
        if self.steps_before == self.trainer.global_step and self.trainer.is_global_zero:
            console().print(nothing_left(self.trainer), soft_wrap=True)
        if self.config.fit.trainer.fast_dev_run:
            if self.trainer.is_global_zero:
                console().print(DRY, soft_wrap=True)
            return
        check_trained(self.trainer)
        best = self.trainer.checkpoint_callback
        end_training(self.trainer.loggers, best)
        if not self.trainer.is_global_zero or not isinstance(best, ModelCheckpoint):
            return
        show_training(best, self.model.defended, self.folder / CONFIG)

    def after_test(self) -> None:
        """Merge the records and write the report."""
        self._finish()

    def after_validate(self) -> None:
        """Merge the records and write the report."""
        self._finish()

    def _finish(self) -> None:
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            config = self.config[self.subcommand]
            bare = config.attack.input_defence is not None
            note_defence(self.records, self.model.defended)
            quality = note_quality(self.records, self.trainer.callback_metrics, bare)
            summary = finish(self.records, config.panels.budget)
            dry = bool(config.trainer.fast_dev_run)
            show_results(summary, quality, bare, dry)
            if dry:
                shutil.rmtree(self.records)
            else:
                log_evaluation(self.trainer.loggers, self.records, summary, config.ckpt_path)
        self.trainer.strategy.barrier()


def main(program: Program, arguments: list[str] | None = None) -> None:
    """Run a command line; a user's mistake ends it with one sentence and exit status 2.

    Set the environment variable ``MEDROBUST_TRACEBACK=1`` to see where the sentence came from.
    """
    quiet()
    with Ending() as ending:
        try:
            _run(program, arguments, ending)
        except (ValueError, MisconfigurationException) as error:
            _show_traceback()
            ending.fail(2, f"error: {sentence(str(error), [])}")
        except UnfinishedError as error:
            ending.fail(1, f"error: {error}")
        except OSError as error:
            _show_traceback()
            if error.errno is None:
                ending.fail(2, f"error: {sentence(str(error), [])}")
            ending.fail(1, f"error: {describe(error)}", kept=True)


def _run(program: Program, arguments: list[str] | None, ending: Ending) -> None:
    words = sys.argv[1:] if arguments is None else arguments
    if program == "evaluate" and words[:1] == ["replay"]:
        from cli.replay import replay  # which derives from this module's class

        replay(words[1:], ending)
        return
    options = command_options(program) | {"save_config_callback": RunConfig, "args": arguments, "ending": ending}
    MedRobustCLI(VictimModule, MedicalDataModule, **options)


def command_options(program: Program) -> dict[str, Any]:
    """What every command line of a program is built with."""
    return {
        "subclass_mode_model": True,
        "subclass_mode_data": True,
        "auto_configure_optimizers": False,
        "seed_everything_default": 42,
        "trainer_defaults": {"use_distributed_sampler": False, "enable_model_summary": False},
        "parser_kwargs": {"prog": f"{program}.py", "description": PROGRAMS[f"{program}.py"]},
        "parser_class": OneSentenceParser,
    }


def _show_traceback() -> None:
    if os.environ.get("MEDROBUST_TRACEBACK"):
        traceback.print_exc()
