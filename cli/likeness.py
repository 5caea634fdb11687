"""Which names are similar to an unknown one."""

import difflib
from collections.abc import Sequence
from pathlib import Path

MUCH = 0.1  # a suggestion that is so much less similar than the best one is left out


def nearest(name: str, names: Sequence[str], cutoff: float = 0.6, within: str = "") -> str:
    """Suggestion of the most similar names, to be appended to a sentence; empty if none is similar.

    Args:
        name: The unknown name.
        names: The known ones.
        cutoff: The least likeness, from 0 to 1.
        within: What the sentence puts before each of them, such as ``attack.``.

    >>> nearest("stpes", ["steps", "step_size", "seed"])
    '; did you mean steps?'
    """
    near = list(dict.fromkeys(difflib.get_close_matches(name, names, n=3, cutoff=cutoff)))
    likeness = [difflib.SequenceMatcher(None, one, name).ratio() for one in near]
    close = [f"{within}{one}" for one, ratio in zip(near, likeness, strict=True) if ratio > likeness[0] - MUCH]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def no_such_file(path: str) -> str:
    """The sentence about a configuration file that is not there, with those beside it of a similar name."""
    place = Path(path)
    beside = [one.name for one in place.parent.glob("*.yaml")] if place.parent.is_dir() else []
    within = "" if str(place.parent) == "." else f"{place.parent}/"
    wanted = place.name if place.suffix else f"{place.name}.yaml"
    return f"there is no configuration file {path}{nearest(wanted, beside, within=within)}"
