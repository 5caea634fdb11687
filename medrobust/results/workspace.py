"""What a workspace and a report of Weights & Biases show of some runs: the dashboard's sections, as plain values."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medrobust.results.evaluations import evaluations_of
from medrobust.results.formats import DASH, format_epsilon, format_interval, format_percent, markdown_lines
from medrobust.results.manifest import task_of
from medrobust.results.scalars import curves, scalars
from medrobust.results.summary import read_summary

TITLE = "MedRobust"
SECTIONS = ("Leaderboard", "Curves", "Pairs", "By class", "Detectors", "Transfer", "Cost", "Configuration")
COMPARABLE = "run.comparable"  # the setting that says which runs may be ranked together
COLUMNS = ("victim.name", "victim.defence", "data.name", "attack.radii", COMPARABLE)
MOST_BARS = 40  # of a panel
WHAT_IS_COMPARABLE = (
    "Only runs with the same `run.comparable` were evaluated on the same images with the same attacks. Runs that "
    "differ in it are not to be ranked together."
)
NO_PAIRS = (
    "Differences between two victims on the same images, with their intervals and exact McNemar tests, need the "
    "records: `python compare.py dashboard RUN RUN --out dashboard.html` computes them."
)

Panel = dict[str, Any]
Summaries = Sequence[Mapping[str, Any]]


def comparable(manifest: Mapping[str, Any]) -> str:
    """A word that two evaluations share if they may be ranked together.

    That is the case if the victims have the same task and were attacked on the same images of the same split with the
    same attacks, by names, methods, radii and parameters. Controls do not count.
    """
    data = manifest["data"]
    images = [task_of(manifest), *(data.get(name) for name in ("name", "split", "fingerprint", "images"))]
    names = ("attack", "method", "epsilon", "norm", "minimal", "parameters")
    attacks = [{name: entry.get(name) for name in names} for entry in manifest["attacks"] if not entry.get("control")]
    terms = sorted(json.dumps(attack, sort_keys=True, default=str) for attack in attacks)
    return hashlib.sha256(json.dumps([images, terms], default=str).encode()).hexdigest()[:8]


def read_evaluated(runs: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The summaries of all evaluations of some runs; folders without any are left out.

    Args:
        runs: Folders of runs or of evaluations.

    Raises:
        ValueError: There is no evaluation, or one of another version or damaged.
    """
    found = [read_summary(folder) for run in runs for folder in evaluations_of(Path(run)) if _is_summarised(folder)]
    if not found:
        raise ValueError("none of these folders holds an evaluated run: name folders such as runs/demo")
    return found


def plan_workspace(entity: str, project: str, summaries: Summaries) -> dict[str, Any]:
    """A workspace and a report of some runs.

    Args:
        entity: The user or the team that owns the project.
        project: The project that the runs are logged to.
        summaries: Of the runs whose attacks, classes and detectors get panels.

    Returns:
        Plain values: `entity`, `project`, `name`; `job_types`, `columns`, `order` of the table of runs; `sections`,
        each with a `name` and `panels`; and the `report` with a `title` and `blocks`. Names of metrics are those of
        `results.scalars`, names of settings those of the logged configuration, with dots between their parts.
    """
    names = _names(summaries)
    headlines = [name for name in names if re.match("(worst_case|best_detector)_", name)]
    sections = [{"name": name, "panels": panels} for name, panels in _sections(summaries).items()]
    return {
        "entity": entity,
        "project": project,
        "name": TITLE,
        "job_types": ["test", "validate"],
        "order": [{"setting": COMPARABLE, "ascending": True}, {"metric": _best(names), "ascending": False}],
        "columns": [
            *({"setting": name} for name in COLUMNS),
            *({"metric": name} for name in ("clean_accuracy", *headlines, "tried", "flags_errors", "flags_warnings")),
        ],
        "sections": sections,
        "report": {"title": f"{TITLE}: {project}", "blocks": list(_blocks(summaries))},
    }


