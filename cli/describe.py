"""``prepare.py describe``: what the data of a configuration hold, as tables, as a page and as JSON."""

from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, Namespace
from pytorch_lightning.utilities import rank_zero_warn
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.config_files import ConfigFile
from cli.console import console, quiet, shown
from cli.description import describe_data
from cli.endings import Ending
from cli.errors import OneSentenceParser, given_files, place_of, place_of_class, sentence
from cli.overlays import with_moved_classes
from cli.runs import CONFIG, SPLITS
from cli.work_kept import describe as describe_error
from datamodules import MedicalDataModule
from medrobust.results.formats import all_printable, printable
from medrobust.results.report.data_page import write_description
from medrobust.results.report.data_tables import console_description

DESCRIPTION = (
    "Describe the data of a configuration: images and patients of each class and split, sizes, numbers that tell the "
    "classes apart without looking at the findings, and pictures that splits share. The report of an evaluation on the "
    "same data says what was found."
)


class DataFile(ActionConfigFile):
    """A configuration file of train.py or evaluate.py, of which only the data are taken."""

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: str) -> None:
        """Read the file on top of what earlier files have configured."""
        file = ConfigFile(value)
        file.check_classes()
        parser.files = (*parser.files, file)
        section = with_moved_classes(file.content).get("data")
        if section is not None:
            given = parser.parse_object({"data": section}, namespace=cfg, defaults=False)
            cfg.update(given)


def main(arguments: list[str]) -> None:
    """Describe the data of a configuration; a user's mistake ends it with one sentence and exit status 2.

    Args:
        arguments: Words after ``prepare.py describe``.
    """
    quiet()
    with Ending() as ending:
        ending.kept = lambda: "nothing was written; run the same command again"
        try:
            _run(parser(), arguments)
        except ValueError as error:
            ending.fail(2, f"error: {sentence(str(error), [])}")
        except OSError as error:
            if error.errno is None:
                ending.fail(2, f"error: {sentence(str(error), [])}")
            ending.fail(1, f"error: {describe_error(error)}", kept=True)


def parser() -> OneSentenceParser:
    """The command line and its help."""
    whole = OneSentenceParser(prog="prepare.py describe", description=DESCRIPTION, allow_abbrev=False)
    whole.add_argument("-c", "--config", action=DataFile, help="configuration of train.py or evaluate.py with data")
    whole.add_subclass_arguments(MedicalDataModule, "data", required=True)
    whole.add_argument(
        "--output", type=Path | None, default=None, help="folder of the page; runs/descriptions/NAME by default"
    )
    return whole


def _run(whole: OneSentenceParser, arguments: list[str]) -> None:
    """Parse the words, describe the data, and write and show what was found."""
    config = whole.parse_args(arguments)
    files = list(given_files(whole))
    try:
        data = whole.instantiate(config).data
    except ValueError as error:
        said = sentence(str(error), [])
        raise ValueError(f"{place_of(said, files) or place_of_class(str(error), files)}{said}") from error
    _take_splits(data, files)
    data.setup("test")
    total = sum(map(len, data.splits.values()))
    columns = TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    screen = console()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("", total=total)
        description, pictures = describe_data(data, lambda count: progress.advance(task, count))
    if not description["kept"]:
        rank_zero_warn("what was found cannot be kept for reports of evaluations: set MEDROBUST_CACHE to a folder")
    folder = _folder(config, data.name)
    page, table = write_description(folder, description, pictures)
    for part in console_description(all_printable(description), screen.width):
        screen.print(part)
    for kind, path in (("page", page), ("json", table)):
        screen.print(f"{kind:5} {shown(path)}", soft_wrap=True)


def _folder(config: Namespace, name: str) -> Path:
    """Where the page is written."""
    safe = "".join(letter if letter.isalnum() or letter in "._-@+" else "_" for letter in printable(name))
    return Path(config.output) if config.output else Path("runs", "descriptions", safe.lstrip(".") or "data")


def _take_splits(data: MedicalDataModule[Any], files: list[ConfigFile]) -> None:
    """Describe the splits that a run was trained with, if its own configuration is given, as its evaluation does."""
    runs = [Path(file.path).parent for file in files if Path(file.path).name == CONFIG]
    if runs and (runs[-1] / SPLITS).is_file():
        data.take_splits_of_run(runs[-1] / SPLITS)
