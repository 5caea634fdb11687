"""``evaluate.py replay``: makes one record of an evaluation again, and proves that it is the same."""

import argparse
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback
from rich.table import Table

from callbacks import Detection, OneRecord
from cli.console import console
from cli.endings import Ending, UnfinishedError
from cli.help_texts import SUBCOMMANDS
from cli.main import MedRobustCLI, command_options
from cli.replayed_files import linked_files, stored_configuration, write_replay
from datamodules import MedicalDataModule
from lightning_modules import VictimModule
from medrobust.listeners.journal import device_name, versions
from medrobust.listeners.provenance import environment
from medrobust.results.evaluations import run_folder_of
from medrobust.results.formats import format_epsilon, printable
from medrobust.results.manifest import read_manifest
from medrobust.results.records import read_journal
from medrobust.results.replayed import (
    Compared,
    changed_since,
    compare_record,
    elsewhere,
    find_record,
    verdict_of,
)

NOTHING = "a replay changes nothing; run the same command again"


@dataclass(frozen=True)
class Asked:
    """What is to be replayed.

    Args:
        folder: The folder of the evaluation.
        manifest: Its manifest.
        record: The record.
        scratch: Folder for what an evaluation writes.
        with_batch: Whether the image is attacked together with those that it was attacked with.
    """

    folder: Path
    manifest: Mapping[str, Any]
    record: Mapping[str, Any]
    scratch: Path
    with_batch: bool


class ReplayCLI(MedRobustCLI):
    """The command line of an evaluation that makes one record again, in another folder.

    Args:
        asked: What is to be replayed.
        **options: As those of `MedRobustCLI`.

    Attributes:
        one: The listener that chose the record.
        made: The new record; empty if nothing was made.
    """

    def __init__(self, asked: Asked, **options: Any) -> None:
        """Run the evaluation."""
        self.asked = asked
        self.one = OneRecord(str(asked.record["key"]), str(asked.record["id"]))
        self.made: dict[str, Any] = {}
        super().__init__(VictimModule, MedicalDataModule, save_config_callback=None, **options)

    def before_instantiate_classes(self) -> None:
        """Let everything be written into another folder, where what the evaluation has fitted is found."""
        super().before_instantiate_classes()
        config, asked = self.config[self.subcommand], self.asked
        self.records = asked.scratch / "evaluate"
        config.journal.folder = config.panels.folder = config.detection.folder = str(self.records)
        config.study.studies = None
        config.panels.count = 0
        run = run_folder_of(asked.folder)
        config.attack.fitted = str(linked_files(run / "fitted", asked.scratch / "fitted"))
        linked_files(asked.folder / "detectors", self.records / "detectors")
        config.trainer.default_root_dir = str(asked.scratch)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Add the listener, and let detectors take part that are fitted."""
        for callback in callbacks:
            if isinstance(callback, Detection):
                callback.fits, self.one.detection = False, bool(callback.detectors)
        return super()._instantiate_trainer(config, [*callbacks, self.one])

    def after_instantiate_classes(self) -> None:
        """Check the checkpoint; what a replay keeps is nothing."""
        super().after_instantiate_classes()
        self.ending.kept = lambda: NOTHING

    def _lock(self, config: Any) -> None:
        """Lock nothing, since nothing is written into the run's folder."""

    def test(self, model: VictimModule, datamodule: MedicalDataModule, ckpt_path: str, **_: Any) -> None:
        """Attack the image."""
        self._choose(datamodule, datamodule.test_split)
        self.trainer.test(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False)
        self._read()

    def validate(self, model: VictimModule, datamodule: MedicalDataModule, ckpt_path: str, **_: Any) -> None:
        """Attack the image, which is of Val."""
        self._choose(datamodule, "val")
        self.trainer.validate(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=False)
        self._read()

    def _choose(self, data: MedicalDataModule, split: str) -> None:
        """Let the data show the image alone, or with those of its batch.

        Raises:
            UnfinishedError: There is no such image any more.
        """
        data.setup()
        try:
            batch = data.batch_of(split, self.one.id, int(self.asked.manifest.get("world_size") or 1))
        except ValueError as error:
            raise UnfinishedError(f"the record cannot be made again: {error} any more") from error
        self.one.together = batch if self.asked.with_batch else [self.one.id]
        data.judged = frozenset(self.one.together)

    def _read(self) -> None:
        """Read the new record.

        Raises:
            UnfinishedError: None was made, since the attack would have another key now; says why.
        """
        rows = read_journal(self.records, [self.one.key]).filter(pl.col("id") == self.one.id)
        if not len(rows):
            why = changed_since(self.asked.manifest, self.one.key, self.one.planned)
            raise UnfinishedError(f"the record cannot be made again: {why}")
        self.made = dict(rows.row(0, named=True))

    def _finish(self) -> None:
        """Merge and print nothing."""


class ReplayParser(argparse.ArgumentParser):
    """The parser of the words behind ``replay``, whose error is one sentence."""

    def error(self, message: str) -> NoReturn:
        """End the program with the sentence and exit status 2."""
        if message.endswith("required: --record"):
            message = "say which record: --record KEY:ID, as the report and evidence.json list some"
        raise ValueError(printable(message))


