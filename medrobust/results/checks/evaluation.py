"""What the self-checks look at, and the flags that they raise.

A flag is `{"check", "severity", "attack", "epsilon", "message"}`: an "error" says that something is broken, a "warning"
that a number means less than it seems to. `attack` and `epsilon` are None for a flag of the whole evaluation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from medrobust.results.formats import format_percent
from medrobust.results.statistics import paired_p_value
from medrobust.results.wording import is_dense, quality_phrase

SIGNIFICANCE = 0.05
LEAST_LEAD = 0.01  # mean difference of two qualities that is worth a remark

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
        """The rows of the attacks, without the controls."""
        return [row for row in self.rows if row["kind"] == "attack"]

    @property
    def controls(self) -> list[Row]:
        """The rows of the controls: noise, corruptions and random bias fields."""
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

    @cached_property
    def qualities(self) -> dict[str, dict[str, float]]:
        """The quality that each attack leaves, by its key and the image; empty for attacks that it cannot compare.

        That is so for classifiers, whose rates tell all, for attacks that aim at a goal, and for those that let an
        image go as soon as it is wrong: they do not ask for the worst that can be done to it.
        """
        found = {}
        for key, table in self.tables.items():
            known = table.select("id", "quality_after").drop_nulls() if self._goes_on(key) else table.clear()
            found[key] = dict(known.select("id", "quality_after").iter_rows())
        return found

    def beats(self, first: Row, second: Row) -> bool:
        """Whether the first attack fools more of the images that both have tried than chance explains.

        Where their rates do not tell masks or boxes apart, since all images are wrong, or all still right, it is the
        lower quality that counts: on more images than chance explains, and by at least `LEAST_LEAD` on average.
        """
        return self._fools_more(first, second) or self._leaves_less(first, second)

    def deeds(self, first: Row, second: Row) -> list[str]:
        """What each of two attacks does, as `beats` has compared them, to be written behind its name."""
        if self._fools_more(first, second) or not self._leaves_less(first, second):
            return [f"fools {format_percent(row['success_rate'])}" for row in (first, second)]
        phrases = [quality_phrase(self.manifest, row["quality_after"]) for row in (first, second)]
        return [f"leaves the victim with {phrase}" for phrase in phrases]

    def _fools_more(self, first: Row, second: Row) -> bool:
        one, other = self.fooled[first["key"]], self.fooled[second["key"]]
        both = one.keys() & other.keys()
        only_first = sum(one[image] and not other[image] for image in both)
        only_second = sum(other[image] and not one[image] for image in both)
        return paired_p_value(only_first, only_second) < SIGNIFICANCE

    def _leaves_less(self, first: Row, second: Row) -> bool:
        if self._fools_more(second, first):
            return False
        one, other = self.qualities[first["key"]], self.qualities[second["key"]]
        leads = [other[image] - one[image] for image in one.keys() & other.keys()]
        if not leads or sum(leads) < LEAST_LEAD * len(leads):
            return False
        return paired_p_value(sum(lead > 0 for lead in leads), sum(lead < 0 for lead in leads)) < SIGNIFICANCE

    def _goes_on(self, key: str) -> bool:
        """Whether an attack does its worst to every mask or every image's boxes."""
        parameters, method = self.parameters[key], self.entries[key].get("method")
        if not is_dense(self.manifest) or parameters.get("targeted"):
            return False
        return method in ("FGSM", "UniformNoise") or parameters.get("stop_when_fooled") is False


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
