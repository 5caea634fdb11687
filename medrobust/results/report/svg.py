"""Drawing in SVG: scales, markers, labels that do not overlap, and the style of all figures, light and dark."""

import math
from collections.abc import Callable, Sequence
from html import escape

FONT = 12  # pixels
CHARACTER = 0.62 * FONT  # mean width of a character, a little generous
LARGEST = 1.18  # by which the page may enlarge a figure
PALETTE, DASHES, SHAPES = 8, 4, 5

# With a contrast of at least 4.5:1 against the page, as names are written in them. Any two of nine series differ in
# their dashes, or in colours that protanopes and deuteranopes tell apart, and so they do in their marks' shapes or
# colours.
LIGHT = ("#0069a8", "#b84a08", "#00755a", "#a23b7c", "#7d5a00", "#3b2a8c", "#14768f", "#7a2318")
DARK = ("#5cb8ee", "#f4915a", "#35c9a0", "#e79bc9", "#e3b84d", "#dcd8ff", "#9fdcec", "#ee7a6c")


def _colours(colours: Sequence[str], ink: str, faint: str, noise: str, page: str) -> str:
    series = "".join(f".fig .s{index}{{--c:{colour}}}" for index, colour in enumerate(colours))
    return f".fig{{--ink:{ink};--faint:{faint};--page:{page}}}{series}.fig .noise{{--c:{noise}}}"


STYLE = (
    _colours(LIGHT, "#3c4652", "#d9dee5", "#5f6a77", "#ffffff")
    + "@media screen and (prefers-color-scheme:dark){"
    + _colours(DARK, "#b9c3cf", "#343d48", "#8e9aa8", "#1a2027")
    + "}"
    + f".fig{{width:100%;height:auto;display:block;font:{FONT}px system-ui,-apple-system,'Segoe UI',sans-serif}}"
    # a halo in the colour of the page keeps words readable where lines pass behind them
    + ".fig text{fill:var(--ink);paint-order:stroke;stroke:var(--page);stroke-width:3px;stroke-linejoin:round}"
    # but words in a coloured cell would look torn out of it
    + ".fig text.cell{stroke:none;font-weight:600}.fig text.faded{font-weight:400;font-size:11px}"
    + ".fig .title{font-weight:600}.fig .grid{stroke:var(--faint);stroke-width:1}"
    + ".fig .clean{stroke:var(--ink);stroke-width:1.2;stroke-dasharray:2 4;opacity:.8}"
    + ".fig .line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round}"
    + ".fig .d1 .line{stroke-dasharray:8 4}.fig .d2 .line{stroke-dasharray:2 3}"
    + ".fig .d3 .line{stroke-dasharray:10 3 2 3}.fig .band{fill:var(--c);stroke:none;opacity:.16}"
    + ".fig .noise .line{stroke-dasharray:6 4}.fig .whisker{stroke:var(--c);stroke-width:5;opacity:.2}"
    + ".fig .leader{fill:none;stroke:var(--c);stroke-width:1;opacity:.6}"
    + ".fig .mark{fill:var(--c);stroke:none}.fig text.name{fill:var(--c);font-weight:600}"
    + ".fig g.series:hover .line{stroke-width:3.5}.fig g.series:hover .whisker{opacity:.45}"
)


def figure(width: float, height: float, label: str, body: Sequence[str]) -> str:
    """Wrap drawn elements in an inline SVG that contains its style and scales with the page."""
    return (
        f'<svg class="fig" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}" '
        f'style="min-width:{min(560.0, width):.0f}px;max-width:{LARGEST * width:.0f}px" '
        f'xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>{"".join(body)}</svg>'
    )


def series_style(number: int) -> str:
    """Classes of the series of a number: its colour and its dashes, which two series share only 32 places apart."""
    return f"s{number % PALETTE} d{(number + number // PALETTE) % DASHES}"


