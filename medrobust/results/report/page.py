"""The report of an evaluation: one self-contained page of its tables, figures, flags and pictures."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Template
from markupsafe import Markup

from medrobust.results.columns import MEASURES
from medrobust.results.defences import defences_of
from medrobust.results.detection import TNR
from medrobust.results.evaluations import further_name
from medrobust.results.evidence import EVIDENCE, evidence_shown, write_evidence
from medrobust.results.formats import (
    DASH,
    LEVELS,
    capitalised,
    flag_place,
    format_epsilon,
    format_linf,
    format_measure,
    format_parameters,
    format_passes,
    printable,
)
from medrobust.results.manifest import replace_file
from medrobust.results.records import RECORDS, merge
from medrobust.results.report import boxes, masks
from medrobust.results.report.behind import cost_table, radius_table, roc_table
from medrobust.results.report.chosen import BUDGET, choose_pictures
from medrobust.results.report.classes import ClassGroup, class_groups
from medrobust.results.report.detection_grids import (
    DETAILS,
    area_interval,
    beside_area,
    beside_rate,
    details,
    detection_grids,
    flagged,
    threshold_note,
)
from medrobust.results.report.figures import accuracy_figure, cost_figure, quality_figure
from medrobust.results.report.first_page import Shown, first_page
from medrobust.results.report.panels import read_panels
from medrobust.results.report.roc_curves import roc_figure, roc_note
from medrobust.results.report.studied_figures import studied_figures
from medrobust.results.report.svg import STYLE
from medrobust.results.report.tables import dense_tables
from medrobust.results.report.templating import environment, glue
from medrobust.results.statistics import FEWEST
from medrobust.results.summary import QUALITIES, SUMMARY, columns_shown, write_summary
from medrobust.results.verdict import verdict
from medrobust.results.wording import is_dense, quality_meaning, quality_name, right_meaning

REPORT = "report.html"
WORDS = {"dash": DASH, "levels": LEVELS}


def finish(folder: str | Path, budget: int = BUDGET) -> dict[str, Any]:
    """Turn the journal of an evaluation into its results: records.parquet, summary.json, evidence.json and report.html.

    It is to be called on one process. While an evaluation is under way, the results show what there is so far and flag
    what is missing.

    Args:
        folder: The folder of the evaluation, with `manifest.json` and `journal/`.
        budget: Bytes that pictures may take in the report.

    Returns:
        The summary, with the paths of `records`, `summary`, `evidence` and `report` under `paths`.

    Raises:
        ValueError: If the manifest or the journal is missing or damaged.
    """
    folder = Path(folder)
    merge(folder)
    summary = write_summary(folder)
    write_evidence(folder, summary)
    paths = {"records": folder / RECORDS, "summary": folder / SUMMARY, "evidence": folder / EVIDENCE}
    return {**summary, "paths": {**paths, "report": write_report(folder, budget)}}


def write_report(folder: str | Path, budget: int = BUDGET) -> Path:
    """Write `report.html` from the summary and the panels of an evaluation; the page needs no other file or network.

    Args:
        folder: The folder of the evaluation, with `summary.json`.
        budget: Bytes that pictures may take.

    Raises:
        ValueError: If there is no summary yet.
    """
    folder = Path(folder)
    path = folder / SUMMARY
    if not path.is_file():
        raise ValueError(f"{path} does not exist: summarise the records of the evaluation first")
    summary = json.loads(path.read_bytes())
    groups = read_panels(folder, summary["manifest"])
    pictures = choose_pictures(groups, _first_shown(groups, summary), budget)
    panels = pictures.groups
    tnr = (summary.get("detection") or {}).get("tnr", TNR)
    page = _template().render(
        manifest=summary["manifest"],
        further=printable(further_name(folder)),
        defences=defences_of(summary["manifest"]),
        rows=summary["rows"],
        qualities=[name for name in columns_shown(summary["manifest"]) if name in QUALITIES],
        clean=summary["rows"][0],
        worst_case=summary["worst_case"],
        checks=summary["checks"],
        flags=summary["flags"],
        **first_page(summary),
        **_columns(summary["rows"]),
        **_figures(summary),
        **_quality_values(summary),
        detection=[
            (
                grid,
                Shown(f"ROC of detectors {grid.title}", Markup(roc_figure(grid, tnr)), [roc_table(grid)]),
                roc_note(grid),
            )
            for grid in detection_grids(summary)
        ],
        tnr=tnr,
        threshold_note=threshold_note(summary),
        detector_classes=_detector_classes(summary["manifest"]),
        headings=DETAILS,
        fewest=FEWEST,
        classes=summary.get("classes") or {},
        class_groups=_class_groups(summary),
        labels=summary.get("labels") or {},
        panels=panels,
        pictures=pictures,
        first_shown=_first_shown(panels, summary),
        first_class=_first_class(summary),
        **WORDS,
        evidence=evidence_shown(folder),
        studied=studied_figures(folder, summary),
        figure_style=Markup(STYLE),
    )
    page = page.replace(f"<style>{STYLE}</style>", "")  # which every figure has, and the page now has once
    return replace_file(folder / REPORT, page.encode())


def _template() -> Template:
    """The template of the page, with its filters."""
    return environment(
        epsilon=format_epsilon,
        flag_place=flag_place,
        glue=glue,
        capitalised=capitalised,
        passes=format_passes,
        parameters=format_parameters,
        number=_number,
        linf=format_linf,
        measure=format_measure,
        area_interval=area_interval,
        beside_area=beside_area,
        beside_rate=beside_rate,
        flagged=flagged,
        details=details,
    ).get_template(f"{REPORT}.j2")


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The judges and measurements that any row has, in the order of their columns."""
    order = {name: place for place, name in enumerate(MEASURES)}
    means = dict.fromkeys(name for row in rows for name in row["means"])
    return {
        "judges": next((row["transfer"] for row in rows if row["transfer"]), {}),
        "measures": MEASURES,
        "means": sorted(means, key=lambda name: order.get(name, len(order))),
    }


