"""The page of a description of data: tables, a figure and a contact sheet in one self-contained file."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from medrobust.results.checks.data import split_name
from medrobust.results.formats import (
    DASH,
    LEVELS,
    all_printable,
    format_interval,
    format_score,
)
from medrobust.results.manifest import replace_file, write_json
from medrobust.results.report.data_tables import box_counts, class_counts, direction, format_count
from medrobust.results.report.svg import figure, line, marker, scale, shorten, text
from medrobust.results.report.templating import environment
from medrobust.results.shortcuts import SHORTCUT

PAGE = "description.html"
TABLE = "description.json"
LEFT, RIGHT, TOP, STEP = 300, 720, 34, 22  # pixels of the figure


def write_description(
    folder: str | Path, description: Mapping[str, Any], pictures: Mapping[str, bytes]
) -> tuple[Path, Path]:
    """Write `description.html`, which needs no other file or network, and `description.json` beside it.

    Args:
        folder: Where they are written.
        description: What is known of the data, ready for JSON.
        pictures: JPEG pictures by the ids of their images.

    Returns:
        Their paths.
    """
    seen = all_printable(dict(description))
    uris = {
        id: f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
        for id, content in {**pictures, **all_printable(dict(pictures))}.items()
    }
    template = environment(
        split=split_name, counts=class_counts, boxes=box_counts, direction=direction, pixels=format_count
    )
    page = template.get_template("data.html.j2").render(
        **{name: seen[name] for name in ("name", "task", "patients", "splits", "sizes", "features", "shortcuts")},
        labels=seen.get("pixels"),
        twins=seen["near_duplicates"],
        flags=seen["flags"],
        sheet=seen["sheet"],
        legend=seen.get("legend") or [],
        images=sum(one["images"] for one in seen["splits"].values()),
        figure=Markup(shortcut_figure(seen["shortcuts"])),
        pictures=uris,
        threshold=SHORTCUT,
        level=LEVELS["warning"],
        dash=DASH,
    )
    return replace_file(Path(folder) / PAGE, page.encode()), write_json(Path(folder) / TABLE, description)


def shortcut_figure(rows: list[dict[str, Any]]) -> str:
    """AUROCs of single numbers with their intervals, one below the other; empty without any."""
    known = [row for row in rows if row["auroc"] is not None]
    if not known:
        return ""
    bottom = TOP + STEP * len(known)
    place = scale(0.4, 1.0, LEFT, RIGHT)
    body = []
    for value in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        body.append(line(place(value), TOP - 8, place(value), bottom, "clean" if value in (0.5, SHORTCUT) else "grid"))
        body.append(text(place(value), TOP - 14, f"{100 * value:.0f}", "middle"))
    for index, row in enumerate(known):
        y = TOP + STEP * (index + 0.5)
        words = f"{row['feature']}: {direction(row)}"
        limits = f" ({format_interval(row['interval'])})" if row["interval"] else ""
        raised = row["interval"] is not None and row["interval"][0] > SHORTCUT
        body.append(f'<g class="series s{1 if raised else 0}">')
        if row["interval"]:
            low, high = (place(max(0.4, limit)) for limit in row["interval"])
            body.append(line(low, y, high, y, "whisker"))
        body.append(marker(place(row["auroc"]), y, 3 if raised else 0, f"{words} {format_score(row['auroc'])}{limits}"))
        body.append(text(LEFT - 12, y + 4, shorten(words, 44), "end"))
        body.append("</g>")
    return figure(RIGHT + 24, bottom + 8, "AUROC of single numbers between the classes", body)
