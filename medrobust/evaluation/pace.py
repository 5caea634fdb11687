"""How far something long is: when to say so again, and how long the rest will take."""

import sys
from time import monotonic

EVERY = 30.0  # seconds between two lines where output does not go to a terminal


def has_bar() -> bool:
    """Whether a bar that redraws itself can be shown: on a terminal, or in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class Pace:
    """Tells when another line is due and how long the rest will take.

    Args:
        every: Seconds between two lines.
    """

    def __init__(self, every: float = EVERY) -> None:
        """Begin now."""
        self.every, self.begun = every, monotonic()
        self._said = self.begun

    def due(self) -> bool:
        """Whether the last line was said long enough ago; if so, the next one counts as said now."""
        now = monotonic()
        if now - self._said < self.every:
            return False
        self._said = now
        return True

    def left(self, share: float) -> str:
        """How long the rest will take if it goes on like this, such as ``about 12 min left``; empty if nobody knows.

        Args:
            share: What is done of the whole since this began, from 0 to 1.
        """
        if not 0 < share <= 1:
            return ""
        return f"about {duration((monotonic() - self.begun) * (1 - share) / share)} left"


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> [duration(seconds) for seconds in (0.2, 89, 90, 3600, 9000)]
    ['0 s', '89 s', '2 min', '60 min', '2.5 h']
    """
    if seconds < 89.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 89.5 * 60 else f"{seconds / 3600:.1f} h"
