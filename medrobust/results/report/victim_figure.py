"""The figure of a victim on clean images: its ROC curves, and how far its probabilities can be taken at their word."""

from collections.abc import Mapping, Sequence
from typing import Any

from medrobust.results.formats import format_interval, format_percent, format_score
from medrobust.results.report.behind import FigureTable, reliability_table
from medrobust.results.report.svg import figure, line, marker, polyline, scale, series_style, shorten, text

WIDTH, SIDE, TOP = 760.0, 228.0, 30.0
LINE = 16.0  # height of a line of the legend

Row = Mapping[str, Any]
Bin = tuple[float, float, Sequence[float] | None, int]  # probability, share, interval, number


def victim_figure(summary: Mapping[str, Any]) -> str:
    """ROC curves on the left, calibration on the right.

    Args:
        summary: As `summarise` returns it.

    Returns:
        An SVG element, or "" where the records have neither.
    """
    curves = [one for one in (summary.get("victim_curves") or {}).get("curves") or () if one["auroc"] is not None]
    bins = calibration_bins(summary)
    if not curves and not bins:
        return ""
    body: list[str] = []
    left = 60.0
    if curves:
        body += _curves(curves, left)
        left += SIDE + 228
    if bins:
        body += _calibration(bins, left, is_of_labels(summary))
    words = [f"ROC of {one['name']}: AUROC {format_score(one['auroc'])} %" for one in curves[:3]]
    words += ["calibration of the confidence on clean images"] if bins else []
    height = TOP + max(SIDE + 46, 20 + LINE * len(curves))
    return figure(WIDTH if curves else left + SIDE + 20, height, "; ".join(words), body)


def is_of_labels(summary: Mapping[str, Any]) -> bool:
    """Whether the calibration is that of labels, not of classes."""
    return bool((summary.get("victim_curves") or {}).get("calibration"))


def calibration_bins(summary: Mapping[str, Any]) -> list[Bin]:
    """Mean probability, share, its interval and number of each bin on clean images."""
    if is_of_labels(summary):
        bins = summary["victim_curves"]["calibration"]
        return [(one["probability"], one["true"], one["true_interval"], one["n"]) for one in bins]
    rows = (summary.get("classes") or {}).get("rows") or []
    bins = rows[0]["reliability"] if rows and rows[0]["kind"] == "clean" else []
    return [(one["confidence"], one["accuracy"], one["accuracy_interval"], one["n"]) for one in bins]


def _curves(curves: Sequence[Row], left: float) -> list[str]:
    x, y = scale(0, 1, left, left + SIDE), scale(0, 1, TOP + SIDE, TOP)
    body = _frame(x, y, "ROC of the clean images", "false positive rate", "true positive rate")
    for number, one in enumerate(curves):
        told = f"{one['name']}: AUROC {format_score(one['auroc'])} [{format_interval(one['auroc_interval'])}]"
        body.append(f'<g class="series {series_style(number)}">')
        body.append(polyline([(x(false), y(true)) for false, true in zip(one["fpr"], one["tpr"], strict=True)]))
        if one["operating"]:
            at = one["operating"]
            shares = f"sensitivity {format_percent(at['tpr'])}, specificity {format_percent(1 - at['fpr'])}"
            body.append(marker(x(at["fpr"]), y(at["tpr"]), number, f"{told}\nwhere the model decides: {shares}"))
        height = TOP + 12 + LINE * number
        body.append(line(left + SIDE + 14, height - 4, left + SIDE + 38, height - 4, "line"))
        words = f"{shorten(str(one['name']), 13)} {format_score(one['auroc'])}"
        body += [text(left + SIDE + 43, height, words, "start", "name"), "</g>"]
    return body


def _calibration(bins: Sequence[Bin], left: float, of_labels: bool) -> list[str]:
    x, y = scale(0, 1, left, left + SIDE), scale(0, 1, TOP + SIDE, TOP)
    across, up = ("probability of a label", "share with it") if of_labels else ("confidence", "share right")
    body = _frame(x, y, "calibration of the clean images", across, up)
    total = sum(n for *_, n in bins)
    body.append(f'<g class="series {series_style(0)}">')
    body.append(polyline([(x(probability), y(share)) for probability, share, *_ in bins], "leader"))
    for probability, share, limits, n in bins:
        if limits:
            body.append(line(x(probability), y(limits[0]), x(probability), y(limits[1]), "whisker"))
        told = (
            f"mean {across.split()[0]} {format_percent(probability)}\n{up} {format_percent(share)} "
            f"[{format_interval(limits)}], n = {n}"
        )
        radius = 2.5 + 5 * (n / total) ** 0.5
        body.append(
            f'<circle class="mark" cx="{x(probability):.1f}" cy="{y(share):.1f}" r="{radius:.1f}">'
            f"<title>{told}</title></circle>"
        )
    return [*body, "</g>"]


def _frame(x: Any, y: Any, title: str, across: str, up: str) -> list[str]:
    body = [text(x(0), y(1) - 12, title, "start", "title"), line(x(0), y(0), x(1), y(1), "clean")]
    for tick in (0.0, 0.5, 1.0):
        body += [line(x(tick), y(0), x(tick), y(1), "grid"), line(x(0), y(tick), x(1), y(tick), "grid")]
        body.append(text(x(tick), y(0) + 16, f"{tick:g}", ("start", "middle", "end")[int(2 * tick)]))
        body.append(text(x(0) - 6, y(tick) + 4, f"{tick:g}", "end"))
    body.append(text(x(0.5), y(0) + 36, across, "middle", "title"))
    at, middle = x(0) - 36, y(0.5)
    return [*body, f'<g transform="rotate(-90 {at:.1f} {middle:.1f})">{text(at, middle, up, "middle", "title")}</g>']


def curve_table(summary: Mapping[str, Any]) -> FigureTable | None:
    """AUROC and the point of decision of each class or label."""
    lines = []
    for one in (summary.get("victim_curves") or {}).get("curves") or ():
        at = one["operating"]
        decided = [format_percent(at["tpr"]), format_percent(1 - at["fpr"])] if at else ["–", "–"]
        counts = [str(one["n_positive"]), str(one["n_negative"])]
        area = [format_score(one["auroc"]), format_interval(one["auroc_interval"]) or "–"]
        lines.append([str(one["name"]), *counts, *area, *decided])
    what = "label" if is_of_labels(summary) else "class"
    head = [what, "images with it", "without it", "AUROC", "95 % interval", "sensitivity", "specificity"]
    return FigureTable(head, lines) if lines else None


def bins_table(summary: Mapping[str, Any]) -> FigureTable | None:
    """The bins of the calibration."""
    if not is_of_labels(summary):
        rows = (summary.get("classes") or {}).get("rows") or []
        return reliability_table(rows[0]) if rows and rows[0]["kind"] == "clean" else None
    lines = [
        [format_percent(probability), str(n), format_percent(share), format_interval(limits)]
        for probability, share, limits, n in calibration_bins(summary)
    ]
    return FigureTable(["mean probability", "n", "share with the label", "95 % interval"], lines)