def _detector_classes(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What each detector is, by its name, where the name does not say so."""
    told = ((manifest.get("listeners") or {}).get("detection") or {}).get("settings") or {}
    kinds = {str(name): str((one or {}).get("class", "")) for name, one in told.items()}
    return {name: kind for name, kind in kinds.items() if kind and kind != name}


def _figures(summary: Mapping[str, Any]) -> dict[str, Shown]:
    """What is right at each radius, and success and its cost, with their numbers."""
    right = "right after" if is_dense(summary["manifest"]) else "accuracy under attack"
    rows = summary["rows"]
    return {
        "accuracy_figure": Shown(
            right, Markup(accuracy_figure(summary)), [radius_table(rows, "accuracy_under_attack", right)]
        ),
        "cost_figure": Shown("success and its cost", Markup(cost_figure(summary)), [cost_table(rows)]),
    }


def _class_groups(summary: Mapping[str, Any]) -> list[ClassGroup]:
    """The figures of classes, with their numbers."""
    return [group._replace(figure=Markup(group.figure)) for group in class_groups(summary)]


def _quality_values(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of outputs that are more or less right: how that is called, figures and tables."""
    manifest = summary["manifest"]
    dense, quality = is_dense(manifest), quality_name(manifest)
    return {
        "dense": dense,
        "quality_name": quality,
        "quality_meaning": quality_meaning(manifest),
        "right_meaning": right_meaning(manifest),
        "quality_figure": Shown(
            quality,
            Markup(quality_figure(summary, quality) if dense else ""),
            [radius_table(summary["rows"], "quality_after", quality)],
        ),
        "dense_tables": dense_tables(summary),
        "glossary": (masks.GLOSSARY if summary.get("masks") else {}) | (boxes.GLOSSARY if summary.get("boxes") else {}),
    }


def headline(summary: Mapping[str, Any]) -> str:
    """What the evaluation found, in one sentence: the first of its verdict.

    Args:
        summary: As `summarise` returns it.
    """
    return verdict(summary)[0]


def _strongest(bounded: list[dict[str, Any]], clean: Mapping[str, Any]) -> dict[str, Any]:
    """The strongest attack at the smallest radius at which any halves the accuracy, or at the largest if none does."""
    halved = [row for row in bounded if row["accuracy_under_attack"] <= clean["clean_accuracy"] / 2]
    radius = min(row["epsilon"] for row in halved) if halved else max(row["epsilon"] for row in bounded)
    return min((row for row in bounded if row["epsilon"] == radius), key=_what_is_left)


def _what_is_left(row: Mapping[str, Any]) -> tuple[float, float]:
    """Share of right images, and the mean quality where that is the same."""
    quality = row.get("quality_after")
    return row["accuracy_under_attack"], 1.0 if quality is None else quality


def _first_class(summary: Mapping[str, Any]) -> int:
    """Index of the figure of classes shown when the page opens: the headline's attack, or else the first attack."""
    groups = class_groups(summary)
    controls = {(row["attack"], row["epsilon"]) for row in summary["rows"] if row["control"]}
    bounded = [row for row in summary["rows"] if row["kind"] == "attack" and row["n"] and row["epsilon"] is not None]
    row = _strongest(bounded, summary["rows"][0]) if bounded else None
    for number, group in enumerate(groups):
        if row and group.attack == row["attack"] and _same(group.epsilon, row["epsilon"]):
            return number
    places = (number for number, group in enumerate(groups) if (group.attack, group.epsilon) not in controls)
    return next(places, 0)


def _first_shown(panels: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> int:
    """Index of the group of pictures shown when the page opens: the headline's attack, or else the first attack."""
    bounded = [row for row in summary["rows"] if row["kind"] == "attack" and row["n"] and row["epsilon"] is not None]
    row = _strongest(bounded, summary["rows"][0]) if bounded else None
    for number, group in enumerate(panels):
        if row and group["attack"] == row["attack"] and _same(group["epsilon"], row["epsilon"]):
            return number
    return next((number for number, group in enumerate(panels) if not group["control"]), 0)


def _same(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-6)


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.3g}"
