"""How well a segmenter's masks fit, pixel by pixel and class by class, clean and under attack."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from medrobust.results.columns import FLIPPED_PIXELS, PIXEL_ACCURACY, MaskMeasure, label_names, mask_column
from medrobust.results.detection import patients_of
from medrobust.results.statistics import mean_interval

When = Literal["before", "after"]


def mask_results(
    rows: Sequence[Mapping[str, Any]], tables: Mapping[str | None, pl.DataFrame], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """How well a segmenter's masks fit, on the clean images and under each attack, from the records.

    Args:
        rows: The rows of a summary, the clean one first.
        tables: Records by the key of the attack, and all records under the key of the clean row, None.
        manifest: Its `data` names the labels, of which the first is the background.

    Returns:
        Empty where the records have no masks. Otherwise `names`, those of the foreground classes, and `rows`: one for
        each row of the summary that has images, with

        - `attack`, `epsilon`, `key`, `kind`.
        - `n`: the number of images with a labelled pixel, and `pixel_accuracy`, the mean share of their pixels that is
          right.
        - `flipped_pixels`: the mean share of the pixels right before the attack that are wrong after it, over the
          `n_flipped_pixels` images with such pixels; None for the clean row.
        - `jaccard` and `dice`: means over the `n_jaccard` images of which truth or prediction has any foreground of the
          mean over those of its classes that either has.
        - `classes`: for each foreground class its `name`; over the `n` images of which truth or prediction has it, the
          means `jaccard` and `dice`; and over the `n_hausdorff95` images of which both have it, the mean 95 % Hausdorff
          distance in pixels, `hausdorff95`.

        Each mean comes with its 95 % interval, such as `jaccard_interval`, which counts patients, not images
        (`results.statistics.mean_interval`). A mean over no images is None.
    """
    names = [str(name) for name in manifest["data"].get("class_names") or []]
    present = next(iter(tables.values())).columns if tables else []
    columns = label_names(names)[1:]
    if PIXEL_ACCURACY[0] not in present:
        return {}
    if not columns or not all(mask_column("jaccard", name, "before") in present for name in columns):
        names, columns = [], _numbered(present)
    shown = names[1:] or columns
    found = []
    for row in rows:
        clean, table = row["kind"] == "clean", tables[row["key"]]
        if clean:
            table = table.unique("id", keep="first", maintain_order=True)
        if len(table):
            head = {name: row[name] for name in ("attack", "epsilon", "key", "kind")}
            found.append({**head, **_of_row(table, columns, shown, "before" if clean else "after")})
    return {"names": shown, "rows": found}


def _numbered(present: Sequence[str]) -> list[str]:
    """The foreground classes that the records' columns name."""
    begin, end = "jaccard_", "_before"
    found = [name[len(begin) : -len(end)] for name in present if name.startswith(begin) and name.endswith(end)]
    return sorted(found, key=lambda name: (len(name), name))


def _of_row(table: pl.DataFrame, columns: Sequence[str], names: Sequence[str], when: When) -> dict[str, Any]:
    flipped = pl.Series(FLIPPED_PIXELS, [None] * len(table), pl.Float64) if when == "before" else table[FLIPPED_PIXELS]
    before, after = PIXEL_ACCURACY
    entries = {
        **_mean("n", "pixel_accuracy", table[before if when == "before" else after], table),
        **_mean("n_flipped_pixels", "flipped_pixels", flipped, table),
    }
    for measure in ("jaccard", "dice"):
        own = table.select(
            pl.mean_horizontal(pl.col(mask_column(measure, name, when)).cast(pl.Float64) for name in columns)
        ).to_series()
        entries |= _mean("n_jaccard", measure, own, table)
    classes = [{"name": shown, **_of_class(table, name, when)} for name, shown in zip(columns, names, strict=True)]
    return {**entries, "classes": classes}


def _of_class(table: pl.DataFrame, name: str, when: When) -> dict[str, Any]:
    counts: dict[MaskMeasure, str] = {"jaccard": "n", "dice": "n", "hausdorff95": "n_hausdorff95"}
    entries: dict[str, Any] = {}
    for measure, count in counts.items():
        largest = np.inf if measure == "hausdorff95" else 1.0
        entries |= _mean(count, measure, table[mask_column(measure, name, when)], table, largest)
    return entries


def _mean(count: str, name: str, values: pl.Series, table: pl.DataFrame, largest: float = 1.0) -> dict[str, Any]:
    """Mean of the values that there are, with its interval and their number."""
    known = values.is_not_null().to_numpy()
    numbers = values.to_numpy()[known].astype(np.float64)
    interval = mean_interval(numbers, patients_of(table)[known], largest) if len(numbers) else None
    mean = float(numbers.mean()) if len(numbers) else None
    return {count: len(numbers), name: mean, f"{name}_interval": interval}
