"""Reading runs for a comparison: what cannot be read becomes a sentence, never an end."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.results.dashboard.configuration import configuration_of
from medrobust.results.dashboard.outcomes import Outcomes, read_outcomes
from medrobust.results.dashboard.places import Place, places_of
from medrobust.results.formats import printable
from medrobust.results.manifest import check_manifest, task_of
from medrobust.results.summary import SUMMARY, read_summary
from medrobust.results.worst_case import bounded_attacks

BROKEN = (ValueError, KeyError, TypeError, IndexError, AttributeError, OSError)  # what foreign contents may raise


@dataclass(frozen=True)
class DashboardRun:
    """One evaluation of a run, as a comparison takes it.

    Args:
        name: How the comparison calls it, different from the names of all others.
        folder: The folder of the evaluation.
        summary: Its summary.
        outcomes: What became of each image.
        configuration: What it was configured to do, flat.
    """

    name: str
    folder: Path
    summary: Mapping[str, Any]
    outcomes: Outcomes
    configuration: Mapping[str, str]

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The manifest of the evaluation."""
        manifest: Mapping[str, Any] = self.summary["manifest"]
        return manifest

    @property
    def data(self) -> Mapping[str, Any]:
        """What the manifest says of the data."""
        data: Mapping[str, Any] = self.manifest["data"]
        return data

    @property
    def task(self) -> str:
        """Task of the victim."""
        return task_of(self.manifest)

    @property
    def attacks(self) -> list[Mapping[str, Any]]:
        """Attacks of the manifest that are no controls."""
        return [entry for entry in self.manifest["attacks"] if not entry.get("control")]

    def keys_at(self, epsilon: float) -> list[str]:
        """Keys of the attacks of a radius, whose worst case counts."""
        return [str(entry["key"]) for entry in bounded_attacks(self.attacks) if entry["epsilon"] == epsilon]

    @property
    def radii(self) -> list[float]:
        """The radii that were tried, in order."""
        return sorted({entry["epsilon"] for entry in bounded_attacks(self.attacks)})


class ReadRuns(NamedTuple):
    """What was read.

    Args:
        runs: The runs in the order given, with different names.
        left_out: A sentence for each run that is left out, or of which a part is.
    """

    runs: list[DashboardRun]
    left_out: list[str]


def read_runs(given: Sequence[str | Path]) -> ReadRuns:
    """Read evaluations with their summaries, records and configurations.

    Args:
        given: Folders of runs, of evaluations, or folders that hold runs.

    Returns:
        What could be read. Whatever is missing, damaged, half-written or of another version is named in a sentence.
    """
    places, left_out = places_of(given)
    runs = []
    for place in places:
        try:
            run, said = _read(place)
        except BROKEN as error:
            left_out.append(f"{place.name}: {_reason(error, place)}.")
            continue
        runs.append(run)
        left_out += said
    counts = Counter(run.name for run in runs)
    named = [
        replace(run, name=f"{run.name} ({printable(str(run.folder))})") if counts[run.name] > 1 else run for run in runs
    ]
    return ReadRuns(named, left_out)


def _read(place: Place) -> tuple[DashboardRun, list[str]]:
    summary = read_summary(place.folder)
    check_manifest(summary["manifest"], place.folder / SUMMARY)
    outcomes = read_outcomes(place.folder, summary["manifest"]["attacks"])
    said = []
    try:
        configuration = configuration_of(place.folder, summary["manifest"])
    except ValueError as error:
        configuration = {}
        said.append(f"{place.name}: {error}, so that its configuration is not compared.")
    run = DashboardRun(place.name, place.folder, summary, outcomes, configuration)
    _check(run)
    return run, said


def _check(run: DashboardRun) -> None:
    """Refuse a summary that does not belong to the records beside it."""
    counts = {worst["epsilon"]: (worst["n"], worst["n_correct_after"]) for worst in run.summary["worst_case"]}
    found = {}
    for epsilon in run.radii:
        tried, right = run.outcomes.worst(run.keys_at(epsilon))
        found[epsilon] = int(tried.sum()), int(right.sum())
    row, clean = run.summary["rows"][0], run.outcomes.clean
    if any(counts.get(epsilon) != own for epsilon, own in found.items()) or (
        (row["n"], row["n_correct_before"]) != (len(clean), int(clean.sum()))
    ):
        raise ValueError(
            "its summary.json and its records.parquet contradict each other: evaluate it again, which attacks no image "
            "anew"
        )


def _reason(error: Exception, place: Place) -> str:
    """Why a run cannot be read, in words."""
    if isinstance(error, OSError):
        return f"{error.filename or place.folder}: {error.strerror or error}"
    if isinstance(error, ValueError):
        return str(error).rstrip(".")
    return damaged(error)


def damaged(error: Exception) -> str:
    """What is said of a summary whose use has raised an error."""
    return (
        f"its summary.json is damaged ({type(error).__name__}: {error}); evaluate it again, which attacks no image anew"
    )
