"""What records say of each image: right or wrong before and under each attack, and how little makes it wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.records import RECORDS
from medrobust.results.smallest import counted_attacks, is_bounded, median_of

NEEDED = ("schema", "key", "id", "correct_before", "correct_after", "linf", "l2")
WANTED = (*NEEDED, "patient", "target", "clean_prediction", "adversarial_prediction")
SCHEMAS = (1, 2)
UNTRIED = -1

Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Outcomes:
    """What became of each image of an evaluation.

    Args:
        ids: The N images, sorted.
        patients: The patient of each; the image itself where nobody knows, ``(N,)`` of words.
        known: Whether any patient is known.
        target: True class of each, -1 without one, ``(N,)``.
        clean: Whether the victim is right about the clean image, ``(N,)``.
        clean_prediction: Class predicted for it, -1 without one, ``(N,)``.
        before: By the key of an attack whether its own records say that the victim is right about the clean image: one
            that an interrupted evaluation judged again, on another device or in another batch, may change sides.
        right: By the key of an attack whether the victim is right after it: 1, 0, or -1 where it was not tried.
        prediction: By the key of an attack the class predicted after it, -1 without one.
        smallest: The smallest radius, or distance of an attack that looks for the smallest one, at which an image is
            wrong: 0 for one that is wrong from the start, infinity where no attack makes it wrong, NaN where none has
            tried it. None without such attacks.
        norm: Norm of these distances.
        largest: The largest radius in that norm that was tried; None if none was.
    """

    ids: tuple[str, ...]
    patients: NDArray[Any]
    known: bool
    target: Numbers
    clean: Flags
    clean_prediction: Numbers
    before: Mapping[str, Flags]
    right: Mapping[str, NDArray[np.int8]]
    prediction: Mapping[str, Numbers]
    smallest: NDArray[np.float64] | None
    norm: str
    largest: float | None

    def worst(self, keys: Sequence[str]) -> tuple[Flags, Flags]:
        """Which images all of some attacks have tried, and which are right before and after all of them, ``(N,)``."""
        verdicts = np.stack([self.right[key] for key in keys])
        tried = (verdicts != UNTRIED).all(0)
        before = np.stack([self.before[key] for key in keys]).all(0)
        return tried, tried & before & (verdicts == 1).all(0)

    def median_smallest(self) -> float | None:
        """The smallest perturbation that makes at least half of the images wrong; infinity if none does."""
        known = np.empty(0) if self.smallest is None else self.smallest[~np.isnan(self.smallest)]
        return median_of(known) if len(known) else None


def read_outcomes(folder: Path, attacks: Sequence[Mapping[str, Any]]) -> Outcomes:
    """Read what became of each image from the columns of the merged records that this takes.

    Args:
        folder: The folder of the evaluation.
        attacks: The attacks of its manifest.

    Raises:
        ValueError: If there are no records, or they are damaged or of an unknown schema.
    """
    path = folder / RECORDS
    if not path.is_file():
        raise ValueError(f"{path} does not exist: evaluate that run again, which attacks no image anew")
    try:
        scanned = pl.scan_parquet(path, glob=False)  # a run's name may have brackets
        present = scanned.collect_schema().names()
        if missing := [name for name in NEEDED if name not in present]:
            raise ValueError(f"{path} lacks the column {missing[0]}: evaluate that run again")
        frame = scanned.select(name for name in WANTED if name in present).collect()
        found = set(frame["schema"].unique().to_list())
        if unknown := found - set(SCHEMAS):
            other = ", ".join(sorted(map(str, unknown)))
            raise ValueError(f"{path}: this version reads records of schema 1 and 2, got {other}")
        return _outcomes(frame, attacks)
    except (pl.exceptions.PolarsError, OSError, TypeError) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged ({what}): evaluate that run again, which attacks no image anew") from None


def _outcomes(frame: pl.DataFrame, attacks: Sequence[Mapping[str, Any]]) -> Outcomes:
    keys = [str(entry["key"]) for entry in attacks]
    frame = frame.filter(pl.col("key").is_in(keys))
    names = frame["id"].unique().sort()
    places = _places(frame, names)
    count = len(names)

    def first(name: str, missing: int) -> Numbers:
        """The value of each image's first record."""
        values = np.full(count, missing, np.int64)
        values[places[::-1]] = _whole(frame, name, missing)[::-1]
        return values

    patients, known = names.to_numpy().astype(object), False
    if "patient" in frame.columns:
        given = frame.select("id", pl.col("patient").cast(pl.String)).unique("id", keep="first").sort("id")
        known = given["patient"].null_count() < count
        patients = pl.select(pl.coalesce(given["patient"], given["id"])).to_series().to_numpy().astype(object)
    of_attack = frame["key"].cast(pl.Enum(list(dict.fromkeys(keys)))).to_physical().to_numpy()
    known_before, after = (frame[f"correct_{when}"].to_numpy() for when in ("before", "after"))
    predicted = _whole(frame, "adversarial_prediction", -1)
    before: dict[str, Flags] = {}
    right: dict[str, NDArray[np.int8]] = {}
    prediction: dict[str, Numbers] = {}
    for number, key in enumerate(dict.fromkeys(keys)):
        rows = of_attack == number
        verdicts, classes = np.full(count, UNTRIED, np.int8), np.full(count, -1, np.int64)
        verdicts[places[rows]], classes[places[rows]] = after[rows], predicted[rows]
        right[key], prediction[key], before[key] = verdicts, classes, np.zeros(count, bool)
        before[key][places[rows]] = known_before[rows]
    clean = first("correct_before", 0).astype(bool)
    smallest, norm, largest = _smallest(frame, attacks, names)
    return Outcomes(
        ids=tuple(names.to_list()),
        patients=patients,
        known=known,
        target=first("target", -1),
        clean=clean,
        clean_prediction=first("clean_prediction", -1),
        before=before,
        right=right,
        prediction=prediction,
        smallest=smallest,
        norm=norm,
        largest=largest,
    )


def _places(frame: pl.DataFrame, names: pl.Series) -> Numbers:
    """The place of each record's image among the images."""
    return frame["id"].cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)


def _whole(frame: pl.DataFrame, name: str, missing: int) -> Numbers:
    if name not in frame.columns:
        return np.full(len(frame), missing, np.int64)
    return frame[name].cast(pl.Int64).fill_null(missing).to_numpy()


def _smallest(
    frame: pl.DataFrame, attacks: Sequence[Mapping[str, Any]], names: pl.Series
) -> tuple[NDArray[np.float64] | None, str, float | None]:
    """The smallest perturbation of each image, its norm, and the largest radius that was tried in that norm."""
    norm, counted = counted_attacks(attacks)
    if not counted:
        return None, norm, None
    bounded = {str(entry["key"]): float(entry["epsilon"]) for entry in counted if is_bounded(entry)}
    rows = frame.filter(pl.col("key").is_in([str(entry["key"]) for entry in counted]))
    reach = rows["key"].replace_strict(bounded, default=None, return_dtype=pl.Float64)
    reached = pl.coalesce(reach, rows[norm].cast(pl.Float64))
    never = pl.lit(float("inf"))
    distance = rows.select(
        pl.when(~pl.col("correct_before")).then(0.0).when("correct_after").then(never).otherwise(reached)
    )
    smallest = np.full(len(names), np.nan)
    np.fmin.at(smallest, _places(rows, names), distance.to_series().to_numpy())
    return smallest, norm, max(bounded.values(), default=None)
