"""The records of an evaluation: one for each image and attack, written to a journal and merged into one table."""

import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import polars as pl

from medrobust.results.columns import COLUMNS, MEASURES, SCORE_PATTERNS, TYPES, columns_in_order
from medrobust.results.manifest import naming, read_manifest, replace_file

SCHEMA = 2  # of the records that are written; those of schema 1 are read as well
KEYS = 3  # version of what decides a record; not of its columns
JOURNAL = "journal"
RECORDS = "records.parquet"
REMEDY = "; delete the line or the file, and its images are attacked again"
BLOCK = 32 * 2**20  # bytes parsed at a time: bounds the memory, and is large enough to keep all threads busy


class Journal:
    """The append-only file to which one rank writes its records: `journal/rank-<rank>-<n>.jsonl`.

    Every opening takes the next free n and thus a new file: a line that a killed process left incomplete is never
    continued, and no two processes share a file. The file is created with the first record.

    Args:
        folder: The folder of the evaluation.
        rank: Rank of this process, 0 or more.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        if rank < 0:
            raise ValueError(f"a rank is 0 or more, got {rank}")
        self.folder = Path(folder) / JOURNAL
        self.rank = rank
        self._file: io.FileIO | None = None

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records as whole lines in a single write, and hand them to the operating system before returning.

        Args:
            records: Mappings with the columns of `results.columns.COLUMNS` and any others; `schema` is added.

        Raises:
            ValueError: If a record lacks a column, has null in a column that needs a value, contradicts itself about
                success, or holds a number that is NaN or infinite. In that case nothing is written.
            OSError: They cannot be written, for lack of space or of the right to; names the file, which keeps all
                records of earlier calls.
        """
        lines = "".join(map(_line, records)).encode()
        if not lines:
            return
        if self._file is None:
            self._file = self._open()
        with naming(Path(self._file.name)):
            written = 0
            while written < len(lines):
                written += self._file.write(lines[written:])

    def close(self) -> None:
        """Close the file; a later `append` starts a new one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> io.FileIO:
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 0
        while True:
            try:
                # no buffer, whose rest would be written again when the file is closed on a full disk
                return (self.folder / f"rank-{self.rank}-{number}.jsonl").open("xb", buffering=0)
            except FileExistsError:
                number += 1

    def __enter__(self) -> Self:
        """Return the journal itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


def read_journal(folder: str | Path, keys: Collection[str] | None = None) -> pl.DataFrame:
    """All records of an evaluation, one row per (key, id): the first, in the order of ranks and files.

    Args:
        folder: The folder of the evaluation.
        keys: Attacks to keep, by key; all by default.

    Returns:
        The columns of `results.columns.COLUMNS` with those types, and any others, as `columns_in_order` has them.
        Records of schema 1 are returned as those of schema 2 that they stand for.

    Raises:
        ValueError: If a line other than a file's last is damaged, or a record has an unknown schema, a wrong type or
            no value where it needs one.
    """
    parts = [pl.DataFrame(schema=TYPES)]
    for path, frame in _blocks(folder):
        if keys is not None:
            frame = frame.filter(pl.col("key").is_in(list(keys)))
        parts.append(_current(frame, path))
    records = pl.concat(parts, how="diagonal_relaxed").unique(["key", "id"], keep="first", maintain_order=True)
    # a column of nulls alone has no type, and not every reader of parquet accepts that
    return records.select(columns_in_order(records.columns)).with_columns(pl.col(pl.Null).cast(pl.Float64))


def finished(folder: str | Path, keys: Collection[str] | None = None) -> dict[str, set[str]]:
    """The images that need not be attacked again: the ids in the journal, by the key of the attack.

    Every record is checked as `read_journal` does, so that a damaged one is found before anything is computed.

    Args:
        folder: The folder of the evaluation; it may not exist yet.
        keys: Attacks to look for, by key; each is in the result, with an empty set if need be. All by default.

    Raises:
        ValueError: As `read_journal`.
    """
    records = read_journal(folder, keys).select("key", "id")
    done: dict[str, set[str]] = {key: set() for key in keys or ()}
    for (key,), rows in records.group_by("key"):
        done.setdefault(str(key), set()).update(rows["id"])
    return done


class RecordedOutcome(NamedTuple):
    """What a victim made of a clean image: whether it was right, and how right (None if that is undefined)."""

    right: bool
    quality: float | None