def parser() -> ReplayParser:
    """The options of a replay; all others are those of ``test``."""
    made = ReplayParser(
        prog="evaluate.py replay",
        usage="evaluate.py replay FOLDER --record KEY:ID [options] [options of evaluate.py test]",
        description=f"{SUBCOMMANDS['replay']} The exit status is 0 if it is equal, and 1 if it differs. Options of "
        "evaluate.py test, such as --data.root or --trainer.accelerator, change where it is made.",
        allow_abbrev=False,
    )
    made.add_argument(
        "folder", type=Path, metavar="FOLDER", help="folder of the evaluation, such as runs/demo/evaluate"
    )
    made.add_argument(
        "--record",
        required=True,
        metavar="KEY:ID",
        help="the record: key of its attack, or the key's beginning, and id of its image, as records.parquet has them; "
        "evidence.json lists some",
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="also write the images, as float32 (.npy) and 16-bit PNG, and record.json into this folder",
    )
    made.add_argument(
        "--batch",
        action="store_true",
        help="attack the image among those that it was evaluated with, so that rounding is the same on the same "
        "machine, too; done by itself where the image alone gives another record",
    )
    made.add_argument(
        "--tolerance",
        type=float,
        metavar="DIFFERENCE",
        help="numbers with a fraction that differ by no more than this count as equal, all others have to be; by "
        "default shares and norms may differ by 2 %%, and passes by 2",
    )
    return made


@contextmanager
def less_said() -> Iterator[None]:
    """Leave out what is said of a plan that is not this command's, and of BRISQUE, which the verdict speaks of."""
    levels = {"callbacks": logging.WARNING, "medrobust": logging.WARNING, "medrobust.metrics.brisque": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def replay(words: Sequence[str], ending: Ending) -> None:
    """Run ``evaluate.py replay``.

    Args:
        words: The words behind ``replay``.
        ending: Ends the command.

    Raises:
        ValueError: The folder holds no evaluation or no such record, or an option is wrong.
        UnfinishedError: The record is not made again; the message names what differs.
    """
    options, rest = parser().parse_known_args(list(words))
    folder: Path = options.folder
    manifest, out = read_manifest(folder), options.out
    if out is not None and (out.is_file() or out.resolve().is_relative_to(run_folder_of(folder).resolve())):
        where = "a file" if out.is_file() else f"in the run's folder, in which a replay changes nothing ({folder})"
        raise ValueError(f"--out names a folder for the images, got {out}, which is {where}")
    if options.tolerance is not None and not options.tolerance >= 0:
        raise ValueError(
            f"--tolerance is the largest difference that counts as none, at least 0, got {options.tolerance}"
        )
    record = find_record(folder, options.record)
    for with_batch in (True,) if options.batch else (False, True):
        with tempfile.TemporaryDirectory(prefix="replay-") as scratch, less_said():
            asked = Asked(folder, manifest, record, Path(scratch), with_batch)
            run = _run(asked, rest, ending)
        compared = compare_record(record, run.made, options.tolerance)
        good, verdict = verdict_of(compared, elsewhere(manifest, _machine(run)))
        if good:
            break
    count = len(run.one.together)
    verdict = f"{'alone' if count == 1 else f'among the {count} images of its batch'}, {verdict}"
    _show(compared, record)
    if out is not None:
        write_replay(out, run.one.pictures, record, run.made, verdict)
    if not good:
        raise UnfinishedError(printable(verdict))
    console().print(printable(verdict), soft_wrap=True)
    if count == 1 and any(one.verdict == "rounding" for one in compared):
        console().print("with --batch it is attacked among the images of its batch, which rounds alike", soft_wrap=True)
    if out is not None:
        console().print(f"images   {printable(str(out))}", soft_wrap=True)


def _run(asked: Asked, rest: Sequence[str], ending: Ending) -> ReplayCLI:
    """Evaluate the one image as the evaluation's configuration says."""
    config = stored_configuration(asked.folder, asked.record)
    path = asked.scratch / "evaluate.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    judged = (config.get("data") or {}).get("init_args") or {}
    command = "validate" if asked.record["split"] == "val" and judged.get("test_split") != "val" else "test"
    options = command_options("evaluate") | {"args": [command, "-c", str(path), *rest], "ending": ending}
    return ReplayCLI(asked, **options)


def _machine(run: ReplayCLI) -> dict[str, Any]:
    """What a manifest would say of this machine."""
    device = run.trainer.strategy.root_device
    return {"versions": versions(), "device": device_name(device), "environment": environment(device)}


def _show(compared: Sequence[Compared], record: Mapping[str, Any]) -> None:
    """Print the record and its replay side by side."""
    radius = "" if record["epsilon"] is None else f" at {format_epsilon(record['epsilon'])}"
    table = Table(title=printable(f"{record['attack']}{radius} on {record['id']}"), title_justify="left", box=None)
    for heading in ("", "recorded", "replayed", ""):
        table.add_column(heading, justify="left" if not heading else "right", overflow="fold")
    for one in compared:
        if isinstance(one.recorded, str) and len(one.recorded) > 40:
            continue
        table.add_row(one.name, _number(one.recorded), _number(one.replayed), _remark(one))
    console().print(table)


def _remark(one: Compared) -> str:
    """What the table says of a column that is not the same."""
    numbers = isinstance(one.recorded, int | float) and isinstance(one.replayed, int | float)
    by = f" by {abs(one.recorded - one.replayed):.1e}" if numbers else ""
    return "" if one.verdict == "the same" else one.verdict if one.verdict == "not made" else f"{one.verdict}{by}"


def _number(value: Any) -> str:
    return "–" if value is None else f"{value:.7g}" if isinstance(value, float) else printable(str(value))
