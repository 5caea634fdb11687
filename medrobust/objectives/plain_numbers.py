"""Numbers as configurations hold them: Python's own, also where NumPy's were given."""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """A NumPy number as Python's own, also inside lists and tuples; anything else as it is.

    >>> plain((np.float64(0.5), np.int64(3), "8/255"))
    (0.5, 3, '8/255')
    """
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(plain(inner) for inner in value)
    return value


class PlainNumbers:
    """A base of frozen dataclasses, in which NumPy's numbers become Python's before ``__post_init__`` checks them.

    So they pass as numbers, compare and hash as those, and can be written as JSON.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Convert the fields before the class's own checks."""
        super().__init_subclass__(**options)
        own = vars(cls).get("__post_init__")
        if own is not None:
            setattr(cls, "__post_init__", _converting(own))  # noqa: B010  mypy refuses the plain assignment

    def __post_init__(self) -> None:
        """Convert the fields of a class without checks."""
        _convert(self)


def _converting(check: Callable[[Any], None]) -> Callable[[Any], None]:
    @wraps(check)
    def converting(self: Any) -> None:
        _convert(self)
        check(self)

    return converting


def _convert(self: Any) -> None:
    for item in fields(self):
        value = vars(self).get(item.name)
        if (own := plain(value)) is not value:
            object.__setattr__(self, item.name, own)
