"""What runs were configured to do, key by key, and where that differs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medrobust.results.dashboard.tables import Column, Table
from medrobust.results.formats import printable

TRAINED, EVALUATED, RECORDED = "train.yaml", "evaluate.yaml", "manifest"
NAMES = ("name", "journal.run")
FOLDERS = ("journal.folder", "panels.folder", "detection.folder", "study.folder")  # that of the evaluation itself
LEFT_OUT = ("attacks", "run", "created", "command", "schema", "data.findings", "binding", "victim.quality")
ABSENT = "not there"
FRACTION = re.compile(r"[\d.]+/[\d.]+")  # a radius such as 8/255, which is no path of a run called 8
LONGEST = 160  # characters of a value that is shown


def configuration_of(folder: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """The configuration of a run and of one of its evaluations, flat.

    Args:
        folder: The folder of the evaluation; `train.yaml` lies in one of the two folders above it.
        manifest: Its manifest, for what no file of configuration says, such as versions.

    Returns:
        Values by `<file>: <key>`. The run's own name is left out, and is `RUN` in paths: it differs for sure.

    Raises:
        ValueError: If a file is not YAML.
    """
    own = str(manifest["run"])
    trained = next((place for place in (folder.parent / TRAINED, folder.parent.parent / TRAINED) if _lies(place)), None)
    training = dict(_flat(_read(trained))) if trained else {}
    evaluating = dict(_flat(_read(folder / EVALUATED))) if (folder / EVALUATED).is_file() else {}
    evaluating = {key: value for key, value in evaluating.items() if key not in FOLDERS}
    training = _without_names(training, {own, training.get("name", own)})
    evaluating = _without_names(evaluating, {own, evaluating.get("name", own)})
    recorded = {key: value for key, value in dict(_flat(manifest)).items() if not key.startswith(LEFT_OUT)}
    found = {f"{TRAINED}: {key}": value for key, value in training.items()}
    found |= {f"{EVALUATED}: {key}": value for key, value in evaluating.items()}
    return found | {f"{RECORDED}: {key}": value for key, value in recorded.items()}


def differing(configurations: Sequence[Mapping[str, str]]) -> dict[str, list[str | None]]:
    """The keys in which configurations differ.

    Args:
        configurations: As `configuration_of` gives them.

    Returns:
        By the key the value of each configuration: `ABSENT` where its file lacks the key, None where it has no such
        file at all, which is no difference. A key of an evaluation that differs just as that of the training is left
        out.
    """
    files = [{key.split(": ", 1)[0] for key in one} for one in configurations]
    found: dict[str, list[str | None]] = {}
    for key in dict.fromkeys(key for one in configurations for key in one):
        file, entry = key.split(": ", 1)
        values = [
            one.get(key, ABSENT) if file in present else None
            for one, present in zip(configurations, files, strict=True)
        ]
        trained = found.get(f"{TRAINED}: {entry}") if file == EVALUATED else None
        repeated = trained and all(a == b or None in (a, b) for a, b in zip(values, trained, strict=True))
        if len({value for value in values if value is not None}) > 1 and not repeated:
            found[key] = values
    return found


def configuration_table(names: Sequence[str], configurations: Sequence[Mapping[str, str]]) -> Table:
    """One row for each key and value that not all runs have, and the runs that have it."""
    rows = []
    for key, values in differing(configurations).items():
        file, entry = key.split(": ", 1)
        for value in dict.fromkeys(value for value in values if value is not None):
            having = [name for name, own in zip(names, values, strict=True) if own == value]
            rows.append({"file": file, "key": entry, "value": value, "runs": ", ".join(having)})
    return Table(
        "configuration",
        "Difference of the configurations",
        "Every key in which the runs differ, with its values and the runs that have each. Of an evaluation only what "
        "does not differ just as the training did.",
        (Column("file", "file"), Column("key", "key"), Column("value", "value"), Column("runs", "runs")),
        rows,
    )


def _without_names(values: Mapping[str, str], names: set[str]) -> dict[str, str]:
    """Values without those that repeat the name of the run, which stands as `RUN` in paths."""
    kept = {}
    for key, value in values.items():
        if key in NAMES and value in names:
            continue
        parts = [] if FRACTION.fullmatch(value) else value.split("/")
        kept[key] = "/".join("RUN" if part in names else part for part in parts) if len(parts) > 1 else value
    return kept


def _lies(place: Path) -> bool:
    return place.is_file()


def _read(path: Path) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads a hundred files in the time of ten
    try:
        return yaml.load(path.read_bytes(), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ValueError(f"{path} is not YAML") from None


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Entries of nested mappings by dotted keys; the class of an object stands under the object's own key."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            part = printable(str(key))
            name = prefix if part in ("class_path", "init_args") else f"{prefix}.{part}" if prefix else part
            yield from _flat(inner, name or part)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}[{number}]")
    else:
        words = "null" if value is None else str(value).lower() if isinstance(value, bool) else printable(str(value))
        yield prefix, words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"
