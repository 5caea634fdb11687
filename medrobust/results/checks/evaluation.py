"""What the self-checks look at, and the flags that they raise.

A flag is `{"check", "severity", "attack", "epsilon", "message"}`: an "error" says that something is broken, a "warning"
that a number means less than it seems to. `attack` and `epsilon` are None for a flag of the whole evaluation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from medrobust.results.statistics import paired_p_value

SIGNIFICANCE = 0.05

Row = Mapping[str, Any]
Flag = dict[str, Any]


@dataclass(frozen=True)
class CheckedEvaluation:
    """What the checks look at.

    Args:
        rows: The rows of the summary, the clean one first.
        tables: Records by the key of the attack.
        manifest: The manifest of the evaluation.
        records: All records.
        detection: How well detectors do, as `results.detection` says; empty without detectors.
    """

    rows: Sequence[Row]
    tables: Mapping[str, pl.DataFrame]
    manifest: Mapping[str, Any]
    records: pl.DataFrame
    detection: Mapping[str, Any]

    @property
    def clean(self) -> Row:
        """The row of the clean images."""
        return self.rows[0]

    @property
    def attacks(self) -> list[Row]:
        """The rows of the attacks, without the noise controls."""
        return [row for row in self.rows if row["kind"] == "attack"]

    @property
    def controls(self) -> list[Row]:
        """The rows of the noise controls."""
        return [row for row in self.rows if row["kind"] == "control"]

    @cached_property
    def entries(self) -> dict[str, Mapping[str, Any]]:
        """The attacks of the manifest by their key."""
        return {entry["key"]: entry for entry in self.manifest["attacks"]}

    @cached_property
    def parameters(self) -> dict[str, Mapping[str, Any]]:
        """The parameters of each attack by its key."""
        return {key: entry.get("parameters") or {} for key, entry in self.entries.items()}

    @cached_property
    def fooled(self) -> dict[str, dict[str, bool]]:
        """Whether each attack succeeded, by its key and the image, for the images that were right before."""
        return {
            key: dict(table.filter("correct_before").select("id", "success").iter_rows())
            for key, table in self.tables.items()
        }

    @cached_property
    def detectors(self) -> dict[tuple[str, str], list[Row]]:
        """The rows of detection by the fit and the key of the attack, without detectors that have no score."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.detection.get("rows", ()):
            if row["n_positive"] + row["n_negative"]:
                found.setdefault((row["fit"], row["key"]), []).append(row)
        return found

    def beats(self, first: Row, second: Row) -> bool:
        """Whether the first attack fools more of the images that both have tried than chance explains."""
        one, other = self.fooled[first["key"]], self.fooled[second["key"]]
        both = one.keys() & other.keys()
        only_first = sum(one[image] and not other[image] for image in both)
        only_second = sum(other[image] and not one[image] for image in both)
        return paired_p_value(only_first, only_second) < SIGNIFICANCE


def flag(severity: str, row: Row, message: str) -> Flag:
    """A flag of an attack, or of the whole evaluation if the row is that of the clean images."""
    whole = row["kind"] == "clean"
    return {
        "severity": severity,
        "attack": None if whole else row["attack"],
        "epsilon": None if whole else row["epsilon"],
        "message": message,
    }


def counted(count: int, noun: str) -> str:
    """A number with its noun in the singular or plural."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def doubted(evaluation: CheckedEvaluation, row: Row, column: str) -> list[float]:
    """An attack's values of a column that is there only for images that raise a doubt."""
    table = evaluation.tables[row["key"]]
    return table[column].drop_nulls().to_list() if column in table.columns else []
