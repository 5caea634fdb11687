"""The records of an evaluation: one for each image and attack, written to a journal and merged into one table."""

import io
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import polars as pl

from medrobust.results.columns import COLUMNS, TYPES
from medrobust.results.manifest import read_manifest, replace_file

SCHEMA = 2  # of the records that are written; those of schema 1 are read as well
KEYS = 2  # version of what decides a record; not of its columns
JOURNAL = "journal"
RECORDS = "records.parquet"
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
        self._file: IO[bytes] | None = None

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records as whole lines in a single write, and hand them to the operating system before returning.

        Args:
            records: Mappings with the columns of `results.columns.COLUMNS` and any others; `schema` is added.

        Raises:
            ValueError: If a record lacks a column, has null in a column that needs a value, contradicts itself about
                success, or holds a number that is NaN or infinite. In that case nothing is written.
        """
        lines = "".join(map(_line, records))
        if not lines:
            return
        if self._file is None:
            self._file = self._open()
        self._file.write(lines.encode())
        self._file.flush()

    def close(self) -> None:
        """Close the file; a later `append` starts a new one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> IO[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 0
        while True:
            try:
                return (self.folder / f"rank-{self.rank}-{number}.jsonl").open("xb")
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
        The columns of `results.columns.COLUMNS` in that order and with those types, then any others. Records of
        schema 1 are returned as those of schema 2 that they stand for.

    Raises:
        ValueError: If a line other than a file's last is damaged, or a record has an unknown schema, a wrong type or
            no value where it needs one.
    """
    parts = [pl.DataFrame(schema=TYPES)]
    for path, frame in _blocks(folder, None):
        if keys is not None:
            frame = frame.filter(pl.col("key").is_in(list(keys)))
        parts.append(_current(frame, path))
    records = pl.concat(parts, how="diagonal_relaxed").unique(["key", "id"], keep="first", maintain_order=True)
    # a column of nulls alone has no type, and not every reader of parquet accepts that
    return records.with_columns(pl.col(pl.Null).cast(pl.Float64))


def finished(folder: str | Path, keys: Collection[str] | None = None) -> dict[str, set[str]]:
    """The images that need not be attacked again: the ids in the journal, by the key of the attack.

    Args:
        folder: The folder of the evaluation; it may not exist yet.
        keys: Attacks to look for, by key; each is in the result, with an empty set if need be. All by default.

    Raises:
        ValueError: If a line other than a file's last is damaged, or a record has an unknown schema.
    """
    done: dict[str, set[str]] = {key: set() for key in keys or ()}
    for _, frame in _blocks(folder, {"schema": pl.Int64(), "key": pl.String(), "id": pl.String()}):
        for (key,), rows in frame.group_by("key"):
            if keys is None or key in done:
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
        path: The file `records.parquet`, or the folder that holds it.

    Raises:
        ValueError: If the file does not exist, or a record has an unknown schema, a wrong type or no value where it
            needs one.
    """
    path = Path(path) / RECORDS if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist: merge the journal of the evaluation first")
    records = pl.read_parquet(path)
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


def _blocks(folder: str | Path, schema: dict[str, pl.DataType] | None) -> Iterator[tuple[Path, pl.DataFrame]]:
    """The journal in blocks of bounded size, in the order of ranks and files; only the columns of `schema` if given."""
    paths = Path(folder, JOURNAL).glob("*.jsonl")
    for path in sorted(paths, key=lambda path: [int(part) if part.isdigit() else part for part in _parts(path)]):
        line = 1
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                block += file.readline()
                yield path, _parse(block, schema, path, line, last=not file.peek(1))
                line += block.count(b"\n")


def _parts(path: Path) -> list[str]:
    return re.split(r"(\d+)", path.name)  # text and numbers alternate, so rank-10 comes after rank-2


def _parse(block: bytes, schema: dict[str, pl.DataType] | None, path: Path, first: int, last: bool) -> pl.DataFrame:
    if last and not block.endswith(b"\n") and not _is_object(block[block.rfind(b"\n") + 1 :]):
        block = block[: block.rfind(b"\n") + 1]  # the process was killed while writing this line
    if not block.strip():
        return pl.DataFrame(schema=schema or TYPES)
    try:
        frame = pl.read_ndjson(io.BytesIO(block), schema=schema, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        for number, line in enumerate(block.split(b"\n"), first):
            if line.strip() and not _is_object(line):
                raise ValueError(f"{path}, line {number} is damaged: {line[:60].decode(errors='replace')!r}") from None
        raise ValueError(f"{path}, lines {first} and following: {error}") from None
    _check_schema(frame, path)
    for name in ("key", "id"):
        if name not in frame.columns or frame[name].null_count():
            raise ValueError(f"{path}: every record needs '{name}', got one without it")
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
            raise ValueError(f"{path}: column '{name}' needs a value in every record, got {nulls} without one")
    return records


def _typed(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Give the columns of the table their types and their order; any others follow."""
    columns = []
    for name, dtype in TYPES.items():
        column = frame[name] if name in frame.columns else pl.Series(name, [None] * len(frame), pl.Null)
        if column.null_count() == len(column):
            column = column.cast(pl.Null)  # whatever its type: nulls alone have been written as Float64
        if column.dtype != pl.Null and column.dtype != dtype and not (column.dtype.is_numeric() and dtype.is_numeric()):
            raise ValueError(f"{path}: column '{name}' is {dtype}, got {column.dtype}")
        typed = column.cast(dtype)
        if column.dtype.is_float() and dtype.is_integer() and not (typed == column).all():
            raise ValueError(f"{path}: column '{name}' holds whole numbers, got fractions")
        columns.append(typed)
    return pl.DataFrame(columns + [column for column in frame.get_columns() if column.name not in TYPES])


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