def clean_outcomes(folder: str | Path, keys: Collection[str], count: int = 32) -> dict[str, RecordedOutcome]:
    """What some records say of clean images, by id: to be compared with what the victim makes of them now.

    Args:
        folder: The folder of the evaluation; it may not exist yet.
        keys: Attacks to look for, by key.
        count: At most so many images, of the first records that there are.

    Raises:
        ValueError: As `read_journal`.
    """
    records = read_journal(folder, keys).unique("id", keep="first", maintain_order=True).head(count)
    rows = records.select("id", "correct_before", "quality_before").iter_rows()
    return {id: RecordedOutcome(right, quality) for id, right, quality in rows}


def merge(folder: str | Path) -> pl.DataFrame:
    """Merge the journal into `records.parquet`: the attacks of the manifest, one row per (key, id).

    Rows are in the manifest's order of attack names, then by epsilon (None last), then by id. It is to be called on one
    process, at any time and as often as needed, even while other processes are still writing.

    Args:
        folder: The folder of the evaluation.

    Raises:
        ValueError: If the manifest or the journal is damaged.
    """
    attacks = read_manifest(folder)["attacks"]
    names = list(dict.fromkeys(entry["attack"] for entry in attacks))
    positions = {entry["key"]: names.index(entry["attack"]) for entry in attacks}
    records = read_journal(folder, positions.keys())
    order = [positions[key] for key in records["key"]]
    records = records.sort(pl.Series(order, dtype=pl.Int64), "epsilon", "id", "key", nulls_last=True)
    buffer = io.BytesIO()
    records.write_parquet(buffer)
    replace_file(Path(folder) / RECORDS, buffer.getvalue())
    return records


def read_records(path: str | Path) -> pl.DataFrame:
    """Read merged records as `read_journal` returns them.

    Args:
        path: The file `records.parquet`, or the folder that holds it: that of the evaluation, or of its run.

    Raises:
        ValueError: If the file does not exist, or a record has an unknown schema, a wrong type or no value where it
            needs one.
    """
    given = Path(path)
    places = (given / RECORDS, given / "evaluate" / RECORDS) if given.is_dir() else (given,)
    path = next((place for place in places if place.is_file()), places[0])
    if not path.is_file():
        raise ValueError(
            f"{' and '.join(map(str, places))} do{'' if len(places) > 1 else 'es'} not exist: run the "
            "evaluation again, which attacks no image anew"
        )
    try:
        records = pl.read_parquet(path, glob=False)  # a run's name may have brackets
    except (pl.exceptions.PolarsError, OSError) as error:
        what = str(error).splitlines()[0]
        raise ValueError(f"{path} is damaged ({what}): evaluate that run again, which attacks no image anew") from None
    _check_schema(records, path)
    return _current(records, path)


def _line(record: Mapping[str, Any]) -> str:
    missing = [name for name in COLUMNS if name not in record and name != "schema"]
    if missing:
        raise ValueError(f"a record has all columns of results.columns.COLUMNS, got one without {', '.join(missing)}")
    whose = f"image {record['id']!r} under attack {record['attack']!r}"
    nulls = [name for name, column in COLUMNS.items() if not column.nullable and record.get(name, 0) is None]
    if nulls:
        raise ValueError(f"a record needs a value of {', '.join(nulls)}, got null for {whose}")
    if record["success"] != (record["correct_before"] and record["reached"]):
        raise ValueError(
            f"success means correct_before and reached, got {record['success']} for {record['correct_before']} and "
            f"{record['reached']} of {whose}"
        )
    try:
        return json.dumps({"schema": SCHEMA} | dict(record) | {"schema": SCHEMA}, allow_nan=False) + "\n"
    except ValueError:
        wrong = [name for name, value in record.items() if isinstance(value, float) and not abs(value) < float("inf")]
        raise ValueError(f"NaN or infinity in {', '.join(wrong)} of {whose}: undefined values are None") from None


def _blocks(folder: str | Path) -> Iterator[tuple[Path, pl.DataFrame]]:
    """The journal in blocks of bounded size, in the order of ranks and files."""
    paths = Path(folder, JOURNAL).glob("*.jsonl")
    for path in sorted(paths, key=lambda path: [int(part) if part.isdigit() else part for part in _parts(path)]):
        line = 1
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                block += file.readline()
                yield path, _parse(block, path, line, last=not file.peek(1))
                line += block.count(b"\n")


def _parts(path: Path) -> list[str]:
    return re.split(r"(\d+)", path.name)  # text and numbers alternate, so rank-10 comes after rank-2


