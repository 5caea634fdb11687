"""Which names are similar to an unknown one."""

import difflib
from collections.abc import Sequence

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
