"""Splits of a dataset by patient: computed from a seed, written to and read from CSV."""

import csv
import dataclasses
import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_warn

from datamodules.samples import Sample, Target

SPLITS = ("train", "val", "adv_train", "adv_test")
COLUMNS = ("id", "split", "target", "patient")


@dataclass(frozen=True)
class Fractions:
    """Shares of the images that go to the four splits.

    Args:
        train: Share for training the victim, in [0, 1].
        val: Share for choosing its checkpoint.
        adv_train: Share for fitting detectors, attacked.
        adv_test: Share for judging victims, attacks and detectors.

    Raises:
        ValueError: A negative share, or a sum other than 1.
    """

    train: float = 0.65
    val: float = 0.10
    adv_train: float = 0.10
    adv_test: float = 0.15

    def __post_init__(self) -> None:
        shares = dataclasses.asdict(self)
        if any(not share >= 0 for share in shares.values()):
            raise ValueError(f"fractions are each at least 0, got {shares}")
        if abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError(f"fractions sum to 1, got {shares}, which sum to {sum(shares.values()):g}")


def split_by_patient(
    samples: Sequence[Sample[Target]], fractions: Fractions, seed: int
) -> dict[str, list[Sample[Target]]]:
    """Samples of the four splits, stratified, with all images of a patient in the same split.

    A patient belongs to the rarest stratum among its images (of equally rare ones, to the smallest): the few patients
    with a finding may have many images without one. The patients of a stratum are taken in order of their number of
    images in it, largest first, then of a hash of seed and patient. Each goes to the split that still lacks the largest
    part of its share of that stratum's images (in a tie, to the emptiest over all strata). Where patients have images
    of several strata, the rarest stratum comes first, so that the others make up for what its patients bring along; a
    patient goes first of all where its images exceed the shares of their strata, rounded up, the least (summed over
    strata, in parts of each), and a tie goes to the largest split. The result depends on the samples, the fractions and
    the seed alone: not on the order of the input, Python's hash seed or the version of a random generator.

    Tolerance: in a stratum whose patients have no image of another one, and the largest of them m, no split gets m or
    more images above its share, nor 3 m or more below it; with many single-image patients each split ends within one
    image or two.

    Args:
        samples: The samples, in any order.
        fractions: Shares of the splits.
        seed: Another seed gives another split.

    Returns:
        A list of samples, sorted by id, for each of ``train``, ``val``, ``adv_train``, ``adv_test``.
    """
    patients: dict[str, list[Sample[Target]]] = defaultdict(list)
    for sample in samples:
        patients[sample.patient].append(sample)
    totals = Counter(sample.stratum for sample in samples)

    def rarity(stratum: int | str) -> tuple[Any, ...]:
        return totals[stratum], _numbers_first(stratum)

    held = {patient: Counter(image.stratum for image in images) for patient, images in patients.items()}
    strata: dict[int | str, list[str]] = defaultdict(list)
    for patient, counts in held.items():
        strata[min(counts, key=rarity)].append(patient)

    shares = {split: share for split, share in dataclasses.asdict(fractions).items() if share > 0}
    splits: dict[str, list[Sample[Target]]] = {split: [] for split in SPLITS}
    filled: dict[str, Counter[int | str]] = {split: Counter() for split in shares}

    mixed = any(len(counts) > 1 for counts in held.values())

    def need(split: str, stratum: int | str, images: Counter[int | str]) -> tuple[float, float, float, float]:
        got, share = filled[split], shares[split]
        lacking, emptiness = -got[stratum] / (share * totals[stratum]), -len(splits[split]) / share
        if not mixed:
            return 0, lacking, 0, emptiness
        excess = sum(max(0, got[one] + n - math.ceil(share * totals[one])) / totals[one] for one, n in images.items())
        return -excess, lacking, share, emptiness

    for stratum in sorted(strata, key=rarity if mixed else _numbers_first):
        for patient in sorted(strata[stratum], key=lambda name: (-held[name][stratum], _order(seed, name))):
            split = max(shares, key=partial(need, stratum=stratum, images=held[patient]))
            filled[split] += held[patient]
            splits[split].extend(patients[patient])
    return {split: sorted(members, key=lambda sample: sample.id) for split, members in splits.items()}


def first_of_each_stratum(samples: Sequence[Sample[Target]], count: int | None) -> list[Sample[Target]]:
    """The first `count` samples of each stratum, in the given order; None keeps all."""
    seen: Counter[int | str] = Counter()
    kept = []
    for sample in samples:
        seen[sample.stratum] += 1
        if count is None or seen[sample.stratum] <= count:
            kept.append(sample)
    return kept


def take(samples: Sequence[Sample[Target]], limit: int, seed: int) -> list[Sample[Target]]:
    """At most `limit` of the samples, each stratum in proportion, sorted by id.

    A hash of seed and id chooses the images. The number of images of each stratum is rounded by largest remainder,
    and each stratum keeps at least one image where the limit allows it.
    """
    if len(samples) <= limit:
        return list(samples)
    strata: dict[int | str, list[Sample[Target]]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: _order(seed, sample.id)):
        strata[sample.stratum].append(sample)
    kept = dict.fromkeys(sorted(strata, key=_numbers_first), 1 if limit >= len(strata) else 0)
    while sum(kept.values()) < limit:
        kept[max(kept, key=lambda stratum: limit * len(strata[stratum]) / len(samples) - kept[stratum])] += 1
    return sorted((sample for stratum in kept for sample in strata[stratum][: kept[stratum]]), key=lambda s: s.id)


