"""Detection as grids of detectors by attacks, from which tables and figures are made."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from medrobust.results.formats import format_epsilon, format_interval, format_percent, format_score
from medrobust.results.report.svg import shorten

SAME = "same"  # the fit where every attack has a classifier of its own
THRESHOLDS = (
    "A detector flags an image whose score is above its threshold, which was set when the detector was fitted: "
    "{passing} of the clean images of AdvTrain score no higher when a classifier scores them that was fitted without "
    "their patients."
)
OLD = (
    "A dash stands for thresholds, or scores of random signs, that are not in these records: no detector could be "
    "fitted, no threshold could be set, or the records are of an earlier version that kept none, which another "
    "evaluation adds."
)
TOO_FEW = "no interval"  # there are too few patients for one
FLAGGED = {"clean": "clean", "noisy": "noisy", "signs": "signs", "unsuccessful": "failed"}  # and what they are called

Row = Mapping[str, Any]


class AttackColumn(NamedTuple):
    """One attack at one radius."""

    attack: str
    epsilon: float | None
    key: str
    swept: bool  # whether the radius has to be named, because an attack has several
    n_positive: int  # scores of adversarial images, of the detector that has most
    n_negative: int  # the same of clean and noisy images

    @property
    def short(self) -> str:
        """The attack's name, shortened if it is long."""
        return shorten(self.attack, 16)

    @property
    def label(self) -> str:
        """The attack's name, with its radius where several are shown."""
        return f"{self.attack} {format_epsilon(self.epsilon)}" if self.swept else self.attack


class Grid(NamedTuple):
    """How well each detector recognises each attack, with classifiers that were fitted on the same attack."""

    fit: str
    columns: list[AttackColumn]
    lines: list[tuple[str, list[Row]]]  # detector, and its row of the summary for each column

    @property
    def title(self) -> str:
        """What the classifiers were fitted on."""
        return "fitted on the same attack" if self.fit == SAME else f"fitted on {self.fit}"

    @property
    def has_scores(self) -> bool:
        """Whether any detector has scored an image."""
        return any(row["n_positive"] + row["n_negative"] for _, rows in self.lines for row in rows)

    @property
    def has_thresholds(self) -> bool:
        """Whether any detector has a threshold."""
        return any(row.get("threshold") is not None for _, rows in self.lines for row in rows)

    @property
    def is_complete(self) -> bool:
        """Whether any detector has a threshold, and any a score of random signs."""
        return self.has_thresholds and any(control(row, "signs") is not None for _, rows in self.lines for row in rows)


class Cell(NamedTuple):
    """One number of a table of details."""

    value: str
    interval: str
    n: int | None  # images that it is a share of; None for an AUROC


class Details(NamedTuple):
    """All numbers of all detectors on one attack."""

    column: AttackColumn
    lines: list[tuple[str, list[Cell]]]  # of each detector, under the headings of `DETAILS`


# Headings of the details, in groups: of a group, and of its columns.
DETAILS = (
    ("AUROC", ("attack", "signs", "failed")),
    ("flagged at the fitted threshold", ("attack (TPR)", "clean", "noisy", "signs", "failed")),
    ("at the ideal threshold", ("TPR",)),
)


def detection_grids(summary: Mapping[str, Any]) -> list[Grid]:
    """Arrange the summary's rows of detection in grids of detectors by attacks, one for each fit.

    Args:
        summary: As `summarise` returns it.

    Returns:
        The grids in the order of the fits; empty without detection.
    """
    found = summary.get("detection") or {}
    grids = []
    for fit in found.get("fits", ()) if found.get("rows") else ():
        rows = {(row["key"], row["detector"]): row for row in found["rows"] if row["fit"] == fit}
        attacks = {row["key"]: (row["attack"], row["epsilon"]) for row in rows.values()}
        swept = len({epsilon for _, epsilon in attacks.values()}) > 1
        columns = []
        for key, (attack, epsilon) in attacks.items():
            counts = [
                [row[name] for row in rows.values() if row["key"] == key] for name in ("n_positive", "n_negative")
            ]
            columns.append(AttackColumn(attack, epsilon, key, swept, max(counts[0]), max(counts[1])))
        lines = [(name, [rows[column.key, name] for column in columns]) for name in found["detectors"]]
        grids.append(Grid(fit, columns, lines))
    return grids


def control(row: Row, name: str) -> float | None:
    """AUROC of a control of a row against the same negatives; None in a summary of an earlier version."""
    value: float | None = (row.get("controls") or {}).get(name)
    return value


def flagged(row: Row, name: str) -> Mapping[str, Any]:
    """Share of a kind of image that a row's detector flags, with its interval and n; all of it undefined if unknown."""
    found: Mapping[str, Any] = (row.get("flagged") or {}).get(name) or {"rate": None, "interval": None, "n": 0}
    return found


def area_interval(row: Row) -> str:
    """Interval of a row's AUROC, or words that say that there is none, for want of patients."""
    if row["auroc"] is not None and row["auroc_interval"] is None:
        return TOO_FEW
    return format_interval(row["auroc_interval"])


def rate_with_interval(row: Row) -> str:
    """The TPR at the fitted threshold with its interval."""
    share = flagged(row, "successful")
    return with_interval(share["rate"], format_interval(share["interval"]))


def with_interval(value: float | None, interval: str) -> str:
    """A rate in percent with its interval in brackets, if it has one."""
    return format_score(value) + (f" ({interval})" if interval else "")


def beside_area(row: Row) -> list[str]:
    """The lines below an AUROC: that of each control which has one."""
    areas = {"signs": control(row, "signs"), "failed": control(row, "unsuccessful")}
    return [" · ".join(f"{name} {format_score(area)}" for name, area in areas.items() if area is not None)]


def beside_rate(row: Row) -> list[str]:
    """The lines below a TPR: the false alarms on clean and noisy images, and what of the controls is flagged."""
    shares = [(name, flagged(row, kind)["rate"]) for kind, name in FLAGGED.items()]
    words = [f"{name} {format_score(rate)}" for name, rate in shares if rate is not None]
    return [" · ".join(words[:2]), " · ".join(words[2:])]


def details(grid: Grid) -> list[Details]:
    """Every number of a grid, attack by attack."""
    found = []
    for place, column in enumerate(grid.columns):
        lines = []
        for name, rows in grid.lines:
            row = rows[place]
            cells = [Cell(format_score(row["auroc"]), area_interval(row), None)]
            cells += [Cell(format_score(control(row, kind)), "", None) for kind in ("signs", "unsuccessful")]
            for kind in ("successful", *FLAGGED):
                share = flagged(row, kind)
                cells.append(Cell(format_score(share["rate"]), format_interval(share["interval"]), share["n"]))
            cells.append(Cell(format_score(row["tpr"]), format_interval(row["tpr_interval"]), row["n_positive"]))
            lines.append((name, cells))
        found.append(Details(column, lines))
    return found


def threshold_note(summary: Mapping[str, Any]) -> str:
    """How thresholds were set, or that there are none; nothing where no detector has scored an image."""
    grids = [grid for grid in detection_grids(summary) if grid.has_scores]
    detection = summary["manifest"].get("listeners", {}).get("detection") or {}
    passing = (detection.get("threshold") or {}).get("passing")
    told = (
        ""
        if passing is None or not any(grid.has_thresholds for grid in grids)
        else THRESHOLDS.format(passing=format_percent(passing).replace(".0", ""))
    )
    return " ".join(filter(None, (told, "" if all(grid.is_complete for grid in grids) else OLD)))
