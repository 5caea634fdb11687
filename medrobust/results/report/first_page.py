"""What the first page of a report shows to those who have to decide, made from the numbers of a summary."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from medrobust.results.formats import DASH, capitalised, format_epsilon, format_interval, format_percent
from medrobust.results.manifest import task_of
from medrobust.results.report.behind import FigureTable, confusion_table, cost_table
from medrobust.results.report.classes import matrices_figure
from medrobust.results.report.dense_tables import Cell, count_cell, percent_cell
from medrobust.results.report.smallest_figure import distance_words, smallest_figure, smallest_table, smallest_words
from medrobust.results.report.victim_figure import bins_table, curve_table, victim_figure
from medrobust.results.report.worst_figure import worst_figure, worst_table
from medrobust.results.verdict import decisive_radius, rows_at, verdict, worst_at
from medrobust.results.wording import is_dense, quality_name

RADII = 5  # that the table of classes shows, at most

Row = Mapping[str, Any]


class Headline(NamedTuple):
    """One large number.

    Args:
        title: What it is.
        value: The number as it is written.
        below: Its interval, or what it counts.
        tone: "bad" for the worst case, else "".
    """

    title: str
    value: str
    below: str
    tone: str = ""


class ClassTable(NamedTuple):
    """What becomes of each class: one line a class.

    Args:
        title: What the section is called.
        note: How to read it, in whole sentences.
        head: Headings of the columns after the class.
        lines: The class and its cells.
    """

    title: str
    note: str
    head: Sequence[str]
    lines: Sequence[tuple[str, Sequence[Cell]]]


class Shown(NamedTuple):
    """A figure with the tables behind it."""

    name: str
    figure: Markup
    tables: Sequence[FigureTable]


def first_page(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the template of the first page is given.

    Args:
        summary: As `summarise` returns it; one of an earlier version lacks some parts, which are left out.
    """
    found, patients = summary.get("smallest") or {}, summary.get("fragile_patients") or {}
    victim = Markup(victim_figure(summary))
    return {
        "sentences": verdict(summary),
        "banner": [flag for flag in summary["flags"] if flag["severity"] == "error"],
        "headlines": list(headlines(summary)),
        "decisive": decisive_radius(summary),
        "worst": Shown("worst case", Markup(worst_figure(summary)), [worst_table(summary)]),
        "class_table": class_table(summary),
        "matrices": list(matrices(summary)),
        "victim_shown": Shown("victim", victim, [one for one in (curve_table(summary), bins_table(summary)) if one]),
        "victim_missing": (summary.get("victim_curves") or {}).get("missing", ""),
        "smallest": Shown(
            "smallest perturbation",
            Markup(smallest_figure(found) if found else ""),
            [smallest_table(found)] if found else [],
        ),
        "smallest_words": smallest_words(found) if found else "",
        "patients": patients,
        "patient_lines": _patient_lines(patients, found),
        "cost_table": cost_table(summary["rows"]),
        "timed": any(row.get("mean_seconds") is not None for row in summary["rows"]),
    }


def headlines(summary: Mapping[str, Any]) -> Iterator[Headline]:
    """The large numbers: clean, the worst case, the control of its radius, the median smallest perturbation."""
    clean, radius = summary["rows"][0], decisive_radius(summary)
    dense = is_dense(summary["manifest"])
    right = "Right" if dense or task_of(summary["manifest"]) == "multilabel" else "Accuracy"
    if clean["n"]:
        limits = format_interval(clean["clean_accuracy_interval"])
        yield Headline(f"{right}, clean images", format_percent(clean["clean_accuracy"]), _limits(limits))
    worst = worst_at(summary, radius)
    if worst:
        at = f"ε = {format_epsilon(radius)}"
        limits = format_interval(worst["accuracy_interval"])
        count = len(worst["attacks"])
        whose = "the one attack" if count == 1 else f"worst of {count} attacks"
        title = f"{right}, {whose} at {at}"
        yield Headline(title, format_percent(worst["accuracy"]), _limits(limits), "bad")
        if dense and worst.get("quality") is not None:
            limits = format_interval(worst["quality_interval"])
            name = quality_name(summary["manifest"])
            yield Headline(
                f"{capitalised(name)}, {whose} at {at}", format_percent(worst["quality"]), _limits(limits), "bad"
            )
        for row in rows_at(summary, radius, "control")[:1]:
            limits = format_interval(row["accuracy_under_attack_interval"])
            value = format_percent(row["accuracy_under_attack"])
            yield Headline(f"{right}, {row['attack']} at {at} (control)", value, _limits(limits))
    found = summary.get("smallest") or {}
    if found and found["n_wrong_before"] * 2 < found["n"]:
        if found["median"] is not None:
            yield Headline("Median smallest perturbation", distance_words(found, found["median"]), "at most")
        elif found["largest"] is not None:
            more = f"> {distance_words(found, found['largest'])}"
            yield Headline("Median smallest perturbation", more, "more than the largest radius that was tried")


