"""Datasets whose images a table names: layouts, splits, and every kind of bad row."""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules import KaggleDR
from datamodules.base import MedicalDataModule
from datamodules.splits import Fractions
from tests.miniatures import TABLES, TableLayout, picture

QUARTERS = Fractions(0.25, 0.25, 0.25, 0.25)


@pytest.fixture(params=TABLES)
def layout(request: pytest.FixtureRequest) -> TableLayout:
    """Each of the layouts."""
    return TABLES[request.param]


def data(layout: TableLayout, root: Path, **options: Any) -> MedicalDataModule[Any]:
    """The data module, before it is set up."""
    return layout.module(root, **{"image_size": 8, "fractions": QUARTERS, **layout.options} | options)


def set_up(layout: TableLayout, root: Path, **options: Any) -> MedicalDataModule[Any]:
    """The data module, set up."""
    module = data(layout, root, **options)
    module.setup()
    return module


def of_splits(module: MedicalDataModule[Any]) -> dict[str, list[str]]:
    """The ids of each split."""
    return {split: [sample.id for sample in members] for split, members in module.splits.items()}


def edit(layout: TableLayout, root: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Change the lines of the table."""
    lines = (root / layout.table).read_text().splitlines()
    (root / layout.table).write_text("\n".join(change(lines)) + "\n")


def first_used(layout: TableLayout, root: Path) -> int:
    """Number of the first row, of which the header is 1, whose image is used."""
    used = {row[layout.name] for row, target in zip(layout.rows, layout.targets, strict=True) if target is not None}
    lines = (root / layout.table).read_text().splitlines()
    return next(n for n, line in enumerate(lines, 1) if n > 1 and line.split(",")[layout.name] in used)


def test_samples_are_what_the_rows_say(layout: TableLayout, tmp_path: Path) -> None:
    module = data(layout, layout.write(tmp_path))
    samples = module.index()
    expected = {
        layout.image(row[layout.name]): target
        for row, target in zip(layout.rows, layout.targets, strict=True)
        if target is not None
    }
    assert {sample.id: sample.target for sample in samples} == expected
    assert [sample.id for sample in samples] == sorted(expected)
    assert all(sample.path == tmp_path / sample.id and sample.path.is_file() for sample in samples)
    assert len({sample.patient for sample in samples}) == layout.patients


def test_splits_are_disjoint_by_patient_stratified_and_independent_of_order(
    layout: TableLayout, tmp_path: Path
) -> None:
    module = set_up(layout, layout.write(tmp_path / "one"))
    for one, other in itertools.combinations(module.splits.values(), 2):
        assert not {sample.patient for sample in one} & {sample.patient for sample in other}
    strata = Counter(sample.stratum for members in module.splits.values() for sample in members)
    for members in module.splits.values():
        counts = Counter(sample.stratum for sample in members)
        assert all(abs(counts[stratum] - total / 4) <= 3 for stratum, total in strata.items())
    again = set_up(layout, layout.write(tmp_path / "two/other", seed=1))
    assert of_splits(again) == of_splits(module)
    assert again.fingerprint("adv_test") == module.fingerprint("adv_test")
    assert of_splits(set_up(layout, tmp_path / "one", split_seed=1)) != of_splits(module)


@pytest.mark.parametrize("name", ["10_left", "10_right.jpeg", "10_LEFT", "10_Right.JPEG", "10_left.png"])
@pytest.mark.parametrize("patient", ["", "a.", "a b.c."])
def test_the_eyes_of_a_patient_whatever_its_name(name: str, patient: str) -> None:
    assert KaggleDR("data").patient_of(patient + name) == f"{patient}10"


def test_a_batch_and_a_changed_image(layout: TableLayout, tmp_path: Path) -> None:
    module = set_up(layout, layout.write(tmp_path))
    (batch,) = itertools.islice(module.test_dataloader(), 1)
    assert batch["image"].shape[1:] == (3, 8, 8) and len(batch["target"]) == len(batch["id"])
    picture(tmp_path / batch["id"][0], 10_000)
    changed = set_up(layout, tmp_path)
    assert changed.fingerprint("adv_test") != module.fingerprint("adv_test")
    assert changed.fingerprint("train") == module.fingerprint("train")


@pytest.mark.parametrize("kind", ["other order", "byte order mark", "quotes", "line ends", "semicolons", "upper case"])
def test_columns_are_found_wherever_they_stand(layout: TableLayout, kind: str, tmp_path: Path) -> None:
    root = layout.write(tmp_path)
    expected = data(layout, root).index()
    lines = (root / layout.table).read_text().splitlines()
    rows = [line.split(",") for line in lines]
    text = {
        "other order": "\n".join(",".join([*row[::-1], "more"]) for row in rows),
        "byte order mark": "\ufeff" + "\n".join(lines),
        "quotes": "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows),
        "line ends": "\r\n".join(lines) + "\r\n\r\n",
        "semicolons": "\n".join(";".join(row) for row in rows),
        "upper case": "\n".join([lines[0].upper(), *lines[1:]]),
    }[kind]
    (root / layout.table).write_bytes(text.encode())
    assert data(layout, root).index() == expected


def test_a_missing_column(layout: TableLayout, tmp_path: Path) -> None:
    root = layout.write(tmp_path)
    place, _ = layout.label
    edit(layout, root, lambda lines: [lines[0].replace(layout.header[place], "unknown"), *lines[1:]])
    with pytest.raises(ValueError, match="row 1: expected the columns .*, missing|expected one CSV file"):
        set_up(layout, root, on_bad_sample="skip")


BAD = ["without its image", "duplicate", "unknown label", "no label", "truncated image"]


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_named_or_skipped_and_counted(layout: TableLayout, kind: str, tmp_path: Path) -> None:
    root = layout.write(tmp_path)
    before = data(layout, root).index()
    row = first_used(layout, root)
    cells = (root / layout.table).read_text().splitlines()[row - 1].split(",")
    name, place = cells[layout.name], root / layout.table
    path = root / layout.image(name)
    if kind == "without its image":
        path.unlink()
        words, lost = f"{place}, row {row}: expected the image '{name}' in .*, found none", 1
    elif kind == "duplicate":
        edit(layout, root, lambda lines: [*lines, lines[row - 1]])
        number = len(layout.rows) + 2
        words, lost = f"{place}, row {number}: expected each image once, got '{name}' again after row {row}", 0
    elif kind in ("unknown label", "no label"):
        where, label = layout.label
        label = label if kind == "unknown label" else " "
        cells[where] = label
        edit(layout, root, lambda lines: [*lines[: row - 1], ",".join(cells), *lines[row:]])
        words, lost = f"{place}, row {row}: expected .*, got .*{label.strip() or 'empty|row .*: expected 1 for one'}", 1
    else:
        path.write_bytes(path.read_bytes()[:-60])
        words, lost = f"{path}: expected a complete", 1
    with pytest.raises(ValueError, match=words):
        module = set_up(layout, root)
        for split in module.splits:
            module.fingerprint(split)
    total = len(before) if kind != "duplicate" else len(before) + 1
    with pytest.warns(UserWarning, match=f"skipped 1 of {total} images that cannot be read"):
        skipped = set_up(layout, root, on_bad_sample="skip")
    assert len(skipped.bad_samples) == 1 and str(root) not in skipped.bad_samples[0][1]
    assert name in skipped.bad_samples[0][0]
    assert skipped.describe()["skipped"] == 1
    assert sum(map(len, skipped.splits.values())) == len(before) - lost


def test_an_image_with_two_labels_is_left_out(layout: TableLayout, tmp_path: Path) -> None:
    root = layout.write(tmp_path)
    before = data(layout, root).index()
    lines = (root / layout.table).read_text().splitlines()
    row = first_used(layout, root)
    cells = lines[row - 1].split(",")
    other = next(
        line.split(",") for line in lines[row:] if len(labels(layout, line) & labels(layout, lines[row - 1])) == 0
    )
    other[layout.name] = cells[layout.name]
    edit(layout, root, lambda lines: [*lines, ",".join(other)])
    with pytest.warns(UserWarning, match="skipped 2 of"):
        module = set_up(layout, root, on_bad_sample="skip")
    kept = {sample.id for members in module.splits.values() for sample in members}
    assert {sample.id for sample in before} - kept == {layout.image(cells[layout.name])}


def labels(layout: TableLayout, line: str) -> set[Any]:
    """The target of a line, as a set."""
    name = line.split(",")[layout.name]
    found = [t for row, t in zip(layout.rows, layout.targets, strict=True) if row[layout.name] == name]
    return set(found) if found[0] is not None else set()


def lacks_first(target: Any) -> bool:
    """Whether a target is that of an image of the second class, or of one without the first label."""
    return not target[0] if isinstance(target, tuple) else target == 1


def test_an_empty_class(layout: TableLayout, tmp_path: Path) -> None:
    root = layout.write(tmp_path)
    keep = {row[layout.name] for row, target in zip(layout.rows, layout.targets, strict=True) if lacks_first(target)}
    edit(layout, root, lambda lines: [lines[0], *(one for one in lines[1:] if one.split(",")[layout.name] in keep)])
    name = data(layout, root).class_names[0]
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match=f"expected images of the class {name}, found none"),
    ):
        set_up(layout, root)


def test_wrong_roots(layout: TableLayout, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected .*, found no folder"):
        set_up(layout, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises((FileNotFoundError, ValueError), match="expected .*, found no"):
        set_up(layout, tmp_path / "empty")


def test_configured_by_name(layout: TableLayout, tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MedicalDataModule, "data")
    options = [f"--data.{name}={value}" for name, value in layout.options.items()]
    configured = parser.parse_args(["--data", layout.module.__name__, f"--data.root={tmp_path}", *options])
    module = parser.instantiate(configured).data
    assert type(module) is layout.module and all(getattr(module, name) == v for name, v in layout.options.items())