def area(points: Sequence[tuple[float, float]]) -> str:
    """A filled area, such as the band of an interval around a line."""
    return f'<polygon class="band" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def scale(lower: float, upper: float, start: float, end: float, logarithmic: bool = False) -> Callable[[float], float]:
    """Map values from [lower, upper] to pixels from `start` to `end`; a single value goes to the middle."""
    low, high = (math.log(lower), math.log(upper)) if logarithmic else (lower, upper)

    def pixel(value: float) -> float:
        position = math.log(value) if logarithmic else value
        return (start + end) / 2 if high == low else start + (position - low) / (high - low) * (end - start)

    return pixel


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line of the class `kind`."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def polyline(points: Sequence[tuple[float, float]], kind: str = "line") -> str:
    """A line through points, of the class `kind`."""
    return f'<polyline class="{kind}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """Words whose baseline starts ("start"), is centred ("middle") or ends ("end") at (x, y), by `anchor`."""
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def marker(x: float, y: float, shape: int, tooltip: str = "") -> str:
    """A small mark at (x, y): circle, square, triangle, diamond, or triangle pointing down, by `shape` in turn."""
    title = f"<title>{escape(tooltip)}</title>" if tooltip else ""
    if shape % SHAPES == 0:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4.2">{title}</circle>'
    corners = (
        [(-3.8, -3.8), (3.8, -3.8), (3.8, 3.8), (-3.8, 3.8)],
        [(0, -5), (4.8, 3.8), (-4.8, 3.8)],
        [(0, -5.4), (5.4, 0), (0, 5.4), (-5.4, 0)],
        [(0, 5), (4.8, -3.8), (-4.8, -3.8)],
    )[shape % SHAPES - 1]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon class="mark" points="{points}">{title}</polygon>'


def shorten(name: str, characters: int = 20) -> str:
    """Shorten a long name in its middle, since configured names differ at their beginnings and ends."""
    if len(name) <= characters:
        return name
    head = (characters - 1) // 2
    return f"{name[:head]}…{name[head + 1 - characters :]}"


def spread(positions: Sequence[float], gap: float, lower: float, upper: float) -> list[float]:
    """Move positions on a line apart until neighbours keep a distance, in the same order and close to where they were.

    Args:
        positions: Preferred positions of the labels.
        gap: Smallest distance between two labels.
        lower: Smallest position.
        upper: Largest position; more labels than fit reach beyond it.
    """
    order = sorted(range(len(positions)), key=positions.__getitem__)
    moved = list(positions)
    previous = lower - gap
    for index in order:
        previous = moved[index] = max(positions[index], previous + gap)
    following = max(upper, lower + gap * (len(positions) - 1)) + gap
    for index in reversed(order):
        following = moved[index] = min(moved[index], following - gap)
    return moved


def place(
    labels: Sequence[tuple[float, float, str]],
    marks: Sequence[tuple[float, float]],
    frame: tuple[float, float, float, float],
) -> list[tuple[float, float] | None]:
    """Find a place for each label beside its mark where it covers no mark and no other label.

    Args:
        labels: (x, y, words) of the marks to be named.
        marks: (x, y) of all marks of the figure.
        frame: Left, top, right and bottom edge of the space for labels.

    Returns:
        The left end of each label's baseline, or None where there is no room: the legend and the tooltips still name
        that mark.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in marks]
    places: list[tuple[float, float] | None] = []
    for x, y, words in labels:
        width = CHARACTER * len(words)
        candidates = [(x + 8, y + 4), (x - 8 - width, y + 4), (x - width / 2, y - 9), (x - width / 2, y + 18)]
        candidates += [(x + 8, y - 8), (x + 8, y + 16), (x - 8 - width, y - 8), (x - 8 - width, y + 16)]
        candidates += [(x + 12, y - 22), (x + 12, y + 30), (x - 12 - width, y - 22), (x - 12 - width, y + 30)]
        found = None
        for left, base in candidates:
            box = (left, base - FONT + 1, left + width, base + 3)
            inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                found = (left, base)
                break
        places.append(found)
    return places


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