def write_splits(
    path: Path, splits: Mapping[str, Sequence[Sample[Target]]], written: Callable[[Sample[Target]], int | str]
) -> None:
    """Write splits as CSV with the columns id, split, target, patient, replacing the file as a whole.

    Args:
        path: The file to write.
        splits: The samples of each split.
        written: Gives a sample's target in the form that the file states.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for split in SPLITS:
                writer.writerows((sample.id, split, written(sample), sample.patient) for sample in splits[split])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_splits(
    path: Path,
    samples: Sequence[Sample[Target]],
    check_written: Callable[[Sample[Target], str], None],
    gone: list[str] | None = None,
) -> dict[str, list[Sample[Target]]]:
    """Samples of the four splits as listed in a CSV file; samples that it does not list are left out.

    Args:
        path: CSV with the columns id and split, and optionally target and patient. A patient given there replaces
            the one that the dataset gives.
        samples: The samples found on disk.
        check_written: Raises a ValueError if the file states a wrong target for a sample.
        gone: Takes the ids of listed images that are not among the samples; without it, they are an error.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A row is wrong; the message names the file and the row (the header is row 1).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a split file with the columns {', '.join(COLUMNS)}, found no file")
    known = {sample.id: sample for sample in samples}
    splits: dict[str, list[Sample[Target]]] = {split: [] for split in SPLITS}
    rows: dict[str, int] = {}
    homes: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := {"id", "split"} - set(reader.fieldnames or ()):
                raise ValueError(f"{path}, row 1: expected the columns {', '.join(COLUMNS)}, missing {sorted(missing)}")
            for row in reader:
                place = f"{path}, row {reader.line_num}"
                if gone is not None and row["id"] and row["id"] not in known:
                    gone.append(row["id"])
                    continue
                sample, split = _parse(row, place, known, check_written)
                if first := rows.get(sample.id):
                    raise ValueError(f"{place}: expected each id once, got {sample.id!r} again after row {first}")
                if (home := homes.setdefault(sample.patient, split)) != split:
                    both = f"{sample.patient!r} in {home} and {split}"
                    raise ValueError(f"{place}: expected each patient in one split, got {both}")
                rows[sample.id] = reader.line_num
                splits[split].append(sample)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a CSV file in UTF-8, got {error}") from None
    return {split: sorted(members, key=lambda sample: sample.id) for split, members in splits.items()}


def tell_differences(
    root: Path,
    split_file: Path,
    samples: Sequence[Sample[Target]],
    listed: Mapping[str, Sequence[Sample[Target]]],
    gone: Sequence[str],
) -> None:
    """Warn of images that only the split file or only the dataset has.

    Args:
        root: Folder of the dataset.
        split_file: The file.
        samples: The samples found on disk.
        listed: Those of each split that the file lists.
        gone: Ids that the file lists and that were not found.

    Raises:
        ValueError: The dataset has none of the images.
    """
    found = sum(map(len, listed.values()))
    if gone and not found:
        raise ValueError(
            f"{root} has none of the {len(gone)} images of {split_file}, with which the victim was "
            "trained: split other data anew with --splits new"
        )
    if gone:
        names = ", ".join(gone[:5]) + (", ..." if len(gone) > 5 else "")
        are = "is" if len(gone) == 1 else "are"
        rank_zero_warn(f"{len(gone)} of {found + len(gone)} images of {split_file} {are} gone: {names}")
    if unlisted := len(samples) - found:
        listed_ids = {sample.id for members in listed.values() for sample in members}
        first = next(sample.id for sample in samples if sample.id not in listed_ids)
        rank_zero_warn(
            f"{split_file} leaves out {unlisted} of {len(samples)} images, which "
            f"{'belongs' if unlisted == 1 else 'belong'} to no split, first {first}"
        )


def _parse(
    row: Mapping[str, Any],
    place: str,
    known: Mapping[str, Sample[Target]],
    check_written: Callable[[Sample[Target], str], None],
) -> tuple[Sample[Target], str]:
    """The sample and the split of one row."""
    id, split, target = row["id"] or "", row["split"] or "", row.get("target")
    if id not in known:
        raise ValueError(
            f"{place}: the image {id!r} is missing: expected the id of an image under the root; put the image there, "
            "remove the row, or compute splits anew without split_file"
        )
    if split not in SPLITS:
        raise ValueError(f"{place}: expected a split among {', '.join(SPLITS)}, got {split!r}")
    sample = known[id]
    if target:
        try:
            check_written(sample, target)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
    return dataclasses.replace(sample, patient=row.get("patient") or sample.patient), split


def _order(seed: int, name: str) -> bytes:
    """Sort key of a random order that depends on seed and name alone."""
    return hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()


def _numbers_first(stratum: int | str) -> tuple[bool, int, str]:
    """Sort key of strata: numbers by value, then names alphabetically."""
    return (True, 0, stratum) if isinstance(stratum, str) else (False, stratum, "")
