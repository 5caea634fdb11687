"""The command line of ``prepare.py``: a subcommand for each dataset."""

import argparse
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from cli.console import console, quiet
from cli.endings import Ending, UnfinishedError
from cli.obtaining import obtain
from cli.work_kept import describe
from datamodules.catalogue import MEDMNIST, PUBLIC_SETS, SIZES, PublicSet, medmnist
from datamodules.download import DownloadError
from medrobust.results.formats import printable

DESCRIPTION = (
    "Prepare a dataset: say what is missing in a folder and where it comes from, download it where that needs no "
    "account, or from Kaggle with yours, and verify it. It is safe to repeat and to interrupt. For example: "
    "python prepare.py mnist --root data/mnist. With describe, say what the data of a configuration hold."
)
KEPT = "what has arrived is kept; run the same command again"


class Parser(argparse.ArgumentParser):
    """A parser whose error is one sentence on standard error and exit status 2."""

    def error(self, message: str) -> NoReturn:
        """End the program with the sentence."""
        sys.stderr.write(f"error: {printable(message)}\n")
        sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Prepare a dataset; the exit status is 0 only if it is whole.

    A user's mistake ends it with one sentence and exit status 2; what could not be had, with status 1.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["describe"]:
        from cli.describe import main as describe_data  # only here, since importing Lightning takes seconds

        describe_data(words[1:])
        return
    quiet()
    options = parser(arguments).parse_args(arguments)
    with Ending() as ending:
        ending.kept = lambda: KEPT
        try:
            obtain(options.name, _wanted(options), options.root, _say)
        except ValueError as error:
            ending.fail(2, f"error: {error}")
        except (DownloadError, UnfinishedError) as error:
            ending.fail(1, f"error: {error}")
        except OSError as error:
            ending.fail(1, f"error: {describe(error)}", kept=True)


def parser(arguments: list[str] | None = None) -> argparse.ArgumentParser:
    """The command line and its help; given arguments, a misspelt name is answered with the nearest one."""
    whole = Parser(prog="prepare.py", description=DESCRIPTION)
    commands = whole.add_subparsers(dest="name", required=True, metavar="NAME", parser_class=Parser)
    for name, wanted in sorted({**PUBLIC_SETS, "medmnist": None}.items()):
        title = wanted.title if wanted else "MedMNIST: twelve sets of small medical images"
        command = commands.add_parser(name, help=title, description=f"{title[0].upper()}{title[1:]}.")
        needless = name == "digits"
        command.add_argument(
            "--root",
            type=Path,
            required=not needless,
            default=Path("digits") if needless else None,
            metavar="FOLDER",
            help="folder of the dataset, as data.root in a configuration" + (" (not needed)" if needless else ""),
        )
        if wanted is None:
            command.add_argument("--dataset", required=True, choices=MEDMNIST, metavar="SET", help=", ".join(MEDMNIST))
            command.add_argument(
                "--size", type=int, default=SIZES[0], choices=SIZES, help="side of the images, in pixels; default 28"
            )
    commands.add_parser("describe", help="describe the data of a configuration: describe -c CONFIG", add_help=False)
    first = (sys.argv[1:] if arguments is None else arguments)[:1]
    if first and not first[0].startswith("-") and first[0] not in commands.choices:
        near = get_close_matches(first[0], commands.choices, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(commands.choices)}"
        whole.error(f"there is no dataset {first[0]!r}; {hint}")
    return whole


def _wanted(options: argparse.Namespace) -> PublicSet:
    return medmnist(options.dataset, options.size) if options.name == "medmnist" else PUBLIC_SETS[options.name]


def _say(sentence: str) -> None:
    console().print(printable(sentence), soft_wrap=True, markup=False, highlight=False)
