"""A whole number is a count, whatever types have been built before."""

from typing import Any, Optional, Union

import pytest
from jsonargparse import ArgumentParser

from cli.counts import count_first

SHARE_FIRST: Any = Union[float, int, None]  # noqa: UP007  as the cache of types may give it


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("null", None)])
def test_one_is_a_count_and_not_a_share(text: str, value: Optional[float]) -> None:  # noqa: UP045
    parser = ArgumentParser()
    parser.add_argument("--limit", type=SHARE_FIRST)
    count_first(parser)
    found = parser.parse_args([f"--limit={text}"]).limit
    assert found == value and type(found) is type(value)
