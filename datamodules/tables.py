"""Tables of a dataset: the columns of a CSV file that it needs, and the image that each row names."""

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, NamedTuple

from pytorch_lightning.utilities import rank_zero_warn

from datamodules.samples import Sample, Target

SUFFIXES = (".jpeg", ".jpg", ".png")
DELIMITERS = ",;\t"

Columns = Mapping[str, Sequence[str]]  # what a cell is called here, and the names that its column may have


class Row(NamedTuple):
    """One row of a table.

    Args:
        file: The table.
        number: Number of the line on which the row ends; the header is row 1.
        cells: The needed cells by their names, without surrounding spaces; a missing optional column has none.
    """

    file: Path
    number: int
    cells: dict[str, str]

    def __str__(self) -> str:
        """Where it stands."""
        return f"{self.file}, row {self.number}"


def read_table(
    path: Path, columns: Columns, optional: Columns | None = None, refuse: Callable[[str, str], None] | None = None
) -> list[Row]:
    """The rows of a CSV file, of which only the named columns are kept, wherever these stand.

    The file is in UTF-8 with or without a byte order mark, with any line ends. Values are separated by commas,
    semicolons or tabs, as in the header. Letter case of column names and empty lines do not matter.

    Args:
        path: The file.
        columns: Needed columns: for each, the names under which it is known.
        optional: Columns that may be missing, and whose cells may be empty.
        refuse: Takes the first cell and the error of a row with an empty needed value, and may raise it as a
            ValueError; such a row is left out. None raises it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no CSV file, a needed column is missing or there twice, a row has too few or too many
            values, or a needed value is empty; the message names the file and the row.
    """
    if not path.is_file():
        names = ", ".join(known[0] for known in columns.values())
        raise FileNotFoundError(f"{path}: expected a CSV file with the columns {names}, found no file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            delimiter = max(DELIMITERS, key=first.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            places = _places(path, header, columns, required=True) | _places(path, header, optional or {})
            try:
                return list(_rows(path, reader, len(header), places, columns, refuse or _raise))
            except csv.Error as error:
                raise ValueError(f"{path}, row {reader.line_num}: expected a row of a CSV file, got {error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a CSV file in UTF-8, got {error}") from None
    except OSError as error:
        raise ValueError(f"{path}: expected a CSV file, but it cannot be read ({error.strerror})") from None


def has_columns(path: Path, columns: Columns) -> bool:
    """Whether a file is a table with all of these columns."""
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8-sig") as file:
        first = file.readline()
        names = {name.strip().strip('"').casefold() for name in first.split(max(DELIMITERS, key=first.count))}
        return all(any(name.casefold() in names for name in known) for known in columns.values())
    return False


def _places(path: Path, header: Sequence[str], columns: Columns, required: bool = False) -> dict[str, int]:
    """The place of each column in the header."""
    folded = [name.casefold() for name in header]
    places = {}
    for name, known in columns.items():
        found = next((one.casefold() for one in known if one.casefold() in folded), None)
        if found is None:
            if required:
                wanted = ", ".join(" or ".join(names) for names in columns.values())
                got = ", ".join(header) or "an empty file"
                raise ValueError(f"{path}, row 1: expected the columns {wanted}, missing {known[0]}, got {got}")
            continue
        if folded.count(found) > 1:
            raise ValueError(f"{path}, row 1: expected the column {header[folded.index(found)]} once, got it twice")
        places[name] = folded.index(found)
    return places


def _raise(name: str, error: str) -> None:
    raise ValueError(error)


def _rows(
    path: Path,
    reader: Any,
    width: int,
    places: Mapping[str, int],
    required: Columns,
    refuse: Callable[[str, str], None],
) -> Iterator[Row]:
    """The rows below a header of so many columns."""
    for values in reader:
        if not any(map(str.strip, values)):
            continue
        number = reader.line_num
        if len(values) > width and any(map(str.strip, values[width:])):
            raise ValueError(f"{path}, row {number}: expected {width} values as in the header, got {len(values)}")
        if len(values) <= max(places.values(), default=0):
            raise ValueError(f"{path}, row {number}: expected {width} values as in the header, got {len(values)}")
        cells = {name: values[place].strip() for name, place in places.items()}
        if empty := [name for name in required if not cells[name]]:
            error = f"{path}, row {number}: expected a value of {required[empty[0]][0]}, got an empty cell"
            refuse(cells[next(iter(required))] or f"row {number}", error)
            continue
        yield Row(path, number, cells)


def files_below(top: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder and each one below it, with the names of its files, sorted.

    Dot files and an archiver's leftovers are left out. Links to folders are followed, but not back: no folder is read
    twice, and none that the first one lies in.
    """
    seen, start = set[str](), os.path.realpath(top)
    for folder, below, files in os.walk(top, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or start.startswith(os.path.join(real, "")):
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith(".") and name != "__MACOSX")
        yield folder, sorted(name for name in files if not name.startswith("."))


class ImageFiles:
    """The image files below some folders, found by their names without suffix.

    Args:
        base: Folder to which ids are relative.
        folders: The folders, searched with all that lies in them but dot files and an archiver's leftovers.
        suffixes: Suffixes of images, in lower case.
    """

    def __init__(self, base: Path, folders: Sequence[Path], suffixes: Sequence[str] = SUFFIXES) -> None:
        self.base, self.folders, self.suffixes = base, list(folders), tuple(suffixes)
        self.twins: dict[str, tuple[str, str]] = {}
        self.ids: dict[str, str] = {}
        cut = len(str(base)) + 1
        for top in self.folders:
            for folder, files in files_below(top):
                for file in files:
                    stem, suffix = os.path.splitext(file)
                    if suffix.lower() not in self.suffixes:
                        continue
                    id = f"{folder}/{file}"[cut:].replace(os.sep, "/")
                    if (other := self.ids.setdefault(stem, id)) != id:
                        self.twins[stem] = (min(other, id), max(other, id))

    def __len__(self) -> int:
        return len(self.ids)

    def stem(self, name: str) -> str:
        """A name without the suffix of an image."""
        stem, suffix = os.path.splitext(name)
        return stem if suffix.lower() in self.suffixes else name

    def find(self, name: str) -> str:
        """The id of the image that a cell names, with or without its suffix.

        Raises:
            ValueError: There is no such image, or several.
        """
        stem = self.stem(name)
        if stem in self.twins:
            raise ValueError(f"expected one image {name!r}, found {' and '.join(self.twins[stem])}")
        if stem not in self.ids:
            places = ", ".join(folder.relative_to(self.base).as_posix() for folder in self.folders) or "no folder"
            raise ValueError(f"expected the image {name!r} in {places if places != '.' else 'the root'}, found none")
        return self.ids[stem]


class Labelled(NamedTuple, Generic[Target]):
    """What a row says of its image.

    Args:
        target: The sample's target.
        patient: Id of the patient, the lesion, or whatever else must not be in two splits; None if nobody knows.
    """

    target: Target
    patient: str | None = None


def samples_of_rows(
    rows: Sequence[Row],
    images: ImageFiles,
    label: Callable[[Row], Labelled[Target] | None],
    refuse: Callable[[str, str], None],
) -> list[Sample[Target]]:
    """A sample for each row whose image is to be used, sorted by id.

    An image without a row is left out; a warning says how many there are. Rows are bad if they name an image that is
    missing or that another row names already, or if ``label`` raises a ValueError. If bad rows are skipped and two rows
    name an image with different labels, both are left out.

    Args:
        rows: The rows, with the name of an image in the cell ``image``.
        images: The image files.
        label: What a row says, or None if the dataset leaves such images out; a ValueError says what is wrong with it.
        refuse: Takes the name and the error of a bad row, and may raise it as a ValueError.
    """
    found: dict[str, tuple[Row, Labelled[Target] | None]] = {}
    disputed = set()
    names = [images.stem(row.cells["image"]) for row in rows]
    for row, name in zip(rows, names, strict=True):
        try:
            if name in found:
                raise ValueError(
                    f"expected each image once, got {row.cells['image']!r} again after row {found[name][0].number}"
                )
            labelled = label(row)
            if labelled is not None:
                images.find(row.cells["image"])
        except ValueError as error:
            refuse(row.cells["image"], f"{row}: {error}")
            if name in found:
                with suppress(ValueError):
                    if label(row) == found[name][1]:
                        continue
                disputed.add(name)
            continue
        found[name] = (row, labelled)
    for name in sorted(disputed):
        row, _ = found[name]
        refuse(row.cells["image"], f"{row}: expected each image with one label, got {name!r} again with another one")
    if unnamed := sorted(images.ids[stem] for stem in images.ids.keys() - set(names)):
        are = "image that is" if len(unnamed) == 1 else "images that are"
        table = rows[0].file.name if rows else "the table"
        rank_zero_warn(f"{images.base}: left out {len(unnamed)} {are} not in {table}, first {unnamed[0]}")
    samples = []
    for name, (_, labelled) in found.items():
        if labelled is not None and name not in disputed:
            id = images.ids[name]
            patient = name if labelled.patient is None else labelled.patient
            samples.append(Sample(images.base / id, id, labelled.target, patient))
    return sorted(samples, key=lambda sample: sample.id)
