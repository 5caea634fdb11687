"""Options that take a count or a share: ``1`` is one, ``1.0`` is all."""

from typing import Any, Union

COUNT_OR_SHARE = Union[int, float, None]  # noqa: UP007  of a key of its own in the cache of types, and so in this order


def count_first(parser: Any) -> None:
    """Let a whole number be a count where a parser's option takes a count or a share, such as ``limit_test_batches``.

    Python keeps the types that it has built, and gives ``Optional[Union[float, int]]`` for
    ``Optional[Union[int, float]]`` where somebody has asked for that one first. A parser tries them in order, so that
    ``1`` would be read as 1.0, which is all batches instead of one.

    Args:
        parser: The parser, whose options are there.
    """
    for action in parser._actions:
        if getattr(action, "_typehint", None) == COUNT_OR_SHARE:
            action._typehint = COUNT_OR_SHARE
