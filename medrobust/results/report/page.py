"""The report of an evaluation: one self-contained page of its tables, figures, flags and pictures."""

import base64
import io
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from medrobust.results.columns import MEASURES
from medrobust.results.defences import defences_of
from medrobust.results.detection import TNR
from medrobust.results.formats import (
    DASH,
    LEVELS,
    flag_place,
    format_epsilon,
    format_interval,
    format_measure,
    format_parameters,
    format_passes,
    format_percent,
    format_score,
)
from medrobust.results.manifest import replace_file
from medrobust.results.records import RECORDS, merge
from medrobust.results.report.classes import class_groups
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
from medrobust.results.report.figures import accuracy_figure, cost_figure
from medrobust.results.report.roc_curves import roc_figure, roc_note
from medrobust.results.separation import FEWEST
from medrobust.results.summary import QUALITIES, SUMMARY, columns_shown, write_summary

REPORT = "report.html"
PANELS = "panels"
LARGE = 12_000  # bytes from which a picture is shown as JPEG
PICTURES = ("clean", "perturbation", "adversarial")

logger = logging.getLogger(__name__)


def finish(folder: str | Path) -> dict[str, Any]:
    """Turn the journal of an evaluation into its results: records.parquet, summary.json and report.html.

    It is to be called on one process. While an evaluation is under way, the results show what there is so far and flag
    what is missing.

    Args:
        folder: The folder of the evaluation, with `manifest.json` and `journal/`.

    Returns:
        The summary, with the paths of `records`, `summary` and `report` under `paths`.

    Raises:
        ValueError: If the manifest or the journal is missing or damaged.
    """
    folder = Path(folder)
    merge(folder)
    summary = write_summary(folder)
    report = write_report(folder)
    return {**summary, "paths": {"records": folder / RECORDS, "summary": folder / SUMMARY, "report": report}}


def write_report(folder: str | Path) -> Path:
    """Write `report.html` from the summary and the panels of an evaluation; the page needs no other file or network.

    Args:
        folder: The folder of the evaluation, with `summary.json`.

    Raises:
        ValueError: If there is no summary yet.
    """
    folder = Path(folder)
    path = folder / SUMMARY
    if not path.is_file():
        raise ValueError(f"{path} does not exist: summarise the records of the evaluation first")
    summary = json.loads(path.read_bytes())
    environment = _environment()
    panels = read_panels(folder, summary["manifest"])
    tnr = (summary.get("detection") or {}).get("tnr", TNR)
    page = environment.get_template(f"{REPORT}.j2").render(
        manifest=summary["manifest"],
        defences=defences_of(summary["manifest"]),
        rows=summary["rows"],
        qualities=[name for name in columns_shown(summary["manifest"]) if name in QUALITIES],
        clean=summary["rows"][0],
        worst_case=summary["worst_case"],
        checks=summary["checks"],
        flags=summary["flags"],
        headline=headline(summary),
        judges=next((row["transfer"] for row in summary["rows"] if row["transfer"]), {}),
        measures=MEASURES,
        means=sorted(
            dict.fromkeys(name for row in summary["rows"] for name in row["means"]),
            key=lambda name: list(MEASURES).index(name) if name in MEASURES else len(MEASURES),
        ),
        accuracy_figure=Markup(accuracy_figure(summary)),
        cost_figure=Markup(cost_figure(summary)),
        detection=[(grid, Markup(roc_figure(grid, tnr)), roc_note(grid)) for grid in detection_grids(summary)],
        tnr=tnr,
        threshold_note=threshold_note(summary),
        headings=DETAILS,
        fewest=FEWEST,
        classes=summary.get("classes") or {},
        class_groups=[group._replace(figure=Markup(group.figure)) for group in class_groups(summary)],
        labels=summary.get("labels") or {},
        panels=panels,
        first_shown=_first_shown(panels, summary),
        first_class=_first_class(summary),
        dash=DASH,
        levels=LEVELS,
    )
    return replace_file(folder / REPORT, page.encode())


