"""Writes the pages of results from stored summaries, so that no number on them is typed by hand."""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from medrobust.results.formats import (
    DASH,
    format_epsilon,
    format_interval,
    format_linf,
    format_measure,
    format_passes,
    format_percent,
    format_score,
)
from medrobust.results.manifest import replace_file
from medrobust.results.statistics import Z95
from medrobust.results.summary import SUMMARY, read_summary

PAGES = Path(__file__).resolve().parents[1] / "docs" / "results"
STORED, TEMPLATE = "stored", ".md.j2"
WIDTH = 96  # of a command on a page
DIGITS = 6  # of a stored number that are significant
# what of a summary is stored: what pages may quote
OF_MANIFEST = ("run", "created", "command", "code", "victim", "data", "versions")
OF_SUMMARY = ("rows", "worst_case", "classes", "masks", "boxes", "detection")
UNQUOTED = {  # long, or on no page
    *("roc", "reliability", "confusion", "points", "key", "method", "control", "images", "complete", "undefined"),
    *("broken_by", "n_timed", "mean_seconds", "specificity", "specificity_interval", "controls", "threshold"),
    *("fitted_positives", "wrong_signs", "quality_before", "quality_before_interval", "n_quality_before", "splits"),
    *("clean_accuracy", "clean_accuracy_interval", "n_quality_after", "attacks", "findings", "calibration_error"),
}
OF_SUMMARY_TOO = ("_accuracy", "_auroc", "_images", "_maps")  # figures whose numbers are in the summary or another one
LONGEST = 400  # rows of a figure's table that is stored; those of surfaces and scattered points have more


class Run:
    """An evaluation as a page quotes it.

    Args:
        name: Name of its file among the stored summaries.
        summary: What is stored of its summary.
    """

    def __init__(self, name: str, summary: Mapping[str, Any]) -> None:
        self.name, self.summary = name, summary
        self.clean: Mapping[str, Any] = summary["rows"][0]
        self.images: int = summary["rows"][0]["n"]

    @property
    def attacks(self) -> list[Mapping[str, Any]]:
        """The rows of attacks and controls, in their order."""
        return list(self.summary["rows"][1:])

    def row(self, attack: str, epsilon: str | float | None = None) -> Mapping[str, Any]:
        """The row of an attack, at a radius such as ``1/255`` where it has several.

        Raises:
            ValueError: There is none, or there are several.
        """
        return self._only(self.summary["rows"], f"row of {attack}", attack=attack, epsilon=epsilon)

    def worst(self, epsilon: str | float) -> Mapping[str, Any]:
        """The worst case at a radius.

        Raises:
            ValueError: There is none.
        """
        return self._only(self._part("worst_case"), "worst case", epsilon=epsilon)

    def detected(
        self, detector: str, attack: str, epsilon: str | float | None = None, fit: str = "same"
    ) -> Mapping[str, Any]:
        """The row of a detector under an attack.

        Raises:
            ValueError: There is none, or there are several.
        """
        rows = self.summary["detection"].get("rows", [])
        return self._only(rows, f"row of {detector}", detector=detector, attack=attack, epsilon=epsilon, fit=fit)

    def of_class(self, attack: str, name: str, epsilon: str | float | None = None) -> Mapping[str, Any]:
        """What an attack leaves of a class: its ``sensitivity`` with the interval, and ``n``.

        Raises:
            ValueError: There is no such row or class.
        """
        row = self._only(self._part("classes")["rows"], f"row of {attack}", attack=attack, epsilon=epsilon)
        names: list[str] = self._part("classes")["names"]
        if name not in names:
            raise ValueError(f"{self.name}: expected one of the classes {', '.join(names)}, got {name!r}")
        found: Mapping[str, Any] = row["classes"][names.index(name)]
        return found

    def masks(self, attack: str, epsilon: str | float | None = None) -> Mapping[str, Any]:
        """What an attack leaves of masks.

        Raises:
            ValueError: There is none, or there are several.
        """
        return self._only(self._part("masks")["rows"], f"row of {attack}", attack=attack, epsilon=epsilon)

    def boxes(self, attack: str, epsilon: str | float | None = None) -> Mapping[str, Any]:
        """What an attack leaves of boxes.

        Raises:
            ValueError: There is none, or there are several.
        """
        return self._only(self._part("boxes")["rows"], f"row of {attack}", attack=attack, epsilon=epsilon)

    def figure(self, name: str) -> list[Mapping[str, Any]]:
        """The numbers of a figure, such as ``saliency_concentration``; of images their means.

        Raises:
            ValueError: No such figure is stored.
        """
        stored = self.summary.get("figures", {})
        if name not in stored:
            raise ValueError(f"{self.name}: expected a stored figure, {', '.join(stored) or 'of none'}, got {name!r}")
        found: list[Mapping[str, Any]] = stored[name]
        return found

    def drawn(self, name: str, **wanted: Any) -> Mapping[str, Any]:
        """The one row of a figure's numbers that has the wanted values; ``epsilon`` is written as for `row`.

        Raises:
            ValueError: There is none, or there are several.
        """
        return self._only(self.figure(name), f"row of {name}", **wanted)

    def cosine(self, one: str, other: str) -> float:
        """The mean cosine between the changes of the features under two attacks (HFC21 Fig. 2b).

        Raises:
            ValueError: There is none, or there are several.
        """
        pairs = [{"of": {row["attack"], row["compared_with"]}, **row} for row in self.figure("directions_attacks")]
        return float(self._only(pairs, "cosine", of={one, other})["cosine"])

    @property
    def network(self) -> str:
        """The victim's network and its number of parameters, such as ``mobilenetv2_100, 2.4 M``."""
        victim = self.summary["manifest"]["victim"]
        return f"{victim['name']}, {victim['parameters'] / 1e6:.1f} M"

    @property
    def area(self) -> str:
        """AUROC on the clean images, in percent; a dash where there is none."""
        return format_score(self.summary["classes"]["rows"][0]["auroc"]) if self.summary.get("classes") else DASH

    @property
    def victim(self) -> str:
        """The run that was evaluated, without the evaluation's name."""
        return self.name.split(".")[0]

    @property
    def command(self) -> str:
        """The evaluation's command, or its commands one after the other, on several lines where one is long."""
        commands = str(self.summary["manifest"]["command"]).replace("\\n", "\n")  # as ``read_summary`` writes it
        return "\n".join(map(_folded, commands.splitlines()))

    def _part(self, name: str) -> Any:
        if name not in self.summary:
            raise ValueError(f"{self.name}: nothing is stored of {name}, only {', '.join(self.summary)}")
        return self.summary[name]

    def _only(self, rows: Sequence[Mapping[str, Any]], what: str, **wanted: Any) -> Mapping[str, Any]:
        radius = wanted.pop("epsilon", None)
        if unknown := next((name for name in wanted if rows and name not in rows[0]), None):
            raise ValueError(f"{self.name}: a {what} has {', '.join(rows[0])}, got {unknown!r}")
        found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
        if radius is not None:
            asked = radius if isinstance(radius, str) else format_epsilon(radius)
            found = [row for row in found if format_epsilon(row["epsilon"]) == asked]
        if len(found) != 1:
            where = f" at {radius}" if radius is not None else ""
            raise ValueError(f"{self.name}: expected one {what}{where}, found {len(found)}, of {wanted}")
        return found[0]


