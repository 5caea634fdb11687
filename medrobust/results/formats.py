"""How numbers are written in tables and reports, and tables in Markdown."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

DASH = "–"
LENGTHS = ("epsilon", "step_size")  # settings in the unit of radii
LEVELS = {"error": "do not trust", "warning": "read with care"}  # what a flag's severity asks of the reader


def printable(text: str) -> str:
    r"""Write out what a terminal would obey instead of showing: control characters, line breaks, changes of direction.

    >>> printable("a\x1b[2Jb\n\u202ec")
    'a\\x1b[2Jb\\n\\u202ec'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def capitalised(words: str) -> str:
    """Words whose first letter is a capital one; the others stay as they are.

    >>> capitalised("mean Jaccard")
    'Mean Jaccard'
    """
    return words[:1].upper() + words[1:]


def all_printable(value: Any) -> Any:
    """A value of dicts and lists whose texts are `printable`, those that name something included."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {all_printable(key): all_printable(inner) for key, inner in value.items()}
    if not isinstance(value, list):
        return value
    return [inner if type(inner) is float else all_printable(inner) for inner in value]  # curves are long


def flag_place(flag: Mapping[str, Any]) -> str:
    """Where a flag belongs, to be written behind its message; "" for one that is of no radius.

    >>> flag_place({"epsilon": 2 / 255})
    ' (at ε = 2/255)'
    """
    return "" if flag["epsilon"] is None else f" (at ε = {format_epsilon(flag['epsilon'])})"


def flags_told(flags: Sequence[Mapping[str, Any]]) -> str:
    """How many flags an evaluation has raised, by what they ask of the reader.

    >>> flags_told([{"severity": "warning"}, {"severity": "error"}, {"severity": "warning"}]), flags_told([])
    ('1 do not trust, 2 read with care', 'none')
    """
    counts = [(sum(flag["severity"] == level for flag in flags), words) for level, words in LEVELS.items()]
    return ", ".join(f"{count} {words}" for count, words in counts if count) or "none"


def tried_told(summary: Mapping[str, Any]) -> str:
    """How many images of a split the victim was asked about; of how many a worst case is, where that are fewer.

    >>> head = {"rows": [{"n": 196}], "manifest": {"data": {"images": 1200}}}
    >>> tried_told(head | {"worst_case": [{"n": 84}, {"n": 196}]}), tried_told(head | {"worst_case": [{"n": 196}]})
    ('84–196 / 1,200', '196 / 1,200')
    """
    count = summary["rows"][0]["n"]
    least = min([worst["n"] for worst in summary["worst_case"]], default=count)
    return f"{f'{least:,}–' if least < count else ''}{count:,} / {int(summary['manifest']['data']['images']):,}"


def format_epsilon(epsilon: float | None) -> str:
    """Write a radius as papers do: "2/255", "0.3/255" or "1/256" where it is such a fraction, else with three digits.

    Args:
        epsilon: Radius in units of the [0, 1] image range; None if unbounded.

    >>> [format_epsilon(radius) for radius in (8 / 255, 0.5 / 255, 0.02 / 255, 1 / 256, 0.05)]
    ['8/255', '0.5/255', '0.02/255', '1/256', '0.05']
    """
    if epsilon is None:
        return DASH
    if abs(epsilon - round(epsilon, 2)) < 1e-9:  # 0.2 is 51/255 as well, which nobody means
        return f"{epsilon:.3g}"
    for denominator, digits in ((255, 0), (256, 0), (255, 1), (256, 1), (255, 2), (256, 2)):
        count = round(epsilon * denominator, digits)
        if count > 0 and abs(epsilon - count / denominator) < min(1e-6, 1e-3 * epsilon):
            return f"{count:g}/{denominator}"
    return f"{epsilon:.3g}"


def format_linf(length: float | None, radii: Iterable[float | None] = ()) -> str:
    """Write an L-infinity length in the unit of the radii that it stands beside: "2/255", "6.12/255".

    Args:
        length: In units of the [0, 1] image range; None if there is none.
        radii: The radii of the attacks. Where there are some and all are written plainly, so is the length.

    >>> [format_linf(length) for length in (2 / 255, 1 / 256, 0.0241, 0.05, 0.0, None)]
    ['2/255', '1/256', '6.15/255', '12.8/255', '0', '–']
    >>> format_linf(0.137, [None, 0.3]), format_linf(0.3, [0.3]), format_linf(0.137, [0.3, 8 / 255])
    ('0.137', '0.3', '34.9/255')
    """
    if not length:
        return DASH if length is None else "0"
    words, given = format_epsilon(length), [format_epsilon(radius) for radius in radii if radius is not None]
    if "/" in words or (given and not any("/" in one for one in given)):
        return words
    return f"{255 * length:.3g}/255"


def format_percent(rate: float | None) -> str:
    """Write a rate in [0, 1] in percent with one decimal, "95.5 %"; a dash for None."""
    return DASH if rate is None else f"{100 * rate:.1f} %"


def format_score(score: float | None) -> str:
    """Write an AUROC or a TPR in percent with one decimal and without a percent sign, "99.8"; a dash for None."""
    return DASH if score is None else f"{100 * score:.1f}"


def format_measure(value: float | None) -> str:
    """Write the mean of a measurement with three decimals below 10 and with one from 10 on; a dash for None.

    Where three decimals would show nothing but zeros, two significant digits are written.

    >>> format_measure(0.0249), format_measure(48.22), format_measure(-0.000031), format_measure(None)
    ('0.025', '48.2', '-3.1e-05', '–')
    """
    if value is None:
        return DASH
    if 0 < abs(value) < 0.0005:
        return f"{value:.1e}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def format_parameters(value: Any) -> str:
    """Write settings in one line: lists with commas, and what is inside something else in brackets.

    >>> format_parameters({"attack": {"class": "PGD", "objective": {"class": "Margin"}, "steps": None}, "weight": 6})
    'attack PGD (objective Margin, steps –), weight 6'
    >>> format_parameters({"step_size": 0.5 / 255, "momentum": 0.5, "epsilon": 0.3})
    'step_size 0.5/255, momentum 0.5, epsilon 0.3'
    """
    if isinstance(value, Mapping):
        lengths = () if value.get("domain") == "log" else LENGTHS  # in which steps are no differences of grey values
        return ", ".join(
            f"{key} {format_epsilon(inner) if key in lengths and type(inner) is float else _inside(inner)}"
            for key, inner in value.items()
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_inside(inner) for inner in value)
    return DASH if value is None else str(value)


def _inside(value: Any) -> str:
    """Settings that are part of others; those of an object follow its class."""
    if not isinstance(value, Mapping):
        return format_parameters(value)
    name = str(value.get("class", ""))
    fields = format_parameters({key: inner for key, inner in value.items() if key != "class"})
    return " ".join(([name] if name else []) + ([f"({fields})"] if fields or not name else []))


def format_interval(interval: Sequence[float] | None) -> str:
    """Write an interval of rates in percent, "91.7–97.6"; an empty string for None."""
    return "" if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}"


def format_passes(row: Mapping[str, Any]) -> str:
    """Write the mean number of passes through the victim that an attack spent per image, forwards plus backwards."""
    if row["mean_forwards"] is None:
        return DASH
    return f"{row['mean_forwards'] + row['mean_backwards']:.3g}"


def markdown_lines(head: Sequence[str], body: Iterable[Sequence[str]], words: Collection[int] = (0,)) -> str:
    r"""Write a table in Markdown.

    Args:
        head: The headings.
        body: The rows, with a cell for each heading.
        words: Places of the columns that hold words; numbers stand to the right.

    >>> markdown_lines(["attack", "n"], [["a|b", "7"]]).splitlines()
    ['| attack | n |', '| --- | --: |', '| a\\|b | 7 |']
    """
    rule = ["---" if place in words else "--:" for place in range(len(head))]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in (head, rule, *body)]
    return "\n".join(lines) + "\n"