def _limits(words: str) -> str:
    return f"95 % interval {words}" if words else ""


def radii_shown(summary: Mapping[str, Any]) -> list[float]:
    """The radii of the table of classes: all, or some at even steps with that of the verdict among them."""
    radii = [one["epsilon"] for one in summary["worst_case"] if one["n"]]
    if len(radii) <= RADII:
        return radii
    kept = {radii[round(place * (len(radii) - 1) / (RADII - 1))] for place in range(RADII)}
    decisive = decisive_radius(summary)
    if decisive is not None and decisive not in kept:
        inner = sorted(kept)[1:-1]
        kept.remove(min(inner, key=lambda radius: abs(radius - decisive)))
        kept.add(decisive)
    return sorted(kept)


def class_table(summary: Mapping[str, Any]) -> ClassTable | None:
    """What becomes of each class, label, or class of masks and boxes; None where the summary has none."""
    if (summary.get("classes") or {}).get("rows"):
        return _of_classes(summary)
    if (summary.get("labels") or {}).get("rows"):
        return _of_labels(summary)
    for part, number in (("masks", "jaccard"), ("boxes", "ap50")):
        if (summary.get(part) or {}).get("rows"):
            return _of_outputs(summary, part, number)
    return None


def _of_classes(summary: Mapping[str, Any]) -> ClassTable | None:
    classes, radii = summary["classes"], radii_shown(summary)
    worst = [worst_at(summary, radius, "worst_case_classes") for radius in radii]
    clean = classes["rows"][0]
    if clean["kind"] != "clean":
        return None
    noise = _controls_of(summary, classes["rows"])
    lines = []
    for place, name in enumerate(classes["names"]):
        cells = [count_cell(clean["classes"][place], "n"), percent_cell(clean["classes"][place], "sensitivity")]
        cells += [percent_cell(row["classes"][place], "sensitivity") for _, row in noise]
        for one in worst:
            own = one.get("classes") or []
            cells.append(percent_cell(own[place], "right") if place < len(own) else Cell(DASH))
        lines.append((name, cells))
    return ClassTable(
        "Class by class",
        "Of each class's images, the share that is taken for it: on the clean images, and if an image counts as wrong "
        "where it is wrong without an attack, or any attack of a radius makes it wrong. In percent, with 95 % "
        "intervals.",
        ["images", "clean", *(name for name, _ in noise), *(f"worst, {format_epsilon(radius)}" for radius in radii)],
        lines,
    )