def _environment() -> Environment:
    """Where templates are found, and what they can call."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        epsilon=format_epsilon,
        flag_place=flag_place,
        percent=lambda rate: _glue(format_percent(rate)),
        glue=_glue,
        interval=format_interval,
        passes=format_passes,
        parameters=format_parameters,
        number=_number,
        measure=format_measure,
        score=format_score,
        area_interval=area_interval,
        beside_area=beside_area,
        beside_rate=beside_rate,
        flagged=flagged,
        details=details,
    )
    return environment


def headline(summary: Mapping[str, Any]) -> str:
    """What the evaluation found, in one sentence: the strongest attack, compared with clean images and with noise.

    It speaks of the smallest radius at which an attack halves the accuracy, or of the largest if none does.

    Args:
        summary: As `summarise` returns it.
    """
    clean = summary["rows"][0]
    attacks = [row for row in summary["rows"] if row["kind"] == "attack" and row["n"]]
    if not attacks:
        return "No attack has been recorded yet."
    bounded = [row for row in attacks if row["epsilon"] is not None]
    if not bounded:
        row = min(attacks, key=lambda row: row["accuracy_under_attack"])
        return (
            f"{row['attack']}, which no radius bounds, leaves {format_percent(row['accuracy_under_attack'])} of "
            f"{row['n']} images right (clean: {format_percent(clean['clean_accuracy'])}), with a median L2 distance of "
            f"{_number(row['median_l2'])}."
        )
    row = _strongest(bounded, clean)
    words = (
        f"At ε = {format_epsilon(row['epsilon'])}, {row['attack']} leaves "
        f"{format_percent(row['accuracy_under_attack'])} of {row['n']} images right "
        f"(clean: {format_percent(clean['clean_accuracy'])})"
    )
    noise = [
        other
        for other in summary["rows"]
        if other["control"] and other["n"] and _same(other["epsilon"], row["epsilon"])
    ]
    if noise:
        words += f", while noise of the same size leaves {format_percent(noise[0]['accuracy_under_attack'])}"
    return words + "."


def _strongest(bounded: list[dict[str, Any]], clean: Mapping[str, Any]) -> dict[str, Any]:
    """The strongest attack at the smallest radius at which any halves the accuracy, or at the largest if none does."""
    halved = [row for row in bounded if row["accuracy_under_attack"] <= clean["clean_accuracy"] / 2]
    radius = min(row["epsilon"] for row in halved) if halved else max(row["epsilon"] for row in bounded)
    return min((row for row in bounded if row["epsilon"] == radius), key=lambda row: row["accuracy_under_attack"])


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


def _first_shown(panels: list[dict[str, Any]], summary: Mapping[str, Any]) -> int:
    """Index of the group of pictures shown when the page opens: the headline's attack, or else the first attack."""
    bounded = [row for row in summary["rows"] if row["kind"] == "attack" and row["n"] and row["epsilon"] is not None]
    row = _strongest(bounded, summary["rows"][0]) if bounded else None
    for number, group in enumerate(panels):
        if row and group["attack"] == row["attack"] and _same(group["epsilon"], row["epsilon"]):
            return number
    return next((number for number, group in enumerate(panels) if not group["control"]), 0)


def read_panels(folder: str | Path, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the pictures of an evaluation, in groups by attack and radius.

    Args:
        folder: The folder of the evaluation.
        manifest: Its manifest; pictures of attacks that it does not list are left out.

    Returns:
        Groups `{"attack", "epsilon", "control", "panels"}` in the manifest's order of attacks, by radius. Each panel is
        the content of its JSON file, with `pictures` (data URIs) and the names of its classes. Panels that cannot be
        read are left out with a warning in the log.
    """
    keys = {entry["key"]: entry for entry in manifest["attacks"]}
    names = manifest["data"].get("class_names") or []
    groups: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(folder, PANELS).glob("*.json")):
        try:
            panel = json.loads(path.read_bytes())
            if panel["key"] not in keys:
                continue
            panel.setdefault("extras", {})
            kinds = (*PICTURES, *panel["extras"])
            panel["pictures"] = {kind: _data_uri(path.parent, panel["images"].get(kind)) for kind in kinds}
            for kind in ("target", "clean_prediction", "adversarial_prediction"):
                panel[f"{kind}_name"] = _class_name(panel.get(kind), names)
            group = {**{name: keys[panel["key"]].get(name) for name in ("attack", "epsilon", "control")}, "panels": []}
            groups.setdefault(panel["key"], group)["panels"].append(panel)
        except (ValueError, KeyError, TypeError, AttributeError, OSError, SyntaxError) as error:
            logger.warning("the panel %s is left out of the report: %s", path, error)
    order = list(dict.fromkeys(entry["attack"] for entry in manifest["attacks"]))
    radius = {name: math.inf if group["epsilon"] is None else group["epsilon"] for name, group in groups.items()}
    return [groups[key] for key in sorted(groups, key=lambda key: (order.index(groups[key]["attack"]), radius[key]))]


def _data_uri(folder: Path, name: str | None) -> str | None:
    """A picture as a data URI; None if there is no such file, or the name is a path, which may lead out of the folder.

    A large picture, such as noise that PNG cannot compress, is embedded as JPEG; its file stays as it is.
    """
    if not name or Path(name).name != name or not (folder / name).is_file():
        return None
    content, kind = (folder / name).read_bytes(), "png"
    if len(content) > LARGE:
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(content)) as picture:
            shown = picture if picture.mode == "L" else picture.convert("RGB")
            shown.save(buffer, "JPEG", quality=85, subsampling=0)
        content, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def _class_name(index: int | None, names: list[str]) -> str:
    if index is None:
        return DASH
    return names[index] if 0 <= index < len(names) else f"class {index}"


def _same(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-6)


def _glue(words: str) -> str:
    """Keep a number and its percent sign on one line."""
    return words.replace(" %", "\N{NO-BREAK SPACE}%")


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.3g}"