def _parse(block: bytes, path: Path, first: int, last: bool) -> pl.DataFrame:
    if last and not block.endswith(b"\n") and not _is_object(block[block.rfind(b"\n") + 1 :]):
        block = block[: block.rfind(b"\n") + 1]  # the process was killed while writing this line
    if not block.strip():
        return pl.DataFrame(schema=TYPES)
    try:
        frame = pl.read_ndjson(io.BytesIO(block), infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        for number, line in enumerate(block.split(b"\n"), first):
            if line.strip() and not _is_object(line):
                shown = repr(line[:60].decode(errors="replace"))
                raise ValueError(f"{path}, line {number} is damaged: {shown}{REMEDY}") from None
            for name, value in json.loads(line).items() if line.strip() else ():
                if name in TYPES and value is not None and not _fits(value, TYPES[name]):
                    got = type(value).__name__
                    raise ValueError(
                        f"{path}, line {number}: column '{name}' is {TYPES[name]}, got {got}{REMEDY}"
                    ) from None
        what = str(error).splitlines()[0]
        raise ValueError(f"{path}, lines {first} and following: {what}{REMEDY}") from None
    _check_schema(frame, path)
    for name in ("key", "id"):
        if name not in frame.columns or frame[name].null_count():
            raise ValueError(f"{path}: every record needs '{name}', got one without it{REMEDY}")
    return frame


def _is_object(line: bytes) -> bool:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        return isinstance(json.loads(line, parse_constant=refuse), dict)
    except ValueError:
        return False


def _check_schema(frame: pl.DataFrame, path: Path) -> None:
    found = set(frame["schema"].unique().to_list() if "schema" in frame.columns else [None])
    if unknown := found - {1, SCHEMA}:
        other = ", ".join(sorted(map(str, unknown)))
        raise ValueError(f"{path}: this version reads records of schema 1 and {SCHEMA}, got {other}")


def _current(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Records of a schema that is read as those of the current one: typed, in the table's order, with all values."""
    records = _from_schema_1(_typed(frame, path))
    for name, column in COLUMNS.items():
        if not column.nullable and (nulls := records[name].null_count()):
            raise ValueError(f"{path}: column '{name}' needs a value in every record, got {nulls} without one{REMEDY}")
    return records


def _typed(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Give the columns of the table their types and their order; any others follow."""
    columns = []
    for name, dtype in TYPES.items():
        column = frame[name] if name in frame.columns else pl.Series(name, [None] * len(frame), pl.Null)
        if column.null_count() == len(column):
            column = column.cast(pl.Null)  # whatever its type: nulls alone have been written as Float64
        if column.dtype != pl.Null and column.dtype != dtype and not (column.dtype.is_numeric() and dtype.is_numeric()):
            raise ValueError(f"{_place(path, name, dtype)}: column '{name}' is {dtype}, got {column.dtype}{REMEDY}")
        typed = column.cast(dtype)
        if column.dtype.is_float() and dtype.is_integer() and not (typed == column).all():
            raise ValueError(f"{path}: column '{name}' holds whole numbers, got fractions{REMEDY}")
        columns.append(typed)
    others = [column for column in frame.get_columns() if column.name not in TYPES]
    for column in others:
        measured = column.name in MEASURES or any(re.match(pattern, column.name) for pattern in SCORE_PATTERNS)
        if measured and not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
            place = _place(path, column.name, pl.Float64())
            raise ValueError(f"{place}: column '{column.name}' holds numbers, got {column.dtype}{REMEDY}")
    return pl.DataFrame(columns + others)


def _place(path: Path, name: str, dtype: pl.DataType) -> str:
    """Where a column's first value of another type stands: the file, and the line if it is a journal."""
    if path.suffix != ".jsonl":
        return str(path)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            value = json.loads(line).get(name) if _is_object(line) else None
            if value is not None and not _fits(value, dtype):
                return f"{path}, line {number}"
    return str(path)


def _fits(value: Any, dtype: pl.DataType) -> bool:
    """Whether a value of a journal can stand in a column of this type."""
    if isinstance(value, bool) or dtype == pl.Boolean:
        return isinstance(value, bool) and dtype == pl.Boolean
    return isinstance(value, str) if dtype == pl.String else isinstance(value, int | float)


def _from_schema_1(records: pl.DataFrame) -> pl.DataFrame:
    """Convert records of schema 1, whose `success` is what is now `reached` and which have no qualities."""
    old = pl.col("schema") == 1
    return records.with_columns(
        reached=pl.when(old).then("success").otherwise("reached"),
        success=pl.when(old).then(pl.col("correct_before") & pl.col("success")).otherwise("success"),
        quality_before=pl.when(~old).then("quality_before"),
        quality_after=pl.when(~old).then("quality_after"),
        schema=pl.lit(SCHEMA, pl.Int64()),
    )
