"""Whether two evaluations have the same records: after an upgrade, on other ranks, or after a kill."""

import json
from collections.abc import Iterator
from itertools import chain

import polars as pl

from medrobust.results.columns import BOX_TEXTS

KEY = ("attack", "epsilon", "id")
NAMES = ("schema", "run")  # what a record is called, not what it says


def differences(first: pl.DataFrame, second: pl.DataFrame, tolerance: float = 0.0) -> Iterator[str]:
    """Say, one sentence for each, in which columns two evaluations differ; nothing if they agree.

    Records belong together by attack, radius and image. Columns that only one side has are not compared: a later
    version may have more of them.

    Args:
        first: Merged records, as `read_records` returns them.
        second: Those of the other evaluation.
        tolerance: Largest difference of numbers with a fraction, also of those in lists of boxes, that counts as
            rounding.

    Yields:
        A column's name, how many records differ in it and, for numbers, by how much at most.
    """
    if len(first) != len(second):
        yield f"the first has {len(first)} records, the second {len(second)}"
    both = first.join(second, on=KEY, how="inner", suffix=" of the second", nulls_equal=True)
    if len(both) < max(len(first), len(second)):
        yield f"{len(both)} records have the same attack, radius and image on both sides"
    for name in first.columns:
        if name in (*KEY, *NAMES) or name not in second.columns:
            continue
        one, other = both[name], both[f"{name} of the second"]
        if pl.String() in (one.dtype, other.dtype):  # words beside a column that has no value, whatever its type
            one, other = one.cast(pl.String()), other.cast(pl.String())
        differing = ~one.eq_missing(other)
        gaps: pl.Series | None
        if name in BOX_TEXTS:
            pairs = zip(one, other, strict=True)
            gaps = pl.Series([_gap(*pair) for pair in pairs], dtype=pl.Float64())
        else:
            floats = one.dtype.is_float() and other.dtype.is_float()
            gaps = (one - other).abs() if floats else None
        if gaps is None:
            largest = ""
        else:
            differing &= gaps.is_null() | (gaps > tolerance)
            worst = gaps.filter(differing).drop_nulls().max()
            largest = f", by {worst:.3g} at most" if isinstance(worst, float) else ""
        if count := int(differing.sum()):
            yield f"{name} differs in {count} of {len(both)} records{largest}"


def _gap(one: str | None, other: str | None) -> float | None:
    """Largest difference of the numbers in two lists of boxes; None where these are not as many of the same classes."""
    first, second = ([] if text is None else json.loads(text) for text in (one, other))
    if (one is None) != (other is None) or [box[0] for box in first] != [box[0] for box in second]:
        return None
    pairs = zip(chain.from_iterable(first), chain.from_iterable(second), strict=True)
    return max((abs(a - b) for a, b in pairs), default=0.0)
