"""Tables of a description of data for the console."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from medrobust.results.checks.data import split_name
from medrobust.results.formats import DASH, LEVELS, format_interval, format_percent, format_score
from medrobust.results.shortcuts import SHORTCUT

SHOWN_PAIRS = 5


def console_description(description: Mapping[str, Any], width: int = 80) -> Iterator[RenderableType]:
    """What a description says, as tables and lines.

    Args:
        description: As `description.json` has it.
        width: Columns of the console. Directions and numbers of images need 100 of them.
    """
    yield _splits(description)
    yield _sizes(description)
    if "pixels" in description:
        yield _pixels(description)
    if description["shortcuts"]:
        yield _shortcuts(description, width >= 100)
    yield from _near_duplicates(description)
    for message in description["flags"]:
        yield Text.assemble((f"{LEVELS['warning'].capitalize()}: ", "yellow"), message)
    if not description["flags"]:
        looked_for = "shortcut and no near-duplicate" if description["shortcuts"] else "near-duplicate"
        yield Text(f"No {looked_for} was found.", style="green")


def class_counts(summary: Mapping[str, Any]) -> dict[str, int]:
    """Images of each class or with each label of a split, and those without a label or a box; empty for other tasks."""
    counts = dict(summary.get("classes") or summary.get("labels") or {})
    for without, name in (("without_label", "no label"), ("without_box", "no box")):
        counts |= {name: summary[without]} if without in summary else {}
    return counts


def box_counts(summary: Mapping[str, Any]) -> dict[str, int]:
    """Boxes of each class in a split, of which an image may have several; empty for other tasks."""
    return dict(summary.get("boxes") or {})


def direction(row: Mapping[str, Any]) -> str:
    """Which side of a comparison has the higher values."""
    return f"{row['class']} higher" if row["higher"] else f"{row['class']} lower"


def format_count(value: float) -> str:
    """A number of pixels: whole, or a median between two."""
    return f"{value:.1f}" if value % 1 else f"{value:.0f}"


def _table(title: str, caption: str | None = None) -> Table:
    return Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )


def _splits(description: Mapping[str, Any]) -> Table:
    """Images, patients, classes and boxes of each split."""
    table = _table(f"{description['name']}: splits")
    splits = description["splits"]
    for heading in ("", *map(split_name, splits)):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    table.add_row("images", *(str(one["images"]) for one in splits.values()))
    table.add_row("patients", *(str(one["patients"]) for one in splits.values()), end_section=True)
    counts = [class_counts(one) for one in splits.values()]
    for name in counts[0] if counts else ():
        cells = [
            f"{count[name]} ({format_percent(count[name] / one['images'])})" if one["images"] else DASH
            for count, one in zip(counts, splits.values(), strict=True)
        ]
        table.add_row(Text(name), *cells)
    boxes = [box_counts(one) for one in splits.values()]
    for name in boxes[0] if boxes else ():
        table.add_row(Text(f"boxes: {name}"), *(str(count[name]) for count in boxes))
    return table


def _sizes(description: Mapping[str, Any]) -> Table:
    """Least, median and greatest size of each split."""
    table = _table("Image sizes", "least, median and greatest, in pixels; aspect: width by height")
    table.add_column("")
    for heading in ("width", "height", "aspect", "sizes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for split, sizes in description["sizes"].items():
        spreads = [" / ".join(map(format_count, sizes[name])) for name in ("width", "height")]
        aspect = " / ".join(f"{value:.2f}" for value in sizes["aspect"])
        table.add_row(split_name(split), *spreads, aspect, str(sizes["different"]))
    return table


def _pixels(description: Mapping[str, Any]) -> Table:
    """Share of the pixels that each label of the masks has, and in how many images it is."""
    table = _table("Labels of the pixels", "share of the labelled pixels, and the number of images with the label")
    splits = description["pixels"]
    for heading in ("", *map(split_name, splits)):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for rows in zip(*splits.values(), strict=True):
        table.add_row(Text(rows[0]["class"]), *(f"{format_percent(row['share'])} ({row['images']})" for row in rows))
    return table


def _shortcuts(description: Mapping[str, Any], wide: bool) -> Table:
    """How well single numbers tell the classes apart."""
    caption = f"AUROC of one number alone, with its 95 % interval over patients; !: the interval lies above {SHORTCUT}."
    table = _table("Single numbers that tell classes apart", caption)
    for heading in ("number", "class"):
        table.add_column(heading, overflow="fold")
    for heading in ("AUROC", "95 %", *(("n", "others") if wide else ())):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    rows = description["shortcuts"]
    for place, row in enumerate(rows):
        counts = (str(row["n_positive"]), str(row["n_negative"])) if wide else ()
        flagged = row["interval"] is not None and row["interval"][0] > SHORTCUT
        last = place + 1 < len(rows) and rows[place + 1]["feature"] != row["feature"]
        words = Text(row["class"] if row["auroc"] is None else direction(row))
        numbers = format_score(row["auroc"]), format_interval(row["interval"])
        mark = Text("!" if flagged else "", style="yellow")
        table.add_row(row["feature"], words, *numbers, *counts, mark, end_section=last)
    return table


def _near_duplicates(description: Mapping[str, Any]) -> Iterator[RenderableType]:
    """The first pairs of images of different splits that are nearly the same."""
    pairs = description["near_duplicates"]["pairs"]
    if not pairs:
        return
    table = _table("Nearly the same picture in two splits", "alike: correlation of the detail")
    for heading in ("split", "image", "split", "image"):
        table.add_column(heading, overflow="fold")
    table.add_column("alike", justify="right")
    for pair in pairs[:SHOWN_PAIRS]:
        sides = [
            cell for side in ("one", "other") for cell in (split_name(pair[side]["split"]), Text(pair[side]["id"]))
        ]
        table.add_row(*sides, f"{pair['correlation']:.3f}")
    yield table
    if len(pairs) > SHOWN_PAIRS:
        yield Text(f"  and {len(pairs) - SHOWN_PAIRS} more pairs, which the page and the JSON name", style="dim")