def _is_summarised(folder: Path) -> bool:
    return (folder / "summary.json").is_file()


def _names(summaries: Summaries) -> list[str]:
    return list(dict.fromkeys(name for summary in summaries for name in scalars(summary)))


def _best(names: Sequence[str]) -> str:
    """By which number runs are ranked: the worst-case accuracy at the largest radius."""
    return next((name for name in reversed(names) if name.startswith("worst_case_accuracy_")), "clean_accuracy")


def _sections(summaries: Summaries) -> dict[str, list[Panel]]:
    """The panels of each section; one that no run has numbers for says so."""
    names = _names(summaries)
    drawn = list(dict.fromkeys(name for summary in summaries for row in curves(summary) for name in row))
    found: dict[str, list[Panel]] = {name: [] for name in SECTIONS}
    worst = [name for name in names if name.startswith("worst_case_")]
    found["Leaderboard"] = [
        {"kind": "text", "text": WHAT_IS_COMPARABLE},
        *(_bars(_spoken(name), [name]) for name in ("clean_accuracy", *worst) if name in names),
        *({"kind": "table", "title": name, "table": name} for name in ("worst_case", "results")),
        {"kind": "media", "title": "reports", "media": ["report"]},
    ]
    found["Curves"] = [_curve(name) for name in _first(drawn, "curves/worst_case/accuracy", "curves/clean/accuracy")]
    found["Curves"] += [
        _curve(name) for name in drawn if re.fullmatch(r"curves/(?!detection/)[^/]+/(accuracy|quality)", name)
    ]
    found["Curves"] = list({panel["title"]: panel for panel in found["Curves"]}.values())
    found["Pairs"] = [
        {"kind": "text", "text": NO_PAIRS},
        *({"kind": "scatter", "title": _spoken(name), "x": "clean_accuracy", "y": name} for name in worst),
        {"kind": "media", "title": "pictures", "media": ["panels"]},
    ]
    found["By class"] = list(_of_classes(names))
    found["Detectors"] = [
        *(_bars(_spoken(name), [name]) for name in names if name.startswith("best_detector_")),
        *(_curve(name) for name in drawn if name.startswith("curves/detection/")),
    ]
    judges = dict.fromkeys(name.split("/")[-2] for name in names if name.startswith("transfer/"))
    for judge in judges:
        rates = [name for name in names if re.fullmatch(rf"transfer/.*/{re.escape(judge)}/success_rate", name)]
        found["Transfer"].append(_bars(f"attacks that fool {judge} too", rates))
    for what, title in (("mean_forwards", "forward passes"), ("mean_backwards", "backward passes")):
        counts = [name for name in names if name.startswith("attacks/") and name.endswith(f"/{what}")]
        found["Cost"] += [_bars(f"{title} for each image", counts)] if counts else []
    found["Configuration"] = [{"kind": "comparison", "title": "settings that differ"}]
    nothing = [{"kind": "text", "text": "No run has numbers for this section."}]
    return {name: panels or nothing for name, panels in found.items()}


def _of_classes(names: Sequence[str]) -> Iterable[Panel]:
    """A panel for each class or label and what is measured of it, clean and under the attacks."""
    pattern = re.compile(r"(classes|labels|masks|boxes)/(?:clean|[^/]+/[^/]+)/([^/]+)/([^/]+)")
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        if found := pattern.fullmatch(name):
            groups.setdefault((found[2], found[3]), []).append(name)
    for (part, what), own in groups.items():
        if what in ("sensitivity", "specificity", "auroc", "jaccard", "ap50"):
            yield _bars(f"{part}: {what}", own)


def _bars(title: str, metrics: Sequence[str]) -> Panel:
    return {"kind": "bars", "title": title, "metrics": list(metrics[:MOST_BARS])}