def _folded(command: str) -> str:
    """A command on several lines where it is long."""
    parts = command.replace(" -", "\n-").split("\n")
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) < WIDTH:
            lines[-1] += f" {part}"
        else:
            lines.append(f"  {part}")
    return " \\\n".join(lines)


def store(folders: Sequence[Path], place: Path = PAGES / STORED) -> list[Path]:
    """Store what pages quote of evaluations' summaries, each as RUN.json, or RUN.NAME.json of a named evaluation.

    An evaluation of fewer images than its split has (``--trainer.limit_test_batches``) is stored if all of its attacks
    have seen the same number of them, which the rows give.

    Args:
        folders: Folders of evaluations.
        place: Where the files go.

    Raises:
        ValueError: A folder has no summary, an attack lacks images that the clean row has, figures were drawn before
            the summary was written, or two have one name; nothing is stored.
    """
    found: dict[Path, tuple[Path, Any]] = {}
    for folder in folders:
        summary = read_summary(folder)
        lacking = [row["attack"] for row in summary["rows"] if row["n"] != summary["rows"][0]["n"]]
        if lacking:
            raise ValueError(f"{folder}: not every image has been attacked by {lacking[0]}: let the evaluation end")
        manifest = {name: summary["manifest"][name] for name in OF_MANIFEST if name in summary["manifest"]}
        kept = {name: summary[name] for name in OF_SUMMARY if summary.get(name)}
        own = folder.resolve()
        named = f".{own.name}" if own.parent.name in ("evaluations", "evaluate_on") else ""
        path = place / f"{manifest['run']}{named}.json"
        if path in found and found[path][0].resolve() != own:
            raise ValueError(f"{folder} and {found[path][0]} would both be stored as {path.name}: store one of them")
        if old := [path.name for path in _tables(own / "figures") if _age(path) < _age(own / SUMMARY)]:
            raise ValueError(f"{folder}: {old[0]} is older than {SUMMARY}: let the evaluation draw its figures anew")
        drawn = {"figures": figures} if (figures := _figures(own / "figures")) else {}
        found[path] = folder, _shortened({"manifest": manifest, "detection": {}, **kept, **drawn})
    return [replace_file(path, _compact(stored)) for path, (_, stored) in found.items()]


