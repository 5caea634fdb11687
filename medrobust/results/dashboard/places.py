"""Which evaluations folders hold: those of runs, of evaluations, or folders of runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.results.evaluations import evaluations_of, further_name
from medrobust.results.formats import printable
from medrobust.results.manifest import read_manifest
from medrobust.results.summary import SUMMARY

TRACES = ("checkpoints", "train.yaml", "evaluate")  # by which the folder of a run is told from one that holds runs


class Place(NamedTuple):
    """Where an evaluation lies, the name of its run, and its own where it is not the run's first one."""

    folder: Path
    run: str
    further: str = ""

    @property
    def name(self) -> str:
        """How it is called: "run", or "run · NAME" for a further evaluation of the same run."""
        return f"{self.run} · {self.further}" if self.further else self.run


def places_of(given: Sequence[str | Path]) -> tuple[list[Place], list[str]]:
    """The evaluations that folders hold, each once, and a sentence for each folder that holds none that can be read.

    Args:
        given: Folders of runs, of evaluations, or folders that hold runs.
    """
    found: dict[Path, Place] = {}
    left_out = []
    for one in map(Path, given):
        if not one.is_dir():
            what = "is a file, and not the folder of a run" if one.exists() else "does not exist"
            left_out.append(f"{printable(str(one))} {what}.")
            continue
        runs = (
            [one] if evaluations_of(one) or _is_run(one) else sorted(inner for inner in one.iterdir() if _holds(inner))
        )
        if not runs:
            left_out.append(f"{printable(str(one))} holds no run that was evaluated.")
        for run in runs:
            folders = evaluations_of(run)
            if not folders:
                left_out.append(f"{printable(str(run))} has not been evaluated yet.")
            for folder in folders:
                try:
                    place = _place(run, folder)
                    if not (folder / SUMMARY).is_file():
                        raise ValueError(
                            "the evaluation has not ended, it has no summary.json; the same command again goes on "
                            "with it"
                        )
                except ValueError as error:
                    left_out.append(f"{printable(str(folder))}: {printable(str(error)).rstrip('.')}.")
                    continue
                found.setdefault(folder.resolve(), place)
    return list(found.values()), left_out


def _is_run(folder: Path) -> bool:
    return any((folder / trace).exists() for trace in TRACES)


def _holds(folder: Path) -> bool:
    return folder.is_dir() and bool(evaluations_of(folder) or _is_run(folder))


def _place(run: Path, folder: Path) -> Place:
    """The evaluation by the names in its manifest and its folder."""
    manifest: dict[str, Any] = read_manifest(folder)
    further = printable(further_name(folder)) or ("validate" if folder.name == "validate" and folder != run else "")
    return Place(folder, printable(str(manifest["run"])), further)


def told_apart(places: Sequence[Place]) -> list[str]:
    """How places are called beside each other: by their runs alone where these differ and nothing else does.

    >>> told_apart([Place(Path("a/evaluations/pgd"), "a", "pgd"), Place(Path("b/evaluations/pgd"), "b", "pgd")])
    ['a', 'b']
    >>> told_apart([Place(Path("a/evaluate"), "a"), Place(Path("b/evaluations/pgd"), "b", "pgd")])
    ['a', 'b · pgd']
    """
    runs, further = [place.run for place in places], {place.further for place in places}
    return runs if len(further) == 1 and len(set(runs)) == len(runs) else [place.name for place in places]