def _controls_of(summary: Mapping[str, Any], rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """The first control of the verdict's radius, among rows of classes, masks or boxes."""
    radius = decisive_radius(summary)
    keys = {row["key"]: row["attack"] for row in rows_at(summary, radius, "control")[:1]}
    return [(f"{keys[row['key']]}, {format_epsilon(radius)}", row) for row in rows if row["key"] in keys]


def _of_labels(summary: Mapping[str, Any]) -> ClassTable:
    labels, radii = summary["labels"], radii_shown(summary)
    radius = decisive_radius(summary)
    radii = radii if radius is None else [radius]
    clean = labels["rows"][0]["labels"]
    worst = [worst_at(summary, radius, "worst_case_classes").get("labels") or [] for radius in radii]
    lines = []
    for place, name in enumerate(labels["names"]):
        cells = [count_cell(clean[place], "n_positive"), percent_cell(clean[place], "auroc")]
        for what in ("sensitivity", "specificity"):
            cells.append(percent_cell(clean[place], what))
            cells += [percent_cell(one[place], what) if place < len(one) else Cell(DASH) for one in worst]
        lines.append((name, cells))
    at = [f"worst, {format_epsilon(radius)}" for radius in radii]
    return ClassTable(
        "Label by label",
        "Sensitivity is the share of the images with a label in which it is found, specificity that of the images "
        "without it in which it is not; in the worst case an answer counts as right only if it is right under every "
        "attack of the radius. In percent, with 95 % intervals.",
        [
            *("images with it", "AUROC, clean", "sensitivity, clean", *(f"sensitivity, {one}" for one in at)),
            *("specificity, clean", *(f"specificity, {one}" for one in at)),
        ],
        lines,
    )


def _of_outputs(summary: Mapping[str, Any], part: str, number: str) -> ClassTable | None:
    """Jaccard index of masks or average precision of boxes, under the attack of each radius that leaves least."""
    rows = summary[part]["rows"]
    shown = [("clean", rows[0]), *_controls_of(summary, rows)]
    for radius in radii_shown(summary):
        attacks = {row["key"]: row for row in rows_at(summary, radius, "attack") if row["quality_after"] is not None}
        own = [row for row in rows if row["key"] in attacks]
        if own:
            least = min(own, key=lambda row: attacks[row["key"]]["quality_after"])
            shown.append((f"{least['attack']}, {format_epsilon(radius)}", least))
    lines: list[tuple[str, list[Cell]]] = [
        (str(one["name"]), [percent_cell(row["classes"][place], number) for _, row in shown])
        for place, one in enumerate(rows[0]["classes"])
    ]
    boxes = part == "boxes"
    if boxes:
        lines += [(f"boxes {name}", [count_cell(row, name) for _, row in shown]) for name in CHANGES]
    what = "Average precision at an overlap of 0.5" if boxes else "Mean Jaccard index"
    counted = "; below it, how many true boxes were lost and relabelled, and how many were invented" if boxes else ""
    note = f"{what} of each class in percent{counted}: clean, and under the attack of each radius that leaves least."
    return ClassTable("Class by class", note, [name for name, _ in shown], lines) if lines else None


CHANGES = ("lost", "relabelled", "invented")


def matrices(summary: Mapping[str, Any]) -> Iterator[tuple[float, Shown]]:
    """Confusion of the clean images and in the worst case, for each radius of the table of classes."""
    classes = summary.get("classes") or {}
    rows = classes.get("rows") or []
    if not rows or rows[0]["kind"] != "clean":
        return
    names, clean = classes["names"], rows[0]["confusion"]
    for radius in radii_shown(summary):
        confusion = worst_at(summary, radius, "worst_case_classes").get("confusion")
        if not confusion or len(confusion) != len(names):
            continue
        at = f"worst case at ε = {format_epsilon(radius)}"
        label = f"Confusion of the classes, clean and in the {at}: {_told(names, clean)}; {_told(names, confusion)}"
        figure = matrices_figure(names, [("clean", clean), (at, confusion)], label)
        tables = [confusion_table(names, clean), confusion_table(names, confusion)]
        yield radius, Shown(at, Markup(figure), tables)


def _told(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """How many images of each class are taken for it, in words."""
    return ", ".join(
        f"{counts[place]} of {sum(counts)} {name} right"
        for place, (name, counts) in enumerate(zip(names, confusion, strict=True))
    )


def _patient_lines(patients: Mapping[str, Any], found: Mapping[str, Any]) -> list[list[str]]:
    """The cells of the table of patients."""
    lines = []
    for row in patients.get("rows") or () if found else ():
        never = "none found" if found["largest"] is None else f"> {distance_words(found, found['largest'])}"
        smallest = never if row["smallest"] is None else distance_words(found, row["smallest"])
        counts = [str(row[name]) for name in ("images", "right", "turned")]
        lines.append([str(row["patient"]), *counts, smallest, format_percent(row["tries"])])
    return lines