def _compact(stored: Mapping[str, Any]) -> bytes:
    """JSON with a line for each part, so that what changes can be seen."""
    words = {name: json.dumps(part, separators=(",", ":"), allow_nan=False) for name, part in stored.items()}
    parts = (f"{json.dumps(name)}: {part}" for name, part in words.items())
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def _figures(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The numbers of each figure whose table is not too long, of images their means with intervals."""
    tables = {path.stem: _of_images(pl.read_parquet(path)) for path in _tables(folder)}
    return {name: table.to_dicts() for name, table in tables.items() if 0 < len(table) <= LONGEST}


def _tables(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.parquet")) if not path.stem.endswith(OF_SUMMARY_TOO)]


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _of_images(table: pl.DataFrame) -> pl.DataFrame:
    """A figure's table; where it has a row an image, means and their intervals for each of its other names.

    A mean is over the images that have its number; ``n`` is the least of their counts.
    """
    table = table.drop("run", strict=False)
    if "image" not in table.columns:
        return table
    names = [name for name, kind in table.schema.items() if kind == pl.String and name != "image"]
    names += [name for name in ("epsilon", "label", "predicted") if name in table.columns and name not in names]
    rows = []
    for key, found in table.group_by(names, maintain_order=True) if names else [((), table)]:
        numbers = {
            name: found[name].cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy()
            for name, kind in found.schema.items()
            if name not in ("image", *names) and kind.is_numeric()
        }
        counts = [len(values) for values in numbers.values() if len(values)]
        row: dict[str, Any] = {**dict(zip(names, key, strict=True)), "n": min(counts, default=len(found))}
        for name, values in numbers.items():
            row[name] = float(values.mean()) if len(values) else None
            row[f"{name}_interval"] = _interval(values)
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def read_stored(place: Path = PAGES / STORED) -> dict[str, Run]:
    """The stored evaluations by name."""
    return {path.stem: Run(path.stem, json.loads(path.read_bytes())) for path in sorted(place.glob("*.json"))}


def _interval(values: NDArray[np.float64]) -> list[float] | None:
    """The 95 % interval of a mean by its standard error; None for a single value."""
    if len(values) < 2:
        return None
    half = Z95 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return [float(values.mean()) - half, float(values.mean()) + half]


def written_page(template: Path, runs: Mapping[str, Run]) -> str:
    """A page as its template says, with the numbers of the stored evaluations.

    In a template ``run("NAME")`` is a ``Run``; ``| rate("success_rate")`` writes a rate with its interval, ``| score``
    an area of 0 to 1, ``| epsilon`` a radius and ``| measure`` a mean.

    Raises:
        ValueError: The template asks for what is not stored.
    """

    def run(name: str) -> Run:
        if name not in runs:
            raise ValueError(f"{template.name} quotes {name!r}, and stored are {', '.join(sorted(runs)) or 'none'}")
        return runs[name]

    loader = jinja2.FileSystemLoader(template.parent)
    page = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    page.trim_blocks = page.lstrip_blocks = True
    page.filters |= FILTERS
    try:
        return page.get_template(template.name).render(run=run, runs=runs)
    except jinja2.UndefinedError as error:
        raise ValueError(f"{template.name}: {error.message}") from error


def rate(row: Mapping[str, Any], name: str = "accuracy_under_attack") -> str:
    """A rate in percent with its interval, such as ``36.7 (21.1–53.6)``; a dash where it is undefined.

    Raises:
        ValueError: There is no such rate.
    """
    if name not in row:
        raise ValueError(f"expected one of {', '.join(row)}, got {name!r}")
    if row[name] is None:
        return DASH
    interval = format_interval(row.get(f"{name}_interval"))
    return format_score(row[name]) + (f" ({interval})" if interval else "")


def score(row: Mapping[str, Any], name: str = "auroc") -> str:
    """An AUROC in percent with its interval; a dash where it is undefined."""
    return rate(row, name)


def decimals(value: float | None, digits: int = 2) -> str:
    """A number with a fixed count of decimals; a dash where it is undefined."""
    return DASH if value is None else f"{value:.{digits}f}"


def number(row: Mapping[str, Any], name: str, digits: int = 2) -> str:
    """A mean with its interval, such as ``0.43 (0.39–0.47)``; a dash where it is undefined."""
    if row[name] is None:
        return DASH
    interval = row.get(f"{name}_interval")
    return f"{row[name]:.{digits}f}" + (f" ({interval[0]:.{digits}f}–{interval[1]:.{digits}f})" if interval else "")


FILTERS = {
    **{"rate": rate, "score": score, "share": format_score, "percent": format_percent, "number": number},
    **{"decimals": decimals, "measure": format_measure, "passes": format_passes},
    **{"epsilon": format_epsilon, "linf": format_linf},
}


def _shortened(value: Any) -> Any:
    """A value without what no page quotes, and with numbers of few digits."""
    if isinstance(value, Mapping):
        return {name: _shortened(inner) for name, inner in value.items() if name not in UNQUOTED}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def main() -> None:
    """Store summaries, or write all pages of which there is a template."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluations", nargs="*", type=Path, metavar="FOLDER", help="evaluations to store first")
    arguments = parser.parse_args()
    try:
        paths = store(arguments.evaluations)
        runs = read_stored()
        for template in sorted(PAGES.glob(f"*{TEMPLATE}")):
            page = template.with_name(template.name.removesuffix(".j2"))
            paths.append(replace_file(page, written_page(template, runs).encode()))
    except ValueError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write("".join(f"{path}\n" for path in paths))


if __name__ == "__main__":
    main()