def _curve(name: str) -> Panel:
    title = " ".join(part.replace("_", " ") for part in name.split("/")[1:])
    return {"kind": "curve", "title": title, "x": "epsilon", "metrics": [name], "logarithmic": True}


def _first(names: Sequence[str], *wanted: str) -> list[str]:
    return [name for name in wanted if name in names]


def _spoken(name: str) -> str:
    """The name of a headline number in words.

    >>> _spoken("worst_case_accuracy_0_5_255"), _spoken("clean_accuracy")
    ('worst case accuracy at 0.5/255', 'clean accuracy')
    """
    words, radius = re.fullmatch(r"(.*?[a-z])(?:_(\d.*))?", name).groups()  # type: ignore[union-attr]
    said = words.replace("_", " ")
    if not radius:
        return said
    parts = radius.rsplit("_", 1)
    denominator = f"/{parts[1]}" if len(parts) == 2 and parts[1] in ("255", "256") else ""
    return f"{said} at {(parts[0] if denominator else radius).replace('_', '.')}{denominator}"


def _blocks(summaries: Summaries) -> Iterable[Panel]:
    """The blocks of the report: each group of comparable runs on its own, then the sections."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for summary in summaries:
        groups.setdefault(comparable(summary["manifest"]), []).append(summary)
    for word, own in groups.items():
        data = own[0]["manifest"]["data"]
        yield {"kind": "heading", "text": f"{data.get('name', 'data')} {data.get('split') or ''}".strip()}
        yield {"kind": "text", "text": f"{data['images']} images; `{COMPARABLE}` is `{word}`."}
        yield {"kind": "markdown", "text": _leaderboard(own)}
        order = [{"metric": _best(_names(own)), "ascending": False}]
        runs = {"name": word, "settings": {COMPARABLE: word}, "order": order}
        panels = _sections(own)
        yield {"kind": "grid", "runs": runs, "panels": _without_texts([*panels["Leaderboard"], *panels["Curves"]])}
    panels = _sections(summaries)
    for name in SECTIONS[2:]:
        yield {"kind": "heading", "text": name}
        texts = [panel["text"] for panel in panels[name] if panel["kind"] == "text"]
        yield from ({"kind": "text", "text": text} for text in texts)
        if shown := _without_texts(panels[name]):
            yield {"kind": "grid", "runs": {"name": "all", "settings": {}, "order": []}, "panels": shown}


def _without_texts(panels: Iterable[Panel]) -> list[Panel]:
    return [panel for panel in panels if panel["kind"] != "text"]


def _leaderboard(summaries: Summaries) -> str:
    """A table of comparable runs, the most robust one first."""
    radii = sorted({worst["epsilon"] for summary in summaries for worst in summary.get("worst_case") or []})
    body = []
    for summary in summaries:
        worst = {one["epsilon"]: one for one in summary.get("worst_case") or []}
        clean, manifest = summary["rows"][0], summary["manifest"]
        rates = [worst.get(radius, {}).get("accuracy") for radius in radii]
        cells = [_with_interval(worst.get(radius, {})) for radius in radii]
        shown = format_percent(clean.get("accuracy_under_attack"))
        victim = str((manifest.get("victim") or {}).get("name", DASH))
        order = [-1.0 if rate is None else rate for rate in reversed(rates)]
        tried = f"{clean.get('n')} of {clean.get('images')}"
        body.append((order, [str(manifest["run"]), victim, tried, shown, *cells]))
    rows = [cells for _, cells in sorted(body, key=lambda one: one[0], reverse=True)]
    heads = [f"worst case at {format_epsilon(radius)}" for radius in radii]
    return markdown_lines(["run", "victim", "images", "clean", *heads], rows, words=(0, 1))


def _with_interval(worst: Mapping[str, Any]) -> str:
    interval = format_interval(worst.get("accuracy_interval"))
    return f"{format_percent(worst.get('accuracy'))}{f' ({interval})' if interval else ''}"
