"""Where the evaluations of a run lie."""

from pathlib import Path

from medrobust.results.manifest import MANIFEST


def evaluations_of(run: Path) -> list[Path]:
    """Folders of a run that hold an evaluation, which are those with a manifest.

    Args:
        run: Folder of a run, or of an evaluation, which is its own only one.

    Returns:
        In this order: `evaluate`, those below `evaluations` and below `evaluate_on` by name, `validate`.
    """
    if (run / MANIFEST).is_file():
        return [run]
    named = [sorted((run / folder).glob("*")) for folder in ("evaluations", "evaluate_on")]
    places = [run / "evaluate", *named[0], *named[1], run / "validate"]
    return [place for place in places if (place / MANIFEST).is_file()]
