"""What a run shows on the console: its own sentences and paths, without the adverts of others."""

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from medrobust.results.formats import printable

PACKAGES = ("callbacks", "cli", "datamodules", "lightning_modules", "medrobust")


def quiet() -> None:
    """Keep the console to what a user has to read: no adverts, no hints about settings that are chosen on purpose."""
    handler = logging.StreamHandler()
    handler.setFormatter(Visible("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    lightning = ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning", "lightning.pytorch", "lightning.fabric")
    for name in (*lightning, "httpx", "matplotlib", "PIL", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # our own sentence says what could not be downloaded
    known = "treespec, LeafSpec|does not have many workers|smaller than the logging interval|exists and is not empty"
    warnings.filterwarnings("ignore", message=f".*({known}).*")
    if not isinstance(warnings.formatwarning, OneSentence):
        warnings.formatwarning = OneSentence(warnings.formatwarning)  # type: ignore[assignment]


class OneSentence:
    """Formats a warning of ours as its sentence alone: with a place and a line of source it looks like a crash.

    Args:
        others: Formats the warnings of other packages.
    """

    def __init__(self, others: Callable[..., str]) -> None:
        """Keep the other formatter."""
        self.others = others

    def __call__(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        """The lines to be shown."""
        root = Path(__file__).resolve().parents[1]
        path = Path(filename).resolve()
        if path.is_relative_to(root) and path.relative_to(root).parts[0] in PACKAGES:
            return "\n".join(map(printable, f"warning: {message}".splitlines())) + "\n"
        return self.others(message, category, filename, lineno, line)


class Visible(logging.Formatter):
    """Formats a message with its control characters written out, except line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        """The message's lines."""
        return "\n".join(map(printable, super().format(record).splitlines()))


def shown(path: Path) -> str:
    """Path relative to the working directory, if it lies below."""
    absolute = path.resolve()
    return printable(str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else path))


def console() -> Console:
    """Console as wide as the terminal, or 110 columns where there is none."""
    return Console(width=None if sys.stdout.isatty() else 110)
