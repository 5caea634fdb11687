"""What an evaluation has found, in memory and on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from medrobust.results.report.page import REPORT, headline


@dataclass(frozen=True, repr=False)
class Evaluated:
    """The results of an evaluation.

    Args:
        folder: Its folder, which also holds the journal that a further call goes on from.
        records: One row for each image and attack; `results/columns.py` explains the columns.
        summary: The content of ``summary.json``: both rates with their intervals under ``rows``, the worst case over
            all attacks, the self-checks and more.
    """

    folder: Path
    records: pl.DataFrame
    summary: dict[str, Any]

    @property
    def report(self) -> Path:
        """Path of the report, one self-contained page."""
        return self.folder / REPORT

    @property
    def flags(self) -> list[dict[str, Any]]:
        """What the self-checks object to, the weightiest first; empty if nothing."""
        return list(self.summary["flags"])

    @property
    def headline(self) -> str:
        """What was found, in one sentence."""
        return headline(self.summary)

    def __repr__(self) -> str:
        """The sentence, the number of flags and the report's path."""
        flags = f"{len(self.flags)} flag{'' if len(self.flags) == 1 else 's'}"
        return f"<{len(self.records)} records, {flags}: {self.headline} Report: {self.report}>"
