"""Confusion matrices and reliability diagrams: how each class fares, on clean images and under an attack."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from medrobust.results.formats import format_epsilon, format_interval, format_percent
from medrobust.results.report.behind import FigureTable, confusion_table, reliability_table
from medrobust.results.report.svg import CHARACTER, FONT, figure, line, polyline, scale, shorten, text

WIDTH = 760.0  # of a figure, in pixels
MOST = 12  # figures; beyond that each attack is shown at its largest radius only
RIGHT, WRONG = 2, 1  # colours of the palette
STRONGEST = 0.38  # opacity of a cell that holds all images of a class: its number stays readable

Row = Mapping[str, Any]


class ClassGroup(NamedTuple):
    """The figure of one attack at one radius."""

    attack: str
    epsilon: float | None
    figure: str
    tables: Sequence[FigureTable]


def class_groups(summary: Mapping[str, Any]) -> list[ClassGroup]:
    """A figure for each attack and radius: the confusion matrix before and after it, and the calibration of both.

    Args:
        summary: As `summarise` returns it; older ones have no classes.
    """
    found = summary.get("classes") or {}
    rows = found.get("rows", [])
    if not rows or rows[0]["kind"] != "clean":
        return []
    attacks = rows[1:]
    if len(attacks) > MOST:
        largest = sorted(attacks, key=lambda row: float("inf") if row["epsilon"] is None else row["epsilon"])
        kept = {row["attack"]: row for row in largest}
        attacks = [row for row in attacks if kept[row["attack"]] is row]
    names = found["names"]
    return [
        ClassGroup(
            row["attack"],
            row["epsilon"],
            class_figure(names, rows[0], row),
            [confusion_table(names, row["confusion"]), reliability_table(rows[0], row)],
        )
        for row in attacks
    ]


def class_figure(names: Sequence[str], clean: Row, attacked: Row) -> str:
    """Confusion matrix of the clean images, that under an attack, and a reliability diagram of both, side by side.

    Args:
        names: Names of the classes.
        clean: Row of the clean images, as `results.classes.class_results` gives it.
        attacked: Row of the attack.
    """
    labels = [shorten(name, 14) for name in names]
    left = 30 + CHARACTER * max(len(label) for label in labels)
    side = (WIDTH - left - 26 - 58 - 12) / 3
    top, second, third = 34.0, left + side + 26, left + 2 * side + 26 + 58
    words = attacked["attack"] if attacked["epsilon"] is None else f"{attacked['attack']} {_radius(attacked)}"
    body = matrix(names, labels, clean, (left, top, side), True)
    body += matrix(names, labels, attacked, (second, top, side), False)
    for x, title in ((left, "clean"), (second, shorten(words, int(side / CHARACTER))), (third, "calibration")):
        body.append(text(x, top - 12, title, "start", "title"))
    x, y = 14.0, top + side / 2
    body.append(f'<g transform="rotate(-90 {x:.1f} {y:.1f})">{text(x, y, "true class", "middle", "title")}</g>')
    depth = depth_of(labels, side)
    body.append(text(left + side + 13, top + side + depth + 22, "predicted class", "middle", "title"))
    body += _diagram(clean, attacked, (third, top, side))
    height = top + side + max(depth, 44) + 32
    return figure(WIDTH, height, f"Confusion and calibration, clean and under {words}", body)


def _radius(row: Row) -> str:
    return f"ε {format_epsilon(row['epsilon'])}"


def depth_of(labels: Sequence[str], side: float) -> float:
    """Height of the names below a matrix: in one line, or upright where they are wider than a cell."""
    longest = CHARACTER * max(len(label) for label in labels)
    return 18.0 if longest <= side / len(labels) else longest + 6


def matrix(
    names: Sequence[str], labels: Sequence[str], row: Row, frame: tuple[float, float, float], first: bool
) -> list[str]:
    """A confusion matrix: true classes from top to bottom, predicted ones from left to right."""
    left, top, side = frame
    cell, body = side / len(names), []
    for true, counts in enumerate(row["confusion"]):
        total = sum(counts)
        for predicted, count in enumerate(counts):
            x, y, share = left + predicted * cell, top + true * cell, count / total if total else 0.0
            shown = format_percent(share) if total else "no image"
            title = f"{names[true]} taken for {names[predicted]}\n{count} of {total} images ({shown})"
            body.append(
                f'<g class="s{RIGHT if true == predicted else WRONG}"><rect class="mark" x="{x + 0.5:.1f}" '
                f'y="{y + 0.5:.1f}" width="{cell - 1:.1f}" height="{cell - 1:.1f}" '
                f'fill-opacity="{STRONGEST * share:.3f}"><title>{escape(title)}</title></rect></g>'
            )
            if cell >= CHARACTER * len(str(count)) + 2 and cell > FONT + 2:
                tall = cell >= 3.2 * FONT and cell >= CHARACTER * len(shown)
                middle = y + cell / 2 + (0 if tall and total else 4)
                body.append(text(x + cell / 2, middle, str(count), "middle", "cell"))
                if tall and total:
                    body.append(text(x + cell / 2, middle + 15, shown, "middle", "cell faded"))
    for place in range(len(names) + 1):
        edge = place * cell
        body.append(line(left + edge, top, left + edge, top + side, "grid"))
        body.append(line(left, top + edge, left + side, top + edge, "grid"))
    upright = depth_of(labels, side) > 18
    for place, label in enumerate(labels):
        middle = (place + 0.5) * cell
        if first:
            body.append(text(left - 6, top + middle + 4, label, "end"))
        x, y = left + middle, top + side + (8 if upright else 16)
        if upright:
            body.append(f'<g transform="rotate(-90 {x:.1f} {y:.1f})">{text(x, y + 4, label, "end")}</g>')
        else:
            body.append(text(x, y, label, "middle"))
    return body


def matrices_figure(names: Sequence[str], shown: Sequence[tuple[str, Sequence[Sequence[int]]]], label: str) -> str:
    """Confusion matrices side by side, under their titles.

    Args:
        names: Names of the classes.
        shown: Title and numbers of images, ``[true][predicted]``, of each matrix.
        label: What the figure shows, in a sentence.
    """
    labels = [shorten(name, 14) for name in names]
    left = 30 + CHARACTER * max(len(words) for words in labels)
    side = min(300.0, (WIDTH - left - 26 * len(shown)) / len(shown))
    top, body = 34.0, []
    for place, (title, confusion) in enumerate(shown):
        x = left + place * (side + 26)
        body += matrix(names, labels, {"confusion": confusion}, (x, top, side), place == 0)
        body.append(text(x, top - 12, shorten(title, int(side / CHARACTER)), "start", "title"))
    x, y = 14.0, top + side / 2
    body.append(f'<g transform="rotate(-90 {x:.1f} {y:.1f})">{text(x, y, "true class", "middle", "title")}</g>')
    depth = depth_of(labels, side)
    middle = left + (len(shown) * (side + 26) - 26) / 2
    body.append(text(middle, top + side + depth + 22, "predicted class", "middle", "title"))
    return figure(left + len(shown) * (side + 26), top + side + depth + 32, label, body)


def _diagram(clean: Row, attacked: Row, frame: tuple[float, float, float]) -> list[str]:
    """Share of right images against confidence, one mark for each bin, larger for more images."""
    left, top, side = frame
    x, y = scale(0, 1, left, left + side), scale(0, 1, top + side, top)
    body = []
    for tick in (0.0, 0.5, 1.0):
        body += [line(x(tick), y(0), x(tick), y(1), "grid"), line(x(0), y(tick), x(1), y(tick), "grid")]
        body.append(text(x(tick), y(0) + 16, f"{tick:g}", ("start", "middle", "end")[int(2 * tick)]))
        body.append(text(left - 6, y(tick) + 4, f"{tick:g}", "end"))
    body.append(line(x(0), y(0), x(1), y(1), "clean"))
    body.append(text(left + side / 2, y(0) + 34, "confidence", "middle", "title"))
    middle = top + side / 2
    words = text(left - 32, middle, "share right", "middle", "title")
    body.append(f'<g transform="rotate(-90 {left - 32:.1f} {middle:.1f})">{words}</g>')
    for number, (row, name) in enumerate(((clean, "clean"), (attacked, "attacked"))):
        bins = row["reliability"]
        points = [(x(one["confidence"]), y(one["accuracy"])) for one in bins]
        body += [f'<g class="series s{number}">', polyline(points, "leader")]
        for (across, up), one in zip(points, bins, strict=True):
            radius = 2.5 + 5 * (one["n"] / row["n"]) ** 0.5
            title = (
                f"{name}, confidence {one['lower']:.2f} to {one['upper']:.2f}: {one['n']} images\n"
                f"mean confidence {format_percent(one['confidence'])}, right {format_percent(one['accuracy'])} "
                f"[{format_interval(one['accuracy_interval'])}]"
            )
            body.append(
                f'<circle class="mark" cx="{across:.1f}" cy="{up:.1f}" r="{radius:.1f}" fill-opacity="0.75">'
                f"<title>{escape(title)}</title></circle>"
            )
        body += [text(left + 6, top + 16 + 16 * number, name, "start", "name"), "</g>"]
    return body
