"""The evaluations of a run: which of its folders hold one."""

from pathlib import Path

from medrobust.results.manifest import MANIFEST

NAMED = "evaluations"  # folder of those that were given a name
ON_OTHERS = "evaluate_on"  # folder of those on other data
FURTHER = (NAMED, ON_OTHERS)  # folders of evaluations below that of a run


def evaluations_of(run: Path) -> list[Path]:
    """Folders of a run that hold an evaluation, which are those with a manifest.

    First comes ``evaluate``, then those with a name of their own, ``evaluations/NAME``, those on other data,
    ``evaluate_on/DATA``, both in the order of their names, and at last ``validate``. A folder that is itself an
    evaluation is its own only one.

    Args:
        run: The run's folder, or that of an evaluation.
    """
    if (run / MANIFEST).is_file():
        return [run]
    places = [run / "evaluate", *_inside(run / NAMED), *_inside(run / ON_OTHERS), run / "validate"]
    return [place for place in places if (place / MANIFEST).is_file()]


def _inside(folder: Path) -> list[Path]:
    """The folders in a folder by their names; none if there is no such folder."""
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def further_name(folder: Path) -> str:
    """Name of a run's further evaluation, which has a folder of its own; empty for the run's first one.

    >>> further_name(Path("runs/demo/evaluations/hiding")), further_name(Path("runs/demo/evaluate"))
    ('hiding', '')
    """
    return folder.name if folder.parent.name in FURTHER else ""


def run_folder_of(folder: Path) -> Path:
    """The folder of the run that an evaluation's folder belongs to."""
    parent = folder.absolute().parent
    return parent.parent if parent.name in FURTHER else parent
